"""A discrete rule in two halves, and beside it the rule in continuous time.

`read` says where the gradient is taken and `update` what is done with it, so that plain, amplified, stale and
compensated gradients all go through the same rule.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from itograd.optimizers.scaling_rules import Moves, scaled_by
from itograd.problems.problem import Problem
from itograd.simulation.chain import Chain
from itograd.simulation.draws import Draws
from itograd.simulation.equation import ModifiedEquation

State = Any
Vector = Float[Array, " d"]


class Optimizer(eqx.Module):
    """A discrete optimisation rule; a state is a pytree of vectors, or of scalars."""

    @property
    @abstractmethod
    def time_per_step(self) -> float:
        """The clock: continuous time of one step."""

    @property
    def is_affine(self) -> bool:
        """Whether `update` is affine in state and gradient, and `read` in the state: then moments close."""
        return False

    @abstractmethod
    def init(self, x0: Vector) -> State:
        """The state before the first step."""

    def read(self, state: State) -> Vector:
        """The point where the gradient is taken."""
        return self.observe(state)

    @abstractmethod
    def update(self, state: State, k, gradient: Vector) -> State:
        """The state at step k+1 from the state at step k and a gradient taken at `read(state)`."""

    @abstractmethod
    def observe(self, state: State) -> Vector:
        """The point x of a state."""

    @abstractmethod
    def modified_equation(self, problem: Problem, order: int = 1) -> ModifiedEquation:
        """The Itô SDE that the optimiser follows on the problem, to weak order 1 or 2."""

    @property
    def scaling(self) -> Moves:
        """Its own scaling rule: what becomes of each hyperparameter that another batch size changes."""
        raise ValueError(f"no scaling rule is known for {type(self).__name__}")

    def scaled(self, batch_factor: float, betas: str | None = None) -> "Optimizer":
        """The optimiser for a batch `batch_factor` times larger, by its own scaling rule.

        `betas` says how decay rates move where the rule moves any: by their "memory", b → b^κ, or "linear",
        b → 1 − κ(1−b).
        """
        return scaled_by(self, batch_factor, betas=betas)

    def equation_start(self, steps: int) -> dict[str, Any]:
        """The options of `modified_equation` with which the SDE is compared with a run of so many steps."""
        return {}

    def chain(self, problem: Problem) -> "OptimizerChain":
        """The optimiser on the problem as a Markov chain."""
        return OptimizerChain(problem, self)


class OptimizerChain(Chain):
    """An optimiser with a problem: a chain."""

    problem: Problem
    optimizer: Optimizer

    @property
    def time_per_step(self):
        return self.optimizer.time_per_step

    def start(self, x0):
        return self.optimizer.init(x0)

    def step(self, state, k, draws: Draws):
        gradient = self.problem.noisy_gradient(self.optimizer.read(state), draws)
        return self.optimizer.update(state, k, gradient)

    def observe(self, state):
        return self.optimizer.observe(state)


def modified_equation(optimizer: Optimizer, problem: Problem, order: int = 1, **options: Any) -> ModifiedEquation:
    """The Itô SDE that `optimizer` follows on `problem`, to weak order 1 or 2.

    `options` are those of the optimiser's own `modified_equation`: RMSprop, Adam and AdamW take `warm_start` (the steps
    that the rule makes itself before the SDE starts) or `start` (a time and the two moments then), see
    `optimizers/adaptive.py`.

    Raises ValueError, with the reason, where no equation of this order exists or the optimiser is none of
    ours.

    >>> import itograd as ig
    >>> modified_equation(ig.SGD(0.1), ig.problems.Quadratic(1.0, 1.0), order=2).weak_order
    2
    """
    return optimizer.modified_equation(problem, order, **options)


def scale(optimizer: Optimizer, batch_factor: float, rule: str | None = None, **options: Any) -> Optimizer:
    """The recipe of `optimizer` for a batch `batch_factor` times larger (smaller, where it is below 1).

    `rule` is the optimiser's own where it is left out; the rivals, to be run against it, are "linear", "square_root",
    "square_root_rate_only", "square_root_keep_betas", "square_root_keep_eps", "keep_rate" and "keep_rate_scale_b2"
    (`optimizers/scaling_rules.py` is their table). `options` are those of `scaled`, such as `betas`. A run of as many
    examples has 1/batch_factor of the steps; by the own rule that is the same continuous time.

    Raises ValueError where the optimiser has no scaling rule, or the named rule is unknown or has no meaning for it.

    >>> import itograd as ig
    >>> scale(ig.Momentum(0.1, momentum=0.9), 4).learning_rate
    0.4
    >>> scale(ig.Adam(0.001), 4, rule="square_root_keep_betas").b1
    0.9
    """
    return (
        optimizer.scaled(batch_factor, **options)
        if rule is None
        else scaled_by(optimizer, batch_factor, rule, **options)
    )
