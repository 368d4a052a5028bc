"""The SDE of SGD with independent geometric staleness for any objective (theory 1.4, 1.5; An, Lu, Ying 2018).

The average y_k = Σ_l (1−μ) μ^l ∇F(x_{k−l}) is the mean of g_k given the past:

    x_{k+1} = x_k − η y_k − η (g_k − y_k),      y_{k+1} = μ y_k + (1−μ) ∇F(x_{k+1})

    order 1:   dX = −y/γ dt + (1/γ) (Δt (Σ̄ + W))^½ dB,      dy = γ (∇F(X) − y) dt
    order 2:   dX += (Δt/2) (∇F − y) dt,      dy += (γΔt/2) (−∇²F y/γ + γ (∇F − y)) dt

W is the spread of the stale gradients, dW = γ ((∇F(X) − y)(∇F(X) − y)ᵀ − W) dt: the lag is l = ∇F(X) − y. Σ̄ + W is the
G − y yᵀ of the theory, G the average of E_i ∇f_i ∇f_iᵀ; carried apart, both stay semidefinite. For a quadratic
objective the equation of order 1 is that of linear forcing with y = ∇F(M). Recalled for (X, y), derived for the rest.
"""

import jax
import jax.numpy as jnp

from itograd.asynchrony.stale_equation import StaleEquation


class GeneralForcingEquation(StaleEquation):
    """The SDE on (X, y), the iterate and the expected gradient; see the head of this file."""

    def start_motion(self, x0):
        return x0, self.problem.gradient(x0)

    def flow(self, motion):
        x, y = motion
        gamma, dt = self.friction, self.time_per_step
        if self.order == 1:
            return -y / gamma, gamma * self.lag(motion)
        force, curvature_y = jax.jvp(self.problem.gradient, (x,), (y,))  # ∇F, ∇²F y
        lag = force - y
        return dt / 2 * lag - y / gamma, gamma * lag + dt / 2 * (gamma**2 * lag - curvature_y)

    def lag(self, motion):
        x, y = motion
        return self.problem.gradient(x) - y

    def kick(self, motion, sampling, staleness):
        scale = self.time_per_step**0.5 / self.friction
        return -scale * (sampling + staleness), jnp.zeros_like(sampling)

    def point(self, motion):
        return motion[0]
