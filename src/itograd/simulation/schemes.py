"""Discretisations of an Itô SDE. Each declares its weak order and refuses the noise it cannot take.

How to choose: `ExactAffine` where drift is affine and noise additive (no error at all), `WeakOrder2` where the noise
has few columns, `HeunDrift` for finite sums (error O(dt² + ε·dt), ε the noise variance), `EulerMaruyama` anywhere.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from itograd.simulation.affine import linear_parts, one_step_law
from itograd.simulation.chain import Chain
from itograd.simulation.draws import BROWNIAN, Draws
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.precision import plus_times
from itograd.validation import require, require_choice

MAX_COLUMNS = 32


def _add(y, dy):
    return jax.tree.map(jnp.add, y, dy)


class Scheme(eqx.Module):
    """One step of a discretised SDE; z is the standardised increment of the Brownian motion, (W(t+dt) − W(t))/√dt."""

    weak_order: ClassVar[int]

    def check(self, equation: ModifiedEquation) -> None:
        """Raise ValueError where the scheme cannot take the equation."""

    def prepared(self, equation: ModifiedEquation, dt: float) -> Scheme:
        """The scheme with what can be computed once for a step size."""
        return self

    def noise_dim(self, equation: ModifiedEquation) -> int:
        """The length of z."""
        return equation.noise_dim

    def increments(self, draws: Draws, dim: int):
        """A draw of z."""
        return draws.normal((dim,))

    @abstractmethod
    def step(self, equation: ModifiedEquation, t, y, dt, z, draws: Draws):
        """Y at t+dt."""


class EulerMaruyama(Scheme):
    """Y' = Y + a(t, Y) dt + b(t, Y) ΔW, with Gaussian or two-point increments. Weak order 1."""

    weak_order: ClassVar[int] = 1
    increment: str = eqx.field(static=True, default="gaussian")

    def __check_init__(self):
        require_choice("increment", self.increment, ("gaussian", "two_point"))

    def increments(self, draws, dim):
        return draws.normal((dim,)) if self.increment == "gaussian" else draws.two_point((dim,))

    def step(self, equation, t, y, dt, z, draws):
        return _add(y, equation.increment(t, y, dt, z))


class HeunDrift(Scheme):
    """Heun's rule for the drift, Euler's for the noise.

        Ȳ = Y + a dt + b ΔW,      Y' = Y + (a(t, Y) + a(t+dt, Ȳ)) dt/2 + b ΔW

    Weak order 1, with error O(dt² + ε dt) for noise of variance ε: for the small noise of a finite sum the drift is
    what costs, and here it is second order (theory, amendment 15).
    """

    weak_order: ClassVar[int] = 1

    def step(self, equation, t, y, dt, z, draws):
        predictor = _add(y, equation.increment(t, y, dt, z))
        correction = jax.tree.map(
            lambda late, early: (late - early) * dt / 2, equation.drift(t + dt, predictor), equation.drift(t, y)
        )
        return _add(predictor, correction)


class WeakOrder2(Scheme):
    """Platen's explicit scheme of weak order 2 for general Itô noise with at most 32 columns.

    Kloeden and Platen, Numerical Solution of Stochastic Differential Equations, eq. (15.1.3), with three-point
    increments; time is carried as one more component of the state.
    """

    weak_order: ClassVar[int] = 2

    def check(self, equation):
        require(
            equation.noise_dim <= MAX_COLUMNS,
            f"WeakOrder2 needs an explicit noise matrix of at most {MAX_COLUMNS} columns: this equation has "
            f"{equation.noise_dim}; use HeunDrift",
        )

    def increments(self, draws, dim):
        return draws.three_point((dim,))

    def step(self, equation, t, y, dt, z, draws):
        flat, unravel = ravel_pytree(y)
        m = equation.noise_dim
        root_dt = jnp.sqrt(dt)

        def drift(s, u):
            return ravel_pytree(equation.drift(s, unravel(u)))[0]

        def columns(s, u):  # (m, n): row j is the column b^j
            return jax.vmap(lambda e: ravel_pytree(equation.diffusion(s, unravel(u), e))[0])(jnp.eye(m))

        a, b = drift(t, flat), columns(t, flat)
        centre = flat + a * dt
        end = centre + root_dt * z @ b
        r_plus = jax.vmap(lambda bj: columns(t + dt, centre + bj * root_dt))(b)  # (point, column, n)
        r_minus = jax.vmap(lambda bj: columns(t + dt, centre - bj * root_dt))(b)
        u_plus = jax.vmap(lambda bj: columns(t, flat + bj * root_dt))(b)
        u_minus = jax.vmap(lambda bj: columns(t, flat - bj * root_dt))(b)

        own = jnp.arange(m)
        straight = r_plus[own, own] + r_minus[own, own] + 2 * b
        crossed = _off_diagonal_sum(u_plus + u_minus - 2 * b[None])
        first = 0.25 * root_dt * z @ (straight + crossed)

        signs = jnp.tril(draws.two_point((m, m)), -1)
        pairs = jnp.outer(z, z) + signs - signs.T - jnp.eye(m)  # [r, j]: z_r z_j + V_rj/dt, V_jj = −dt
        differences = (u_plus - u_minus).at[own, own].set(r_plus[own, own] - r_minus[own, own])
        second = 0.25 * root_dt * jnp.einsum("rj,rjn->n", pairs, differences)
        return unravel(flat + 0.5 * dt * (drift(t + dt, end) + a) + first + second)


def _off_diagonal_sum(points):
    """Σ_{r≠j} points[r, j], for every column j."""
    own = jnp.arange(points.shape[0])
    return points.sum(axis=0) - points[own, own]


class ExactAffine(Scheme):
    """The exact law of one step where the drift is affine and the noise additive: Y' = Φ Y + φ + L z.

    Φ = e^{A dt}, φ = ∫ e^{As} c ds and L Lᵀ = ∫ e^{As} B Bᵀ e^{Aᵀs} ds, by Van Loan's block exponential in float64.
    """

    weak_order: ClassVar[float] = math.inf  # type: ignore[assignment]
    law: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # (Φ, φ, L), made by `prepared`

    def check(self, equation):
        for holds, reason in (
            (equation.is_affine, "the drift is not affine"),
            (equation.has_additive_noise, "the noise depends on the state"),
            (equation.is_autonomous, "the coefficients depend on time"),
        ):
            require(holds, f"ExactAffine cannot take this equation: {reason}; use EulerMaruyama or WeakOrder2")

    def prepared(self, equation, dt):
        return ExactAffine(one_step_law(*linear_parts(equation), dt))

    def noise_dim(self, equation):
        return self._prepared_law[2].shape[1]

    def step(self, equation, t, y, dt, z, draws):
        flat, unravel = ravel_pytree(y)
        transition, shift, root = self._prepared_law
        return unravel(transition @ flat + shift + root @ z)

    @property
    def _prepared_law(self):
        if self.law is None:
            raise ValueError("ExactAffine takes a step only after `prepared(equation, dt)`")
        return self.law


def default_scheme(equation: ModifiedEquation) -> Scheme:
    """The most accurate scheme that takes the equation at a reasonable price."""
    if equation.is_affine and equation.has_additive_noise and equation.is_autonomous and equation.problem.dim <= 256:
        return ExactAffine()
    return WeakOrder2() if equation.noise_dim <= 4 else HeunDrift()


class DiscretisedEquation(Chain):
    """An SDE with a scheme and a step size: a chain.

    With `merged` = r the increment of a step is the sum of the increments of r finer steps, so a coarse and a fine
    discretisation of one seed follow the same Brownian path, and their difference has a small variance.
    """

    equation: ModifiedEquation
    scheme: Scheme
    dt: float
    merged: int = eqx.field(static=True, default=1)

    def __init__(self, equation, scheme, dt, merged=1):
        scheme.check(equation)
        self.equation, self.dt, self.merged = equation, dt, merged
        self.scheme = scheme.prepared(equation, dt)

    @property
    def time_per_step(self):
        return self.dt

    @property
    def problem(self):
        return self.equation.problem

    @property
    def start_time(self):
        return self.equation.start_time

    def start(self, x0):
        return self.equation.start(x0)

    def start_from(self, x0, draws):
        return self.equation.start_from(x0, draws)

    def time(self, k):
        """Continuous time at step k."""
        return plus_times(k * self.dt, self.equation.start_time, 1.0)

    def step(self, state, k, draws):
        brownian = draws.of(BROWNIAN)
        dim = self.scheme.noise_dim(self.equation)
        if self.merged == 1:
            z, first = self.scheme.increments(brownian, dim), brownian
        else:
            fine = [brownian.at_step(k * self.merged + j) for j in range(self.merged)]
            z, first = sum(self.scheme.increments(d, dim) for d in fine) / math.sqrt(self.merged), fine[0]
        return self.scheme.step(self.equation, self.time(k), state, self.dt, z, first)

    def observe(self, state):
        return self.equation.observe(state)
