"""SDEs of SGD with stale gradients: what their forms share (theory 1.3, 1.4 and 1.7; An, Lu, Ying 2018).

Staleness of the geometric law P(τ = l) = (1−μ) μ^l is inertia. With the clock and the friction

    Δt = √(η(1−μ)),      γ = √((1−μ)/η),      1−μ = γ Δt,      η = Δt/γ,

x and one moving average of what is read follow an equation of motion without noise (`linear_equation.py` and
`general_equation.py` for independent delays, `queue_equation.py` for workers), and two sources of noise enter it, both
of variance Δt:

    sampling     Σ̄,  the covariance of a batch's gradient at the stale point:   dΣ̄ = γ (Σ(X) − Σ̄) dt,    Σ̄_0 = Σ(x_0)
    staleness    W,  the spread of what is read about its average:              dW = (γ l lᵀ − c W) dt,  W_0 = 0

where l is how far the average lags behind what is read at X, and c = γ (for a queue γ + γ²Δt). Sampling noise alone
gives E φ(X) to the same order, and so does no noise at all: the noise moves any fixed φ by O(Δt). The scaled covariance
Cov(X)/Δt shows the difference: without W it is wrong by O(1) at every η (derived and measured, theory 1.3 and 1.9;
whether the paper's Σ holds W could not be read).

W and Σ̄ are d×d matrices of the state, and their roots are taken at each step, pivot by pivot: equations for about ten
parameters at most (at 32 the step takes most of a minute to compile).
"""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from itograd.problems.problem import Problem
from itograd.simulation.equation import ModifiedEquation

Vector = Float[Array, " d"]
Matrix = Float[Array, "d d"]


def inertial_clock(learning_rate: float, freshness: float) -> float:
    """Δt = √(η(1−μ)), the continuous time of one step."""
    return (learning_rate * freshness) ** 0.5


class StaleEquation(ModifiedEquation):
    """An SDE of SGD with stale gradients. State: (motion, W, Σ̄), motion the two vectors that move.

    W is None without `staleness_noise`, Σ̄ where Σ is constant. `freshness` is 1−μ, the probability of no delay.
    """

    problem: Problem
    learning_rate: float
    freshness: float
    order: int = eqx.field(static=True, default=1)
    staleness_noise: bool = eqx.field(static=True, default=True)

    @abstractmethod
    def start_motion(self, x0: Vector) -> tuple[Vector, Vector]:
        """The motion at time 0, where all has been read at x0."""

    @abstractmethod
    def flow(self, motion) -> tuple[Vector, Vector]:
        """The drift of the motion."""

    @abstractmethod
    def lag(self, motion) -> Vector:
        """l, what is read at X less the average of what is read."""

    @abstractmethod
    def kick(self, motion, sampling: Vector, staleness: Vector) -> tuple[Vector, Vector]:
        """The motion's diffusion coefficient applied to noise of covariance Σ̄ and of covariance W."""

    @abstractmethod
    def point(self, motion) -> Vector:
        """X of a motion."""

    @property
    def forgetting(self):
        """c, the rate at which W forgets."""
        return self.friction

    @property
    def time_per_step(self):
        return inertial_clock(self.learning_rate, self.freshness)

    @property
    def friction(self):
        """γ = √((1−μ)/η)."""
        return (self.freshness / self.learning_rate) ** 0.5

    @property
    def weak_order(self):
        return self.order

    @property
    def noise_dim(self):
        sampling = self.problem.noise_dim if self.problem.has_additive_noise else self.problem.dim
        return sampling + self.problem.dim * self.staleness_noise

    @property
    def is_affine(self):
        return self.problem.is_quadratic and self.has_additive_noise

    @property
    def has_additive_noise(self):
        return self.problem.has_additive_noise and not self.staleness_noise

    def start(self, x0):
        spread = jnp.zeros((x0.size, x0.size), x0.dtype) if self.staleness_noise else None
        sampling = None if self.problem.has_additive_noise else self.problem.noise_covariance(x0)
        return self.start_motion(x0), spread, sampling

    def drift(self, t, y):
        motion, spread, sampling = y
        if spread is not None:
            lag = self.lag(motion)
            spread = self.friction * jnp.outer(lag, lag) - self.forgetting * spread
        if sampling is not None:
            sampling = self.friction * (self.problem.noise_covariance(self.point(motion)) - sampling)
        return self.flow(motion), spread, sampling

    def diffusion(self, t, y, z):
        motion, spread, sampling = y
        d = self.problem.dim
        head = z[:-d] if self.staleness_noise else z
        batch = self.problem.noise_root(motion[0], head) if sampling is None else semidefinite_root(sampling) @ head
        stale = jnp.zeros_like(batch) if spread is None else semidefinite_root(spread) @ z[-d:]
        still = [None if matrix is None else jnp.zeros_like(matrix) for matrix in (spread, sampling)]
        return self.kick(motion, batch, stale), *still

    def observe(self, y):
        return self.point(y[0])

    def affine_form(self):
        return MomentForm(self) if self.problem.is_quadratic and not self.is_affine else self

    def stationary_form(self):
        return self.affine_form()


class MomentForm(ModifiedEquation):
    """An equation with the mean and the covariance of a `StaleEquation` on a quadratic problem, and of affine drift.

    W and Σ̄ are replaced by random vectors that have them as second moments,

        du = −(c/2) u dt + √γ l dB,            E u uᵀ = E W
        dr = γ (X − r) dt,    ds = −(γ/2) s dt + √γ (X − r) dB,    E Σ(r+s) = E Σ̄ for a quadratic Σ,

    and the noise is R(r+s) dB' + u dB'' with R Rᵀ = Σ: as if one random read were taken. Its laws of higher order are
    other ones (derived). State: (motion, u, r, s).
    """

    equation: StaleEquation

    def __init__(self, equation: StaleEquation):
        self.equation = equation

    @property
    def problem(self):
        return self.equation.problem

    @property
    def time_per_step(self):
        return self.equation.time_per_step

    @property
    def weak_order(self):
        return self.equation.weak_order

    @property
    def noise_dim(self):
        return self.problem.noise_dim + 2

    @property
    def has_additive_noise(self):
        return False

    def start(self, x0):
        return self.equation.start_motion(x0), jnp.zeros_like(x0), x0, jnp.zeros_like(x0)

    def drift(self, t, y):
        motion, u, r, s = y
        rate = self.equation.friction
        behind = self.equation.point(motion) - r
        return self.equation.flow(motion), -self.equation.forgetting / 2 * u, rate * behind, -rate / 2 * s

    def diffusion(self, t, y, z):
        motion, u, r, s = y
        head, read, memory = z[:-2], z[-2], z[-1]
        growth = self.equation.friction**0.5 * memory
        spread = u * read if self.equation.staleness_noise else jnp.zeros_like(u)
        kick = self.equation.kick(motion, self.problem.noise_root(r + s, head), spread)
        behind = self.equation.point(motion) - r
        return kick, growth * self.equation.lag(motion), jnp.zeros_like(r), growth * behind

    def observe(self, y):
        return self.equation.point(y[0])


def semidefinite_root(matrix: Matrix) -> Matrix:
    """L with L Lᵀ equal to a positive semidefinite matrix, lower triangular: Cholesky's, which skips empty pivots.

    A pivot that is zero to rounding, or below, has an empty column; the zero matrix has the root 0.

    >>> semidefinite_root(jnp.array([[4.0, 2.0], [2.0, 1.0]])).tolist()
    [[2.0, 0.0], [1.0, 0.0]]
    """
    floor = 8 * jnp.finfo(matrix.dtype).eps * jnp.diagonal(matrix)
    columns = []
    for j in range(matrix.shape[0]):
        pivot = matrix[j, j]
        solid = pivot > jnp.maximum(floor[j], 0.0)
        column = jnp.where(solid, matrix[:, j] / jnp.sqrt(jnp.where(solid, pivot, 1.0)), 0.0)
        column = column * (jnp.arange(matrix.shape[0]) >= j)
        matrix = matrix - jnp.outer(column, column)
        columns.append(column)
    return jnp.stack(columns, axis=1)
