"""A Rayleigh quotient over data: the scale-invariant problem of the linear scaling rule's tests."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from itograd.problems.finite_sum import FiniteSum
from itograd.validation import require, require_count


class Rayleigh(FiniteSum):
    """L(x) = −(1/N) Σ_i (a_i·x)²/(2|x|²) = −xᵀ Λ x/(2|x|²), where L(cx) = L(x), and so for every batch.

    The N = `samples` vectors a_i in R^d, d = `dim`, are normal draws of `numpy.random.default_rng(seed)`,
    transformed linearly so that their second moment (1/N) Σ a_i a_iᵀ is exactly Λ = diag(λ), λ from 0.5 to
    1.5 in equal steps. At a random direction the variance of one example's gradient is about a hundred times
    the square of the mean's (d = 10), so that noise dominates up to batches of that order.

    Gradients shrink as 1/|x|, and a step along one lengthens x: with coupled decay w in the optimiser, SGD
    has an equilibrium, E|x|² (2ηw − η²w²) = η² (G + N), with G = E|∇L|² and N = E tr Σ (theory 1.4). Decay is
    left to the optimiser, since the loss would not be scale-invariant with it. The start is
    x0 = (1, …, 1)/√d; the loss is singular at 0.

    >>> problem = Rayleigh(batch_size=4)
    >>> bool(abs(problem.loss(problem.x0) - problem.loss(3 * problem.x0)) < 1e-6)
    True
    """

    def __init__(
        self,
        dim: int = 10,
        samples: int = 256,
        batch_size: int = 1,
        seed: int = 0,
        *,
        sampling: str = "with_replacement",
    ):
        require_count("dim", dim, minimum=2)
        require_count("samples", samples)
        require_count("seed", seed, minimum=0)
        require(samples >= dim, f"samples must be at least dim={dim}, to span the space: got {samples}")
        raw = np.random.default_rng(seed).normal(size=(samples, dim))
        values, axes = np.linalg.eigh(raw.T @ raw / samples)
        white = raw @ (axes / np.sqrt(values)) @ axes.T
        vectors = white * np.sqrt(np.linspace(0.5, 1.5, dim))
        super().__init__(_quotient, vectors, params=np.full(dim, dim**-0.5), batch_size=batch_size, sampling=sampling)

    @property
    def is_scale_invariant(self):
        return True


def _quotient(x, a):
    return -((a @ x) ** 2) / (2 * jnp.sum(x**2))
