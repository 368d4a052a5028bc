"""What becomes of each hyperparameter for a batch κ times larger: moves, and the rules that are made of them.

An optimiser states its own rule in `scaling`, beside its SDE: a move for every hyperparameter that changes. The rivals
of RULES are what practice does instead. They are here to be run against the own rule, not to be recommended: of an
optimiser's SDE they keep less (docs/batch-size.md says what).

Under every rule a run has the same number of examples, steps / κ. Only the own rule makes this the same continuous
time; a schedule is stretched by a rival so that its shape is unchanged in examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from itograd.simulation.schedule import Schedule, base, rebased
from itograd.validation import require, require_choice, require_number

if TYPE_CHECKING:
    from itograd.optimizers.optimizer import Optimizer

BETA_FORMS = ("linear", "memory")
_POWERS = {2: "× κ²", 1: "× κ", 0.5: "× √κ", 0: "kept", -0.5: "÷ √κ", -1: "÷ κ"}


@dataclass(frozen=True)
class Power:
    """h → h κ^exponent; of a schedule its base value.

    >>> Power(0.5).moved("learning_rate", 0.1, 4)
    0.2
    """

    exponent: float

    def moved(self, name: str, value: Any, batch_factor: float, form: str | None = None) -> Any:
        """The hyperparameter for a batch `batch_factor` times larger."""
        return rebased(value, base(value) * batch_factor**self.exponent)

    def words(self, name: str, form: str | None = None) -> str:
        """The move in symbols."""
        return _POWERS[self.exponent]


@dataclass(frozen=True)
class DecayRate:
    """b → b^κ, its memory in examples, always legal ("memory"), or b → 1 − κ(1−b) ("linear"); `form` is the default.

    >>> DecayRate("memory").moved("b1", 0.75, 2, "linear")
    0.5
    """

    form: str

    def moved(self, name: str, value: Any, batch_factor: float, form: str | None = None) -> Any:
        """The decay rate for a batch `batch_factor` times larger."""
        require(not isinstance(value, Schedule), f"a schedule of the {name} has no scaling rule: scale its numbers")
        if (form or self.form) == "memory":
            return value**batch_factor
        require(
            batch_factor * (1 - value) < 1,
            f"the linear form needs batch_factor*(1 - {name}) < 1: batch_factor={batch_factor:g}, {name}={value:g} "
            f"gives {batch_factor * (1 - value):g}; keep batch_factor below {1 / (1 - value):g}, raise {name}, or use "
            "betas='memory'",
        )
        return 1 - batch_factor * (1 - value)

    def words(self, name: str, form: str | None = None) -> str:
        """The move in symbols."""
        b = {"momentum": "μ", "ema": "ρ"}.get(name, "b")
        return f"{b}^κ" if (form or self.form) == "memory" else f"1 − κ(1 − {b})"


Move = Power | DecayRate
Moves = Mapping[str, Move]
KEPT, ROOT, LINEAR, MEMORY = Power(0), Power(0.5), Power(1), DecayRate("memory")
OWN = None  # as the optimiser's own rule moves it


@dataclass(frozen=True)
class Rule:
    """A rival: what it does to each kind of hyperparameter. `needs` are the kinds that it speaks of."""

    rate: Move | None
    momentum: Move | None
    first: Move | None  # the decay rate of a first moment
    second: Move | None  # the decay rate of a second moment
    eps: Move | None
    rest: Move | None  # weight decay, initial second moment
    needs: tuple[str, ...] = ()


RULES = {
    #                              rate    momentum  first  second  eps   rest
    "linear": Rule(                LINEAR, OWN,      OWN,   OWN,    OWN,  OWN),
    "square_root": Rule(           ROOT,   KEPT,     OWN,   OWN,    OWN,  OWN),
    "square_root_rate_only": Rule( ROOT,   KEPT,     KEPT,  KEPT,   KEPT, KEPT, needs=("second", "eps")),
    "square_root_keep_betas": Rule(ROOT,   KEPT,     KEPT,  KEPT,   OWN,  OWN,  needs=("second",)),
    "square_root_keep_eps": Rule(  ROOT,   KEPT,     OWN,   OWN,    KEPT, OWN,  needs=("eps",)),
    "keep_rate": Rule(             KEPT,   KEPT,     KEPT,  KEPT,   KEPT, KEPT),
    "keep_rate_scale_b2": Rule(    KEPT,   KEPT,     KEPT,  MEMORY, KEPT, KEPT, needs=("second",)),
}  # fmt: skip
KINDS = {
    "learning_rate": "rate",
    "momentum": "momentum",
    "b1": "first",
    "b2": "second",
    "beta": "second",
    "eps": "eps",
    "eps_root": "eps",
}
_NEEDS = {"second": "the decay rate of a second moment", "eps": "ε"}


def moves_of(optimizer: Optimizer, rule: str | None = None) -> dict[str, Move]:
    """What `rule` (by default the optimiser's own) does to each hyperparameter that it changes.

    Raises ValueError where there is no such rule, or it has no meaning for the optimiser.

    >>> from itograd.optimizers.sgd import SGD
    >>> moves_of(SGD(0.1), "square_root")
    {'learning_rate': Power(exponent=0.5)}
    """
    own = dict(optimizer.scaling)
    if rule is None:
        return own
    known = ", ".join(map(repr, RULES))
    require(rule in RULES, f"rule must be one of {known}, or left out for the optimiser's own: got {rule!r}")
    names = [field.name for field in dataclasses.fields(optimizer)]
    row, kinds = RULES[rule], {KINDS.get(name, "rest") for name in names}
    lacking = [_NEEDS[kind] for kind in row.needs if kind not in kinds]
    meaningful = ", ".join(repr(name) for name, other in RULES.items() if kinds.issuperset(other.needs))
    require(
        not lacking,
        f"the rule {rule!r} speaks of {' and '.join(lacking)}, and {type(optimizer).__name__} has none: its rules are "
        f"{meaningful}, or its own",
    )
    moves = {name: getattr(row, KINDS.get(name, "rest")) or own.get(name, KEPT) for name in names}
    return {name: move for name, move in moves.items() if move != KEPT}


def scaled_by(
    optimizer: Optimizer, batch_factor: float, rule: str | None = None, betas: str | None = None
) -> Optimizer:
    """The optimiser for a batch `batch_factor` times larger by `rule`, by default its own.

    `betas` is the form in which decay rates move, where they do.
    """
    require_number("batch_factor", batch_factor, minimum=0, exclusive=True)
    if betas is not None:
        require_choice("betas", betas, BETA_FORMS)
    moves = moves_of(optimizer, rule)
    moved = {n: move.moved(n, getattr(optimizer, n), batch_factor, betas) for n, move in moves.items()}
    new = dataclasses.replace(optimizer, **moved)
    return new if rule is None else _with_schedules_in_examples(optimizer, new, batch_factor)


def _with_schedules_in_examples(optimizer: Optimizer, new: Optimizer, batch_factor: float) -> Optimizer:
    """`new` with its schedules stretched: a clock that a rival changes must not move them to other examples."""
    stretch = new.time_per_step / (batch_factor * optimizer.time_per_step)
    if abs(stretch - 1) < 1e-12:
        return new
    values = {field.name: getattr(new, field.name) for field in dataclasses.fields(new)}
    stretched = {n: value.stretched(stretch) for n, value in values.items() if isinstance(value, Schedule)}
    return dataclasses.replace(new, **stretched)
