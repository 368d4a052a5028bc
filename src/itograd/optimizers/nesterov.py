"""SGD with Nesterov's momentum (Nesterov 1983; its SDEs: theory 3.4, 5.2).

The rule is PyTorch's. Its parameter y is the look-ahead point, where the gradient is taken:

    Q_{k+1} = μ_k Q_k + d_k,    y_{k+1} = y_k − η_k (d_k + μ_{k+1} Q_{k+1}),    d_k = g_k + λ y_k,    Q_0 = 0

With v = −ηQ and the iterate x_{k+1} = y_k − η_k d_k this is the textbook's v ← μv − η∇F(x + μv), x ← x + v.
(PyTorch has one μ in both places of a step; a momentum that changes needs μ_{k+1} in the second, as above.)
`point` says which of the two is observed: "lookahead" (y, PyTorch's parameter; default) or "iterate" (x).
Their stationary variances differ.

Clocks and scaling rules are those of heavy ball (`momentum.py`); the SDEs differ at order 2, and are in
`underdamped.py`.
"""

import equinox as eqx
import jax.numpy as jnp

from itograd.optimizers.momentum import MomentumMethod
from itograd.optimizers.optimizer import Optimizer
from itograd.optimizers.scaling_rules import Power
from itograd.optimizers.underdamped import IncreasingMomentumEquation, UnderdampedEquation
from itograd.simulation.precision import plus_times
from itograd.simulation.schedule import Hyperparameter, base, shape
from itograd.validation import require, require_choice, require_number

POINTS = ("lookahead", "iterate")


def nesterov_step(y, q, gradient, *, rate, momentum, next_momentum, weight_decay):
    """(y, Q, x) after one step; see the head of this file."""
    d = plus_times(gradient, weight_decay, y)
    q = momentum * q + d
    return y - rate * (d + next_momentum * q), q, y - rate * d


class TwoPointMethod(Optimizer):
    """What the methods with the state (y, Q, x) share: the gradient is read at y, and `point` says what is observed."""

    point: eqx.AbstractVar[str]

    def __check_init__(self):
        require_choice("point", self.point, POINTS)

    @property
    def is_affine(self):
        return True

    def init(self, x0):
        return x0, 0 * x0, x0

    def read(self, state):
        return state[0]

    def observe(self, state):
        y, _, x = state
        return y if self.point == "lookahead" else x


class Nesterov(TwoPointMethod, MomentumMethod):
    """Nesterov's momentum; for constant μ `torch.optim.SGD(lr=η, momentum=μ, nesterov=True, weight_decay=λ)`.

    `momentum` is a number in (−1, 1), or a schedule (underdamped clock only); for (k−1)/(k+2) see
    `Nesterov.increasing`. State: (y, Q, x). `point` is the observed one, "lookahead" (y) or "iterate" (x).

    >>> Nesterov(0.1, momentum=0.5).time_per_step
    0.2
    """

    learning_rate: Hyperparameter
    momentum: Hyperparameter = 0.9
    weight_decay: float = 0.0
    clock: str = eqx.field(static=True, default="overdamped")
    point: str = eqx.field(static=True, default="lookahead")

    @staticmethod
    def increasing(learning_rate: Hyperparameter, weight_decay: float = 0.0, point: str = "lookahead"):
        """Nesterov's momentum with μ_k = (k−1)/(k+2)."""
        return IncreasingNesterov(learning_rate=learning_rate, weight_decay=weight_decay, point=point)

    def update(self, state, k, gradient):
        y, q, _ = state
        return nesterov_step(
            y,
            q,
            gradient,
            rate=self._rate(k),
            momentum=self._momentum(k),
            next_momentum=self._momentum(k + 1),
            weight_decay=self.weight_decay,
        )

    def modified_equation(self, problem, order=1):
        require_choice("order", order, (1, 2))
        if self.clock == "overdamped":
            return self._overdamped_equation(problem, order)
        return UnderdampedEquation(
            problem, self.learning_rate, self.momentum, self.weight_decay, order, method=self.point
        )


class IncreasingNesterov(TwoPointMethod):
    """Nesterov's momentum with μ_k = (k−1)/(k+2), in the clock t = k√η.

    Its SDE (order 1; Su, Boyd, Candès 2014, with the noise of theory 3.4; no order-2 equation is given, since
    the friction is singular at time 0):   dV = −((3/t) V + ∇F) dt + (√η Σ)^½ dW,   dX = u V dt.

    >>> Nesterov.increasing(0.25).time_per_step
    0.5
    """

    learning_rate: Hyperparameter
    weight_decay: float = 0.0
    point: str = eqx.field(static=True, default="lookahead")

    def __check_init__(self):
        require_number("learning_rate", base(self.learning_rate), minimum=0, exclusive=True)
        require_number("weight_decay", self.weight_decay, minimum=0)

    @property
    def time_per_step(self):
        return base(self.learning_rate) ** 0.5

    def update(self, state, k, gradient):
        y, q, _ = state
        rate = base(self.learning_rate) * shape(self.learning_rate, k * self.time_per_step)
        return nesterov_step(
            y,
            q,
            gradient,
            rate=rate,
            momentum=_ratio(k - 1, k + 2, gradient.dtype),
            next_momentum=_ratio(k, k + 3, gradient.dtype),
            weight_decay=self.weight_decay,
        )

    def modified_equation(self, problem, order=1):
        require_choice("order", order, (1, 2))
        require(
            order == 1,
            "no modified equation of order 2 is given for the (k-1)/(k+2) momentum: its "
            "friction 3/t is singular at time 0; use order=1",
        )
        return IncreasingMomentumEquation(problem, self.learning_rate, 0.0, self.weight_decay, 1, method=self.point)

    @property
    def scaling(self):
        return {"learning_rate": Power(2)}


def _ratio(a, b, dtype):
    """a/b of two step numbers; the quotient of two int32 would be a float32 in a float64 run as well."""
    return jnp.asarray(a, dtype) / jnp.asarray(b, dtype)
