"""Problems whose gradient noise is stated rather than sampled from data.

    noisy_gradient(x) = ∇L(x) + R(x) ζ,      R(x) R(x)ᵀ = Σ(x),      ζ standardised, with independent components

The law of ζ is that of the batch gradient itself; `batch_size` only divides the covariance.
"""

from abc import abstractmethod
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from itograd.problems.problem import Problem
from itograd.simulation.draws import Draws


@dataclass(frozen=True)
class NoiseLaw:
    """A law with mean 0 and variance 1, by its atoms and their probabilities: Gauss–Hermite's for the normal."""

    name: str
    atoms: tuple[float, ...]
    probabilities: tuple[float, ...]

    @property
    def skewness(self) -> float:
        """E ζ³."""
        return float(np.dot(self.probabilities, np.power(self.atoms, 3)))

    def draw(self, draws: Draws, shape: tuple[int, ...]):
        """Independent draws of ζ."""
        if self.name == "gaussian":
            return draws.normal(shape)
        if self.name == "two_point":
            return draws.two_point(shape)
        low, high = self.atoms
        return jnp.where(draws.bernoulli(self.probabilities[1], shape), high, low)


def _hermite(nodes: int) -> NoiseLaw:
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return NoiseLaw("gaussian", tuple(x), tuple(w / w.sum()))


NOISE_LAWS = {
    "gaussian": _hermite(40),
    "two_point": NoiseLaw("two_point", (-1.0, 1.0), (0.5, 0.5)),
    "skewed": NoiseLaw("skewed", (-0.5, 2.0), (0.8, 0.2)),  # skewness 1.5
}


class ExplicitNoise(Problem):
    """Base of the problems with a stated noise: a subclass gives the loss and the root of one sample's covariance."""

    noise_law: eqx.AbstractVar[str]

    @property
    def law(self) -> NoiseLaw:
        """The law of one component of ζ."""
        return NOISE_LAWS[self.noise_law]

    @abstractmethod
    def sample_root(self, x: Float[Array, " d"]) -> Float[Array, "d m"]:
        """R with R Rᵀ = S(x), the covariance of the gradient of one sample."""

    def noise_matrix(self, x: Float[Array, " d"]) -> Float[Array, "d m"]:
        """R with R Rᵀ = Σ(x) = S(x)/B."""
        return self.sample_root(x) / self.batch_size**0.5

    def noise_root(self, x, z):
        return self.noise_matrix(x) @ z

    def noise_covariance(self, x):
        root = self.noise_matrix(x)
        return root @ root.T

    def noise_variances(self, x):
        return jnp.sum(self.noise_matrix(x) ** 2, axis=1)

    def noisy_gradient(self, x, draws):
        return self.gradient(x) + self.noise_root(x, self.law.draw(draws, (self.noise_dim,)))
