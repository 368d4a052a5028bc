"""The SDE of SGD with independent geometric staleness under linear forcing (theory 1.3, 1.5; An, Lu, Ying 2018).

Path by path, for any objective, the mean read m_k = Σ_l (1−μ) μ^l x_{k−l} obeys

    p_{k+1} = μ p_k − Δt g_k,      m_{k+1} = m_k + Δt p_{k+1},      x_k = m_k + (μ/γ) p_k.

Where ∇F is linear the mean of g_k given the past is ∇F(m_k), and the SDE is Langevin's:

    order 1:   dM = P dt,      dP = −(∇F(M) + γ P) dt + (Δt (Σ̄ + W))^½ dB,      X = M + P/γ
    order 2:   dM −= (Δt/2) (∇F + γ P) dt
               dP −= (Δt/2) (γ ∇F + γ² P − ∇²F P) dt,                          X = M + (μ/γ) P

W = H V Hᵀ with V the spread of the reads, dV = (−γ V + P Pᵀ/γ) dt: the lag of `stale_equation.py` is l = H P/γ.
Recalled for the form, derived for W and the terms of order 2, and measured against exact moments (theory 1.6, 1.9).
"""

import jax
import jax.numpy as jnp

from itograd.asynchrony.stale_equation import StaleEquation


class LinearForcingEquation(StaleEquation):
    """The SDE on (M, P), the mean read and its velocity; see the head of this file."""

    def start_motion(self, x0):
        return x0, jnp.zeros_like(x0)

    def flow(self, motion):
        m, p = motion
        gamma, dt = self.friction, self.time_per_step
        force, curvature_p = jax.jvp(self.problem.gradient, (m,), (p,))  # ∇F, ∇²F P
        pull = force + gamma * p
        if self.order == 1:
            return p, -pull
        return p - dt / 2 * pull, -pull - dt / 2 * (gamma * pull - curvature_p)

    def lag(self, motion):
        m, p = motion
        return jax.jvp(self.problem.gradient, (m,), (p,))[1] / self.friction

    def kick(self, motion, sampling, staleness):
        return jnp.zeros_like(sampling), -(self.time_per_step**0.5) * (sampling + staleness)

    def point(self, motion):
        m, p = motion
        return m + (1.0 if self.order == 1 else 1 - self.freshness) / self.friction * p
