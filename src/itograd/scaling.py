"""A training recipe at another batch size: what every hyperparameter becomes, by which rule, and what was rounded.

The optimiser moves by its own rule or by a rival (`optimizers/scaling_rules.py`). What a training script has beside it
moves in the same way under every rule, so that a run has the same number of examples:

    steps, warm-up, schedule       ÷ κ, rounded to whole steps: unchanged in epochs
    weight average (EMA)           ρ → ρ^κ: its memory is unchanged in examples
    clipping by norm               c → c/√κ: the norm of a batch gradient that is mostly noise is of order 1/√B. (Where
                                   the signal dominates the norm does not depend on B, and c is kept.)
    accumulation                   is batch size: the passes of a step keep their size

Parameter groups move one by one, each by the rule of its own hyperparameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from itograd.optimizers.adaptive import AdaptiveMethod
from itograd.optimizers.nesterov import IncreasingNesterov
from itograd.optimizers.optimizer import Optimizer
from itograd.optimizers.scaling_rules import MEMORY, Move, Power, moves_of, scaled_by
from itograd.simulation.schedule import Schedule, base
from itograd.validation import require, require_count, require_number

HYPERPARAMETERS = ("learning_rate", "momentum", "b1", "b2", "beta", "eps", "eps_root", "v0", "weight_decay")
# The own rules by the power of κ that multiplies the rate.
_TITLES = {1: "linear scaling rule", 0.5: "square-root scaling rule", 2: "rule of the clock k√η"}
# What stands beside the optimiser, and how it moves; ÷ κ is rounded to whole steps.
_BESIDE: dict[str, Move] = {"clip_norm": Power(-0.5), "ema": MEMORY}
_IN_STEPS = ("warmup_steps", "schedule_steps")


@dataclass(frozen=True)
class TrainingRecipe:
    """What a training script sets that a batch size changes.

    Args:
        optimizer: the optimiser of the parameters that are in no other group.
        batch_size: the examples of one step, those of all workers and accumulated passes together.
        steps: the steps of the run.
        clip_norm: the norm to which a batch gradient is clipped.
        ema: the decay rate ρ of an average of the weights, a ← ρa + (1−ρ)x every step.
        warmup_steps: the steps of the warm-up, where it is given in steps.
        schedule_steps: the steps at which the schedule changes or ends, warm-up included, where it is given in steps.
        accumulation: the passes whose gradients are accumulated into one step.
        groups: further parameter groups by name, each with its optimiser.

    Raises ValueError or TypeError, with the value and the legal range, for anything else.

    >>> from itograd.optimizers.adam import Adam
    >>> TrainingRecipe(Adam(), 256, steps=1000, warmup_steps=100, clip_norm=1.0).beside
    {'clip_norm': 1.0, 'warmup_steps': 100}
    """

    optimizer: Optimizer
    batch_size: int
    steps: int | None = None
    clip_norm: float | None = None
    ema: float | None = None
    warmup_steps: int | None = None
    schedule_steps: tuple[int, ...] = ()
    accumulation: int = 1
    groups: Mapping[str, Optimizer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_count("batch_size", self.batch_size)
        require_count("accumulation", self.accumulation)
        require(
            self.batch_size % self.accumulation == 0,
            f"accumulation must divide the batch size, which counts the examples of all its passes: got "
            f"accumulation={self.accumulation}, batch_size={self.batch_size}",
        )
        if self.steps is not None:
            require_count("steps", self.steps)
        if self.clip_norm is not None:
            require_number("clip_norm", self.clip_norm, minimum=0, exclusive=True)
        if self.ema is not None:
            require_number("ema", self.ema)
            require(0 <= self.ema < 1, f"ema must be in [0, 1): got {self.ema:g}")
        if self.warmup_steps is not None:
            require_count("warmup_steps", self.warmup_steps, minimum=0)
        for step in self.schedule_steps:
            require_count("each of schedule_steps", step)
        require(
            list(self.schedule_steps) == sorted(self.schedule_steps),
            f"schedule_steps must not decrease: got {self.schedule_steps}",
        )
        for name, length in (("steps", self.steps), ("schedule_steps", min(self.schedule_steps, default=None))):
            require(
                length is None or length >= (self.warmup_steps or 0),
                f"{name} must not be less than the {self.warmup_steps} steps of the warm-up: got {length}",
            )

    @property
    def beside(self) -> dict[str, Any]:
        """What is set beside the optimiser, the batch size and the steps."""
        given = {name: getattr(self, name) for name in (*_BESIDE, *_IN_STEPS)}
        stated = {name: value for name, value in given.items() if value not in (None, ())}
        return stated if self.accumulation == 1 else {**stated, "accumulation": self.accumulation}


@dataclass(frozen=True)
class ScaledRecipe:
    """A recipe and the same recipe at another batch size, for the same number of examples.

    `rule` is None where the optimiser moved by its own; `betas` is the form in which its decay rates were asked to
    move.
    """

    old: TrainingRecipe
    new: TrainingRecipe
    rule: str | None = None
    betas: str | None = None

    @property
    def batch_factor(self) -> float:
        """κ, the new batch size over the old one."""
        return self.new.batch_size / self.old.batch_size

    @property
    def is_own(self) -> bool:
        """Whether the rule is the optimiser's own, by this name or another."""
        return moves_of(self.old.optimizer, self.rule) == moves_of(self.old.optimizer)

    @property
    def exact_steps(self) -> float | None:
        """The steps at the new batch size, before rounding."""
        return None if self.old.steps is None else self.old.steps / self.batch_factor

    @property
    def rules(self) -> dict[str, str]:
        """What was done to each of the hyperparameters, in symbols."""
        beside = {name: move.words(name) for name, move in _BESIDE.items()}
        in_steps = dict.fromkeys(("steps", *_IN_STEPS), "÷ κ")
        counted = {"batch_size": "× κ", "accumulation": "same size"}
        return {**self._rules(self.old.optimizer), **beside, **in_steps, **counted}

    def _rules(self, optimizer: Optimizer) -> dict[str, str]:
        moves = moves_of(optimizer, self.rule)
        return {
            name: moves[name].words(name, self.betas) if name in moves else "kept"
            for name in hyperparameters(optimizer)
            if name != "time_per_step"
        }

    @property
    def rounding(self) -> str:
        """What the rounding of the steps did, and of the warm-up and the schedule."""
        return "; ".join([self._rounded_steps(), *self._rounded_beside()])

    def _rounded_steps(self) -> str:
        steps, exact, rounded = self.old.steps, self.exact_steps, self.new.steps
        if steps is None or exact is None or rounded is None:
            return "no steps were given: divide them by κ"
        old, new = times(self.old), times(self.new)
        ends = f": the run ends at time {new:.6g} instead of {old:.6g}"
        if abs(exact - rounded) < 1e-9 * exact:
            same = abs(new - old) < 1e-9 * old  # type: ignore[operator]
            return f"{steps} steps become {rounded} exactly{'' if same else ends}"
        return f"{exact:.2f} steps were rounded to {rounded}{ends}"

    def _rounded_beside(self) -> list[str]:
        said = []
        for name in _IN_STEPS:
            old, new = (_as_tuple(getattr(recipe, name)) for recipe in (self.old, self.new))
            moved = [(n / self.batch_factor, m) for n, m in zip(old, new)]
            rounded = [(exact, m) for exact, m in moved if abs(exact - m) > 1e-9 * exact]
            if rounded:
                pairs = ", ".join(f"{exact:.2f} to {m}" for exact, m in rounded)
                said.append(f"{name.replace('_', ' ')} rounded: {pairs}")
        return said

    @property
    def sentence(self) -> str:
        """The rule in words."""
        values = hyperparameters(self.old.optimizer)
        moved, kept = ["batch size × κ"], []
        for name, move in self._rules(self.old.optimizer).items():
            shown = name.replace("_", " ")
            if values[name] == 0:
                continue
            if move == "kept":
                kept.append(shown)
            else:
                moved.append(f"{shown} {move}" if move[0] in "×÷" else f"{shown} → {move}")
        title = _title(self.old.optimizer) if self.is_own else f"rule {self.rule}"
        rest = f"; {' and '.join(kept)} {'are' if len(kept) > 1 else 'is'} kept" if kept else ""
        return f"{title}: {', '.join([*moved, 'steps ÷ κ'])}{rest}"

    @property
    def assumptions(self) -> list[str]:
        """What the rule assumes, in sentences; nothing of it was measured."""
        own, name = _title(self.old.optimizer), type(self.old.optimizer).__name__
        adaptive = isinstance(self.old.optimizer, AdaptiveMethod)
        if not self.is_own:
            said = [f"this rule is a rival of {name}'s own, the {own}, and does not keep its SDE"]
        elif adaptive:
            said = [
                f"the {own} assumes that noise dominates: r² ≪ 1, where r is |∇L| over the noise of a batch gradient, "
                "in every coordinate that matters. Where the signal dominates, the linear rule is the right one. This "
                "was not measured for this run"
            ]
        else:
            said = [
                f"the {own} assumes that both runs follow the SDE, so that even the larger learning rate is small "
                "against the curvature. This was not measured for this run"
            ]
        if self.old.clip_norm is not None:
            said.append(
                "clip norm ÷ √κ assumes that the norm of a batch gradient is mostly noise; where the signal dominates, "
                "keep it. This was not measured for this run"
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        groups = {
            name: {
                "old": hyperparameters(self.old.groups[name]),
                "new": hyperparameters(self.new.groups[name]),
                "rules": self._rules(self.old.groups[name]),
            }
            for name in self.old.groups
        }
        old, new = (_columns(recipe, self.old.beside) for recipe in (self.old, self.new))
        return {
            "method": type(self.old.optimizer).__name__,
            "options": _options(self.old.optimizer),
            "batch_factor": self.batch_factor,
            "old": old,
            "new": new,
            "rules": {name: text for name, text in self.rules.items() if name in old},
            **({"groups": groups} if groups else {}),
            "exact_steps": self.exact_steps,
            "rule_name": self.rule,
            "is_own_rule": self.is_own,
            "rule": self.sentence,
            "assumptions": self.assumptions,
            "rounding": self.rounding,
        }


def scaled_recipe(
    recipe: TrainingRecipe, new_batch_size: int, *, rule: str | None = None, betas: str | None = None
) -> ScaledRecipe:
    """The recipe at `new_batch_size`, by the optimiser's own scaling rule or by the rival that `rule` names.

    `betas` is the form in which decay rates move, "linear" or "memory"; by default the optimiser's own.

    Raises ValueError where the optimiser has no such rule, or where not half a step would be left.

    >>> from itograd.optimizers.sgd import SGD
    >>> scaled_recipe(TrainingRecipe(SGD(0.1), 256, steps=100), 4096).rounding
    '6.25 steps were rounded to 6: the run ends at time 9.6 instead of 10'
    """
    require_count("new_batch_size", new_batch_size)
    factor = new_batch_size / recipe.batch_size
    moved: dict[str, Any] = {
        "optimizer": scaled_by(recipe.optimizer, factor, rule, betas),
        "groups": {name: scaled_by(group, factor, rule, betas) for name, group in recipe.groups.items()},
        "batch_size": int(new_batch_size),
        "accumulation": _accumulation(recipe, new_batch_size),
    }
    for name, move in _BESIDE.items():
        if getattr(recipe, name) is not None:
            moved[name] = move.moved(name, getattr(recipe, name), factor)
    if recipe.steps is not None:
        moved["steps"] = _whole_steps("steps", recipe.steps, factor, new_batch_size)
    if recipe.warmup_steps is not None:
        moved["warmup_steps"] = round(recipe.warmup_steps / factor)
    moved["schedule_steps"] = tuple(
        _whole_steps("schedule_steps", step, factor, new_batch_size) for step in recipe.schedule_steps
    )
    return ScaledRecipe(recipe, dataclasses.replace(recipe, **moved), rule, betas)


def _whole_steps(name: str, steps: int, factor: float, batch_size: int) -> int:
    exact = steps / factor
    require(
        exact >= 0.5,
        f"{name}: at batch size {batch_size} the {steps} steps would become {exact:.2g}: less than one",
    )
    return round(exact)


def _accumulation(recipe: TrainingRecipe, new_batch_size: int) -> int:
    """The passes of a step at the new batch size: of the same size, or one where the batch is smaller than a pass."""
    size = recipe.batch_size // recipe.accumulation
    if recipe.accumulation == 1 or new_batch_size <= size:
        return 1
    below = new_batch_size // size * size
    require(
        below == new_batch_size,
        f"new_batch_size must be a multiple of the {size} examples of a pass: got {new_batch_size}; the nearest are "
        f"{below} and {below + size}",
    )
    return new_batch_size // size


def _columns(recipe: TrainingRecipe, beside: Iterable[str]) -> dict[str, Any]:
    """The recipe as a column of plain numbers, with these of the things beside the optimiser."""
    shown = {name: getattr(recipe, name) for name in beside}
    return {
        "batch_size": recipe.batch_size,
        "steps": recipe.steps,
        **hyperparameters(recipe.optimizer),
        "time": times(recipe),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in shown.items()},
    }


def _options(optimizer: Optimizer) -> dict[str, str | bool]:
    """The fields that are no numbers, which no rule moves."""
    values = {f.name: getattr(optimizer, f.name) for f in dataclasses.fields(optimizer)}
    return {name: value for name, value in values.items() if isinstance(value, str | bool)}


def _as_tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def times(recipe: TrainingRecipe) -> float | None:
    """The continuous time of the run, by the clock of its optimiser; None where no steps were given."""
    return None if recipe.steps is None else recipe.steps * float(recipe.optimizer.time_per_step)


def hyperparameters(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's hyperparameters by name, a schedule as its base value; and its clock, the time of one step.

    >>> from itograd.optimizers.sgd import SGD
    >>> hyperparameters(SGD(0.5, weight_decay=0.25))
    {'learning_rate': 0.5, 'weight_decay': 0.25, 'time_per_step': 0.5}
    """
    fields = {f.name for f in dataclasses.fields(optimizer)}
    values = {name: float(base(getattr(optimizer, name))) for name in HYPERPARAMETERS if name in fields}
    return {**values, "time_per_step": float(optimizer.time_per_step)}


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
        if name == "time_per_step" or (name in ("weight_decay", "eps_root", "v0") and value == 0):
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
    if isinstance(optimizer, AdaptiveMethod):
        return "t = kη²"
    return "t = kη/(1−μ)" if hasattr(optimizer, "momentum") else "t = kη"


def _title(optimizer: Optimizer) -> str:
    """The name of the optimiser's own rule, by what it does to the rate."""
    return _TITLES[optimizer.scaling["learning_rate"].exponent]  # type: ignore[union-attr]


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
