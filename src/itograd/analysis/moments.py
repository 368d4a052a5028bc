"""Exact mean and covariance where the dynamics are affine, for optimisers and for their SDEs, in float64.

An optimiser whose `update` is affine, on a problem whose gradient is affine in the point p = R s + r that it reads,

    s' = A s + B (∇L(p) + ξ) + c,      E ξ = 0,      Cov(ξ | p) = Σ(p),      F = A + B ∇²L R,

has exact moments for any law of the noise, if Σ is a polynomial of degree two at most:

    E s' = F E s + f,      Cov s' = F C Fᵀ + B E[Σ(p)] Bᵀ.

An affine SDE dY = (A Y + c) dt + b(Y) dW has m' = A m + c and C' = A C + C Aᵀ + E[b bᵀ]. One function each: the
matrices are read off `update` and `drift` by differentiation, not written down for each optimiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov

from itograd.optimizers.optimizer import Optimizer
from itograd.problems.problem import Problem
from itograd.simulation.affine import affine_map
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.precision import as_traced, double
from itograd.simulation.save_points import save_grid, save_times, times_since
from itograd.validation import require

MAX_MULTIPLICATIVE_STATE = 60  # the stationary equation is then a dense system of about 1,800 unknowns


def moments(
    model: Any,
    problem: Problem | None = None,
    *,
    x0=None,
    steps: int | None = None,
    save_every: int | None = None,
    save_at=None,
) -> xr.Dataset:
    """The exact mean and covariance of x over time, of an optimiser on a quadratic problem or of its SDE.

    Takes the arguments of `simulate` that say where and when. The result has `mean`, `variance` (time, observable)
    and `covariance` (time, observable, observable_2), and no standard errors: there is no Monte Carlo in it.

    Raises ValueError, with the reason, where the moments do not close.

    >>> import itograd as ig
    >>> exact = moments(ig.SGD(0.1), ig.problems.Quadratic(1.0, 1.0), x0=[1.0], steps=10)
    >>> round(float(exact["variance"][-1, 0] + exact["mean"][-1, 0] ** 2), 12)
    0.167809462244
    """
    if isinstance(model, ModifiedEquation):
        require(problem is None, "a modified equation carries its problem: leave the argument `problem` out")
        require(steps is None and save_every is None, "a modified equation runs to the times save_at: give no steps")
        require(save_at is not None, "the moments of a modified equation need the times `save_at`")
        problem, times = model.problem, save_times(save_at)
        times_since(float(model.start_time), times)
        mean, covariance = _equation_moments(_affine_equation(model.affine_form()), _start(problem, x0), times)
        coordinates: dict = {"time": times}
    else:
        rule = _affine_rule(model, problem)
        grid = save_grid(float(model.time_per_step), steps, save_every, save_at)
        mean, covariance = _chain_moments(rule, _start(problem, x0), grid)
        coordinates = {"time": grid * float(model.time_per_step), "step": ("time", grid)}
    names = [f"x{i}" for i in range(mean.shape[1])]
    variables: dict = {
        "mean": (("time", "observable"), mean),
        "variance": (("time", "observable"), np.diagonal(covariance, axis1=1, axis2=2)),
        "covariance": (("time", "observable", "observable_2"), covariance),
    }
    return xr.Dataset(
        variables,
        coordinates | {"observable": names, "observable_2": names},
        {"model": repr(model), "problem": repr(problem), "exact": "true"},
    )


def stationary_covariance(model: Any, problem: Problem | None = None, *, state: bool = False) -> np.ndarray:
    """The covariance of x (d×d) in the stationary law of an optimiser on a quadratic problem, or of its SDE.

    With `state` the covariance of the whole state, flattened, buffers behind x.

    Raises ValueError where there is no stationary law (naming the spectral radius) or the moments do not close.

    >>> import itograd as ig
    >>> stationary_covariance(ig.SGD(0.1), ig.problems.Quadratic(1.0, 1.0)).round(12).tolist()
    [[0.052631578947]]
    """
    if isinstance(model, ModifiedEquation):
        equation = _affine_equation(model.stationary_form())
        covariance, observe = _stationary_equation(equation), equation.observe[0]
    else:
        rule = _affine_rule(model, problem)
        require(not rule.depends_on_step(), "no stationary law: the hyperparameters change over time")
        covariance, observe = _stationary_chain(rule), rule.observe[0]
    return covariance if state else observe @ covariance @ observe.T


@dataclass(frozen=True)
class _AffineRule:
    """s' = A_k s + B_k g + c_k, p = R s + r, ∇L(p) = H p + h, x = O s + o; `noise` is Σ(p)."""

    update: Callable[[np.ndarray], tuple]  # step numbers -> stacked (A, B, c)
    read: tuple
    gradient: tuple
    observe: tuple
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

    def expected_noise(self, mean, covariance):
        """E Σ(p) over p = R s + r."""
        matrix, shift = self.read
        return expected_quadratic(self.noise, matrix @ mean + shift, matrix @ covariance @ matrix.T, self.additive)


@dataclass(frozen=True)
class _AffineEquation:
    """dY = (A Y + c) dt + b(Y) dW, x = O Y + o; `noise` is b bᵀ."""

    drift: Callable[[float], tuple]
    observe: tuple
    noise: Callable[[float], Callable]
    additive: bool
    start: Callable
    start_time: float
    depends_on_time: bool


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


def _start(problem, x0):
    point = np.asarray(problem.x0 if x0 is None else x0, float)
    require(point.shape == (problem.dim,), f"x0 must have shape ({problem.dim},): got {point.shape}")
    require(np.isfinite(point).all(), f"x0 must be finite: got {point}")
    return point


def _check_problem(problem: Problem) -> None:
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


def _affine_rule(optimizer, problem) -> _AffineRule:
    if not isinstance(optimizer, Optimizer) or not isinstance(problem, Problem):
        raise TypeError(
            "moments need an optimiser with a problem, or a modified equation: got "
            f"{optimizer!r} and problem={problem!r}"
        )
    chain = optimizer.chain(problem)
    optimizer, problem = chain.optimizer, chain.problem  # SVAG changes both
    _check_problem(problem)
    require(
        optimizer.is_affine,
        f"moments close only where the update is affine: {type(optimizer).__name__} is not; simulate it instead",
    )
    with double():
        rule, exact = as_traced((optimizer, problem), "float64")
        origin = jnp.zeros(exact.dim)
        template = rule.init(origin)
        flat, unravel = ravel_pytree(template)

        def updated(u, g, k):
            return ravel_pytree(rule.update(unravel(u), k, g))[0]

        @jax.jit
        @jax.vmap
        def matrices(k):
            a, b = jax.jacfwd(updated, argnums=(0, 1))(flat, origin, k)
            return a, b, updated(jnp.zeros_like(flat), origin, k)

        covariance = jax.jit(jax.vmap(exact.noise_covariance))

        def update(steps):
            with double():
                return tuple(np.asarray(m) for m in matrices(jnp.asarray(steps)))

        def noise(points):
            with double():
                return np.asarray(covariance(jnp.asarray(points)))

        return _AffineRule(
            update,
            affine_map(rule.read, template),
            affine_map(exact.gradient, origin),
            affine_map(rule.observe, template),
            noise,
            exact.has_additive_noise,
            lambda x: _flattened_start(rule.init, x),
        )


def _affine_equation(equation) -> _AffineEquation:
    _check_problem(equation.problem)
    with double():
        exact = as_traced(equation, "float64")
        template = exact.start(jnp.zeros(exact.problem.dim))
        flat, unravel = ravel_pytree(template)

        def drifted(t, u):
            return ravel_pytree(exact.drift(t, unravel(u)))[0]

        @jax.jit
        def matrices(t):
            return jax.jacfwd(drifted, argnums=1)(t, flat), drifted(t, jnp.zeros_like(flat))

        @jax.jit
        def covariance(t, points):
            def at(u):
                columns = jax.vmap(lambda e: ravel_pytree(exact.diffusion(t, unravel(u), e))[0])(
                    jnp.eye(exact.noise_dim)
                )
                return columns.T @ columns

            return jax.vmap(at)(points)

        def noise(t):
            def at(points):
                with double():
                    return np.asarray(covariance(t, jnp.asarray(points)))

            return at

        def drift(t):
            with double():
                return tuple(np.asarray(m) for m in matrices(t))

        if equation.is_autonomous:
            fixed = drift(0.0)
            drift = lambda t: fixed  # noqa: E731
        return _AffineEquation(
            drift,
            affine_map(exact.observe, template),
            noise,
            exact.has_additive_noise,
            lambda x: _flattened_start(exact.start, x),
            float(equation.start_time),
            not equation.is_autonomous,
        )


def _flattened_start(start, x0):
    with double():
        return np.asarray(ravel_pytree(start(jnp.asarray(x0)))[0])


def _chain_moments(affine: _AffineRule, x0, grid):
    mean = affine.start(x0)
    covariance = np.zeros((len(mean), len(mean)))
    saved, done = [], 0
    for target in grid:
        if target > done:
            for f, shift, b in zip(*affine.at(np.arange(done, target))):
                noise = affine.expected_noise(mean, covariance)
                covariance = f @ covariance @ f.T + b @ noise @ b.T
                mean = f @ mean + shift
            done = target
        saved.append((mean, covariance))
    return _observed(affine.observe, saved)


def _equation_moments(affine: _AffineEquation, x0, times):
    mean = affine.start(x0)
    n = len(mean)
    constant_noise = affine.noise(0.0)(np.zeros((1, n)))[0] if affine.additive and not affine.depends_on_time else None

    def slope(t, packed):
        m, c = packed[:n], packed[n:].reshape(n, n)
        a, shift = affine.drift(t)
        noise = (
            constant_noise if constant_noise is not None else expected_quadratic(affine.noise(t), m, c, affine.additive)
        )
        ac = a @ c
        return np.concatenate([a @ m + shift, (ac + ac.T + noise).ravel()])

    packed, now, saved = np.concatenate([mean, np.zeros(n * n)]), affine.start_time, []
    for time in times:
        if time > now:
            solution = solve_ivp(slope, (now, time), packed, method="DOP853", rtol=1e-12, atol=1e-14)
            require(solution.success, f"the moment equations could not be solved up to t={time:g}: {solution.message}")
            packed, now = solution.y[:, -1], time
        saved.append((packed[:n], packed[n:].reshape(n, n)))
    return _observed(affine.observe, saved)


def _observed(observe, saved):
    matrix, shift = observe
    return (np.array([matrix @ m + shift for m, _ in saved]), np.array([matrix @ c @ matrix.T for _, c in saved]))


def _stationary_chain(affine: _AffineRule):
    (f,), (shift,), (b,) = affine.at(np.array([1]))
    _require_stable(np.abs(np.linalg.eigvals(f)).max(), 1.0, "the spectral radius of the mean's map")
    mean = np.linalg.solve(np.eye(len(f)) - f, shift)
    if affine.additive:
        return solve_discrete_lyapunov(f, b @ affine.expected_noise(mean, np.zeros_like(f)) @ b.T)

    def step(c):
        return f @ c @ f.T + b @ affine.expected_noise(mean, c) @ b.T

    matrix, constant = _symmetric_map(step, len(f))
    _require_stable(np.abs(np.linalg.eigvals(matrix)).max(), 1.0, "the spectral radius of the mean square's map")
    return _unpacked(np.linalg.solve(np.eye(len(matrix)) - matrix, constant), len(f))


def _stationary_equation(affine: _AffineEquation):
    a, shift = affine.drift(0.0)
    noise = affine.noise(0.0)
    _require_stable(np.linalg.eigvals(a).real.max(), 0.0, "the largest real part of the drift's eigenvalues")
    mean = np.linalg.solve(a, -shift)
    if affine.additive:
        return solve_continuous_lyapunov(a, -noise(mean[None])[0])

    def slope(c):
        return a @ c + c @ a.T + expected_quadratic(noise, mean, c)

    matrix, constant = _symmetric_map(slope, len(a))
    _require_stable(np.linalg.eigvals(matrix).real.max(), 0.0, "the largest real part of the mean square's eigenvalues")
    return _unpacked(np.linalg.solve(matrix, -constant), len(a))


def _symmetric_map(function, n):
    """The matrix and the constant of an affine map between symmetric n×n matrices, in their upper triangles."""
    require(
        n <= MAX_MULTIPLICATIVE_STATE,
        f"the stationary covariance under multiplicative noise needs a state of at most {MAX_MULTIPLICATIVE_STATE} "
        f"dimensions: got {n}; simulate it instead",
    )
    upper = np.triu_indices(n)
    constant = function(np.zeros((n, n)))[upper]
    columns = [function(_unpacked(e, n))[upper] - constant for e in np.eye(len(upper[0]))]
    return np.array(columns).T, constant


def _unpacked(values, n):
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n)] = values
    return matrix + np.triu(matrix, 1).T


def _require_stable(value, limit, what):
    require(
        value < limit - 1e-13,
        f"no stationary law: {what} is {value:.6g}, and must be below {limit:g}; lower the learning rate",
    )
