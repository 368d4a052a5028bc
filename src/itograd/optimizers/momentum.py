"""SGD with heavy-ball momentum (Polyak 1964; SDEs: Li, Tai, E 2017; underdamped form derived, theory 5.2).

The rule is PyTorch's, where the rate η_k = η u multiplies the buffer Q:

    Q_{k+1} = μ Q_k + g_k + λ x_k,      x_{k+1} = x_k − η_k Q_{k+1},      Q_0 = 0

It has two clocks.

overdamped (default; fixed μ, η → 0): SGD with the rate η/(1−μ), time η/(1−μ) a step,

    dX = −u ∇F dt + u (η/(1−μ) Σ)^½ dW

underdamped (1−μ ~ √η; h = √η, μ̂ = (1−μ)/h, time h a step): see `underdamped.py`,

    dV = −(μ̂ V + ∇F) dt + (h Σ)^½ dW,      dX = u V dt

Scaling rules for a batch κ times larger: overdamped η → κη with μ kept, steps / κ; underdamped η → κ²η,
1−μ → κ(1−μ) (`betas="memory"`: μ → μ^κ, its memory in continuous time, always legal), steps / κ. The linear form is
the default: it keeps the stationary variance to .2 % where μ^κ moves it by about (κ−1)(1−μ)/2 (tests, theory 5.2).
"""

import equinox as eqx

from itograd.optimizers.optimizer import Optimizer
from itograd.optimizers.scaling_rules import DecayRate, Power
from itograd.optimizers.sgd import SGDEquation
from itograd.optimizers.underdamped import UnderdampedEquation, require_underdamped
from itograd.simulation.precision import plus_times
from itograd.simulation.schedule import Hyperparameter, Schedule, base, rebased, shape
from itograd.validation import require, require_choice, require_number

CLOCKS = ("overdamped", "underdamped")


class MomentumMethod(Optimizer):
    """What heavy ball and Nesterov share: buffer, clocks, scaling rules."""

    learning_rate: eqx.AbstractVar[Hyperparameter]
    momentum: eqx.AbstractVar[Hyperparameter]
    weight_decay: eqx.AbstractVar[float]
    clock: eqx.AbstractVar[str]

    def __check_init__(self):
        require_number("learning_rate", base(self.learning_rate), minimum=0, exclusive=True)
        require_number("weight_decay", self.weight_decay, minimum=0)
        require_number("momentum", base(self.momentum), minimum=-1, maximum=1, exclusive=True)
        require_choice("clock", self.clock, CLOCKS)
        if self.clock == "underdamped":
            require_underdamped(base(self.momentum))
        else:
            require(
                not isinstance(self.momentum, Schedule),
                "a schedule of the momentum needs clock='underdamped': the overdamped clock is set by 1/(1−μ)",
            )

    @property
    def time_per_step(self):
        eta = base(self.learning_rate)
        return eta**0.5 if self.clock == "underdamped" else eta / (1 - base(self.momentum))

    @property
    def is_affine(self):
        return True

    def _rate(self, k):
        return base(self.learning_rate) * shape(self.learning_rate, k * self.time_per_step)

    def _momentum(self, k):
        return base(self.momentum) * shape(self.momentum, k * self.time_per_step)

    def _overdamped_equation(self, problem, order):
        require(
            order == 1,
            "no modified equation of order 2 is given for momentum in its overdamped clock "
            "(the fast buffer leaves a boundary layer of order η): use order=1, or "
            "clock='underdamped'",
        )
        effective = rebased(self.learning_rate, base(self.learning_rate) / (1 - base(self.momentum)))
        return SGDEquation(problem, effective, self.weight_decay, 1)

    @property
    def scaling(self):
        if self.clock == "overdamped":
            return {"learning_rate": Power(1)}
        return {"learning_rate": Power(2), "momentum": DecayRate("linear")}


class Momentum(MomentumMethod):
    """Heavy ball: Q ← μQ + g + λx, x ← x − ηQ. Equal to `torch.optim.SGD(lr=η, momentum=μ, weight_decay=λ)`.

    Negative momentum, |μ| < 1, is allowed. State: (x, Q). `clock` is "overdamped" or "underdamped" (needs
    1−μ ≪ 1).

    >>> Momentum(0.1, momentum=0.9).time_per_step
    1.0000000000000002
    """

    learning_rate: Hyperparameter
    momentum: Hyperparameter = 0.9
    weight_decay: float = 0.0
    clock: str = eqx.field(static=True, default="overdamped")

    def init(self, x0):
        return x0, 0 * x0

    def observe(self, state):
        return state[0]

    def update(self, state, k, gradient):
        x, q = state
        q = self._momentum(k) * q + plus_times(gradient, self.weight_decay, x)
        return x - self._rate(k) * q, q

    def modified_equation(self, problem, order=1):
        require_choice("order", order, (1, 2))
        if self.clock == "overdamped":
            return self._overdamped_equation(problem, order)
        return UnderdampedEquation(
            problem, self.learning_rate, self.momentum, self.weight_decay, order, method="heavy_ball"
        )
