"""The record of a check: plain numbers, strings and lists, for JSON and for the report."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from itograd import __version__
from itograd.analysis.assumption import FAILS, HOLDS, OPEN, Assumption
from itograd.analysis.bands import band, observable_scale
from itograd.analysis.curves import Curve, CurveTest
from itograd.analysis.equilibrium import Equilibrium
from itograd.analysis.regime import Regime
from itograd.analysis.verdict import Verdict
from itograd.check import EQUILIBRIUM_PATHS, Check, Room
from itograd.scaling import ScaledRecipe, bound_sentence, clock_formula, describe

FORMAT = "itograd check 1"
TRUSTED = {HOLDS: "may be trusted", FAILS: "may not be trusted", OPEN: "cannot be judged"}


def record(check: Check) -> dict[str, Any]:
    """All that a check found; None where a number is not defined or not finite."""
    result = check.verdict
    return plain_numbers(
        {
            "format": FORMAT,
            "verdict": result.decision,
            "reasons": list(result.reasons),
            "remarks": list(result.remarks),
            "tolerance": result.tolerance,
            "confidence": result.confidence,
            "assumptions": [_assumption(row) for row in result.assumptions],
            "reach": _reach(result),
            "final_weak_errors": final_weak_errors(result),
            "noise_scale": {
                place: found if isinstance(found, str) else asdict(found) for place, found in check.noise_scales.items()
            },
            "batch_size_room": _room(check.room),
            "regime": {place: _regime(found) for place, found in check.regimes.items()},
            "scaled_recipes": [_scaled(found, check) for found in check.scaled],
            "curves": {name: _curve_test(found) for name, found in check.curves.items()},
            "run": _run(check),
            "recipe": {"name": check.recipe.name, **check.recipe.document},
        }
    )


def _reach(result: Verdict) -> dict[str, Any]:
    """What the number of paths could tell, and what it would take to tell more."""
    numbers = {name: getattr(result, name) for name in ("resolvable", "paths_needed", "seconds_needed")}
    return {**numbers, "sentence": result.reach}


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


def simple_noise_scale_interval(found: Equilibrium) -> tuple[float, float]:
    """A cautious interval of B_simple at equilibrium: N and G are moved by two standard errors each, apart."""
    (n, n_error), (g, g_error) = found.noise_trace, found.squared_gradient
    low, high = max(n - 2 * n_error, 0.0) / (g + 2 * g_error), math.inf
    if g > 2 * g_error:
        high = (n + 2 * n_error) / (g - 2 * g_error)
    return found.batch_size * low, found.batch_size * high


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


def _regime(found: Regime | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"reason": found}
    return {
        "levels": found.levels,
        "squared_signal": [r2.value for r2 in found.weighted_squared_signal],
        "largest_batch_factor": found.largest_batch_factor.value,
        "linear_from": found.linear_from.value,
        "tolerance": found.tolerance,
    }


def _scaled(scaled: ScaledRecipe | str, check: Check) -> dict[str, Any]:
    if isinstance(scaled, str):
        return {"reason": scaled}
    bounds = check.room.bounds
    bound = bound_sentence(scaled.batch_factor, bounds.sharp, bounds.closeness)
    if check.regimes and scaled.is_own:
        bound = "; ".join(_trusted(place, found, scaled) for place, found in check.regimes.items())
    return {**scaled.to_dict(), "bound": bound}


def _trusted(place: str, found: Regime | str, scaled: ScaledRecipe) -> str:
    """Whether the own rule of an adaptive method may be trusted for a batch factor, judged at one place."""
    if isinstance(found, str):
        return f"at the {place}: {found}"
    trust = found.may_scale(scaled.batch_factor, scaled.betas or "memory")
    return f"at the {place} the rule {TRUSTED[trust.outcome]} ({trust.reason})"


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
        "paths": found.verdict.paths,
        "budget": None if found.budget is None else {**asdict(found.budget), "sentence": str(found.budget)},
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
