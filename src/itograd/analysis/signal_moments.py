"""Signal and noise of every coordinate at some points, and functions of their means with jackknife standard errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from itograd.analysis.noise_shape import Measured
from itograd.optimizers.adamw import AdamW
from itograd.simulation.precision import as_traced, double, plus_times
from itograd.validation import require

_MAX_GROUPS = 32  # of points, for the jackknife


@dataclass(frozen=True)
class SignalMoments:
    """(∂F)² and Σ_ii: means over the points (d,), and those without each group of points (groups, d)."""

    squared_gradient: Float[np.ndarray, " d"]
    noise_variance: Float[np.ndarray, " d"]
    without: tuple[Float[np.ndarray, "groups d"], Float[np.ndarray, "groups d"]] | None

    def measured(self, function: Callable) -> Measured:
        """A scalar function of the two vectors with its jackknife standard error; 0 where there is one point only."""
        return self.measured_each(lambda g, n: [function(g, n)])[0]

    def measured_each(self, function: Callable) -> tuple[Measured, ...]:
        """The same of a function with several values."""
        value = np.asarray(function(self.squared_gradient, self.noise_variance), float)
        error = np.zeros_like(value)
        if self.without is not None:
            left = np.array([function(g, n) for g, n in zip(*self.without)], float)
            with np.errstate(invalid="ignore"):
                error = np.sqrt((len(left) - 1) * ((left - left.mean(axis=0)) ** 2).mean(axis=0))
        return tuple(Measured(float(v), float(e)) for v, e in zip(value, error))


def signal_and_noise(optimizer, problem, points) -> tuple[np.ndarray, np.ndarray]:
    """(∂F)² and Σ_ii at the points, (n, d) each."""
    decay = 0.0 if isinstance(optimizer, AdamW) else float(optimizer.weight_decay)
    with double():
        exact, at = as_traced((problem, points), "float64")
        signal, noise = map(np.asarray, _at_points(exact, decay, at))
    require(np.isfinite(signal).all() and np.isfinite(noise).all(), "the gradient or its noise at x is not finite")
    return signal, noise


@eqx.filter_jit
def _at_points(problem, decay, points):
    def at(x):
        return plus_times(problem.gradient(x), decay, x) ** 2, problem.noise_variances(x)

    return jax.lax.map(at, points)


def grouped(squared_gradients, noise_variances) -> SignalMoments:
    """The means over points (n, d), and those without each of at most 32 groups of them."""
    values = np.stack([squared_gradients, noise_variances])  # (2, n, d)
    n = values.shape[1]
    if n == 1:
        return SignalMoments(values[0, 0], values[1, 0], None)
    groups = min(_MAX_GROUPS, n)
    total = values.sum(axis=1)
    members = [values[:, r::groups] for r in range(groups)]
    left = np.stack([(total - group.sum(axis=1)) / (n - group.shape[1]) for group in members], axis=1)
    return SignalMoments(total[0] / n, total[1] / n, (left[0], left[1]))
