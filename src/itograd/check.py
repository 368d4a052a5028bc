"""The main job: does the SDE describe this recipe, and how far may its batch size be changed?

`check` runs the ensembles of a recipe and measures; it prints and writes nothing. What it found is a `Check`, whose
`to_dict` holds plain finite numbers: the JSON file, the tables and the report page are all made from it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from itograd import __version__
from itograd.analysis.assumption import Assumption
from itograd.analysis.bands import band, observable_scale
from itograd.analysis.curves import Curve, CurveTest, scaled_runs, svag_test
from itograd.analysis.equilibrium import BatchFactorBounds, Equilibrium, equilibrium
from itograd.analysis.noise_scale import NoiseScale, noise_scale
from itograd.analysis.verdict import Verdict, verdict
from itograd.optimizers.optimizer import scale
from itograd.optimizers.sgd import SGD
from itograd.recipes import Recipe
from itograd.scaling import ScaledRecipe, bound_sentence, clock_formula, describe, scaled_recipe
from itograd.simulation.engine import final_points
from itograd.simulation.schedule import Schedule

FORMAT = "itograd check 1"

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
    room: Room
    scaled: tuple[ScaledRecipe | str, ...]  # by scale.batch_sizes; a string says why there is none
    curves: dict[
        str, CurveTest | str
    ]  # "svag_test", "scaled_runs", where the recipe asks for them; a string says why not
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists; None where a number is not defined or not finite."""
        result = self.verdict
        return plain_numbers(
            {
                "format": FORMAT,
                "verdict": result.decision,
                "reasons": list(result.reasons),
                "remarks": list(result.remarks),
                "tolerance": result.tolerance,
                "confidence": result.confidence,
                "assumptions": [_assumption(row) for row in result.assumptions],
                "final_weak_errors": final_weak_errors(result),
                "noise_scale": {
                    place: found if isinstance(found, str) else asdict(found)
                    for place, found in self.noise_scales.items()
                },
                "batch_size_room": _room(self.room),
                "scaled_recipes": [_scaled(found, self.room) for found in self.scaled],
                "curves": {name: _curve_test(found) for name, found in self.curves.items()},
                "run": _run(self),
                "recipe": {"name": self.recipe.name, **self.recipe.document},
            }
        )

    def to_json(self) -> str:
        """`to_dict` as JSON, without NaN or Infinity."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False, default=str)


def check(recipe: Recipe, progress: bool | None = None) -> Check:
    """Run the ensembles of a recipe, and say whether the SDE describes it and how far its batch size may be changed.

    `progress` shows what is being done on standard error; by default where that is a terminal.

    Raises ValueError where the SDE diverges at every step size, or another argument turns out not to fit.

    >>> from itograd.recipes import load_recipe
    >>> check(load_recipe("examples/digits_16.toml")).verdict.decision  # doctest: +SKIP
    'trust'
    """
    begin = time.monotonic()
    say = _speaker(progress)
    run = recipe.run
    say(f"[1/3] optimiser, optimiser with Gaussian noise, SDE: {run.paths} paths each, {recipe.steps} steps")
    found = verdict(
        recipe.optimizer,
        recipe.problem,
        steps=recipe.steps,
        save_every=run.save_every,
        x0=recipe.x0,
        paths=run.paths,
        seed=run.seed,
        tolerance=run.tolerance,
        confidence=run.confidence,
        order=run.order,
        warm_start=recipe.warm_start or None,
        observables=run.observables,
        dtype=run.dtype,
        progress=progress,
    )
    curves = _curves(recipe, progress, say)
    say("[2/3] gradient noise scale at the start and at the end")
    scales = _noise_scales(recipe)
    say("[3/3] equilibrium and the room for other batch sizes")
    room = batch_size_room(recipe, progress)
    return Check(recipe, found, scales, room, _scaled_recipes(recipe), curves, time.monotonic() - begin)


def _curves(recipe: Recipe, progress: bool | None, say: Report) -> dict[str, CurveTest | str]:
    """The runs beside the recipe's own: at the amplifications of [run] and the batch sizes of [scale], if they run."""
    run, scaling = recipe.run, recipe.scale
    options: dict[str, Any] = {
        **{name: getattr(run, name) for name in ("paths", "tolerance", "confidence", "observables", "dtype")},
        **{"steps": recipe.steps, "x0": recipe.x0, "progress": progress},
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
        say(f"[1/3] {name.replace('_', ' ')}: {run.paths} paths a curve")
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


def simple_noise_scale_interval(found: Equilibrium) -> tuple[float, float]:
    """A cautious interval of B_simple at equilibrium: N and G are moved by two standard errors each, apart."""
    (n, n_error), (g, g_error) = found.noise_trace, found.squared_gradient
    low, high = max(n - 2 * n_error, 0.0) / (g + 2 * g_error), math.inf
    if g > 2 * g_error:
        high = (n + 2 * n_error) / (g - 2 * g_error)
    return found.batch_size * low, found.batch_size * high


def final_weak_errors(result: Verdict) -> list[dict[str, Any]]:
    """Means, weak error and standard errors of every observable at the end of the run."""
    total, scale = result.errors["total"], observable_scale(result.flow)
    own = {
        name: total[name].values[-1] if name in total else np.zeros(total.sizes["observable"])
        for name in ("discretisation_error", "discretisation_error_standard_error")
    }
    rows = []
    for i, name in enumerate(total.observable.values.tolist()):
        error, sampling = float(total["weak_error"].values[-1, i]), float(total["standard_error"].values[-1, i])
        standard = math.hypot(sampling, own["discretisation_error_standard_error"][i])
        rows.append(
            {
                "observable": name,
                "time": float(total.time.values[-1]),
                "optimizer_mean": float(result.runs["mean"].values[-1, i]),
                "optimizer_standard_error": float(result.runs["mean_standard_error"].values[-1, i]),
                "sde_mean": float(result.flow["mean"].values[-1, i]),
                "sde_standard_error": float(result.flow["mean_standard_error"].values[-1, i]),
                "weak_error": error,
                "standard_error": standard,
                "standard_errors_from_zero": abs(error) / standard if standard > 0 else None,
                "scale": float(scale[i]),
                "share_of_scale": error / float(scale[i]) if scale[i] > 0 else None,
            }
        )
    return rows


def _noise_scales(recipe: Recipe) -> dict[str, NoiseScale | str]:
    start = recipe.problem.x0 if recipe.x0 is None else recipe.x0
    (end,) = final_points(
        recipe.optimizer.chain(recipe.problem), start, recipe.steps, seed=recipe.run.seed, dtype=recipe.run.dtype
    )
    scales: dict[str, NoiseScale | str] = {}
    for place, x in (("start", start), ("end", end)):
        try:
            scales[place] = noise_scale(recipe.problem, x, seed=recipe.run.seed, confidence=recipe.run.confidence)
        except ValueError as error:
            scales[place] = str(error)
    return scales


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


# ------------------------------------------------------------------------------------------------- plain numbers


def _curve_test(found: CurveTest | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"reason": found}
    return {
        "decision": found.decision,
        "reasons": list(found.reasons),
        "remarks": list(found.remarks),
        "curves": [_curve(curve) for curve in found.curves],
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        **{name: getattr(curve, name) for name in ("label", "steps", "decision", "parting", "paths_needed")},
        "assumptions": [_assumption(row) for row in curve.rows],
    }


def room_to_dict(room: Room) -> dict[str, Any]:
    """The measured equilibrium and the bounds as plain numbers."""
    return plain_numbers(_room(room))


def _scaled(scaled: ScaledRecipe | str, room: Room) -> dict[str, Any]:
    if isinstance(scaled, str):
        return {"reason": scaled}
    return {
        **scaled.to_dict(),
        "bound": bound_sentence(scaled.batch_factor, room.bounds.sharp, room.bounds.closeness),
    }


def _room(room: Room) -> dict[str, Any]:
    found = room.equilibrium
    return {
        **asdict(room.bounds),
        "sharp_interval": _sharp_interval(room),
        "equilibrium": None
        if found is None
        else {
            "steps": room.steps,
            "paths": EQUILIBRIUM_PATHS,
            "batch_size": found.batch_size,
            "squared_norm": found.squared_norm,
            "squared_gradient": found.squared_gradient,
            "noise_trace": found.noise_trace,
            "simple_noise_scale": found.simple_noise_scale,
            "simple_noise_scale_interval": simple_noise_scale_interval(found),
            "guards": [_assumption(guard) for guard in found.guards],
        },
    }


def _sharp_interval(room: Room) -> tuple[float, float] | None:
    """The sharp bound 1 + (C² − 1)(1 + N/G) over the interval of N/G."""
    if room.equilibrium is None or room.bounds.sharp is None:
        return None
    gain, batch = room.bounds.closeness**2 - 1, room.equilibrium.batch_size
    low, high = (1 + gain * (1 + end / batch) for end in simple_noise_scale_interval(room.equilibrium))
    return low, high


def _assumption(row: Assumption) -> dict[str, Any]:
    return asdict(row)


def _run(found: Check) -> dict[str, Any]:
    recipe, flow, runs = found.recipe, found.verdict.flow, found.verdict.runs
    problem, optimizer = recipe.problem, recipe.optimizer
    return {
        "optimizer": describe(optimizer),
        "clock": clock_formula(optimizer),
        "time_per_step": float(optimizer.time_per_step),
        "steps": recipe.steps,
        "time": recipe.steps * float(optimizer.time_per_step),
        "batch_size": problem.batch_size,
        "problem": type(problem).__name__,
        "parameters": problem.dim,
        "examples": problem.dataset_size,
        "sampling": problem.sampling,
        "weight_decay": optimizer_decay(optimizer) + problem.decay,
        "order": recipe.run.order,
        "paths": recipe.run.paths,
        "seed": recipe.run.seed,
        "dtype": recipe.run.dtype,
        "save_points": int(runs.sizes["time"]),
        "band_quantile": band(found.verdict.errors["total"], found.verdict.confidence),
        "scheme": flow.attrs.get("scheme"),
        "dt": flow.attrs.get("dt"),
        "diverged": {"optimizer": int(runs["diverged"].values[-1]), "sde": int(flow["diverged"].values[-1])},
        "seconds": round(found.seconds, 2),
        "versions": {
            "itograd": __version__,
            "jax": runs.attrs.get("jax_version"),
            "numpy": runs.attrs.get("numpy_version"),
        },
    }


def optimizer_decay(optimizer) -> float:
    """The coupled weight decay of the optimiser, beside the problem's own."""
    return float(getattr(optimizer, "weight_decay", 0.0))


def plain_numbers(value: Any) -> Any:
    """The same tree with plain Python numbers, and None for what is not finite.

    >>> plain_numbers({"a": np.float32(0.5), "b": (1, float("inf"))})
    {'a': 0.5, 'b': [1, None]}
    """
    if isinstance(value, dict):
        return {str(key): plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain_numbers(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
