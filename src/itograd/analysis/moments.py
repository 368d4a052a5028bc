"""Exact mean and covariance where the dynamics are affine, for optimisers and for their SDEs, in float64.

The recursion of an optimiser is in `affine_rule.py`, those of optimisers with stale gradients in
`asynchrony/moments.py`. An affine SDE dY = (A Y + c) dt + b(Y) dW has

    m' = A m + c,      C' = A C + C Aᵀ + E[b bᵀ],

with the matrices read off `drift` by differentiation, not written down for each equation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp
from scipy.linalg import solve_continuous_lyapunov

from itograd.analysis.affine_rule import (
    AffineRule,
    MomentRecursion,
    affine_rule,
    expected_quadratic,
    flattened_start,
    moment_recursion,
    require_below,
    require_quadratic,
    symmetric_map,
    unpacked,
)
from itograd.optimizers.optimizer import Optimizer
from itograd.problems.problem import Problem
from itograd.simulation.affine import affine_map
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.precision import as_traced, double
from itograd.simulation.save_points import save_grid, save_times, times_since
from itograd.validation import require


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
        mean, covariance = _equation_moments(_affine_equation(model.affine_form()), start_point(problem, x0), times)
        coordinates: dict = {"time": times}
    else:
        recursion, rule = recursion_of(model, problem)
        grid = save_grid(float(model.time_per_step), steps, save_every, save_at)
        visited = states_at(recursion, start_point(problem, x0), grid)
        mean, covariance = _observed(rule.observe, map(recursion.mean_and_covariance, visited))
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
        recursion, rule = recursion_of(model, problem)
        require(not rule.depends_on_step(), "no stationary law: the hyperparameters change over time")
        covariance, observe = recursion.stationary(), rule.observe[0]
    return covariance if state else observe @ covariance @ observe.T


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


def recursion_of(optimizer, problem) -> tuple[MomentRecursion, AffineRule]:
    """The recursion of an optimiser's moments on a problem, and the matrices of the optimiser."""
    if not isinstance(optimizer, Optimizer) or not isinstance(problem, Problem):
        raise TypeError(
            "moments need an optimiser with a problem, or a modified equation: got "
            f"{optimizer!r} and problem={problem!r}"
        )
    chain = optimizer.chain(problem)
    rule = affine_rule(chain.optimizer, chain.problem)  # SVAG changes both
    return moment_recursion(chain, rule), rule


def states_at(recursion: MomentRecursion, x0, grid: np.ndarray) -> Iterator:
    """The recursion's states at the steps of the grid."""
    state, done = recursion.start(x0), 0
    for target in grid:
        if target > done:
            state, done = recursion.advance(state, np.arange(done, target)), target
        yield state


def start_point(problem, x0) -> np.ndarray:
    """x0, by default the problem's own; ValueError where it does not fit."""
    point = np.asarray(problem.x0 if x0 is None else x0, float)
    require(point.shape == (problem.dim,), f"x0 must have shape ({problem.dim},): got {point.shape}")
    require(np.isfinite(point).all(), f"x0 must be finite: got {point}")
    return point


def _affine_equation(equation) -> _AffineEquation:
    require_quadratic(equation.problem)
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
            lambda x: flattened_start(exact.start, x),
            float(equation.start_time),
            not equation.is_autonomous,
        )


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
    means, covariances = zip(*((matrix @ m + shift, matrix @ c @ matrix.T) for m, c in saved))
    return np.array(means), np.array(covariances)


def _stationary_equation(affine: _AffineEquation):
    a, shift = affine.drift(0.0)
    noise = affine.noise(0.0)
    require_below(np.linalg.eigvals(a).real.max(), 0.0, "the largest real part of the drift's eigenvalues")
    mean = np.linalg.solve(a, -shift)
    if affine.additive:
        return solve_continuous_lyapunov(a, -noise(mean[None])[0])

    def slope(c):
        return a @ c + c @ a.T + expected_quadratic(noise, mean, c)

    matrix, constant = symmetric_map(slope, len(a))
    require_below(np.linalg.eigvals(matrix).real.max(), 0.0, "the largest real part of the mean square's eigenvalues")
    return unpacked(np.linalg.solve(matrix, -constant), len(a))
