"""Any optax optimiser, as it is: simulated step by step, with no SDE."""

from typing import Any

import jax.numpy as jnp

from itograd.optimizers.optimizer import Optimizer
from itograd.validation import require, require_number


class OptaxOptimizer(Optimizer):
    """x ← x + updates, of any optax transformation. `clock` is the time per step."""

    transformation: Any
    clock: float = 1.0

    def __check_init__(self):
        require(
            all(callable(getattr(self.transformation, half, None)) for half in ("init", "update")),
            f"from_optax needs an optax.GradientTransformation: got {self.transformation!r}",
        )
        require_number("time_per_step", self.clock, minimum=0, exclusive=True)

    @property
    def time_per_step(self):
        return self.clock

    def init(self, x0):
        return x0, self.transformation.init(x0)

    def observe(self, state):
        return state[0]

    def update(self, state, k, gradient):
        x, inner = state
        updates, inner = self.transformation.update(gradient, inner, x)
        return jnp.asarray(x + updates, x.dtype), inner

    def modified_equation(self, problem, order=1):
        raise ValueError(
            "no modified equation is known for an optax transformation: it is simulated as it "
            "is; use one of itograd's own optimisers (SGD, Momentum, Nesterov) for the SDE"
        )

    @property
    def scaling(self):
        raise ValueError("no scaling rule is known for an optax transformation: use one of itograd's own optimisers")


def from_optax(transformation: Any, time_per_step: float = 1.0) -> OptaxOptimizer:
    """Wrap an `optax.GradientTransformation`, to be simulated on any problem.

    >>> import optax
    >>> from_optax(optax.sgd(0.1)).time_per_step
    1.0
    """
    return OptaxOptimizer(transformation, time_per_step)
