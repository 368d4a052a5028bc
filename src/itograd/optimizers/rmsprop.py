"""RMSprop (Tieleman, Hinton 2012; SDE: Malladi, Lyu, Panigrahi, Arora 2022, theory 2.2 and 2.3).

The rule, with coupled decay λ (elementwise; the options are at the head of `adaptive.py`):

    g = g_k + λ x_k,      v_{k+1} = β v_k + (1−β) g²,      x_{k+1} = x_k − η_k g/(√v_{k+1} + ε)

Its SDE, with F = L + λ|x|²/2, the clock t = kη², w = η² v, c₂ = (1−β)/η² and ε₀ = ηε:

    dX = −u P⁻¹ (∇F dt + (η² Σ)^½ dW),      dw = c₂ (η² diag Σ − w) dt,      P = √w + ε₀

With bias correction P⁻¹ is √γ₂ P⁻¹, P = √w + ε₀ √γ₂ and γ₂ = 1 − e^{−c₂ t} (derived). The equation starts from v₀ > 0
or after a warm start: from v₀ = 0 it has no usable limit (theory, amendment 6). Its scaling rule: batch × κ, η × √κ,
β → β^κ, ε / √κ, λ the same, steps / κ.
"""

import equinox as eqx
import jax.numpy as jnp

from itograd.optimizers.adaptive import AdaptiveEquation, AdaptiveMethod
from itograd.simulation.precision import plus_times
from itograd.simulation.schedule import Hyperparameter, shape


class RMSprop(AdaptiveMethod):
    """x ← x − η g/(√v + ε), v ← βv + (1−β)g². Equal to `torch.optim.RMSprop(lr=η, alpha=β, eps=ε, weight_decay=λ)`.

    State: (x, v); v starts at `v0`. `eps_root` is an ε inside the root. `denominator` is "new" (v after this gradient)
    or "old" (before it). `correct_second` divides v by 1 − β^k. `RMSprop.optax` has optax's defaults.

    >>> RMSprop(0.1).scaled(4).learning_rate
    0.2
    """

    learning_rate: Hyperparameter = 0.01
    beta: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    eps_root: float = 0.0
    v0: float = 0.0
    denominator: str = eqx.field(static=True, default="new")
    correct_second: bool = eqx.field(static=True, default=False)

    @classmethod
    def optax(
        cls,
        learning_rate: Hyperparameter,
        decay: float = 0.9,
        eps: float = 1e-8,
        initial_scale: float = 0.0,
        eps_in_sqrt: bool = True,
        bias_correction: bool = False,
    ) -> "RMSprop":
        """The rule of `optax.rmsprop` with these arguments, which are optax's, with its defaults.

        >>> RMSprop.optax(0.1).eps_root
        1e-08
        """
        outside, inside = (0.0, eps) if eps_in_sqrt else (eps, 0.0)
        v0, corrected = initial_scale, bias_correction
        return cls(learning_rate, beta=decay, eps=outside, eps_root=inside, v0=v0, correct_second=corrected)

    @property
    def decay_rates(self):
        return {"beta": self.beta}

    def init(self, x0):
        return x0, jnp.full_like(x0, self.v0)

    def update(self, state, k, gradient):
        x, v = state
        g = plus_times(gradient, self.weight_decay, x)
        new = self._second_moment(v, g)
        return x - self._rate(k) * self._divided(g, k, v, new), new

    def _equation(self, problem, warm_start, given):
        return RMSpropEquation(problem, self, warm_start, given)


class RMSpropEquation(AdaptiveEquation):
    """The SDE of RMSprop on (X, w); see the head of this file."""

    @property
    def has_additive_noise(self):
        return False

    def _state(self, x, m, w):
        return x, w

    def drift(self, t, y):
        x, w = y
        u = shape(self.optimizer.learning_rate, t)
        return -u * self.divided(self.force(x), t, w), self._second_drift(x, w)

    def diffusion(self, t, y, z):
        x, w = y
        u = shape(self.optimizer.learning_rate, t)
        return -u * self.divided(self.eta * self.problem.noise_root(x, z), t, w), jnp.zeros_like(w)

    def increment(self, t, y, dt, z):
        x, w = y
        u = shape(self.optimizer.learning_rate, t)
        return -dt * u * self.divided(self.noisy_force(x, dt, z), t, w), dt * self._second_drift(x, w)
