"""The workloads as users of itograd write them: equations and chains of one path."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import itograd as ig
from benchmarks.workloads import ETA, Adaptive, LeastSquares, LinearEquation, Underdamped
from itograd.simulation import Chain, Draws, ModifiedEquation
from itograd.simulation.history import recall, remember, ring


def coordinates(d: int) -> ig.problems.Problem:
    """A problem of d parameters, for models that need none but its names x0, x1, …"""
    return ig.problems.Quadratic(np.ones(d), np.ones(d))


class LinearSDE(ModifiedEquation):
    """dX = −A X dt + √η S dW."""

    problem: ig.problems.Problem
    matrix: np.ndarray
    noise: np.ndarray
    eta: float

    @property
    def time_per_step(self):
        return self.eta

    @property
    def weak_order(self):
        return 1

    def start(self, x0):
        return x0

    def drift(self, t, x):
        return -(self.matrix @ x)

    def diffusion(self, t, x, z):
        return self.eta**0.5 * (self.noise @ z)

    def observe(self, x):
        return x


class Stacked(LinearSDE):
    """The same in two dimensions, component by component."""

    def drift(self, t, x):
        a = self.matrix
        return -jnp.stack([a[0, 0] * x[0] + a[0, 1] * x[1], a[1, 0] * x[0] + a[1, 1] * x[1]])


class Summed(LinearSDE):
    """The same by a sum over an axis."""

    def drift(self, t, x):
        return -jnp.sum(self.matrix * x, axis=1)


class OfPotential(LinearSDE):
    """The same for a symmetric matrix, by the gradient of xᵀ A x/2."""

    def potential(self, x):
        a = self.matrix
        return a[0, 0] * x[0] ** 2 / 2 + a[0, 1] * x[0] * x[1] + a[1, 1] * x[1] ** 2 / 2

    def drift(self, t, x):
        return -jax.grad(self.potential)(x)


FORMS = {"matmul": LinearSDE, "stack": Stacked, "sum": Summed, "grad": OfPotential}


def linear_sde(w: LinearEquation) -> LinearSDE:
    """The equation of a workload, in its form."""
    return FORMS[w.form](coordinates(w.dim), w.matrix, w.noise, ETA)


class Langevin(ModifiedEquation):
    """dV = −(γV + A X) dt + √η S dW, dX = V dt."""

    problem: ig.problems.Problem
    matrix: np.ndarray
    noise: np.ndarray
    friction: float
    eta: float

    @property
    def time_per_step(self):
        return self.eta

    @property
    def weak_order(self):
        return 1

    def start(self, x0):
        return jnp.zeros_like(x0), x0

    def drift(self, t, y):
        v, x = y
        return -(self.friction * v + self.matrix @ x), v

    def diffusion(self, t, y, z):
        return self.eta**0.5 * (self.noise @ z), jnp.zeros_like(z)

    def observe(self, y):
        return y[1]


def langevin(w: Underdamped) -> Langevin:
    """The equation of a workload."""
    return Langevin(coordinates(w.dim), w.matrix, w.noise, w.friction, ETA)


class AsynchronousSGD(Chain):
    """x ← x − η a_i (a_i·y − b_i) with y the point of a geometric number of steps ago."""

    problem: ig.problems.Problem
    features: np.ndarray
    targets: np.ndarray
    eta: float
    ratio: float
    max_delay: int = eqx.field(static=True)

    @property
    def time_per_step(self):
        return self.eta

    def start(self, x0):
        return x0, ring(x0, self.max_delay + 1)

    def step(self, state, k, draws: Draws):
        x, past = state
        y = recall(past, k, draws.geometric(self.ratio, maximum=self.max_delay))
        i = draws.index(len(self.targets))
        a, b = jnp.asarray(self.features)[i], jnp.asarray(self.targets)[i]
        x = x - self.eta * a * (a @ y - b)
        return x, remember(past, k + 1, x)

    def observe(self, state):
        return state[0]


def asynchronous_sgd(w: LeastSquares) -> AsynchronousSGD:
    """The chain of a workload."""
    return AsynchronousSGD(coordinates(w.dim), w.features, w.targets, ETA, w.delay_ratio, w.max_delay)


class AdaptiveChain(Chain):
    """What Adam and RMSprop share: the gradient λ x + σ z."""

    problem: ig.problems.Problem
    curvature: np.ndarray
    sigma: float
    eta: float
    b1: float
    b2: float
    eps: float

    @property
    def time_per_step(self):
        return ETA

    def gradient(self, x, draws: Draws):
        """A noisy gradient at x."""
        return self.curvature * x + self.sigma * draws.normal(x.shape)

    def observe(self, state):
        return state[0]


class AdamChain(AdaptiveChain):
    """Adam, with both corrections of the bias."""

    def start(self, x0):
        return x0, jnp.zeros_like(x0), jnp.zeros_like(x0)

    def step(self, state, k, draws):
        x, m, v = state
        g = self.gradient(x, draws)
        m = self.b1 * m + (1 - self.b1) * g
        v = self.b2 * v + (1 - self.b2) * g**2
        m_hat, v_hat = m / (1 - self.b1 ** (k + 1)), v / (1 - self.b2 ** (k + 1))
        return x - self.eta * m_hat / (jnp.sqrt(v_hat) + self.eps), m, v


class RMSpropChain(AdaptiveChain):
    """RMSprop, ε outside the root."""

    def start(self, x0):
        return x0, jnp.zeros_like(x0)

    def step(self, state, k, draws):
        x, v = state
        g = self.gradient(x, draws)
        v = self.b2 * v + (1 - self.b2) * g**2
        return x - self.eta * g / (jnp.sqrt(v) + self.eps), v


def adaptive_chain(w: Adaptive) -> AdaptiveChain:
    """The chain of a workload."""
    kind = {"adam": AdamChain, "rmsprop": RMSpropChain}[w.rule]
    return kind(coordinates(w.dim), w.curvature, w.sigma, w.learning_rate, w.b1, w.b2, w.eps)
