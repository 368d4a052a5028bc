"""Which SDE an optimiser with stale gradients follows, and why some have none here."""

from __future__ import annotations

from itograd.asynchrony.general_equation import GeneralForcingEquation
from itograd.asynchrony.linear_equation import LinearForcingEquation
from itograd.asynchrony.queue_equation import QueueEquation
from itograd.asynchrony.stale_equation import StaleEquation, inertial_clock
from itograd.asynchrony.staleness import Staleness
from itograd.optimizers.optimizer import Optimizer
from itograd.optimizers.sgd import SGD
from itograd.problems.problem import Problem
from itograd.simulation.precision import is_off
from itograd.simulation.schedule import Schedule
from itograd.validation import require, require_choice

FORCINGS = ("auto", "linear", "general")


def stale_equation(
    optimizer: Optimizer,
    staleness: Staleness,
    problem: Problem,
    order: int = 1,
    *,
    staleness_noise: bool = True,
    forcing: str = "auto",
) -> StaleEquation:
    """The SDE of SGD with geometric staleness: independent delays, or those of exponential workers.

    `forcing` "linear" is for an affine gradient, "general" for any; "auto" takes the first where it may. Without
    `staleness_noise` only the batches are random (`stale_equation.py` says what that costs).

    Raises ValueError where no equation is known: another optimiser than plain SGD, another law of staleness, order 2
    for a queue, linear forcing of an objective that is not quadratic.
    """
    require_choice("order", order, (1, 2))
    require_choice("forcing", forcing, FORCINGS)
    require_choice("staleness_noise", staleness_noise, (False, True))
    if not isinstance(optimizer, SGD):
        raise ValueError(
            f"no modified equation is known for {type(optimizer).__name__} with stale gradients: only SGD has one; "
            "simulate it instead"
        )
    rate = _plain_rate(optimizer)
    if rate is None:
        raise ValueError(
            "the modified equation of SGD with stale gradients needs a constant learning rate and no weight decay "
            f"(the decay is not stale): got {optimizer!r}"
        )
    ratio = staleness.geometric_ratio
    if ratio is None:
        raise ValueError(
            "the modified equation of stale gradients needs a geometric law, Geometric(...) or WorkerQueue(M): got "
            f"{staleness!r}, whose memory is no single exponential; simulate it instead"
        )
    require(
        forcing != "linear" or problem.is_quadratic,
        f"forcing='linear' needs a quadratic problem: {type(problem).__name__} is not; use forcing='general'",
    )
    linear = problem.is_quadratic if forcing == "auto" else forcing == "linear"
    fields = (problem, rate, 1 - ratio, order, bool(staleness_noise))
    if staleness.is_independent:
        return (LinearForcingEquation if linear else GeneralForcingEquation)(*fields)
    require(order == 1, "the modified equation of a queue of workers is known to order 1 only: got order=2")
    return QueueEquation(*fields, "linear" if linear else "general")


def _plain_rate(optimizer: Optimizer) -> float | None:
    """The learning rate of SGD where it is constant and nothing decays, else None."""
    if not isinstance(optimizer, SGD) or not is_off(optimizer.weight_decay):
        return None
    return None if isinstance(optimizer.learning_rate, Schedule) else optimizer.learning_rate


def stale_clock(optimizer: Optimizer, staleness: Staleness) -> float:
    """Continuous time of a step: √(η(1−μ)) where `stale_equation` has an SDE in this time, else the optimiser's."""
    rate, ratio = _plain_rate(optimizer), staleness.geometric_ratio
    if rate is not None and ratio:
        return inertial_clock(rate, 1 - ratio)
    return optimizer.time_per_step
