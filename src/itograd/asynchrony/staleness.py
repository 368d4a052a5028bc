"""Laws of staleness: how old the point is at which an applied gradient was taken (theory: asynchrony 1.1).

    x_{k+1} = x_k − η g(x_{k−τ_k}),      τ_k the number of writes since the read

A law keeps a memory of its own for each path: independent delays keep a ring of the past points, a queue the points
that its workers hold. Before step 0 every worker read x_0: a read index below 0 counts as 0, and so does the delay
that is told, min(τ_k, k).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from itograd.simulation.draws import Draws
from itograd.simulation.history import recall, remember, ring
from itograd.validation import require, require_count, require_number

Memory = Any

# A ring forgets delays that are rarer than this.
TOLERANCE = 1e-7


class Read(NamedTuple):
    """A stale point, and how many writes ago it was read."""

    point: Float[Array, " d"]
    delay: Any


class Staleness(eqx.Module):
    """A law of delays τ ≥ 0 with a memory for each path."""

    @property
    @abstractmethod
    def mean(self) -> float:
        """E τ in the stationary law."""

    @abstractmethod
    def probabilities(self, tolerance: float = TOLERANCE) -> np.ndarray:
        """P(τ = l) for l = 0, 1, … in the stationary law; a tail lighter than `tolerance` is left out."""

    @property
    def variance(self) -> float:
        """Var τ in the stationary law."""
        q = self.probabilities(1e-15)
        delays = np.arange(len(q))
        return float(q @ delays**2 - (q @ delays) ** 2)

    @property
    def geometric_ratio(self) -> float | None:
        """μ where P(τ = l) = (1−μ) μ^l, else None."""
        return None

    @property
    @abstractmethod
    def is_independent(self) -> bool:
        """Whether the delays of different steps are independent."""

    @abstractmethod
    def start(self, point: Float[Array, " d"]) -> Memory:
        """The memory before step 0, where every worker has read `point`."""

    def start_from(self, point: Float[Array, " d"], draws: Draws) -> Memory:
        """The memory before step 0 where it is random; by default `start(point)`."""
        return self.start(point)

    @abstractmethod
    def read(self, memory: Memory, k, point: Float[Array, " d"], draws: Draws) -> tuple[Read, Memory]:
        """What the gradient of step k is taken at, when the newest point is `point`."""


class IndependentStaleness(Staleness):
    """Delays drawn anew at each step, from a ring of the past points."""

    @property
    def is_independent(self):
        return True

    @property
    @abstractmethod
    def ring_length(self) -> int:
        """How many of the past points are kept."""

    @abstractmethod
    def draw(self, draws: Draws):
        """A delay below `ring_length`."""

    def start(self, point):
        return ring(point, self.ring_length)

    def read(self, memory, k, point, draws):
        memory = remember(memory, k, point)
        delay = self.draw(draws)
        return Read(recall(memory, k, delay), jnp.minimum(delay, k)), memory


class Fixed(IndependentStaleness):
    """Every gradient is `delay` writes old.

    >>> Fixed(7).mean
    7.0
    """

    delay: int = eqx.field(static=True)

    def __check_init__(self):
        require_count("delay", self.delay, minimum=0)

    @property
    def mean(self):
        return float(self.delay)

    @property
    def variance(self):
        return 0.0

    def probabilities(self, tolerance=TOLERANCE):
        return np.eye(self.delay + 1)[-1]

    @property
    def ring_length(self):
        return self.delay + 1

    def draw(self, draws):
        return self.delay


class Geometric(IndependentStaleness):
    """P(τ = l) = (1−μ) μ^l, independent at each step; given by its mean μ/(1−μ) or by its ratio μ.

    M workers of equal speed have mean M−1, μ = 1 − 1/M. The ring keeps the delays up to a tail of 10⁻⁷.

    >>> Geometric(mean=7).geometric_ratio
    0.875
    """

    ratio: float
    length: int = eqx.field(static=True)

    def __init__(self, mean: float | None = None, *, ratio: float | None = None):
        if ratio is not None and mean is None:
            require_number("ratio", ratio)
        elif mean is not None and ratio is None:
            require_number("mean", mean, minimum=0)
            ratio = mean / (1 + mean)
        else:
            raise ValueError("a geometric law needs its mean or its ratio μ, one of the two")
        require(0 <= ratio < 1, f"the ratio μ of a geometric law must be in [0, 1): got {ratio:g}")
        self.ratio = float(ratio)
        self.length = masked_length(support(self.ratio, TOLERANCE))

    @property
    def mean(self):
        return self.ratio / (1 - self.ratio)

    @property
    def geometric_ratio(self):
        return self.ratio

    @property
    def variance(self):
        return self.mean * (1 + self.mean)

    def probabilities(self, tolerance=TOLERANCE):
        return (1 - self.ratio) * self.ratio ** np.arange(support(self.ratio, tolerance))

    @property
    def ring_length(self):
        return self.length

    def draw(self, draws):
        return draws.geometric(self.ratio, maximum=self.ring_length - 1)


class Pmf(IndependentStaleness):
    """P(τ = l) = q_l for l = 0 … L−1, any probabilities, independent at each step.

    A delay is the smallest l whose cumulative probability reaches a uniform number of 32 bits (in float32 of 24): each
    q_l is met to within 10⁻⁷. The ring keeps all L points.

    Raises ValueError unless the probabilities are finite, none is negative, and they sum to one within 10⁻⁶.

    >>> Pmf([0.5, 0.0, 0.5]).mean
    1.0
    """

    q: np.ndarray
    cumulative: np.ndarray

    def __init__(self, probabilities):
        q = np.asarray(probabilities, float)
        require(q.ndim == 1 and q.size, f"probabilities must be a list of numbers: got shape {q.shape}")
        wrong = np.flatnonzero(~(np.isfinite(q) & (q >= 0)))
        require(not wrong.size, f"probabilities must be numbers >= 0: got {q[wrong[:1]]} for the delay {wrong[:1]}")
        require(abs(q.sum() - 1) < 1e-6, f"probabilities must sum to one: they sum to {q.sum():.9g}")
        self.q = q[: np.flatnonzero(q)[-1] + 1] / q.sum()
        self.cumulative = cumulated(self.q)

    @property
    def mean(self):
        return float(self.q @ np.arange(len(self.q)))

    def probabilities(self, tolerance=TOLERANCE):
        return self.q

    @property
    def ring_length(self):
        return masked_length(len(self.q))

    def draw(self, draws):
        return inverted(self.cumulative, draws.uniform())


def cumulated(weights: np.ndarray) -> np.ndarray:
    """The cumulative probabilities of numbers with these weights; the last is 1."""
    return np.append(np.minimum(np.cumsum(weights[:-1]) / weights.sum(), 1.0), 1.0)


def inverted(cumulative, u):
    """The smallest index whose cumulative probability is at least u, for one uniform number u in (0, 1]."""
    return jnp.searchsorted(jnp.asarray(cumulative), u, method="scan_unrolled").astype(jnp.int32)


def support(ratio: float, tolerance: float) -> int:
    """The number of delays l of a geometric law until μ^l < tolerance."""
    return 1 if ratio == 0 else math.ceil(math.log(tolerance) / math.log(ratio))


def masked_length(count: int) -> int:
    """The length of a ring for `count` points: a power of two, since places are then found by a mask."""
    return 1 << (count - 1).bit_length()
