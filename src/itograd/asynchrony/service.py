"""Service laws: how long a worker needs for one gradient.

    deterministic    S = 1
    exponential      P(S > s) = e^{−s}                                    the memoryless one
    gamma(a)         density ∝ s^{a−1} e^{−a s}                           variance 1/a
    lognormal(σ)     log S normal with variance σ², mean −σ²/2            variance e^{σ²} − 1
    uniform(a, b)    S uniform on (a, b]
    empirical        one of the measured times, each with the same probability

All but the last two have mean 1: a worker's rate sets its speed (`WorkerQueue`), and delays depend on ratios of times
alone. A law can be drawn twice: within a step of the engine, and in bulk by NumPy for the event simulation.
"""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy import special
from scipy.integrate import quad

from itograd.simulation.draws import Draws
from itograd.validation import require, require_number

Shape = tuple[int, ...]


class Service(eqx.Module):
    """The law of the time that a worker of rate 1 needs for one gradient; a worker of rate r needs S/r."""

    @property
    def mean(self) -> float:
        """E S."""
        return 1.0

    @abstractmethod
    def draw(self, draws: Draws, shape: Shape = ()) -> Array:
        """Independent times, within a step of the engine."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        """Independent times, by NumPy."""

    @abstractmethod
    def distribution(self, time: float) -> float:
        """P(S <= time)."""

    def mean_of_largest(self, count: int) -> float:
        """E max(S_1 … S_M) = ∫ (1 − P(S <= t)^M) dt: what M synchronous workers wait for.

        >>> round(Exponential().mean_of_largest(3), 6)  # H_3 = 1 + 1/2 + 1/3
        1.833333
        """
        return float(quad(lambda t: 1 - self.distribution(t) ** count, 0, np.inf, limit=500)[0])


class Deterministic(Service):
    """S = 1."""

    def draw(self, draws, shape=()):
        return jnp.ones(shape)

    def sample(self, rng, shape):
        return np.ones(shape)

    def distribution(self, time):
        return float(time >= 1)

    def mean_of_largest(self, count):
        return 1.0


class Exponential(Service):
    """P(S > s) = e^{−s}."""

    def draw(self, draws, shape=()):
        return -jnp.log(draws.uniform(shape))

    def sample(self, rng, shape):
        return rng.standard_exponential(shape)

    def distribution(self, time):
        return -np.expm1(-time)

    def mean_of_largest(self, count):
        return float(np.sum(1 / np.arange(1, count + 1)))


_PROPOSALS = 8


class Gamma(Service):
    """The gamma law with mean 1 and variance 1/shape: 1 is exponential, a large shape nearly deterministic.

    Within a step by Marsaglia and Tsang's rejection (2000), with eight proposals of which the first that is accepted
    counts: that none is has a probability below 10⁻¹⁰, and the last one then stands.
    """

    shape: float = eqx.field(static=True)

    def __check_init__(self):
        require_number("shape", self.shape, minimum=0, exclusive=True)

    def draw(self, draws, shape=()):
        # Below shape 1: G(a) = G(a+1) U^{1/a}.
        d = (self.shape if self.shape >= 1 else self.shape + 1) - 1 / 3
        z, u = draws.normal((_PROPOSALS, *shape)), draws.uniform((_PROPOSALS, *shape))
        v = (1 + z / (9 * d) ** 0.5) ** 3
        positive = jnp.maximum(v, 1e-30)
        accepted = (v > 0) & (jnp.log(u) < z**2 / 2 + d * (1 - v + jnp.log(positive)))
        found = positive[-1]
        for i in reversed(range(_PROPOSALS - 1)):
            found = jnp.where(accepted[i], positive[i], found)
        boost = 1.0 if self.shape >= 1 else draws.uniform(shape) ** (1 / self.shape)
        return d * found * boost / self.shape

    def sample(self, rng, shape):
        return rng.standard_gamma(self.shape, shape) / self.shape

    def distribution(self, time):
        return special.gammainc(self.shape, self.shape * time)


class LogNormal(Service):
    """log S normal with standard deviation σ, mean 1."""

    sigma: float

    def __check_init__(self):
        require_number("sigma", self.sigma, minimum=0, exclusive=True)

    def draw(self, draws, shape=()):
        return jnp.exp(self.sigma * draws.normal(shape) - self.sigma**2 / 2)

    def sample(self, rng, shape):
        return np.exp(self.sigma * rng.standard_normal(shape) - self.sigma**2 / 2)

    def distribution(self, time):
        return special.ndtr(np.log(time) / self.sigma + self.sigma / 2) if time > 0 else 0.0


class Uniform(Service):
    """S uniform on (low, high]; by default (0, 2], of mean 1."""

    low: float = 0.0
    high: float = 2.0

    def __check_init__(self):
        require_number("low", self.low, minimum=0)
        require_number("high", self.high)
        require(self.low < self.high, f"high must exceed low={self.low:g}: got {self.high:g}")

    @property
    def mean(self):
        return (self.low + self.high) / 2

    def draw(self, draws, shape=()):
        return self.low + (self.high - self.low) * draws.uniform(shape)

    def sample(self, rng, shape):
        return self.high - (self.high - self.low) * rng.random(shape)

    def distribution(self, time):
        return float(np.clip((time - self.low) / (self.high - self.low), 0.0, 1.0))

    def mean_of_largest(self, count):
        return self.high - (self.high - self.low) / (count + 1)


class Empirical(Service):
    """One of the measured `times`, in their own unit, each with the same probability.

    Raises ValueError unless all of them are finite and above 0.
    """

    times: np.ndarray

    def __init__(self, times):
        self.times = np.asarray(times, float)
        require(self.times.ndim == 1 and self.times.size, f"times must be a list: got shape {self.times.shape}")
        wrong = np.flatnonzero(~(np.isfinite(self.times) & (self.times > 0)))
        require(not wrong.size, f"times must be finite and above 0: got {self.times[wrong[:1]]} at places {wrong[:1]}")

    @property
    def mean(self):
        return float(self.times.mean())

    def draw(self, draws, shape=()):
        return jnp.asarray(self.times)[draws.index(len(self.times), shape)]

    def sample(self, rng, shape):
        return self.times[rng.integers(len(self.times), size=shape)]

    def distribution(self, time):
        return float(np.mean(self.times <= time))

    def mean_of_largest(self, count):
        ranks = np.arange(len(self.times) + 1) / len(self.times)
        return float(np.sort(self.times) @ np.diff(ranks**count))


# The laws that a name suffices for.
SERVICES = {"exponential": Exponential(), "deterministic": Deterministic(), "uniform": Uniform()}


def service_law(service: str | Service) -> Service:
    """The law of a name, or the law itself."""
    if isinstance(service, Service):
        return service
    require(
        isinstance(service, str) and service in SERVICES,
        f"service must be one of {', '.join(map(repr, SERVICES))} or a law such as Gamma(2): got {service!r}",
    )
    return SERVICES[service]
