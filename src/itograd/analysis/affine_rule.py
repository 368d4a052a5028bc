"""Affine rules in float64: an optimiser on a quadratic problem as matrices, and the recursion of its moments.

An optimiser whose `update` is affine, on a problem whose gradient is affine in the point p = R s + r that it reads,

    s' = A s + B (∇L(p) + ξ) + c,      E ξ = 0,      Cov(ξ | p) = Σ(p),      F = A + B ∇²L R,

has exact moments for any law of the noise, if Σ is a polynomial of degree two at most:

    E s' = F E s + f,      Cov s' = F C Fᵀ + B E[Σ(p)] Bᵀ.

The matrices are read off `update` and `read` by differentiation, not written down for each optimiser. A chain whose
gradients are not fresh has a recursion of its own: it registers one with `moment_recursion`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import solve_discrete_lyapunov

from itograd.optimizers.optimizer import Optimizer, OptimizerChain
from itograd.problems.problem import Problem
from itograd.simulation.affine import affine_map
from itograd.simulation.precision import as_traced, double
from itograd.validation import require

MAX_MULTIPLICATIVE_STATE = 60  # the stationary equation is then a dense system of about 1,800 unknowns


@dataclass(frozen=True)
class AffineRule:
    """s' = A_k s + B_k g + c_k, p = R s + r, ∇L(p) = H p + h, x = O s + o; `noise` is Σ(p)."""

    update: Callable[[np.ndarray], tuple]  # step numbers -> stacked (A, B, c)
    read: tuple
    observe: tuple
    gradient: tuple
    noise: Callable
    additive: bool
    start: Callable

    def at(self, steps: np.ndarray):
        """(F, f, B) at every step."""
        a, b, c = self.update(steps)
        (r_matrix, r), (hessian, h) = self.read, self.gradient
        return a + b @ hessian @ r_matrix, c + b @ (hessian @ r + h), b

    def depends_on_step(self) -> bool:
        """Whether the matrices differ between any two of many steps, up to the 10⁹th."""
        f, shift, b = self.at(np.unique(np.geomspace(1, 1e9, 100).astype(int)))
        return not all(np.allclose(m, m[:1], rtol=1e-14, atol=0) for m in (f, shift, b))


def affine_rule(optimizer: Optimizer, problem: Problem) -> AffineRule:
    """The matrices of an optimiser on a quadratic problem; ValueError, with the reason, where it is not affine."""
    require_quadratic(problem)
    require_affine(optimizer)
    with double():
        exact = as_traced(problem, "float64")
        gradient = affine_map(exact.gradient, jnp.zeros(exact.dim))

    def noise(points):
        with double():
            return np.asarray(_noise_covariances(exact, jnp.asarray(points)))

    return AffineRule(
        *linearised(optimizer, problem.dim),
        gradient=gradient,
        noise=noise,
        additive=problem.has_additive_noise,
        start=lambda x: flattened_start(optimizer.init, x),
    )


def affine_modes(optimizer: Optimizer, curvatures) -> list[AffineRule]:
    """The matrices of an optimiser at its step 1 on each h x²/2, the eigen-directions of a quadratic, without noise."""
    require_affine(optimizer)
    update, read, observe = linearised(optimizer, 1)
    matrices = update(np.array([1]))
    return [
        AffineRule(
            lambda steps: matrices,
            read,
            observe,
            gradient=(np.array([[h]], float), np.zeros(1)),
            noise=lambda points: np.zeros((len(points), 1, 1)),
            additive=True,
            start=lambda x: flattened_start(optimizer.init, x),
        )
        for h in curvatures
    ]


def linearised(optimizer: Optimizer, dim: int) -> tuple[Callable, tuple, tuple]:
    """`update`, `read` and `observe` of an affine optimiser as matrices: the fields of `AffineRule`.

    Hyperparameters are traced, so that a search over them compiles once.
    """
    with double():
        exact = as_traced(optimizer, "float64")

        def update(steps):
            with double():
                return tuple(np.asarray(m) for m in _update_matrices(exact, dim, jnp.asarray(steps)))

        read, observe = _read_matrices(exact, dim)
        return update, tuple(map(np.asarray, read)), tuple(map(np.asarray, observe))


@eqx.filter_jit
def _update_matrices(rule, dim, steps):
    origin = jnp.zeros(dim)
    flat, unravel = ravel_pytree(rule.init(origin))

    def updated(u, g, k):
        return ravel_pytree(rule.update(unravel(u), k, g))[0]

    def matrices(k):
        a, b = jax.jacfwd(updated, argnums=(0, 1))(flat, origin, k)
        return a, b, updated(jnp.zeros_like(flat), origin, k)

    return jax.vmap(matrices)(steps)


@eqx.filter_jit
def _noise_covariances(problem, points):
    return jax.vmap(problem.noise_covariance)(points)


@eqx.filter_jit
def _read_matrices(rule, dim):
    flat, unravel = ravel_pytree(rule.init(jnp.zeros(dim)))
    zero = jnp.zeros_like(flat)

    def linear(function):
        def flattened(u):
            return function(unravel(u))

        return jax.jacfwd(flattened)(zero), flattened(zero)

    return linear(rule.read), linear(rule.observe)


def require_quadratic(problem: Problem) -> None:
    """Raise unless the gradient is affine and the batches are independent."""
    require(
        problem.is_quadratic,
        f"moments close only where the gradient is affine: {type(problem).__name__} is not "
        "quadratic; simulate it instead",
    )
    require(
        problem.sampling != "reshuffling",
        "moments need independent batches: sampling='reshuffling' makes the "
        "batches of an epoch depend on each other; simulate it instead",
    )


def require_affine(optimizer: Optimizer) -> None:
    """Raise unless the optimiser declares its update affine."""
    require(
        optimizer.is_affine,
        f"moments close only where the update is affine: {type(optimizer).__name__} is not; simulate it instead",
    )


def require_below(value: float, limit: float, what: str) -> None:
    """Raise unless a stationary law exists: `value`, named by `what`, is below `limit`."""
    require(
        value < limit - 1e-13,
        f"no stationary law: {what} is {value:.6g}, and must be below {limit:g}; lower the learning rate",
    )


class MomentRecursion(Protocol):
    """What `moments` and `stationary_covariance` need to know of a chain. Its own state is what advances."""

    def start(self, x0) -> Any:
        """The recursion's state at step 0."""

    def advance(self, state: Any, steps: np.ndarray) -> Any:
        """Its state after the steps of these numbers."""

    def mean_and_covariance(self, state: Any) -> tuple[np.ndarray, np.ndarray]:
        """Those of the optimiser's state."""

    def stationary(self) -> np.ndarray:
        """The stationary covariance of the optimiser's state; ValueError where there is none."""


@singledispatch
def moment_recursion(chain, rule: AffineRule) -> MomentRecursion:
    """The recursion of the moments of a chain, whose optimiser on its problem is `rule`."""
    raise ValueError(f"no moments are known for {type(chain).__name__}; simulate it instead")


@moment_recursion.register(OptimizerChain)
def _(chain, rule):
    return FreshMoments(rule)


@dataclass(frozen=True)
class FreshMoments:
    """The recursion of the head of this file; its state is the mean and covariance of s."""

    rule: AffineRule

    def start(self, x0):
        mean = self.rule.start(x0)
        return mean, np.zeros((len(mean), len(mean)))

    def advance(self, state, steps):
        mean, covariance = state
        for f, shift, b in zip(*self.rule.at(steps)):
            noise = self._expected_noise(mean, covariance)
            covariance = f @ covariance @ f.T + b @ noise @ b.T
            mean = f @ mean + shift
        return mean, covariance

    def mean_and_covariance(self, state):
        return state

    def stationary(self):
        (f,), (shift,), (b,) = self.rule.at(np.array([1]))
        require_below(np.abs(np.linalg.eigvals(f)).max(), 1.0, "the spectral radius of the mean's map")
        mean = np.linalg.solve(np.eye(len(f)) - f, shift)
        if self.rule.additive:
            return solve_discrete_lyapunov(f, b @ self._expected_noise(mean, np.zeros_like(f)) @ b.T)

        def step(c):
            return f @ c @ f.T + b @ self._expected_noise(mean, c) @ b.T

        matrix, constant = symmetric_map(step, len(f))
        require_below(np.abs(np.linalg.eigvals(matrix)).max(), 1.0, "the spectral radius of the mean square's map")
        return unpacked(np.linalg.solve(np.eye(len(matrix)) - matrix, constant), len(f))

    def _expected_noise(self, mean, covariance):
        """E Σ(p) over p = R s + r."""
        matrix, shift = self.rule.read
        read = matrix @ mean + shift, matrix @ covariance @ matrix.T
        return expected_quadratic(self.rule.noise, *read, self.rule.additive)


def expected_quadratic(function: Callable, mean, covariance, constant: bool = False):
    """E f(p) for a quadratic f, from the mean and covariance of p alone, and no derivative of f.

    With C = Σ λ_i v_i v_iᵀ:   E f = f(m) + ½ Σ λ_i (f(m+v_i) + f(m−v_i) − 2 f(m)).
    """
    if constant:
        return function(mean[None])[0]
    weights, directions = np.linalg.eigh((covariance + covariance.T) / 2)
    points = np.concatenate([mean[None], mean + directions.T, mean - directions.T])
    values = function(points)
    n = len(weights)
    second = values[1 : n + 1] + values[n + 1 :] - 2 * values[0]
    return values[0] + 0.5 * np.tensordot(weights, second, axes=1)


def symmetric_map(function, n):
    """The matrix and the constant of an affine map between symmetric n×n matrices, in their upper triangles."""
    require(
        n <= MAX_MULTIPLICATIVE_STATE,
        f"the stationary covariance under multiplicative noise needs a state of at most {MAX_MULTIPLICATIVE_STATE} "
        f"dimensions: got {n}; simulate it instead",
    )
    upper = np.triu_indices(n)
    constant = function(np.zeros((n, n)))[upper]
    columns = [function(unpacked(e, n))[upper] - constant for e in np.eye(len(upper[0]))]
    return np.array(columns).T, constant


def unpacked(values, n):
    """The symmetric n×n matrix with these values in its upper triangle."""
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n)] = values
    return matrix + np.triu(matrix, 1).T


def flattened_start(start, x0):
    """The flattened state at x0, in float64."""
    with double():
        return np.asarray(ravel_pytree(start(jnp.asarray(x0)))[0])
