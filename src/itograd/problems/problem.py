"""What is minimised, and the law of its noisy gradients.

    noisy_gradient(x) = ∇L(x) + ξ,      E ξ = 0,      Cov ξ = Σ(x) = S(x)/B

S is the covariance of the gradient of one sample, Σ that of a batch of B.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from itograd.simulation.draws import SECOND_BATCH, Draws
from itograd.validation import require_count, require_number

Vector = Float[Array, " d"]


class Problem(eqx.Module):
    """An objective L on R^d with noisy gradients. Declared properties say what algorithms may assume of it."""

    batch_size: eqx.AbstractVar[int]  # B, the number of samples in a noisy gradient

    @property
    @abstractmethod
    def dim(self) -> int:
        """d, the number of parameters."""

    @property
    @abstractmethod
    def noise_dim(self) -> int:
        """m, the number of columns of the root of Σ that `noise_root` applies."""

    @property
    def is_quadratic(self) -> bool:
        """Whether ∇L is affine in x and Σ(x) a polynomial of degree at most two: then moments close."""
        return False

    @property
    def has_additive_noise(self) -> bool:
        """Whether Σ does not depend on x."""
        return False

    @property
    def is_scale_invariant(self) -> bool:
        """Whether L(cx) = L(x) for all c > 0."""
        return False

    @property
    def decay(self) -> float:
        """λ, where the loss itself holds a term λ|x|²/2."""
        return 0.0

    @property
    def sampling(self) -> str:
        """How batches are drawn: "with_replacement", "without_replacement" or "reshuffling"."""
        return "with_replacement"

    @property
    def dataset_size(self) -> int | None:
        """The number of examples; None where samples do not come from a finite set."""
        return None

    @property
    def x0(self) -> np.ndarray:
        """Where a run starts when the caller does not say."""
        return np.zeros(self.dim)

    @abstractmethod
    def loss(self, x: Vector) -> Float[Array, ""]:
        """L(x)."""

    def gradient(self, x: Vector) -> Vector:
        """∇L(x)."""
        return jax.grad(self.loss)(x)

    @abstractmethod
    def noisy_gradient(self, x: Vector, draws: Draws) -> Vector:
        """The gradient of one batch."""

    @abstractmethod
    def noise_root(self, x: Vector, z: Float[Array, " m"]) -> Vector:
        """R(x) z with R Rᵀ = Σ(x), linear in z, without a d×d matrix."""

    def noise(self, x: Vector, draws: Draws) -> Vector:
        """A Gaussian draw with mean zero and covariance Σ(x)."""
        return self.noise_root(x, draws.normal((self.noise_dim,)))

    def perturbed_gradient(self, x: Vector, z: Float[Array, " m"], scale) -> Vector:
        """∇L(x) + scale·R(x) z, for the problems that compute the two cheaper together than apart."""
        return self.gradient(x) + scale * self.noise_root(x, z)

    def noise_covariance(self, x: Vector) -> Float[Array, "d d"]:
        """Σ(x) as a d×d matrix: for small problems only."""
        columns = jax.vmap(lambda e: self.noise_root(x, e))(jnp.eye(self.noise_dim))
        return columns.T @ columns

    def noise_variances(self, x: Vector) -> Vector:
        """diag Σ(x), without a d×d matrix: the sum of the squares of the columns of the root, one at a time."""

        def plus_column(i, total):
            return total + self.noise_root(x, (jnp.arange(self.noise_dim) == i).astype(x.dtype)) ** 2

        return jax.lax.fori_loop(0, self.noise_dim, plus_column, jnp.zeros_like(x))

    def noise_trace(self, x: Vector) -> Float[Array, ""]:
        """tr Σ(x)."""
        return jnp.trace(self.noise_covariance(x))

    def observables(self) -> dict[str, Callable]:
        """The problem's own observables, functions of x, beside the loss and the squared norm."""
        return {}

    def with_batch_size(self, batch_size: int) -> "Problem":
        """The same problem with another batch size."""
        require_count("batch_size", batch_size)
        same = object.__new__(type(self))
        for field in dataclasses.fields(self):
            value = int(batch_size) if field.name == "batch_size" else getattr(self, field.name)
            object.__setattr__(same, field.name, value)
        return same

    def amplified(self, factor: float) -> "Problem":
        """The same problem with `factor` times the noise variance, from two independent batches."""
        return self if factor == 1 else Amplified(self, factor)

    def gaussian(self) -> "Problem":
        """The same problem with Gaussian gradient noise of the same covariance."""
        return GaussianNoise(self)


class _Derived(Problem):
    """A problem with the objective and the properties of another."""

    original: Problem

    def __init__(self, original: Problem):
        self.original = original

    @property
    def dim(self):
        return self.original.dim

    @property
    def batch_size(self):
        return self.original.batch_size

    @property
    def noise_dim(self):
        return self.original.noise_dim

    @property
    def is_quadratic(self):
        return self.original.is_quadratic

    @property
    def has_additive_noise(self):
        return self.original.has_additive_noise

    @property
    def is_scale_invariant(self):
        return self.original.is_scale_invariant

    @property
    def decay(self):
        return self.original.decay

    @property
    def sampling(self):
        return self.original.sampling

    @property
    def dataset_size(self):
        return self.original.dataset_size

    @property
    def x0(self):
        return self.original.x0

    def loss(self, x):
        return self.original.loss(x)

    def gradient(self, x):
        return self.original.gradient(x)

    def noise_root(self, x, z):
        return self.original.noise_root(x, z)

    def perturbed_gradient(self, x, z, scale):
        return self.original.perturbed_gradient(x, z, scale)

    def noise_covariance(self, x):
        return self.original.noise_covariance(x)

    def noise_variances(self, x):
        return self.original.noise_variances(x)

    def noise_trace(self, x):
        return self.original.noise_trace(x)

    def observables(self):
        return self.original.observables()


class GaussianNoise(_Derived):
    """The same objective with Gaussian gradient noise of the same covariance: "noisy gradient descent".

    The optimiser on this problem differs from the optimiser on the original one by the non-Gaussian part of the noise
    alone (Li, Malladi, Arora 2021).
    """

    def __init__(self, original: Problem):
        super().__init__(original)

    @property
    def sampling(self):
        return "with_replacement"

    def noisy_gradient(self, x, draws):
        return self.original.perturbed_gradient(x, draws.normal((self.original.noise_dim,)), 1.0)

    def with_batch_size(self, batch_size):
        return GaussianNoise(self.original.with_batch_size(batch_size))


class Amplified(_Derived):
    """The same objective with a times the noise variance, from two independent batches g₁, g₂.

        g = r₁ g₁ + r₂ g₂,      r₁, r₂ = (1 ± √(2a−1))/2

    r₁ + r₂ = 1 and r₁² + r₂² = a (Li, Malladi, Arora 2021, eq. 5: their l is our a).
    """

    factor: float

    def __init__(self, original: Problem, factor: float):
        require_number("noise amplification", factor, minimum=1)
        super().__init__(original)
        self.factor = float(factor)

    @property
    def weights(self):
        """(r₁, r₂)."""
        root = (2 * self.factor - 1) ** 0.5
        return (1 + root) / 2, (1 - root) / 2

    def noisy_gradient(self, x, draws):
        r1, r2 = self.weights
        first = self.original.noisy_gradient(x, draws)
        second = self.original.noisy_gradient(x, draws.of(SECOND_BATCH))
        return r1 * first + r2 * second

    def noise_root(self, x, z):
        return self.factor**0.5 * self.original.noise_root(x, z)

    def perturbed_gradient(self, x, z, scale):
        return self.original.perturbed_gradient(x, z, scale * self.factor**0.5)

    def noise_covariance(self, x):
        return self.factor * self.original.noise_covariance(x)

    def noise_variances(self, x):
        return self.factor * self.original.noise_variances(x)

    def noise_trace(self, x):
        return self.factor * self.original.noise_trace(x)

    def with_batch_size(self, batch_size):
        return Amplified(self.original.with_batch_size(batch_size), self.factor)
