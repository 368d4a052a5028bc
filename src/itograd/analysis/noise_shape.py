"""The shape of gradient noise: what a covariance does not say, and what reshuffling does to it.

The order-1 theorems for adaptive optimisers need a batch noise of low skewness (theory 2.1), and every SDE
of this library needs independent batches (theory 1.6): both can be measured at a point.
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float
from scipy.linalg import eigh_tridiagonal

from itograd.analysis.noise_scale import MIN_REPLICATES, batch_gradients, require_point
from itograd.problems.problem import Problem
from itograd.simulation.draws import Draws
from itograd.simulation.precision import as_traced, double
from itograd.simulation.threefry import path_key, seed_words
from itograd.validation import require, require_count, require_number

# Where η λ N/B is below this, reshuffling suppresses the stationary noise to be seen: its ratio to the
# noise of independent batches is .97, .76, .33, .10 at 32, 6.4, 1.28, .32 (theory 1.6).
RESHUFFLING_THRESHOLD = 20.0
_CHUNK = 2**22  # numbers in the Krylov bases that are held at once


@dataclass(frozen=True)
class Measured:
    """A Monte Carlo estimate with its standard error."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.standard_error:.1g}"


def noise_skewness(problem: Problem, x: Float[ArrayLike, " d"], *, batches: int = 4096, seed: int = 0) -> Measured:
    """The skewness of the batch gradient's noise ξ = g − ∇L along the gradient.

        E⟨ξ, ĝ⟩³ / (E⟨ξ, ĝ⟩²)^{3/2},     ĝ = ∇L/|∇L|

    The mean is known (zero), so the moments are plain averages over the batches; the standard error is the
    jackknife's. With batches of B independent examples it falls like 1/√B.

    Raises ValueError for fewer than 8 batches, where the gradient vanishes (there is no direction) and
    where there is no noise along it.

    >>> from itograd.problems.quadratic import Quadratic
    >>> print(noise_skewness(Quadratic(1.0, 1.0, noise="skewed"), [1.0]))  # 1.5
    1.5 ± 0.002

    Source: theory 2.1(a) and 6.6.
    """
    point = require_point(problem, x)
    require_count("batches", batches, minimum=MIN_REPLICATES)
    with double():
        mean = np.asarray(_mean_gradient(as_traced(problem, "float64"), jnp.asarray(point)))
    norm = np.linalg.norm(mean)
    require(norm > 0, "the gradient vanishes at x: there is no direction along which to measure skewness")
    chunks = batch_gradients(problem, point, batches, seed)
    noise = np.concatenate([(gradients - mean) @ (mean / norm) for _, gradients in chunks])
    second, third = (noise**2).mean(), (noise**3).mean()
    require(second > (1e-12 * norm) ** 2, "there is no noise along the gradient at x")
    n = batches
    second_without, third_without = (n * second - noise**2) / (n - 1), (n * third - noise**3) / (n - 1)
    without = third_without / second_without**1.5  # entry i: batch i left out
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    return Measured(float(third / second**1.5), float(error))


def reshuffling_share(
    problem: Problem,
    x: Float[ArrayLike, " d"],
    learning_rate: float,
    *,
    probes: int = 32,
    lanczos_steps: int = 64,
    seed: int = 0,
) -> Measured:
    """The share of tr Σ that reshuffling suppresses: the part in directions with η λ_i N/B < 20.

        share = Σ_i 1[η λ_i N/B < 20] u_iᵀ Σ u_i / tr Σ,     ∇²L(x) = Σ_i λ_i u_i u_iᵀ

    η is `learning_rate` (of SGD), N the size of the data set, B the batch size. Neither ∇²L nor Σ is
    formed: noise draws ξ ~ N(0, Σ) start Lanczos iterations on Hessian-vector products, whose Gauss
    quadrature is the spectral measure of ∇²L seen by ξ; the share is the ratio of the sums over `probes`.
    It is exact in expectation up to the O(1/probes) bias of a ratio where `lanczos_steps` is at least the
    dimension, or the number of distinct eigenvalues. Negative curvature counts as suppressed. Under
    sampling with replacement the answer is what reshuffling would do.

    Raises ValueError where the problem has no data set, for fewer than 8 probes, and where there is no
    noise at x.

    >>> from itograd.problems.finite_sum import FiniteSum
    >>> data = np.array([[2.0, 0.5], [-2.0, 0.5], [2.0, -0.5], [-2.0, -0.5]])
    >>> loss = lambda w, a: 2 * (w[0] - a[0]) ** 2 + 8 * (w[1] - a[1]) ** 2  # curvatures 4 and 16
    >>> problem = FiniteSum(loss, data, params=np.zeros(2))
    >>> print(reshuffling_share(problem, np.zeros(2), learning_rate=0.5))  # η λ N/B is 8 and 32
    0.54 ± 0.08

    Source: theory 1.6, amendment 8; quadrature: Golub, Meurant, Matrices, Moments and Quadrature (2010).
    """
    point = require_point(problem, x)
    require_number("learning_rate", learning_rate, minimum=0, exclusive=True)
    require_count("probes", probes, minimum=MIN_REPLICATES)
    require_count("lanczos_steps", lanczos_steps)
    if problem.dataset_size is None:
        raise ValueError(f"reshuffling needs a data set: {type(problem).__name__} has no dataset_size")
    limit = RESHUFFLING_THRESHOLD * problem.batch_size / (problem.dataset_size * learning_rate)
    steps = min(lanczos_steps, problem.dim)
    total, suppressed = np.zeros(probes), np.zeros(probes)
    with double():
        exact, at = as_traced((problem, point), "float64")
    chunk = min(probes, max(1, _CHUNK // (steps * problem.dim)))
    for first in range(0, probes, chunk):
        with double():
            numbers = jnp.asarray(first + np.arange(chunk), jnp.uint32)
            found = map(np.asarray, _lanczos(exact, at, seed_words(seed), numbers, steps))
        for probe, square, diagonal, off_diagonal in zip(range(first, probes), *found):
            require(
                np.isfinite(square) and np.isfinite(diagonal).all(), "the noise or the curvature at x is not finite"
            )
            curvatures, vectors = eigh_tridiagonal(diagonal, off_diagonal)
            total[probe] = square
            suppressed[probe] = square * (vectors[0] ** 2 * (curvatures < limit)).sum()
    require(total.sum() > 0, "there is no noise at x: nothing to suppress")
    share = suppressed.sum() / total.sum()
    error = np.sqrt(((suppressed - share * total) ** 2).sum() * probes / (probes - 1)) / total.sum()
    return Measured(float(share), float(error))


@eqx.filter_jit
def _mean_gradient(problem, x):
    return problem.gradient(x)


@eqx.filter_jit
def _lanczos(problem, x, seed, probes, steps):
    return jax.vmap(lambda probe: _lanczos_of_one(problem, x, seed, probe, steps))(probes)


def _lanczos_of_one(problem, x, seed, probe, steps):
    """(|ξ|², α, β): a noise draw and the tridiagonal matrix of ∇²L on the Krylov space that ξ generates."""
    draw = problem.noise(x, Draws(path_key((seed[0], seed[1]), probe), 0))
    square = draw @ draw

    def step(k, carry):
        basis, q, scale, alpha, beta = carry
        basis = basis.at[k].set(q)
        w = jax.jvp(problem.gradient, (x,), (q,))[1]  # ∇²L q
        scale = jnp.maximum(scale, jnp.linalg.norm(w))
        alpha = alpha.at[k].set(q @ w)
        for _ in range(2):  # full reorthogonalisation; twice is enough (Parlett 1980, 6.9)
            w = w - basis.T @ (basis @ w)
        norm = jnp.linalg.norm(w)
        goes_on = norm > 1e-10 * scale  # else the space is invariant: zeros follow, which have no weight
        q = jnp.where(goes_on, w / jnp.where(goes_on, norm, 1.0), 0.0)
        return basis, q, scale, alpha, beta.at[k].set(jnp.where(goes_on, norm, 0.0))

    start = draw / jnp.where(square > 0, jnp.sqrt(square), 1.0)
    zeros = jnp.zeros(steps)
    carry = jnp.zeros((steps, len(x))), start, jnp.zeros(()), zeros, zeros
    _, _, _, alpha, beta = jax.lax.fori_loop(0, steps, step, carry)
    return square, alpha, beta[:-1]
