"""Hyperparameters as functions of continuous time, so that neither batch size nor workers can distort them.

    value(t) = base · shape(t)

The clock of an optimiser is set by the base value (t = k·base for SGD), so a scaled recipe keeps the shape
and the number of steps follows from the new base.
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from itograd.validation import require, require_number

# A boundary counts as reached this much before it, relative to it: float32 knows t = k·base no more closely,
# the less so where the clock of momentum divides by 1−μ.
_CLOCK_ROUNDING = 2e-6


class Schedule(eqx.Module):
    """A hyperparameter that changes with continuous time t: base · shape(t)."""

    base: eqx.AbstractVar[float]

    def __check_init__(self):
        require_number("base", self.base)

    @abstractmethod
    def shape(self, t):
        """The dimensionless factor u(t)."""

    @abstractmethod
    def stretched(self, factor: float) -> "Schedule":
        """The same shape `factor` times as slow: its value at factor·t is the old one at t."""

    def __call__(self, t):
        return self.base * self.shape(t)

    def shape_slope(self, t):
        """u'(t), which the second-order modified equations need. At a jump of u it is the one-sided 0."""
        return jax.grad(lambda s: jnp.asarray(self.shape(s), float))(jnp.asarray(t, float))


def _numbers(values) -> tuple[float, ...]:
    return tuple(np.ravel(values).tolist())


class Piecewise(Schedule):
    """base · factors[i], where i counts the boundaries that t has reached.

    A step whose time is a boundary has the new factor.

    >>> float(Piecewise(0.1, boundaries=(10.0,), factors=(1.0, 0.5)).shape(12.0))
    0.5
    """

    base: float
    boundaries: tuple[float, ...] = eqx.field(static=True, converter=_numbers)
    factors: tuple[float, ...] = eqx.field(static=True, converter=_numbers)

    def __check_init__(self):
        for boundary in self.boundaries:
            require_number("each of boundaries", boundary, minimum=0, exclusive=True)
        for factor in self.factors:
            require_number("each of factors", factor, minimum=0)
        require((np.diff(self.boundaries) > 0).all(), f"boundaries must increase: got {self.boundaries}")
        require(
            len(self.factors) == len(self.boundaries) + 1,
            f"factors must be one more than boundaries: got {len(self.factors)} factors for "
            f"{len(self.boundaries)} boundaries",
        )

    def shape(self, t):
        reached = jnp.asarray(t, float) * (1 + _CLOCK_ROUNDING) >= jnp.asarray(self.boundaries, float)
        return jnp.asarray(self.factors, float)[reached.sum()]

    def stretched(self, factor):
        return dataclasses.replace(self, boundaries=tuple(factor * t for t in self.boundaries))


class Cosine(Schedule):
    """base · (final + (1−final)·(1+cos(π t/duration))/2), constant after `duration`.

    >>> float(Cosine(0.1, duration=10.0).shape(10.0))
    0.0
    """

    base: float
    duration: float
    final: float = 0.0

    def __check_init__(self):
        require_number("duration", self.duration, minimum=0, exclusive=True)
        require_number("final", self.final, minimum=0)

    def shape(self, t):
        s = jnp.clip(t / self.duration, 0.0, 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + jnp.cos(math.pi * s))

    def stretched(self, factor):
        return dataclasses.replace(self, duration=factor * self.duration)


class Warmup(Schedule):
    """base · min(1, initial + (1−initial)·t/duration): linear from base·initial to base.

    >>> float(Warmup(0.1, duration=10.0).shape(5.0))
    0.5
    """

    base: float
    duration: float
    initial: float = 0.0

    def __check_init__(self):
        require_number("duration", self.duration, minimum=0, exclusive=True)
        require_number("initial", self.initial, minimum=0, maximum=1)

    def shape(self, t):
        return jnp.minimum(1.0, self.initial + (1 - self.initial) * t / self.duration)

    def stretched(self, factor):
        return dataclasses.replace(self, duration=factor * self.duration)


class Exponential(Schedule):
    """base · exp(−rate·t).

    >>> float(Exponential(0.1, rate=1.0).shape(0.0))
    1.0
    """

    base: float
    rate: float

    def __check_init__(self):
        require_number("rate", self.rate)

    def shape(self, t):
        return jnp.exp(-self.rate * t)

    def stretched(self, factor):
        return dataclasses.replace(self, rate=self.rate / factor)


class Function(Schedule):
    """base · function(t) for any JAX-traceable function of one scalar that returns a scalar.

    >>> float(Function(0.1, lambda t: 1 / (1 + t)).shape(1.0))
    0.5
    """

    base: float
    function: Callable = eqx.field(static=True)

    def __check_init__(self):
        require(callable(self.function), f"function must be callable: got {self.function!r}")
        shape = jax.eval_shape(self.function, 0.0).shape
        require(shape == (), f"function must return a scalar: got shape {shape}")

    def shape(self, t):
        return self.function(t)

    def stretched(self, factor):
        return dataclasses.replace(self, function=_Stretched(self.function, factor))


@dataclasses.dataclass(frozen=True)
class _Stretched:
    """t → function(t/factor)."""

    function: Callable
    factor: float

    def __call__(self, t):
        return self.function(t / self.factor)


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
