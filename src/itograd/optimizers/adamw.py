"""AdamW: Adam with decoupled weight decay (Loshchilov, Hutter 2019; its term in the SDE derived).

The rule shrinks x before Adam's step, and g holds no decay:

    x ← (1 − η_k λ) x,      then Adam's step of `adam.py` with g = g_k

Its SDE is Adam's with F = L and the shrinking of all steps in dt, dt/η² of them:

    dX = −u (√γ₂/γ₁) P⁻¹ m dt − u (λ/η) X dt

So λ/η must be kept by a scaling, and λ → λ√κ for η → η√κ. With `decay_times_rate=False` the rule is x ← (1 − u λ) x, as
in the authors' paper (u the shape of the schedule), the term −u (λ/η²) X dt, and λ → λκ. The rest scales as Adam's.
"""

import equinox as eqx

from itograd.optimizers.adam import AdamEquation, AdamMethod
from itograd.optimizers.scaling_rules import Power
from itograd.simulation.schedule import Hyperparameter, shape
from itograd.validation import require_choice


class AdamW(AdamMethod):
    """AdamW. Equal to `torch.optim.AdamW(lr=η, betas=(b₁, b₂), eps=ε, weight_decay=λ)` step by step.

    State and options are those of `Adam`; `decay_times_rate` says whether the decay is multiplied by the learning rate.
    `AdamW.optax` has optax's defaults.

    >>> AdamW(0.001).scaled(4).weight_decay
    0.02
    """

    learning_rate: Hyperparameter = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    eps_root: float = 0.0
    v0: float = 0.0
    denominator: str = eqx.field(static=True, default="new")
    correct_first: bool = eqx.field(static=True, default=True)
    correct_second: bool = eqx.field(static=True, default=True)
    decay_times_rate: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        require_choice("decay_times_rate", self.decay_times_rate, (False, True))

    @classmethod
    def optax(
        cls,
        learning_rate: Hyperparameter,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        eps_root: float = 0.0,
        *,
        weight_decay: float = 1e-4,
    ) -> "AdamW":
        """The rule of `optax.adamw` with these arguments, which are optax's, with its defaults.

        >>> AdamW.optax(0.1).weight_decay
        0.0001
        """
        return cls(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, eps_root=eps_root)

    def update(self, state, k, gradient):
        x, m, v = state
        u = self._rate(k) if self.decay_times_rate else shape(self.learning_rate, k * self.time_per_step)
        return self._moved((1 - u * self.weight_decay) * x, m, v, k, gradient)

    @property
    def scaling(self):
        return super().scaling | {"weight_decay": Power(0.5 if self.decay_times_rate else 1)}

    def _equation(self, problem, warm_start, given):
        return AdamWEquation(problem, self, warm_start, given)


class AdamWEquation(AdamEquation):
    """The SDE of AdamW on (X, m, w); see the head of this file."""

    @property
    def coupled_decay(self):
        return 0.0

    def _point_drift(self, t, x, m, w):
        rule = self.optimizer
        per_time = rule.weight_decay / (self.eta if rule.decay_times_rate else self.time_per_step)
        return super()._point_drift(t, x, m, w) - shape(rule.learning_rate, t) * per_time * x
