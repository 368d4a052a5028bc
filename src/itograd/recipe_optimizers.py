"""The section [optimizer] of a recipe file: the schedules and the optimisers, each with its constructor's arguments."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from itograd.recipe_fields import NotNegative, Positive, Section, kind, union

Decay = Annotated[float, Field(ge=0, lt=1)]


class ScheduleSection(Section):
    """A hyperparameter of continuous time: base · shape(t)."""

    base: float

    def build(self):
        from itograd.simulation import schedule

        classes = {
            "cosine": schedule.Cosine,
            "warmup": schedule.Warmup,
            "exponential": schedule.Exponential,
            "piecewise": schedule.Piecewise,
        }
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in self.given("kind").items()}
        return classes[self.kind](**lists)  # type: ignore[attr-defined]


class CosineSchedule(ScheduleSection):
    """`itograd.schedules.Cosine`."""

    kind: Literal["cosine"]
    duration: Positive
    final: NotNegative | None = None


class WarmupSchedule(ScheduleSection):
    """`itograd.schedules.Warmup`."""

    kind: Literal["warmup"]
    duration: Positive
    initial: Annotated[float, Field(ge=0, le=1)] | None = None


class ExponentialSchedule(ScheduleSection):
    """`itograd.schedules.Exponential`."""

    kind: Literal["exponential"]
    rate: float


class PiecewiseSchedule(ScheduleSection):
    """`itograd.schedules.Piecewise`."""

    kind: Literal["piecewise"]
    boundaries: list[Positive]
    factors: list[NotNegative]

    @model_validator(mode="after")
    def _fits(self):
        if len(self.factors) != len(self.boundaries) + 1:
            raise ValueError(
                f"must have one factor more than boundaries: got {len(self.factors)} and {len(self.boundaries)}"
            )
        if self.boundaries != sorted(self.boundaries):
            raise ValueError(f"must have boundaries that increase: got {self.boundaries}")
        return self


SCHEDULES: dict[str, type[Section]] = {
    "cosine": CosineSchedule,
    "piecewise": PiecewiseSchedule,
    "warmup": WarmupSchedule,
    "exponential": ExponentialSchedule,
}


def _rate_kind(value: Any) -> Any:
    if isinstance(value, str):
        return "text"
    return kind("kind")(value) if isinstance(value, dict | Section) else "number"


Rate = union(SCHEDULES, _rate_kind, ("number", Positive))
MomentumRate = union(SCHEDULES, _rate_kind, ("number", Annotated[float, Field(gt=-1, lt=1)]))
NesterovRate = union(
    SCHEDULES, _rate_kind, ("number", Annotated[float, Field(gt=-1, lt=1)]), ("text", Literal["increasing"])
)


class OptimizerSection(Section):
    """An optimiser: `name` says which, the other keys are its constructor's arguments."""

    learning_rate: Rate  # type: ignore[valid-type]
    weight_decay: NotNegative | None = None

    def arguments(self) -> dict[str, Any]:
        return {
            key: value.build() if isinstance(value, ScheduleSection) else value
            for key, value in self.given("name").items()
        }

    def build(self):
        import itograd

        arguments = self.arguments()
        if arguments.get("momentum") == "increasing":
            del arguments["momentum"]
            return itograd.IncreasingNesterov(**arguments)
        classes = {
            "sgd": itograd.SGD,
            "momentum": itograd.Momentum,
            "nesterov": itograd.Nesterov,
            "rmsprop": itograd.RMSprop,
            "adam": itograd.Adam,
            "adamw": itograd.AdamW,
        }
        return classes[self.name](**arguments)  # type: ignore[attr-defined]


class SGDOptimizer(OptimizerSection):
    """`itograd.SGD`."""

    name: Literal["sgd"]


class MomentumOptimizer(OptimizerSection):
    """`itograd.Momentum`."""

    name: Literal["momentum"]
    momentum: MomentumRate | None = None  # type: ignore[valid-type]
    clock: Literal["overdamped", "underdamped"] | None = None


class NesterovOptimizer(OptimizerSection):
    """`itograd.Nesterov`, or with momentum = "increasing" `itograd.IncreasingNesterov`."""

    name: Literal["nesterov"]
    momentum: NesterovRate | None = None  # type: ignore[valid-type]
    clock: Literal["overdamped", "underdamped"] | None = None
    point: Literal["lookahead", "iterate"] | None = None

    @model_validator(mode="after")
    def _has_one_clock(self):
        if self.momentum == "increasing" and self.clock is not None:
            raise ValueError(".clock must be left out where momentum = 'increasing': its time is k √learning_rate")
        return self


class AdaptiveOptimizer(OptimizerSection):
    """What the adaptive methods share."""

    eps: NotNegative | None = None
    eps_root: NotNegative | None = None
    v0: NotNegative | None = None
    denominator: Literal["new", "old"] | None = None
    correct_second: bool | None = None


class RMSpropOptimizer(AdaptiveOptimizer):
    """`itograd.RMSprop`."""

    name: Literal["rmsprop"]
    beta: Decay | None = None


class AdamOptimizer(AdaptiveOptimizer):
    """`itograd.Adam`."""

    name: Literal["adam"]
    b1: Decay | None = None
    b2: Decay | None = None
    correct_first: bool | None = None


class AdamWOptimizer(AdamOptimizer):
    """`itograd.AdamW`."""

    name: Literal["adamw"]  # type: ignore[assignment]
    decay_times_rate: bool | None = None


OPTIMIZERS: dict[str, type[Section]] = {
    "sgd": SGDOptimizer,
    "momentum": MomentumOptimizer,
    "nesterov": NesterovOptimizer,
    "rmsprop": RMSpropOptimizer,
    "adam": AdamOptimizer,
    "adamw": AdamWOptimizer,
}
