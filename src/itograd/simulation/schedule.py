"""Hyperparameters as functions of continuous time, so that neither batch size nor workers can distort them.

    value(t) = base · shape(t)

The clock of an optimiser is set by the base value (t = k·base for SGD), so a scaled recipe keeps the shape and the
number of steps follows from the new base.
"""

import math
from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from itograd.validation import require


class Schedule(eqx.Module):
    """A hyperparameter that changes with continuous time t: base · shape(t)."""

    base: eqx.AbstractVar[float]

    @abstractmethod
    def shape(self, t):
        """The dimensionless factor u(t)."""

    def __call__(self, t):
        return self.base * self.shape(t)

    def shape_slope(self, t):
        """u'(t), which the second-order modified equations need. At a jump of u it is the one-sided 0."""
        return jax.grad(lambda s: jnp.asarray(self.shape(s), float))(jnp.asarray(t, float))


class Piecewise(Schedule):
    """base · factors[i], where i counts the boundaries that t has reached.

    >>> float(Piecewise(0.1, boundaries=(10.0,), factors=(1.0, 0.5))(12.0))
    0.05
    """

    base: float
    boundaries: tuple[float, ...] = eqx.field(static=True)
    factors: tuple[float, ...] = eqx.field(static=True)

    def __check_init__(self):
        require(len(self.factors) == len(self.boundaries) + 1,
                f"factors must be one more than boundaries: got {len(self.factors)} for {len(self.boundaries)}")
        require(list(self.boundaries) == sorted(self.boundaries), f"boundaries must increase: got {self.boundaries}")

    def shape(self, t):
        reached = sum((jnp.asarray(t) >= b).astype(int) for b in self.boundaries)
        return jnp.asarray(self.factors, float)[reached]


class Cosine(Schedule):
    """base · (final + (1−final)·(1+cos(π t/duration))/2), constant after `duration`."""

    base: float
    duration: float
    final: float = 0.0

    def shape(self, t):
        s = jnp.clip(t / self.duration, 0.0, 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + jnp.cos(math.pi * s))


class Warmup(Schedule):
    """base · min(1, initial + (1−initial)·t/duration): linear from base·initial to base."""

    base: float
    duration: float
    initial: float = 0.0

    def shape(self, t):
        return jnp.minimum(1.0, self.initial + (1 - self.initial) * t / self.duration)


class Exponential(Schedule):
    """base · exp(−rate·t)."""

    base: float
    rate: float

    def shape(self, t):
        return jnp.exp(-self.rate * t)


class Function(Schedule):
    """base · function(t) for any JAX-traceable function of one scalar."""

    base: float
    function: Callable = eqx.field(static=True)

    def shape(self, t):
        return self.function(t)


Hyperparameter = float | Schedule


def base(hyperparameter):
    """The base value of a number or a schedule."""
    return hyperparameter.base if isinstance(hyperparameter, Schedule) else hyperparameter


def shape(hyperparameter, t):
    """u(t): 1 for a number."""
    return hyperparameter.shape(t) if isinstance(hyperparameter, Schedule) else 1.0


def shape_slope(hyperparameter, t):
    """u'(t): 0 for a number."""
    return hyperparameter.shape_slope(t) if isinstance(hyperparameter, Schedule) else 0.0


def rebased(hyperparameter, new_base):
    """The same schedule with another base value."""
    if isinstance(hyperparameter, Schedule):
        return eqx.tree_at(lambda s: s.base, hyperparameter, new_base)
    return new_base
