"""Transfer operators of RMSprop and of its SDE in one periodic dimension: expectations without Monte Carlo.

The state has two components, x on a circle and w = η² v. The rule moves an observable backwards as in `transfer.py`,

    (P_k u)(x, w) = Σ_j p_j u(x'_kj, w'_kj),      E g(x_n, w_n) = (P_0 … P_{n−1} g)(x_0, w_0)

and the SDE by its semigroup e^{TA}, A = b ∂_x + ½ σ² ∂_x² + c₂ (η² Σ(x) − w) ∂_w. Both act on interpolants in float64,
trigonometric in x and by Chebyshev's polynomials in w. w lives on an interval that follows it: the step from I_k is
taken into I_{k+1}, the hull of all images of the grid on I_k, so that no interpolant is used outside its interval.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.polynomial import chebyshev
from scipy.linalg import expm

from itograd.analysis.transfer import fourier, gradient_noise, period_of, product_law
from itograd.optimizers.rmsprop import RMSprop, RMSpropEquation
from itograd.problems.problem import Problem
from itograd.simulation.precision import as_traced, double
from itograd.validation import require, require_count, require_number

# How much of an answer its highest modes may hold; beyond, the answer is refused as not resolved.
RESOLUTION = 1e-6


def rmsprop_transfer(
    process: RMSprop | RMSpropEquation,
    problem: Problem | None = None,
    *,
    observable: Callable,
    x0,
    w0,
    time: float,
    modes: int = 48,
    nodes: int = 16,
) -> float | np.ndarray:
    """E observable(x_T, w_T) from (x_0, w_0), for RMSprop on a periodic problem of one dimension, or for its SDE.

    `observable` is a function of x and w, shape (1,) each, with the problem's period in x; w = η² v. `x0` and `w0` > 0
    are numbers or arrays of starting points, broadcast against each other; `time` is T in the clock t = kη², for the
    rule a whole number of steps. `modes` × `nodes` is the grid in x and w. The law of the noise must be a stated one.

    Raises TypeError for another process, and ValueError, with the reason, where T is off the grid of steps, the
    equation depends on time, the problem is not periodic, or the grid does not resolve the answer.

    >>> from itograd.problems.landscapes import Circle
    >>> cosine = lambda x, w: jnp.cos(x[0])
    >>> optimizer = RMSprop(0.2, beta=0.96, eps=0.5, v0=25.0)
    >>> round(rmsprop_transfer(optimizer, Circle(), observable=cosine, x0=1.0, w0=1.0, time=0.4, modes=64), 6)
    0.939219

    Source: theory 2.6 and 3.6.
    """
    x0, w0 = np.broadcast_arrays(np.asarray(x0, float), np.asarray(w0, float))
    require(np.isfinite(x0).all(), f"x0 must be finite: got {x0!r}")
    require((w0 > 0).all() and np.isfinite(w0).all(), f"w0 must be positive and finite: got {w0!r}")
    require_number("time", time, minimum=0)
    require_count("modes", modes, minimum=8)
    require_count("nodes", nodes, minimum=4)
    with double():
        if isinstance(process, RMSpropEquation):
            require(problem is None, "an equation has its own problem: leave problem out")
            grid = _Grid(modes, nodes, period_of(process.problem))
            values, interval = _semigroup(process, observable, grid, w0, time)
        else:
            if not isinstance(process, RMSprop) or problem is None:
                raise TypeError(f"process must be RMSprop, with a problem, or its SDE: got {process!r}, {problem!r}")
            grid = _Grid(modes, nodes, period_of(problem))
            values, interval = _backwards(process, problem, observable, grid, w0, time)
        answer = grid.interpolated(
            grid.coefficients(values), interval, jnp.asarray(x0.ravel()), jnp.asarray(w0.ravel())
        )
    answer = np.asarray(answer)
    return float(answer[0]) if x0.ndim == 0 else answer.reshape(x0.shape)


class _Grid:
    """Equispaced points on the circle × Chebyshev's points of an interval (low, high), and interpolants on them."""

    def __init__(self, modes: int, nodes: int, period: float):
        self.modes, self.nodes, self.period = modes, nodes, period
        self.x = period * np.arange(modes) / modes
        self.k, self._to_waves = fourier(modes)
        # Lobatto's points hold the ends of the interval: without them the images of the grid would outgrow it, and the
        # highest polynomial would grow with every step.
        angles, m = np.pi * np.arange(nodes) / (nodes - 1), np.arange(nodes)
        self.s = np.cos(angles)
        ends = np.where((m == 0) | (m == nodes - 1), 0.5, 1.0)
        self._to_polynomials = 2 / (nodes - 1) * np.outer(ends, ends) * np.cos(np.outer(m, angles))

    def points(self, interval):
        """All points of the grid on the interval, x and w: (modes·nodes,) each."""
        low, high = interval
        w = (low + high) / 2 + (high - low) / 2 * self.s
        x, w = jnp.broadcast_arrays(jnp.asarray(self.x)[:, None], w)
        return x.ravel(), w.ravel()

    def coefficients(self, values):
        """The coefficients (waves, polynomials) of the interpolant of values on the grid (modes·nodes,)."""
        return self._to_waves @ values.reshape(self.modes, self.nodes) @ self._to_polynomials.T

    def interpolated(self, coefficients, interval, x, w):
        """The interpolant at points with w inside the interval."""
        low, high = interval
        s = jnp.clip((2 * w - low - high) / (high - low), -1.0, 1.0)
        waves = jnp.exp(2j * np.pi / self.period * jnp.outer(x, jnp.asarray(self.k)))
        polynomials = jnp.cos(jnp.outer(jnp.arccos(s), jnp.arange(self.nodes)))
        return jnp.sum((waves @ coefficients).real * polynomials, axis=1)

    def tail(self, coefficients):
        """The share of its highest modes in an interpolant."""
        size = jnp.abs(coefficients)
        return jnp.maximum(size[-max(3, self.modes // 32) :].max(), size[:, -2:].max()) / size.max()

    def require_resolved(self, tail) -> None:
        require(
            float(tail) <= RESOLUTION,
            f"modes={self.modes} and nodes={self.nodes} do not resolve the answer: its highest modes hold "
            f"{float(tail):.1e} of it and may hold {RESOLUTION:.0e}; give more",
        )


def _hull(*arrays) -> tuple[float, float]:
    """The interval that holds all numbers, no narrower than a hundredth of its middle."""
    low, high = min(np.min(a) for a in arrays), max(np.max(a) for a in arrays)
    width = 0.005 * (low + high) / 2
    return (low - width, high + width) if high - low < width else (low, high)


def _on_grid(observable, x, w):
    return jax.vmap(lambda x, w: jnp.asarray(observable(x[None], w[None]), float).reshape(()))(x, w)


def _semigroup(equation, observable, grid: _Grid, w0, time):
    """e^{TA} g on the grid, and its interval: w stays in the hull of its start and of η² Σ."""
    require(
        equation.is_autonomous,
        "a transfer operator needs an autonomous equation: the coefficients of this one depend on time",
    )
    exact = as_traced(equation, "float64")
    limits = jax.vmap(lambda x: exact.variances(x[None])[0])(jnp.asarray(grid.x))
    low, high = interval = _hull(w0, np.asarray(limits))
    x, w = grid.points(interval)

    def at(x, w):
        y = (x[None], w[None])
        columns = jax.vmap(lambda e: exact.diffusion(0.0, y, e)[0][0])(jnp.eye(exact.noise_dim))
        dx, dw = exact.drift(0.0, y)
        return dx[0], jnp.sum(columns**2), dw[0]

    drift, variance, speed = map(np.asarray, jax.vmap(at)(x, w))
    waves = np.exp(2j * np.pi / grid.period * np.outer(grid.x, grid.k))
    number = 2j * np.pi / grid.period * grid.k
    first = ((waves * number) @ grid._to_waves).real
    second = ((waves * number**2) @ grid._to_waves).real
    slopes = chebyshev.chebval(grid.s, chebyshev.chebder(np.eye(grid.nodes))).T * 2 / (high - low)
    along_w = slopes @ grid._to_polynomials
    same_x, same_w = np.eye(grid.modes), np.eye(grid.nodes)
    generator = (
        drift[:, None] * np.kron(first, same_w)
        + 0.5 * variance[:, None] * np.kron(second, same_w)
        + speed[:, None] * np.kron(same_x, along_w)
    )
    values = expm(time * generator) @ np.asarray(_on_grid(observable, x, w))
    grid.require_resolved(grid.tail(grid.coefficients(jnp.asarray(values))))
    return jnp.asarray(values), interval


def _backwards(optimizer, problem, observable, grid: _Grid, w0, time):
    """P_0 … P_{n−1} g on the grid, and its interval."""
    dt = optimizer.time_per_step
    steps = round(time / dt)
    require(
        abs(steps * dt - time) <= 1e-9 * max(time, dt),
        f"time must be a whole number of steps of {dt:g}: got {time:g}, which is {time / dt:.6g} steps",
    )
    rooted, law = gradient_noise(problem)
    atoms, probabilities = map(jnp.asarray, product_law(law, rooted.noise_dim))
    parts = as_traced((optimizer, rooted), "float64")
    interval = tuple(map(jnp.asarray, _hull(w0)))
    values, tail = _sweep(parts, interval, atoms, probabilities, steps, partial(_on_grid, observable), grid)
    grid.require_resolved(tail)
    return values, interval


@eqx.filter_jit
def _sweep(parts, interval, atoms, probabilities, steps, observed, grid: _Grid):
    optimizer, rooted = parts
    clock = optimizer.time_per_step

    def moved(k, interval):
        """The images of the grid under every atom, x and w: (atoms, points) each."""

        def move(x, w, z):
            gradient = rooted.perturbed_gradient(x[None], z, 1.0)  # ∇L + R z
            x, v = optimizer.update((x[None], w[None] / clock), k, gradient)
            return x[0], clock * v[0]

        return jax.vmap(lambda z: jax.vmap(partial(move, z=z))(*grid.points(interval)))(atoms)

    def forward(interval, k):
        _, w = moved(k, interval)
        return (w.min(), w.max()), interval

    def backward(values, at):
        k, interval, following = at
        coefficients = grid.coefficients(values)
        x, w = moved(k, interval)
        images = grid.interpolated(coefficients, following, x.ravel(), w.ravel()).reshape(x.shape)
        return probabilities @ images, grid.tail(coefficients)

    numbers = jnp.arange(steps)
    last, intervals = lax.scan(forward, interval, numbers)
    following = jax.tree.map(lambda all, end: jnp.append(all[1:], end), intervals, last)
    values = observed(*grid.points(last))
    values, tails = lax.scan(backward, values, (numbers, intervals, following), reverse=True)
    return values, jnp.max(tails, initial=0.0)
