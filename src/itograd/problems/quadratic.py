"""The quadratic: L(x) = xᵀ A x / 2 with additive noise, where every moment is known in closed form."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from itograd.problems.explicit_noise import NOISE_LAWS, ExplicitNoise
from itograd.simulation.affine import matrix_root
from itograd.validation import require, require_choice, require_count


class Quadratic(ExplicitNoise):
    """L(x) = (x−c)ᵀ A (x−c)/2, with gradient noise of constant covariance S/B.

    `hessian` A is a symmetric d×d matrix (or a number, or a vector: its diagonal), `noise_covariance` S is a symmetric
    positive semidefinite one, `noise` the law of the components of the noise in the eigenbasis of S: "gaussian",
    "two_point" (±1) or "skewed" (−½ with probability 0.8, 2 with 0.2: skewness 1.5).

    >>> Quadratic([[2.0, 0.0], [0.0, 1.0]], noise_covariance=[[1.0, 0.0], [0.0, 1.0]]).dim
    2
    """

    hessian: np.ndarray
    root: np.ndarray
    minimizer: np.ndarray
    batch_size: int = eqx.field(static=True)
    noise_law: str = eqx.field(static=True)

    def __init__(self, hessian, noise_covariance, noise="gaussian", *, batch_size=1, minimizer=None):
        self.hessian = _symmetric("hessian", hessian)
        covariance = _symmetric("noise_covariance", noise_covariance)
        d = len(self.hessian)
        require(len(covariance) == d, f"noise_covariance must be {d}×{d} like the hessian: got {covariance.shape}")
        require(
            np.linalg.eigvalsh(covariance)[0] >= -1e-12 * max(1.0, np.abs(covariance).max()),
            "noise_covariance must be positive semidefinite: its smallest eigenvalue is "
            f"{np.linalg.eigvalsh(covariance)[0]:.3g}",
        )
        require_choice("noise", noise, tuple(NOISE_LAWS))
        require_count("batch_size", batch_size)
        self.root = matrix_root(covariance)
        self.minimizer = np.zeros(d) if minimizer is None else np.asarray(minimizer, float)
        require(self.minimizer.shape == (d,), f"minimizer must have shape ({d},): got {self.minimizer.shape}")
        self.batch_size, self.noise_law = int(batch_size), noise

    @property
    def dim(self):
        return self.hessian.shape[0]

    @property
    def noise_dim(self):
        return self.hessian.shape[0]

    @property
    def is_quadratic(self):
        return True

    @property
    def has_additive_noise(self):
        return True

    def loss(self, x):
        return 0.5 * (x - self.minimizer) @ self.gradient(x)

    def gradient(self, x):
        return jnp.asarray(self.hessian) @ (x - self.minimizer)

    def sample_root(self, x):
        return jnp.asarray(self.root)


def _symmetric(name, value):
    matrix = np.asarray(value, float)
    require(np.isfinite(matrix).all(), f"{name} must be finite: got {value!r}")
    matrix = np.diag(np.atleast_1d(matrix)) if matrix.ndim < 2 else matrix
    require(matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1], f"{name} must be square: got shape {matrix.shape}")
    require(np.allclose(matrix, matrix.T), f"{name} must be symmetric: got {matrix.tolist()}")
    return matrix
