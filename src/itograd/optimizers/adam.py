"""Adam (Kingma, Ba 2015; SDE: Malladi, Lyu, Panigrahi, Arora 2022, theory 2.2 and 2.3).

The rule, with coupled decay λ (elementwise; the options are at the head of `adaptive.py`):

    g = g_k + λ x_k,      m_{k+1} = b₁ m_k + (1−b₁) g,      v_{k+1} = b₂ v_k + (1−b₂) g²
    x_{k+1} = x_k − η_k [m_{k+1}/(1−b₁^{k+1})] / (√(v_{k+1}/(1−b₂^{k+1})) + ε)

Its SDE, with F = L + λ|x|²/2, the clock t = kη², w = η² v, c_i = (1−b_i)/η², γ_i = 1 − e^{−c_i t} and ε₀ = ηε:

    dX = −u (√γ₂/γ₁) P⁻¹ m dt,      dm = c₁ (∇F − m) dt + c₁ (η² Σ)^½ dW,      dw = c₂ (η² diag Σ − w) dt
    P = √w + ε₀ √γ₂

It is singular at time 0 and starts after `warm_start` steps of the rule, or in a stated state. Without the correction
of a moment its γ is 1 (derived). Its scaling rule: batch × κ, η × √κ, b_i → b_i^κ, ε / √κ, λ the same, steps / κ.
"""

import equinox as eqx
import jax.numpy as jnp

from itograd.optimizers.adaptive import AdaptiveEquation, AdaptiveMethod, correction
from itograd.simulation.precision import plus_times
from itograd.simulation.schedule import Hyperparameter, shape
from itograd.validation import require_choice


class AdamMethod(AdaptiveMethod):
    """What Adam and AdamW share: both moments and their corrections."""

    b1: eqx.AbstractVar[float]
    correct_first: eqx.AbstractVar[bool]

    def __check_init__(self):
        require_choice("correct_first", self.correct_first, (False, True))

    @property
    def decay_rates(self):
        return {"b1": self.b1, "b2": self.b2}

    @property
    def corrects_first(self):
        return self.correct_first

    def init(self, x0):
        return x0, 0 * x0, jnp.full_like(x0, self.v0)

    def _moved(self, x, m, v, k, g):
        """The state after a step along the gradient g."""
        m = self.b1 * m + (1 - self.b1) * g
        new = self._second_moment(v, g)
        rate = self._rate(k) / correction(self.b1, k + 1) if self.correct_first else self._rate(k)
        return x - rate * self._divided(m, k, v, new), m, new

    def _equation(self, problem, warm_start, given):
        return AdamEquation(problem, self, warm_start, given)


class Adam(AdamMethod):
    """Adam. Equal to `torch.optim.Adam(lr=η, betas=(b₁, b₂), eps=ε, weight_decay=λ)` step by step.

    State: (x, m, v), as PyTorch's buffers; v starts at `v0`. `eps_root` is an ε inside the root. `denominator` is "new"
    (v after this gradient) or "old" (before it). `correct_first` and `correct_second` say which moments are corrected
    for their bias. `Adam.optax` has optax's defaults.

    >>> Adam(0.001).scaled(4).b1
    0.6561
    """

    learning_rate: Hyperparameter = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    eps_root: float = 0.0
    v0: float = 0.0
    denominator: str = eqx.field(static=True, default="new")
    correct_first: bool = eqx.field(static=True, default=True)
    correct_second: bool = eqx.field(static=True, default=True)

    @classmethod
    def optax(
        cls,
        learning_rate: Hyperparameter,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        eps_root: float = 0.0,
    ) -> "Adam":
        """The rule of `optax.adam` with these arguments, which are optax's, with its defaults.

        >>> Adam.optax(0.1, eps_root=1e-6).eps_root
        1e-06
        """
        return cls(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root)

    def update(self, state, k, gradient):
        x, m, v = state
        return self._moved(x, m, v, k, plus_times(gradient, self.weight_decay, x))


class AdamEquation(AdaptiveEquation):
    """The SDE of Adam on (X, m, w); see the head of this file."""

    def _point_drift(self, t, x, m, w):
        rule = self.optimizer
        gamma = self.gamma(rule.b1, t) if rule.correct_first else 1.0
        return -shape(rule.learning_rate, t) / gamma * self.divided(m, t, w)

    def drift(self, t, y):
        x, m, w = y
        c1 = self.speed(self.optimizer.b1)
        return self._point_drift(t, x, m, w), c1 * (self.force(x) - m), self._second_drift(x, w)

    def diffusion(self, t, y, z):
        x, _, w = y
        kick = self.speed(self.optimizer.b1) * self.eta * self.problem.noise_root(x, z)
        return jnp.zeros_like(x), kick, jnp.zeros_like(w)

    def increment(self, t, y, dt, z):
        x, m, w = y
        c1, force = self.speed(self.optimizer.b1), self.noisy_force(x, dt, z)
        return dt * self._point_drift(t, x, m, w), dt * c1 * (force - m), dt * self._second_drift(x, w)
