"""Laws of staleness: how old the point is at which an applied gradient was taken (theory: asynchrony 1.1).

    x_{k+1} = x_k − η g(x_{k−τ_k}),      τ_k the number of writes since the read

A law keeps a memory of its own for each path: independent delays keep a ring of the past points, a queue the points
that its workers hold. Before step 0 every worker read x_0: a read index below 0 counts as 0.
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
        return Read(recall(memory, k, delay), delay), memory


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
        self.length = 1 << (_support(self.ratio, TOLERANCE) - 1).bit_length()  # places are found by a mask

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
        return (1 - self.ratio) * self.ratio ** np.arange(_support(self.ratio, tolerance))

    @property
    def ring_length(self):
        return self.length

    def draw(self, draws):
        return draws.geometric(self.ratio, maximum=self.ring_length - 1)


def _support(ratio: float, tolerance: float) -> int:
    """The number of delays until μ^l < tolerance."""
    return 1 if ratio == 0 else math.ceil(math.log(tolerance) / math.log(ratio))


class WorkerQueue(Staleness):
    """M workers that each read, work for an exponential time and write: the next writer is uniform among them.

    The marginal law is geometric with μ = 1 − 1/M; successive delays are dependent (lag-1 correlation −1/(2M)), since
    each read is written once.
    """

    workers: int = eqx.field(static=True)

    def __check_init__(self):
        require_count("workers", self.workers)

    @property
    def mean(self):
        return float(self.workers - 1)

    @property
    def geometric_ratio(self):
        return 1 - 1 / self.workers

    @property
    def variance(self):
        return float(self.workers * (self.workers - 1))

    def probabilities(self, tolerance=TOLERANCE):
        return Geometric(mean=self.mean).probabilities(tolerance)

    @property
    def is_independent(self):
        return False

    def start(self, point):
        return jnp.broadcast_to(point, (self.workers, *jnp.shape(point))), jnp.zeros(self.workers, jnp.int32), 0

    def read(self, memory, k, point, draws):
        points, times, writer = memory
        points, times = points.at[writer].set(point), times.at[writer].set(k)  # who wrote last has read since
        writer = draws.index(self.workers)
        return Read(points[writer], k - times[writer]), (points, times, writer)


class Pmf(IndependentStaleness):
    """P(τ = l) = q_l for any q, independent at each step.

    >>> Pmf([0.5, 0.0, 0.5]).mean
    1.0
    """

    weights: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, probabilities):
        weights = np.asarray(probabilities, float)
        require(weights.ndim == 1 and len(weights) > 0, "the probabilities must be a list: P(τ = 0), P(τ = 1), …")
        require((weights >= 0).all(), f"probabilities must not be negative: got {weights.min():g}")
        require(abs(weights.sum() - 1) < 1e-9, f"probabilities must sum to one: got {weights.sum():g}")
        self.weights = tuple((weights / weights.sum()).tolist())

    @property
    def mean(self):
        return float(np.dot(self.weights, np.arange(len(self.weights))))

    def probabilities(self, tolerance=TOLERANCE):
        return np.array(self.weights)

    @property
    def ring_length(self):
        return len(self.weights)

    def draw(self, draws):
        return jnp.searchsorted(jnp.cumsum(jnp.array(self.weights[:-1])), draws.uniform(), side="right")
