"""The sections of a recipe file: which keys they have, of which type, and the objects that they stand for.

A field that is left out is not passed on, so every default is that of the constructor behind the section.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from itograd.recipe_numbers import read_numbers


class Section(BaseModel):
    """A table of the file: no other keys, no conversion of types, no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def given(self, *without: str) -> dict[str, Any]:
        """The values that the file states, by key."""
        return {
            key: getattr(self, key)
            for key in type(self).model_fields
            if key in self.model_fields_set and key not in without
        }


Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Numbers = Annotated[Any, AfterValidator(read_numbers)]
Sampling = Literal["with_replacement", "without_replacement", "reshuffling"]
NoiseLaw = Literal["gaussian", "two_point", "skewed"]


# ------------------------------------------------------------------------------------------------------ [problem]


class ProblemSection(Section):
    """A problem of the library: `kind` names it, the other keys are its constructor's arguments."""

    def build(self):
        from itograd import problems

        constructors: dict[str, Callable] = {
            "digits": problems.digits,
            "quadratic": problems.Quadratic,
            "rayleigh": problems.Rayleigh,
            "linear_regression": problems.LinearRegression,
            "double_well": problems.DoubleWell,
            "circle": problems.Circle,
            "flat_sharp": problems.FlatSharp,
        }
        return constructors[self.kind](**self.given("kind"))  # type: ignore[attr-defined]


class DigitsProblem(ProblemSection):
    """scikit-learn's digits: `itograd.problems.digits`."""

    kind: Literal["digits"]
    model: Literal["softmax", "mlp"] | None = None
    preset: Literal["S7"] | None = None
    batch_size: Count | None = None
    hidden: Count | None = None
    sampling: Sampling | None = None
    l2: NotNegative | None = None
    label_noise: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Seed | None = None


class QuadraticProblem(ProblemSection):
    """`itograd.problems.Quadratic`."""

    kind: Literal["quadratic"]
    hessian: Numbers
    noise_covariance: Numbers
    noise: NoiseLaw | None = None
    batch_size: Count | None = None
    minimizer: Numbers | None = None


class LinearRegressionProblem(ProblemSection):
    """`itograd.problems.LinearRegression`."""

    kind: Literal["linear_regression"]
    features: Numbers
    targets: Numbers
    batch_size: Count | None = None
    sampling: Sampling | None = None
    l2: NotNegative | None = None


class RayleighProblem(ProblemSection):
    """`itograd.problems.Rayleigh`."""

    kind: Literal["rayleigh"]
    dim: Annotated[int, Field(ge=2)] | None = None
    samples: Count | None = None
    batch_size: Count | None = None
    seed: Seed | None = None
    sampling: Sampling | None = None


class CircleProblem(ProblemSection):
    """`itograd.problems.Circle`."""

    kind: Literal["circle"]
    noise: NoiseLaw | None = None
    batch_size: Count | None = None


class DoubleWellProblem(CircleProblem):
    """`itograd.problems.DoubleWell`."""

    kind: Literal["double_well"]  # type: ignore[assignment]
    noise_std: NotNegative | None = None


class FlatSharpProblem(CircleProblem):
    """`itograd.problems.FlatSharp`."""

    kind: Literal["flat_sharp"]  # type: ignore[assignment]
    tilt: float | None = None
    noise_std: NotNegative | None = None
    state_dependent_noise: bool | None = None


class FunctionProblem(Section):
    """A problem of the user's own: `function = "package.module:function"` returns it."""

    kind: Literal["function"] = "function"
    function: Annotated[str, Field(pattern=r"^[^\W\d][\w.]*:[^\W\d]\w*$")]
    arguments: dict[str, Any] = Field(default_factory=dict)
    batch_size: Count | None = None


PROBLEMS: dict[str, type[Section]] = {
    "digits": DigitsProblem,
    "quadratic": QuadraticProblem,
    "linear_regression": LinearRegressionProblem,
    "rayleigh": RayleighProblem,
    "double_well": DoubleWellProblem,
    "circle": CircleProblem,
    "flat_sharp": FlatSharpProblem,
    "function": FunctionProblem,
}


# ---------------------------------------------------------------------------------------------------- [optimizer]


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


def _union(classes: dict[str, type[Section]], choose: Callable[[Any], str | None], *more):
    """The union of sections, told apart by `choose`; tags stand in <> so that an error can leave them out."""
    members: list[Any] = [Annotated[member, Tag(_tag(name))] for name, member in (*classes.items(), *more)]
    return Annotated[reduce(or_, members), Discriminator(lambda value: _tag(choose(value)))]


def _tag(name: Any) -> str:
    return f"<{name}>"


def _kind(key: str):
    def choose(value: Any) -> Any:
        return value.get(key) if isinstance(value, dict) else getattr(value, key, "no table")

    return choose


def _problem_kind(value: Any) -> Any:
    if isinstance(value, dict) and "kind" not in value and "function" in value:
        return "function"
    return _kind("kind")(value)


def _rate_kind(value: Any) -> Any:
    if isinstance(value, str):
        return "text"
    return _kind("kind")(value) if isinstance(value, dict | Section) else "number"


Rate = _union(SCHEDULES, _rate_kind, ("number", Positive))
MomentumRate = _union(SCHEDULES, _rate_kind, ("number", Annotated[float, Field(gt=-1, lt=1)]))
NesterovRate = _union(
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
        classes = {"sgd": itograd.SGD, "momentum": itograd.Momentum, "nesterov": itograd.Nesterov}
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


OPTIMIZERS: dict[str, type[Section]] = {
    "sgd": SGDOptimizer,
    "momentum": MomentumOptimizer,
    "nesterov": NesterovOptimizer,
}


# ------------------------------------------------------------------------------------------- [run], [scale], the file


class RunSection(Section):
    """How long, how many paths, how sure."""

    steps: Count | None = None
    time: Positive | None = None
    save_every: Count | None = None
    paths: Annotated[int, Field(ge=16)] = 256
    seed: Seed = 0
    dtype: Literal["float32", "float64"] = "float32"
    tolerance: Share = 0.05
    confidence: Share = 0.95
    order: Literal[1, 2] = 1
    x0: Numbers | None = None
    observables: Annotated[list[str], Field(min_length=1)] | None = None


class ScaleSection(Section):
    """The batch sizes that the reader is interested in, and how their recipes are made."""

    batch_sizes: list[Count] = Field(default_factory=list)
    betas: Literal["linear", "memory"] = "linear"
    closeness: Annotated[float, Field(gt=1)] = math.sqrt(2)
    equilibrium_steps: Annotated[int, Field(ge=64)] | None = None


ProblemTable: Any = _union(PROBLEMS, _problem_kind)
OptimizerTable: Any = _union(OPTIMIZERS, _kind("name"))


class RecipeFile(Section):
    """The whole file."""

    problem: ProblemTable
    optimizer: OptimizerTable
    run: RunSection
    scale: ScaleSection = Field(default_factory=ScaleSection)


def section_at(location: tuple) -> type[Section] | None:
    """The class of the section that holds a key, from the location of the key in a pydantic error."""
    tagged = {f"<{name}>": section for group in (PROBLEMS, OPTIMIZERS, SCHEDULES) for name, section in group.items()}
    named: dict[Any, type[Section]] = {"run": RunSection, "scale": ScaleSection, **tagged}
    return named.get(location[-2]) if len(location) > 1 else RecipeFile
