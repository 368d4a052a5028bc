"""The SDE of SGD with the stale gradients of M workers (theory 1.7; derived).

Exponential workers have the geometric law with μ = 1 − 1/M, but each read is written once: the gradient that is applied
leaves the average, which so receives a noise of its own, fully correlated with that of the gradient. With
∇F(x) = H x + const, M the mean of the workers' reads and V their spread,

    dX = −∇F(M)/γ dt − (√Δt/γ) (H dZ + Σ̄^½ dB),      d⟨Z⟩ = V dt
    dM = γ (X − M) dt − γ √Δt dZ
    dV = (γ (X−M)(X−M)ᵀ − (γ + γ²Δt) V) dt,           V_0 = 0

V is the mean of S − M Mᵀ of the theory given X and M: its martingale part, of order √Δt, is left out, which changes
neither first nor second moments and keeps V semidefinite. With `forcing="general"` the workers' gradients take the
place of their reads, y of M and W of V:

    dX = −y/γ dt − (√Δt/γ) (dZ + Σ̄^½ dB),      dy = γ (∇F(X) − y) dt − γ √Δt dZ,      d⟨Z⟩ = W dt,

the same equation where ∇F is affine, and of order 1 both.
"""

import equinox as eqx
import jax

from itograd.asynchrony.stale_equation import StaleEquation


class QueueEquation(StaleEquation):
    """The SDE on X and the average of what the workers hold; see the head of this file."""

    forcing: str = eqx.field(static=True, default="linear")

    def _held(self, x):
        """What a worker holds that has read x."""
        return x if self.forcing == "linear" else self.problem.gradient(x)

    def _force(self, held):
        """The mean gradient that is written."""
        return self.problem.gradient(held) if self.forcing == "linear" else held

    def start_motion(self, x0):
        return x0, self._held(x0)

    def flow(self, motion):
        return -self._force(motion[1]) / self.friction, self.friction * self.lag(motion)

    def lag(self, motion):
        x, average = motion
        return self._held(x) - average

    def kick(self, motion, sampling, staleness):
        gamma, root_dt = self.friction, self.time_per_step**0.5
        written = jax.jvp(self._force, (motion[1],), (staleness,))[1]
        return -root_dt / gamma * (written + sampling), -gamma * root_dt * staleness

    def point(self, motion):
        return motion[0]

    @property
    def forgetting(self):
        return self.friction * (1 + self.friction * self.time_per_step)
