"""The recipe file: read, checked whole, and turned into the objects of the library.

Everything that can be known to be wrong before a run is found by `load_recipe`, and said in one line a problem, with
the name that the field has in the file. The schema is documented in docs/recipe.md.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.resources
import os
import sys
import tomllib
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from itograd.recipe_schema import (
    FunctionProblem,
    OptimizerTable,
    RecipeFile,
    RunSection,
    ScaleSection,
    TrainingSection,
    section_at,
)

if TYPE_CHECKING:
    from itograd.optimizers.optimizer import Optimizer
    from itograd.problems.problem import Problem
    from itograd.scaling import TrainingRecipe

BUILT_IN = "digits"
DEFAULT_PATHS = 256


class RecipeError(ValueError):
    """What is wrong with a recipe: one line a problem, each with the field's name in the file."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """A recipe that has been checked: the objects it stands for, and its text."""

    name: str
    text: str
    document: dict[str, Any]  # the tables of the file, with the overrides
    problem: Problem = field(repr=False)
    optimizer: Optimizer
    steps: int
    warm_start: int  # the steps that the rule makes itself before its SDE starts
    training: TrainingRecipe  # the optimiser, batch size and steps, and what stands beside them
    x0: np.ndarray | None
    run: RunSection
    scale: ScaleSection

    @property
    def paths(self) -> int:
        """Of each ensemble, where no budget is given."""
        return DEFAULT_PATHS if self.run.paths is None else self.run.paths

    @property
    def equation_options(self) -> dict[str, int]:
        """What `modified_equation` needs beside the order."""
        return {"warm_start": self.warm_start} if self.warm_start else {}


def load_recipe(
    path: str | os.PathLike | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> Recipe:
    """Read a recipe file and check it whole; without a path, the built-in digits example.

    Args:
        path: a TOML file; data files and modules that it names are looked for beside it.
        overrides: values, by section and key, that replace those of the file, None to leave a key out:
            {"run": {"paths": 64, "budget": None}}.

    Raises RecipeError with one line for each problem; a problem of the user's own is called, nothing is run.

    >>> load_recipe().optimizer
    SGD(learning_rate=16.0)
    """
    name, text, folder = _read(path)
    document = _parse(name, text)
    for section, values in (overrides or {}).items():
        if isinstance(document.setdefault(section, {}), dict):
            table = {**document[section], **values}
            document[section] = {key: value for key, value in table.items() if value is not None}
    sections = _validate(document, folder)
    return _build(name, text, document, sections, folder)


def _read(path) -> tuple[str, str, Path]:
    if path is None:
        source = importlib.resources.files("itograd") / "data" / f"{BUILT_IN}.toml"
        return BUILT_IN, source.read_text(encoding="utf-8"), Path()
    file = Path(path)
    try:
        return file.stem, file.read_text(encoding="utf-8"), file.parent
    except OSError as error:
        raise RecipeError(f"the recipe {file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"the recipe {file} is no text in UTF-8") from error


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"the recipe {name} is not valid TOML: {error}") from error


# -------------------------------------------------------------------------------------------------- what is written


def _validate(document: dict[str, Any], folder: Path) -> RecipeFile:
    try:
        return RecipeFile.model_validate(document, context={"folder": folder})
    except ValidationError as error:
        raise RecipeError("\n".join(_line(problem) for problem in error.errors())) from None


def _line(error: Mapping[str, Any]) -> str:
    """One pydantic error as a line that names the field."""
    location, kind, given, context = error["loc"], error["type"], error["input"], error.get("ctx", {})
    name = _field(location)
    if kind == "extra_forbidden":
        return _unknown_key(name, location)
    if kind == "missing":
        return f"{name} is missing" if len(location) > 1 else f"the section [{name}] is missing"
    if kind.startswith("union_tag"):
        return _wrong_kind(name, location, given, context)
    needed = {
        "greater_than": "greater than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "less than {lt}",
        "less_than_equal": "at most {le}",
        "float_type": "a number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "string_type": "a string",
        "string_pattern_mismatch": '"package.module:function"',
        "bool_type": "true or false",
        "list_type": "a list",
        "dict_type": "a table",
        "model_type": "a table",
        "model_attributes_type": "a table",
        "finite_number": "finite",
        "literal_error": "one of {expected}" if " or " in context.get("expected", "") else "{expected}",
    }.get(kind)
    if kind == "literal_error" and location[-1] == "<text>":
        needed = "a number, a schedule or {expected}"
    if needed is None:
        message = error["msg"].removeprefix("Value error, ")
        return name + message if message.startswith(".") else f"{name} {message}"
    hint = (
        _suggestion(given, [part.strip("' ") for part in context["expected"].replace(" or ", ",").split(",")])
        if kind == "literal_error"
        else ""
    )
    numbers = {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
    return f"{name} must be {needed.format(**numbers)}: got {_shown(given)}{hint}"


def _field(location: tuple) -> str:
    """("problem", "<digits>", "batch_size") -> problem.batch_size; positions in lists stand in brackets."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif not part.startswith("<"):
            name += f".{part}" if name else part
    return name


def _unknown_key(name: str, location: tuple) -> str:
    section = section_at(location)
    keys = list(section.model_fields) if section else []
    prefix = name.rpartition(".")[0] or (str(location[-2]).strip("<>") if len(location) > 1 else "")
    hint = _suggestion(location[-1], keys) or f"; its keys are {', '.join(keys)}"
    return f"{name} is no key of {f'[{prefix}]' if prefix else 'a recipe'}{hint}"


def _wrong_kind(name: str, location: tuple, given: Any, context: Mapping[str, Any]) -> str:
    key = "name" if location == ("optimizer",) else "kind"
    choices = [tag.strip("<>' ") for tag in context.get("expected_tags", "").split(",")]
    if "number" in choices and not isinstance(given, dict):
        return f"{name} must be a number or a schedule: got {_shown(given)}"
    choices = [choice for choice in choices if choice not in ("number", "text")]
    if not isinstance(given, dict):
        return f"{name} must be a table with the key {key}: got {_shown(given)}"
    if key not in given:
        return f"{name}.{key} is missing: one of {', '.join(map(repr, choices))}"
    return (
        f"{name}.{key} must be one of {', '.join(map(repr, choices))}: got {_shown(given[key])}"
        f"{_suggestion(given[key], choices)}"
    )


def _suggestion(given: Any, choices: list[str]) -> str:
    close = difflib.get_close_matches(str(given), choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _shown(value: Any) -> str:
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# -------------------------------------------------------------------------------------------------- what it stands for


def _build(name: str, text: str, document: dict[str, Any], sections: RecipeFile, folder: Path) -> Recipe:
    from itograd.optimizers.optimizer import modified_equation
    from itograd.optimizers.scaling_rules import moves_of
    from itograd.simulation.observables import chosen_observables

    problem_section, optimizer_section, run, scale = sections.problem, sections.optimizer, sections.run, sections.scale
    problems: list[str] = []
    with _collected(problems, "problem", type(problem_section)):
        problem = _problem(problem_section, folder)
        _check_batch_size(problem, "problem.batch_size", problem.batch_size)
        for i, size in enumerate(scale.batch_sizes):
            _check_batch_size(problem, f"scale.batch_sizes[{i}]", size)
    with _collected(problems, "optimizer", type(optimizer_section)):
        optimizer = optimizer_section.build()
        steps = _steps(run, optimizer.time_per_step)
    if run.paths is not None and run.budget is not None:
        problems.append(f"run.paths or run.budget, and not both: got {run.paths} paths and {run.budget:g} seconds")
    _raise(problems)
    with _collected(problems, "run", RunSection):
        x0 = None if run.x0 is None else _start(run.x0, problem)
        chosen_observables(problem, run.observables)
        skipped = _warm_start(optimizer, steps, run.warm_start)
    with _collected(problems, "training", TrainingSection):
        training = _training(sections.training, optimizer, problem.batch_size, steps, document["optimizer"])
    with _collected(problems, "scale", ScaleSection):
        moves_of(optimizer, scale.rule)
    _raise(problems)
    recipe = Recipe(name, text, document, problem, optimizer, steps, skipped, training, x0, run, scale)
    try:
        modified_equation(optimizer, problem, run.order, **recipe.equation_options)
    except ValueError as error:
        raise RecipeError(f"run.order={run.order}: {error}") from None
    return recipe


def optimizer_from_table(table: dict[str, Any]) -> Optimizer:
    """The optimiser of a table as the section [optimizer] has it; errors name the keys without their section.

    >>> optimizer_from_table({"name": "sgd", "learning_rate": 0.5})
    SGD(learning_rate=0.5)
    """
    try:
        return TypeAdapter(OptimizerTable).validate_python(table).build()
    except ValidationError as error:
        raise RecipeError("\n".join(_line(problem) for problem in error.errors())) from None


@contextmanager
def _collected(problems: list[str], section: str, schema) -> Iterator[None]:
    """Note what a constructor refuses; its own message names the argument, which is the key."""
    try:
        yield
    except RecipeError as error:
        problems.append(str(error))
    except (ValueError, TypeError) as error:
        message = " ".join(str(error).split())
        known = message.split(" ")[0] in schema.model_fields
        problems.append(f"{section}.{message}" if known else f"[{section}] {message}")


def _raise(problems: list[str]) -> None:
    if problems:
        raise RecipeError("\n".join(problems))


def _problem(section, folder: Path) -> Problem:
    if not isinstance(section, FunctionProblem):
        return section.build()
    from itograd.problems.problem import Problem

    problem = _call(section.function, section.arguments, folder)
    if not isinstance(problem, Problem):
        raise RecipeError(
            f"problem.function must return an itograd Problem: {section.function} returned {type(problem).__name__}"
        )
    return problem if section.batch_size is None else problem.with_batch_size(section.batch_size)


def _call(name: str, arguments: Mapping[str, Any], folder: Path) -> Any:
    """The value of the user's `package.module:function`, looked for beside the recipe and in the current folder too."""
    module_name, _, function_name = name.partition(":")
    own = [str(folder.resolve()), os.getcwd()]
    sys.path[:0] = own
    importlib.invalidate_caches()
    try:
        function = getattr(importlib.import_module(module_name), function_name, None)
        if not callable(function):
            raise RecipeError(f"problem.function: the module {module_name} has no function {function_name}")
        return function(**arguments)
    except RecipeError:
        raise
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"problem.function: no module named {error.name!r}, neither installed nor in "
            f"{' or '.join(dict.fromkeys(own))}"
        ) from error
    except Exception as error:  # the user's own code may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise RecipeError(
            f"problem.function: {name} raised {type(error).__name__} ({Path(place.filename).name}, line "
            f"{place.lineno}): {' '.join(str(error).split())}"
        ) from error
    finally:
        for entry in own:
            if entry in sys.path:
                sys.path.remove(entry)


def _check_batch_size(problem: Problem, name: str, batch_size: int) -> None:
    if problem.dataset_size is not None and batch_size > problem.dataset_size:
        raise RecipeError(f"{name} must be at most the {problem.dataset_size} examples of the data: got {batch_size}")


def _steps(run: RunSection, time_per_step: float) -> int:
    if (run.steps is None) == (run.time is None):
        got = "neither" if run.steps is None else "both"
        raise RecipeError(f"run.steps or run.time is needed, and not both: got {got}")
    steps = run.steps
    if steps is None:
        exact = run.time / time_per_step  # type: ignore[operator]
        steps = round(exact)
        if steps < 1 or abs(exact - steps) > 1e-6 * steps:
            near = ", ".join(f"{n * time_per_step:.9g}" for n in sorted({int(exact), int(exact) + 1} - {0}))
            raise RecipeError(
                f"run.time must be a multiple of the optimiser's clock {time_per_step:.9g}: got "
                f"{run.time:g}; the nearest are {near}"
            )
    if run.save_every is not None and run.save_every > steps:
        raise RecipeError(f"run.save_every must be at most the {steps} steps of the run: got {run.save_every}")
    return steps


def _warm_start(optimizer: Optimizer, steps: int, given: int | None) -> int:
    """The steps that the rule makes itself before its SDE starts: those given, else `Optimizer.equation_start`."""
    from itograd.optimizers.adaptive import AdaptiveMethod

    if not isinstance(optimizer, AdaptiveMethod):
        if given:
            raise RecipeError(
                f"run.warm_start belongs to rmsprop, adam and adamw: the SDE of {type(optimizer).__name__} starts at "
                "time 0"
            )
        return 0
    if given is not None:
        if given >= steps:
            raise RecipeError(f"run.warm_start must be less than the {steps} steps of the run: got {given}")
        return given
    return optimizer.equation_start(steps).get("warm_start", 0)


def _training(section: TrainingSection, optimizer: Optimizer, batch_size: int, steps: int, table: dict[str, Any]):
    """The section [training] with the optimiser, the batch size and the steps of the other sections."""
    from itograd.scaling import TrainingRecipe

    groups = {}
    for name, changes in (section.groups or {}).items():
        if "name" in changes:
            raise RecipeError(f"training.groups.{name}.name: a group has the optimiser of the recipe, leave it out")
        try:
            groups[name] = optimizer_from_table({**table, **changes})
        except ValueError as error:
            raise RecipeError("\n".join(f"training.groups.{name}.{line}" for line in str(error).splitlines())) from None
    given = section.given("groups", "schedule_steps")
    milestones = tuple(section.schedule_steps or ())
    return TrainingRecipe(optimizer, batch_size, steps, schedule_steps=milestones, groups=groups, **given)


def _start(x0: np.ndarray, problem: Problem) -> np.ndarray:
    if x0.shape != (problem.dim,):
        raise RecipeError(
            f"run.x0 must hold {problem.dim} numbers, one for each parameter of the problem: got shape {x0.shape}"
        )
    return x0
