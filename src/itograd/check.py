"""The main job: does the SDE describe this recipe, and how far may its batch size be changed?

`check` runs the ensembles of a recipe and measures; it prints and writes nothing. What it found is a `Check`, whose
`to_dict` holds plain finite numbers: the JSON file, the tables and the report page are all made from it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from itograd.analysis.budget import Budget, within
from itograd.analysis.curves import CurveTest, scaled_runs, svag_test
from itograd.analysis.equilibrium import BatchFactorBounds, Equilibrium, equilibrium
from itograd.analysis.noise_scale import NoiseScale, noise_scale
from itograd.analysis.regime import Regime, regime
from itograd.analysis.verdict import Verdict, verdict
from itograd.optimizers.adaptive import AdaptiveMethod
from itograd.optimizers.optimizer import scale
from itograd.optimizers.sgd import SGD
from itograd.recipes import Recipe
from itograd.scaling import ScaledRecipe, scaled_recipe
from itograd.simulation.engine import final_points
from itograd.simulation.schedule import Schedule
from itograd.validation import require

# Equilibrium is a matter of the relaxation time 1/(ηλ); a run of so many of them is measured over its second half.
RELAXATION_TIMES = 6
# Where that takes so many times the steps of the recipe, it is not measured unless `scale.equilibrium_steps` asks.
LONGEST_EQUILIBRIUM = 32
EQUILIBRIUM_PATHS, EQUILIBRIUM_SAVES = 32, 16

Report = Callable[[str], None]


@dataclass(frozen=True)
class Room:
    """How far the batch size may be changed: measured equilibrium, bounds or the reasons why there are none."""

    equilibrium: Equilibrium | None
    bounds: BatchFactorBounds
    steps: int | None  # of the equilibrium run


@dataclass(frozen=True)
class Check:
    """What `check` found."""

    recipe: Recipe
    verdict: Verdict
    noise_scales: dict[str, NoiseScale | str]  # "start", "end"; a string says why it is not defined
    regimes: dict[str, Regime | str]  # the same of r²; empty where the optimiser has no second moment
    room: Room
    scaled: tuple[ScaledRecipe | str, ...]  # by scale.batch_sizes; a string says why there is none
    curves: dict[
        str, CurveTest | str
    ]  # "svag_test", "scaled_runs", where the recipe asks for them; a string says why not
    seconds: float
    budget: Budget | None = None  # how the number of paths was chosen, where a time was given

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists; None where a number is not defined or not finite."""
        from itograd.check_record import record

        return record(self)

    def to_json(self) -> str:
        """`to_dict` as JSON, without NaN or Infinity."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False, default=str)


def check(recipe: Recipe, progress: bool | None = None, store: str | os.PathLike | None = None) -> Check:
    """Run the ensembles of a recipe, and say whether the SDE describes it and how far its batch size may be changed.

    With `run.budget` the paths of all ensembles are as many as fit into what the other measurements leave of it
    (`analysis/budget.py`); `Check.budget` says how many that were.

    `progress` shows what is being done on standard error; by default where that is a terminal. `store` is a folder that
    keeps the ensembles while they run: the same check goes on with them after an interruption. What is measured beside
    them, the noise scale and the equilibrium, is measured again.

    Raises ValueError where the SDE diverges at every step size, or another argument turns out not to fit.

    >>> from itograd.recipes import load_recipe
    >>> check(load_recipe("examples/digits_16.toml")).verdict.decision  # doctest: +SKIP
    'trust'
    """
    require(
        store is None or recipe.run.budget is None,
        "give either a store or run.budget: a store goes on with a number of paths that does not change",
    )
    begin = time.monotonic()
    say = _speaker(progress)
    say("[1/3] gradient noise scale at the start and at the end")
    points = _points(recipe)
    scales, regimes = _noise_scales(recipe, points), _regimes(recipe, points)
    say("[2/3] equilibrium and the room for other batch sizes")
    room = batch_size_room(recipe, progress)

    def ensembles(paths: int) -> tuple[Verdict, dict[str, CurveTest | str]]:
        say(f"[3/3] optimiser, optimiser with Gaussian noise, SDE: {paths} paths each, {recipe.steps} steps")
        return _verdict(recipe, paths, progress, store), _curves(recipe, paths, progress, store, say)

    budget = None
    if recipe.run.budget is None:
        found, curves = ensembles(recipe.paths)
    else:
        spent = time.monotonic() - begin
        (found, curves), budget = within(recipe.run.budget, ensembles, spent=spent)
    seconds = time.monotonic() - begin
    return Check(recipe, found, scales, regimes, room, _scaled_recipes(recipe), curves, seconds, budget)


def _verdict(recipe: Recipe, paths: int, progress: bool | None, store) -> Verdict:
    run = recipe.run
    same = {name: getattr(run, name) for name in ("save_every", "seed", "tolerance", "confidence", "order")}
    return verdict(
        recipe.optimizer,
        recipe.problem,
        steps=recipe.steps,
        x0=recipe.x0,
        paths=paths,
        warm_start=recipe.warm_start or None,
        observables=run.observables,
        dtype=run.dtype,
        store=store,
        progress=progress,
        **same,
    )


def _curves(recipe: Recipe, paths: int, progress: bool | None, store, say: Report) -> dict[str, CurveTest | str]:
    """The runs beside the recipe's own: at the amplifications of [run] and the batch sizes of [scale], if they run."""
    run, scaling = recipe.run, recipe.scale
    options: dict[str, Any] = {
        **{name: getattr(run, name) for name in ("tolerance", "confidence", "observables", "dtype")},
        **{"paths": paths, "steps": recipe.steps, "x0": recipe.x0, "store": store, "progress": progress},
    }

    def rule(optimizer, batch_factor):
        return scale(optimizer, batch_factor, scaling.rule, betas=scaling.betas)

    wanted: dict[str, Callable[[], CurveTest]] = {}
    if run.amplifications:
        wanted["svag_test"] = lambda: svag_test(
            recipe.optimizer, recipe.problem, amplifications=run.amplifications, seed=run.seed + 3, **options
        )
    if scaling.run and scaling.batch_sizes:
        seed = run.seed + 4 + len(run.amplifications)  # after those of the verdict and of the SVAG test
        wanted["scaled_runs"] = lambda: scaled_runs(
            recipe.optimizer, recipe.problem, batch_sizes=scaling.batch_sizes, rule=rule, seed=seed, **options
        )
    found: dict[str, CurveTest | str] = {}
    for name, made in wanted.items():
        say(f"[3/3] {name.replace('_', ' ')}: {paths} paths a curve")
        try:
            found[name] = made()
        except ValueError as error:  # no rule for a batch size, or for the optimiser
            found[name] = str(error)
    return found


def batch_size_room(recipe: Recipe, progress: bool | None = None) -> Room:
    """Run the recipe to equilibrium and bound its batch factor, or say why there is no bound."""
    closeness = recipe.scale.closeness

    def none(reason: str) -> Room:
        return Room(None, BatchFactorBounds(closeness, None, None, (reason,)), None)

    optimizer, problem = recipe.optimizer, recipe.problem
    if not isinstance(optimizer, SGD):
        return none(
            f"the equilibrium identity behind the bound is that of SGD: the recipe has {type(optimizer).__name__}"
        )
    if isinstance(optimizer.learning_rate, Schedule):
        return none("a run with a schedule of the learning rate has no equilibrium")
    decay = optimizer.weight_decay + problem.decay
    if decay == 0:
        return none("without weight decay a scale-invariant loss has no equilibrium, and the bound needs one")
    steps = recipe.scale.equilibrium_steps
    if steps is None:
        steps = max(2 * EQUILIBRIUM_SAVES, math.ceil(RELAXATION_TIMES / (optimizer.learning_rate * decay)))
        if steps > LONGEST_EQUILIBRIUM * recipe.steps:
            return none(
                f"not measured: equilibrium takes about {steps} steps, and the recipe has {recipe.steps}; set "
                f"scale.equilibrium_steps to run it"
            )
    try:
        found = equilibrium(
            optimizer,
            problem,
            steps=steps,
            x0=recipe.x0,
            paths=EQUILIBRIUM_PATHS,
            saves=EQUILIBRIUM_SAVES,
            seed=recipe.run.seed,
            dtype=recipe.run.dtype,
            progress=progress,
        )
    except ValueError as error:  # paths that diverge
        return none(str(error))
    return Room(found, found.batch_factor_bounds(closeness), steps)


def _points(recipe: Recipe) -> dict[str, np.ndarray]:
    """Where noise and signal are measured: the start, and the end of one path."""
    start = recipe.problem.x0 if recipe.x0 is None else recipe.x0
    (end,) = final_points(
        recipe.optimizer.chain(recipe.problem), start, recipe.steps, seed=recipe.run.seed, dtype=recipe.run.dtype
    )
    return {"start": start, "end": end}


def _noise_scales(recipe: Recipe, points: dict[str, np.ndarray]) -> dict[str, NoiseScale | str]:
    scales: dict[str, NoiseScale | str] = {}
    for place, x in points.items():
        try:
            scales[place] = noise_scale(recipe.problem, x, seed=recipe.run.seed, confidence=recipe.run.confidence)
        except ValueError as error:
            scales[place] = str(error)
    return scales


def _regimes(recipe: Recipe, points: dict[str, np.ndarray]) -> dict[str, Regime | str]:
    """The signal in the second moment of an adaptive method, before a larger batch is run; none for other methods."""
    found: dict[str, Regime | str] = {}
    if isinstance(recipe.optimizer, AdaptiveMethod):
        for place, x in points.items():
            try:
                found[place] = regime(recipe.optimizer, recipe.problem, x, tolerance=recipe.run.tolerance)
            except ValueError as error:
                found[place] = str(error)
    return found


def _scaled_recipes(recipe: Recipe) -> tuple[ScaledRecipe | str, ...]:
    found: list[ScaledRecipe | str] = []
    for size in recipe.scale.batch_sizes:
        try:
            found.append(scaled_recipe(recipe.training, size, rule=recipe.scale.rule, betas=recipe.scale.betas))
        except ValueError as error:
            found.append(f"batch size {size}: {error}")
    return tuple(found)


def _speaker(progress: bool | None) -> Report:
    wanted = sys.stderr.isatty() if progress is None else progress
    return (lambda line: print(line, file=sys.stderr, flush=True)) if wanted else (lambda line: None)
