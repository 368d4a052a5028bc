"""SGD at equilibrium: R = E|x|², G = E|∇L|², N = E tr Σ, and how far its batch size may be changed.

For a scale-invariant loss, ⟨∇L, x⟩ = 0, with coupled decay λ, equilibrium means exactly

    R (2ηλ − η²λ²) = η² (G + N).

Two runs are C-close if their R, G and (per sample) N agree within a factor C. If (B, η) and (κB, κη) are C-close then

    κ <= 1 + (C² − 1)(1 + N/G)     sharp (derived)
    κ <= C² (1 + N/G)              weak (recalled from Li, Malladi, Arora 2021)

with N and G of the small-batch run (theory 1.4). This is a necessary condition: passing it proves nothing. And it
holds only under its assumptions, which are measured here; where one fails no bound is given, and B_simple = B N/G
remains as a heuristic (theory, amendment 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from itograd.analysis.assumption import FAILS, HOLDS, OPEN, Assumption
from itograd.optimizers.sgd import SGD
from itograd.problems.problem import Problem
from itograd.simulation.ensemble import simulate
from itograd.simulation.schedule import Schedule
from itograd.validation import require, require_count, require_number

ALIGNMENT_LIMIT = 0.02  # |E⟨∇L, x⟩| as a share of √(E|∇L|² E|x|²)
RESIDUAL_LIMIT = 0.02  # |left/right − 1| of the identity
DRIFT_LIMIT = 0.02  # change of E|x|² between the halves of the window, as a share of it


@dataclass(frozen=True)
class Equilibrium:
    """Averages over the second half of a run, over paths and times; standard errors are over paths.

    `squared_norm` R, `squared_gradient` G and `noise_trace` N with their standard errors, and the guards of the bounds.
    """

    batch_size: int
    squared_norm: tuple[float, float]
    squared_gradient: tuple[float, float]
    noise_trace: tuple[float, float]
    guards: tuple[Assumption, ...]

    @property
    def simple_noise_scale(self) -> float:
        """B_simple = B N/G, a ratio of means."""
        return self.batch_size * self.noise_trace[0] / self.squared_gradient[0]

    def batch_factor_bounds(self, closeness: float = math.sqrt(2)) -> BatchFactorBounds:
        """The sharp and the weak bound on κ for C-closeness, or the reasons why there is none."""
        require_number("closeness", closeness, minimum=1)
        failed = [guard for guard in self.guards if guard.outcome != HOLDS]
        if failed:
            reasons = tuple(f"{g.name}: {g.measured:.3g}, needed at most {g.limit:.3g} {g.unit}" for g in failed)
            return BatchFactorBounds(closeness, None, None, reasons)
        ratio = 1 + self.noise_trace[0] / self.squared_gradient[0]
        return BatchFactorBounds(closeness, 1 + (closeness**2 - 1) * ratio, closeness**2 * ratio, ())


@dataclass(frozen=True)
class BatchFactorBounds:
    """The largest batch factors that the necessary condition allows; None, with reasons, where it does not apply."""

    closeness: float
    sharp: float | None
    weak: float | None
    reasons: tuple[str, ...]


def equilibrium(
    optimizer: SGD,
    problem: Problem,
    *,
    steps: int,
    x0: Any = None,
    paths: int = 64,
    seed: int = 0,
    saves: int = 64,
    dtype: str = "float32",
    progress: bool | None = None,
) -> Equilibrium:
    """Run SGD and measure R, G and N over the second half of the run, with the guards of the batch-factor bounds.

    `steps` must reach equilibrium, which takes about 1/(ηλ) steps; the drift guard says whether they did.

    Raises TypeError for another optimiser (the identity is SGD's) and ValueError for a schedule of the rate.
    """
    if not isinstance(optimizer, SGD):
        raise TypeError(f"the equilibrium identity is that of SGD: got {type(optimizer).__name__}")
    require(
        not isinstance(optimizer.learning_rate, Schedule), "equilibrium needs a constant learning rate: got a schedule"
    )
    require_count("steps", steps, minimum=2 * saves)
    decay = optimizer.weight_decay + problem.decay
    every = steps // (2 * saves)
    names: dict = {
        "R": _SquaredNorm(),
        "G": _SquaredGradient(problem),
        "N": problem.noise_trace,
        "A": _Alignment(problem),
    }
    grid = (np.arange(saves) + 1 + saves) * every * optimizer.time_per_step
    runs = simulate(
        optimizer,
        problem,
        x0=x0,
        save_at=grid,
        paths=paths,
        seed=seed,
        observables=names,
        keep_paths=paths,
        dtype=dtype,
        progress=progress,
    )
    lost = int(runs["diverged"].values[-1])
    require(
        lost == 0,
        f"{lost} of {paths} paths diverged: there is no equilibrium at learning rate {optimizer.learning_rate:g}",
    )
    values = runs["path_values"].values.astype(float)  # (path, time, quantity)
    per_path = values.mean(axis=1)
    mean, error = per_path.mean(axis=0), per_path.std(axis=0, ddof=1) / np.sqrt(paths)
    r, g, n, a = range(4)
    rate = optimizer.time_per_step
    factor = 2 * rate * decay - (rate * decay) ** 2
    left, right = factor * per_path[:, r], rate**2 * (per_path[:, g] + per_path[:, n])
    halves = values[:, : saves // 2, r].mean(axis=1), values[:, saves // 2 :, r].mean(axis=1)
    guards = (
        _guard(
            "scale invariance, |⟨∇L, x⟩|", per_path[:, a], np.sqrt(mean[g] * mean[r]), ALIGNMENT_LIMIT, "of |∇L||x|"
        ),
        _guard(
            "equilibrium identity, |left/right − 1|", left - right, right.mean(), RESIDUAL_LIMIT, "of its right side"
        ),
        _guard("drift of |x|² over the window", halves[1] - halves[0], mean[r], DRIFT_LIMIT, "of |x|²"),
    )
    pairs = list(zip(mean.tolist(), error.tolist()))
    return Equilibrium(problem.batch_size, pairs[r], pairs[g], pairs[n], guards)


def _guard(name: str, samples: np.ndarray, scale: float, limit: float, unit: str) -> Assumption:
    value, error = samples.mean() / scale, samples.std(ddof=1) / np.sqrt(len(samples)) / abs(scale)
    low, high = abs(value) - 2 * error, abs(value) + 2 * error
    outcome = HOLDS if high <= limit else FAILS if low > limit else OPEN
    return Assumption(
        name,
        float(abs(value)),
        (float(max(low, 0.0)), float(high)),
        limit,
        unit,
        "holds if value and two standard errors lie within the limit",
        outcome,
    )


class _SquaredNorm(eqx.Module):
    def __call__(self, x):
        return x @ x


class _LossGradient(eqx.Module):
    problem: Problem

    def gradient(self, x):  # without the decay that the problem's loss may hold
        return self.problem.gradient(x) - self.problem.decay * x


class _SquaredGradient(_LossGradient):
    def __call__(self, x):
        return jnp.sum(self.gradient(x) ** 2)


class _Alignment(_LossGradient):
    def __call__(self, x):
        return self.gradient(x) @ x
