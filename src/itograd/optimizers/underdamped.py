"""The SDE of momentum methods in their underdamped clock, shared by heavy ball and Nesterov.

With h = √η, the clock t = k h, friction μ̂ = (1−μ)/h and velocity V = −h Q (Q: PyTorch's buffer), both are

    V' = V + h A,      X' = X + h u V + h² (c u A − γ u' V) + O(h³),      A = −μ̂ V − ∇F(X + γ h u V) − ξ

where u(t) is the shape of the learning rate's schedule and X the point that is observed:

    heavy ball   "heavy_ball"   x, PyTorch's parameter                          c = 1, γ = 0
    Nesterov     "lookahead"    y, PyTorch's parameter                          c = 2, γ = 0
    Nesterov     "iterate"      x = y − μ h u V, the step before looking ahead   c = 1, γ = 1

Their SDE, F = L + λ|x|²/2:

    order 1:   dV = A₀ dt + (h Σ)^½ dW,      dX = u V dt,      A₀ = −μ̂ V − ∇F(X)
    order 2:   dV += (h/2) (μ̂ A₀ + (1 − 2γ) u ∇²F(X) V + μ̂' V) dt
               dX += h ((c − ½) u A₀ − (½ + γ) u' V) dt

Derived by matching one step through h². Theory 5.2 has it for constant u and μ̂, with "iterate" for Nesterov;
the schedule terms are those of amendments 4 and 5.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from itograd.problems.problem import Problem
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.precision import plus_times
from itograd.simulation.schedule import Hyperparameter, Schedule, base, shape, shape_slope
from itograd.validation import require, require_choice

METHODS = {"heavy_ball": (1, 0), "lookahead": (2, 0), "iterate": (1, 1)}  # (c, γ)

# Above this 1−μ is not small and √η is no time scale of the method: the underdamped clock is then refused.
LARGEST_FRICTION_STEP = 0.3


def require_underdamped(momentum: float) -> None:
    """Raise ValueError where 1−μ is too large for the underdamped clock."""
    require(
        1 - momentum <= LARGEST_FRICTION_STEP + 1e-12,
        f"the underdamped clock needs 1 - momentum <= {LARGEST_FRICTION_STEP} (it models 1−μ ~ √η): "
        f"momentum={momentum:g} gives {1 - momentum:g}; use clock='overdamped'",
    )


class UnderdampedEquation(ModifiedEquation):
    """The SDE of heavy ball or Nesterov on (X, V); see the head of this file. `method`: a key of METHODS."""

    problem: Problem
    learning_rate: Hyperparameter
    momentum: Hyperparameter
    weight_decay: float
    order: int = eqx.field(static=True)
    method: str = eqx.field(static=True)

    def __check_init__(self):
        require_choice("method", self.method, tuple(METHODS))

    @property
    def h(self):
        """√η."""
        return base(self.learning_rate) ** 0.5

    @property
    def time_per_step(self):
        return self.h

    @property
    def weak_order(self):
        return self.order

    @property
    def is_autonomous(self):
        return not isinstance(self.learning_rate, Schedule) and not isinstance(self.momentum, Schedule)

    def friction(self, t):
        """μ̂(t)."""
        return (1 - base(self.momentum) * shape(self.momentum, t)) / self.h

    def _friction_slope(self, t):
        return -base(self.momentum) * shape_slope(self.momentum, t) / self.h

    def _force(self, x):
        return plus_times(self.problem.gradient(x), self.weight_decay, x)  # ∇F

    def start(self, x0):
        return x0, jnp.zeros_like(x0)

    def drift(self, t, y):
        x, v = y
        u, mu = shape(self.learning_rate, t), self.friction(t)
        if self.order == 1:
            return u * v, -mu * v - self._force(x)
        c, gamma = METHODS[self.method]
        force, curvature_v = jax.jvp(self._force, (x,), (v,))  # ∇F, ∇²F V
        a = -mu * v - force
        dx = u * v + self.h * ((c - 0.5) * u * a - (0.5 + gamma) * shape_slope(self.learning_rate, t) * v)
        dv = a + self.h / 2 * (mu * a + (1 - 2 * gamma) * u * curvature_v + self._friction_slope(t) * v)
        return dx, dv

    def diffusion(self, t, y, z):
        x, _ = y
        return jnp.zeros_like(x), -jnp.sqrt(self.h) * self.problem.noise_root(x, z)

    def observe(self, y):
        return y[0]


class IncreasingMomentumEquation(UnderdampedEquation):
    """Nesterov with μ_k = (k−1)/(k+2): friction 3/t (Su, Boyd, Candès 2014; noise as in theory 3.4).

    Of order 1 only.
    """

    def friction(self, t):
        return 3 / jnp.where(t > 0, t, jnp.inf)  # V is 0 at time 0, and so is the product

    @property
    def is_autonomous(self):
        return False
