"""A recipe at another batch size: what every hyperparameter becomes, by which rule, and how the steps were rounded."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from itograd.optimizers.nesterov import IncreasingNesterov
from itograd.optimizers.optimizer import Optimizer
from itograd.simulation.schedule import Schedule, base
from itograd.validation import require, require_count

LINEAR_RULE = "linear scaling rule: batch size × κ, learning rate × κ, steps / κ"


@dataclass(frozen=True)
class ScaledRecipe:
    """A recipe and the same recipe at another batch size, for the same continuous time."""

    batch_size: int
    new_batch_size: int
    optimizer: Optimizer
    new_optimizer: Optimizer
    steps: int | None
    exact_steps: float | None  # at the new batch size, before rounding
    rule: str

    @property
    def batch_factor(self) -> float:
        """κ, the new batch size over the old one."""
        return self.new_batch_size / self.batch_size

    @property
    def new_steps(self) -> int | None:
        """The steps at the new batch size, a whole number."""
        return None if self.exact_steps is None else round(self.exact_steps)

    @property
    def rounding(self) -> str:
        """What the rounding of the steps did."""
        steps, exact, rounded = self.steps, self.exact_steps, self.new_steps
        if steps is None or exact is None or rounded is None:
            return "no steps were given: divide them by κ"
        if abs(exact - rounded) < 1e-9 * exact:
            return f"{steps} steps become {rounded} exactly"
        old, new = steps * self.optimizer.time_per_step, rounded * self.new_optimizer.time_per_step
        return f"{exact:.2f} steps were rounded to {rounded}: the run ends at time {new:.6g} instead of {old:.6g}"


def scaled_recipe(
    optimizer: Optimizer, batch_size: int, new_batch_size: int, *, steps: int | None = None, betas: str = "linear"
) -> ScaledRecipe:
    """The recipe of `optimizer` at `new_batch_size`, by the optimiser's own scaling rule.

    `betas` says how the momentum of the underdamped clock moves: "linear" in 1−μ, or by its "memory" in time.

    Raises ValueError where the optimiser has no such rule, or where not half a step would be left.

    >>> from itograd.optimizers.sgd import SGD
    >>> scaled_recipe(SGD(0.1), 256, 4096, steps=100).rounding
    '6.25 steps were rounded to 6: the run ends at time 9.6 instead of 10'
    """
    require_count("batch_size", batch_size)
    require_count("new_batch_size", new_batch_size)
    factor = new_batch_size / batch_size
    takes_betas = "betas" in inspect.signature(optimizer.scaled).parameters
    new = optimizer.scaled(factor, betas=betas) if takes_betas else optimizer.scaled(factor)  # type: ignore[call-arg]
    exact = None
    if steps is not None:
        require_count("steps", steps)
        exact = steps * optimizer.time_per_step / new.time_per_step
        require(
            exact >= 0.5, f"at batch size {new_batch_size} the {steps} steps would become {exact:.2g}: less than one"
        )
    return ScaledRecipe(int(batch_size), int(new_batch_size), optimizer, new, steps, exact, _rule(optimizer, betas))


def hyperparameters(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's hyperparameters by name, a schedule as its base value; and its clock, the time of one step.

    >>> from itograd.optimizers.sgd import SGD
    >>> hyperparameters(SGD(0.5, weight_decay=0.25))
    {'learning_rate': 0.5, 'weight_decay': 0.25, 'time_per_step': 0.5}
    """
    names = ("learning_rate", "momentum", "weight_decay", "time_per_step")
    return {name: float(base(getattr(optimizer, name))) for name in names if hasattr(optimizer, name)}


def describe(optimizer: Optimizer) -> str:
    """The optimiser in words: its name and its hyperparameters.

    >>> from itograd.optimizers.sgd import SGD
    >>> describe(SGD(0.5))
    'SGD, learning rate 0.5'
    """
    increasing = isinstance(optimizer, IncreasingNesterov)
    parts = ["Nesterov with momentum (k−1)/(k+2)" if increasing else type(optimizer).__name__]
    for name, value in hyperparameters(optimizer).items():
        given = getattr(optimizer, name)
        if name == "time_per_step" or (name == "weight_decay" and value == 0):
            continue
        shape = f" with a {type(given).__name__.lower()} schedule" if isinstance(given, Schedule) else ""
        parts.append(f"{name.replace('_', ' ')} {value:.6g}{shape}")
    if getattr(optimizer, "clock", "overdamped") != "overdamped":
        parts.append("underdamped clock")
    return ", ".join(parts)


def clock_formula(optimizer: Optimizer) -> str:
    """How continuous time follows from the number of steps k and the learning rate η.

    >>> from itograd.optimizers.sgd import SGD
    >>> clock_formula(SGD(0.5))
    't = kη'
    """
    if isinstance(optimizer, IncreasingNesterov) or getattr(optimizer, "clock", "") == "underdamped":
        return "t = k√η"
    return "t = kη/(1−μ)" if hasattr(optimizer, "momentum") else "t = kη"


def _rule(optimizer: Optimizer, betas: str) -> str:
    if isinstance(optimizer, IncreasingNesterov):
        return "rule of the clock k√η: batch size × κ, learning rate × κ², momentum (k−1)/(k+2) kept, steps / κ"
    clock = getattr(optimizer, "clock", None)
    if clock == "underdamped":
        moved = "momentum → momentum^κ (its memory in time)" if betas == "memory" else "1 − momentum → κ (1 − momentum)"
        return f"underdamped rule: batch size × κ, learning rate × κ², {moved}, steps / κ"
    kept = "; momentum and weight decay are kept" if clock else "; weight decay is kept"
    return LINEAR_RULE + kept


def bound_sentence(batch_factor: float, sharp: float | None, closeness: float) -> str:
    """What the sharp bound on the batch factor says of one factor.

    >>> bound_sentence(4.0, 3.5, closeness=2**0.5)
    'beyond the bound κ ≤ 3.5: some of |x|², |∇L|², tr Σ must change by more than a factor 1.41'
    """
    if batch_factor == 1:
        return "the recipe as it is"
    if batch_factor < 1:
        return "a smaller batch is nearer to the SDE: the bound speaks of larger ones"
    if sharp is None:
        return "no bound"
    if batch_factor <= sharp:
        return f"within the bound κ ≤ {sharp:.3g}, which is necessary and not sufficient"
    return (
        f"beyond the bound κ ≤ {sharp:.3g}: some of |x|², |∇L|², tr Σ must change by more than a factor {closeness:.3g}"
    )
