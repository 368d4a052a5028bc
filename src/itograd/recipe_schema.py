"""The sections of a recipe file: which keys they have, of which type, and the objects that they stand for.

A field that is left out is not passed on, so every default is that of the constructor behind the section.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from itograd.recipe_fields import Count, NotNegative, Numbers, Positive, Section, Seed, Share, kind, union
from itograd.recipe_optimizers import OPTIMIZERS, SCHEDULES, Decay

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


def _problem_kind(value: Any) -> Any:
    if isinstance(value, dict) and "kind" not in value and "function" in value:
        return "function"
    return kind("kind")(value)


# ------------------------------------------------------------------------------ [training], [run], [scale], the file


class TrainingSection(Section):
    """What a training script has beside the optimiser: `itograd.TrainingRecipe`."""

    clip_norm: Positive | None = None
    ema: Decay | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    schedule_steps: list[Count] | None = None
    accumulation: Count | None = None
    groups: dict[str, dict[str, Any]] | None = None  # by name, the keys of [optimizer] that differ


class RunSection(Section):
    """How long, how many paths, how sure."""

    steps: Count | None = None
    time: Positive | None = None
    save_every: Count | None = None
    paths: Annotated[int, Field(ge=16)] | None = None
    budget: Positive | None = None
    seed: Seed = 0
    dtype: Literal["float32", "float64"] = "float32"
    tolerance: Share = 0.05
    confidence: Share = 0.95
    order: Literal[1, 2] = 1
    warm_start: Annotated[int, Field(ge=0)] | None = None
    x0: Numbers | None = None
    observables: Annotated[list[str], Field(min_length=1)] | None = None
    amplifications: list[Annotated[float, Field(gt=1)]] = Field(default_factory=list)


class ScaleSection(Section):
    """The batch sizes that the reader is interested in, and how their recipes are made."""

    batch_sizes: list[Count] = Field(default_factory=list)
    rule: str | None = None
    betas: Literal["linear", "memory"] | None = None
    closeness: Annotated[float, Field(gt=1)] = math.sqrt(2)
    equilibrium_steps: Annotated[int, Field(ge=64)] | None = None
    run: bool = False


ProblemTable: Any = union(PROBLEMS, _problem_kind)
OptimizerTable: Any = union(OPTIMIZERS, kind("name"))


class RecipeFile(Section):
    """The whole file."""

    problem: ProblemTable
    optimizer: OptimizerTable
    training: TrainingSection = Field(default_factory=TrainingSection)
    run: RunSection
    scale: ScaleSection = Field(default_factory=ScaleSection)


def section_at(location: tuple) -> type[Section] | None:
    """The class of the section that holds a key, from the location of the key in a pydantic error."""
    tagged = {f"<{name}>": section for group in (PROBLEMS, OPTIMIZERS, SCHEDULES) for name, section in group.items()}
    named: dict[Any, type[Section]] = {
        "training": TrainingSection,
        "run": RunSection,
        "scale": ScaleSection,
        **tagged,
    }
    return named.get(location[-2]) if len(location) > 1 else RecipeFile
