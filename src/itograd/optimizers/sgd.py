"""Stochastic gradient descent (Li, Tai, E 2017, 2019; Li, Malladi, Arora 2021).

The rule, with coupled decay λ and rate η_k = η u(kη):

    x_{k+1} = x_k − η_k (g_k + λ x_k),      g_k = ∇L(x_k) + ξ_k,      Cov ξ_k = Σ(x_k)

Its SDE, with F = L + λ|x|²/2 and the clock t = kη (schedule term of order 2: derived, theory amendment 4):

    order 1:   dX = −u ∇F dt + u (η Σ)^½ dW
    order 2:   dX = −(u ∇F + (η/2) u² ∇²F ∇F − (η/2) u' ∇F) dt + u (η Σ)^½ dW

Its scaling rule: batch × κ, η × κ, λ the same, steps / κ. η and B enter the SDE by η Σ = (η/B) S alone.
"""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from itograd.optimizers.optimizer import Optimizer
from itograd.optimizers.scaling_rules import Power
from itograd.problems.problem import Problem
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.precision import plus_times
from itograd.simulation.schedule import Hyperparameter, Schedule, base, shape, shape_slope
from itograd.validation import require_choice, require_number


class SGD(Optimizer):
    """x ← x − η (g + λ x). Equal to `torch.optim.SGD(lr=η, weight_decay=λ)` step by step.

    `learning_rate` is a number or a schedule of continuous time t = steps · (base rate).

    >>> SGD(0.1).scaled(8).learning_rate
    0.8
    """

    learning_rate: Hyperparameter
    weight_decay: float = 0.0

    def __check_init__(self):
        require_number("learning_rate", base(self.learning_rate), minimum=0, exclusive=True)
        require_number("weight_decay", self.weight_decay, minimum=0)

    @property
    def time_per_step(self):
        return base(self.learning_rate)

    @property
    def is_affine(self):
        return True

    def init(self, x0):
        return x0

    def update(self, state, k, gradient):
        x = state
        eta = base(self.learning_rate) * shape(self.learning_rate, k * self.time_per_step)
        return x - eta * plus_times(gradient, self.weight_decay, x)

    def observe(self, state):
        return state

    def modified_equation(self, problem, order=1):
        require_choice("order", order, (1, 2))
        return SGDEquation(problem, self.learning_rate, self.weight_decay, order)

    @property
    def scaling(self):
        return {"learning_rate": Power(1)}


class SGDEquation(ModifiedEquation):
    """The SDE of SGD; see the head of this file. The state is x itself."""

    problem: Problem
    learning_rate: Hyperparameter
    weight_decay: float
    order: int = eqx.field(static=True)

    @property
    def time_per_step(self):
        return base(self.learning_rate)

    @property
    def weak_order(self):
        return self.order

    @property
    def is_autonomous(self):
        return not isinstance(self.learning_rate, Schedule)

    def start(self, x0):
        return x0

    def _force(self, x):
        return plus_times(self.problem.gradient(x), self.weight_decay, x)  # ∇F

    def _correction(self, t, x):  # the drift terms of order η
        if self.order == 1:
            return 0.0
        u, slope = shape(self.learning_rate, t), shape_slope(self.learning_rate, t)
        force, curvature_force = _force_and_curvature(self._force, x)
        return -base(self.learning_rate) / 2 * (u**2 * curvature_force - slope * force)

    def drift(self, t, x):
        return -shape(self.learning_rate, t) * self._force(x) + self._correction(t, x)

    def diffusion(self, t, x, z):
        scale = shape(self.learning_rate, t) * jnp.sqrt(base(self.learning_rate))
        return -scale * self.problem.noise_root(x, z)

    def increment(self, t, x, dt, z):
        u, eta = shape(self.learning_rate, t), base(self.learning_rate)
        force = plus_times(self.problem.perturbed_gradient(x, z, jnp.sqrt(eta / dt)), self.weight_decay, x)
        return dt * (self._correction(t, x) - u * force)

    def observe(self, x):
        return x


def _force_and_curvature(force, x):
    """(∇F, ∇²F ∇F) at x by one forward pass over the gradient."""
    value = force(x)
    return value, jax.jvp(partial(force), (x,), (value,))[1]
