"""The report page: one HTML file that needs nothing beside it, made from the numbers of check.json."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from itograd.report.numerals import interval, number, of_unit, percent, with_error
from itograd.report.side_by_side import side_by_side
from itograd.report.words import (
    CURVES,
    NECESSARY,
    conclusion,
    curve_notes,
    problem_name,
    reasons,
    regime_sentence,
    setting,
    simple_scale_sentence,
)


def page(
    found: dict[str, Any], images: Mapping[str, bytes], *, recipe: str, panels: list[str], errors_are_small: bool
) -> str:
    """The page as HTML.

    Args:
        found: `to_dict` of a check.
        images: the figures as SVG, by name.
        recipe: the text of the recipe.
        panels: the observables that the figures show.
        errors_are_small: whether the standard errors of the means are too small to be seen in the trajectories.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, percent=percent, interval=interval, of_unit=of_unit, symbols=_symbols)
    environment.filters.update(side_by_side=side_by_side)
    environment.globals.update(with_error=with_error)
    template = environment.from_string((files("itograd") / "report" / "page.html.j2").read_text(encoding="utf-8"))
    captions = {
        "trajectories": _trajectories(found, panels, errors_are_small),
        "weak_error": _weak_error(found),
        "noise_scale": _noise_scale(found),
        **{name: _curves(name, test, found) for name, test in found["curves"].items() if name in images},
    }
    return template.render(
        found=found,
        run=found["run"],
        room=found["batch_size_room"],
        scaled=[row for row in found["scaled_recipes"] if "new" in row],
        recipe=recipe.strip(),
        captions=captions,
        images={
            name: f"data:image/svg+xml;base64,{base64.b64encode(image).decode()}" for name, image in images.items()
        },
        conclusion=conclusion(found),
        reasons=reasons(found),
        setting=setting(found),
        problem=problem_name(found),
        necessary=NECESSARY,
        curve_titles=CURVES,
        curve_notes=curve_notes,
        regime_sentence=regime_sentence,
        scale_sentence=simple_scale_sentence(found),
    )


def _symbols(text: str) -> Markup:
    """The text, escaped, with B_simple as a symbol."""
    return Markup(str(escape(text)).replace("B_simple", "<i>B</i><sub>simple</sub>"))


def _trajectories(found: dict[str, Any], panels: list[str], errors_are_small: bool) -> str:
    run, rows = found["run"], found["final_weak_errors"]
    errors = (
        "Standard errors of the means are too small to be seen."
        if errors_are_small
        else "The standard error of a mean is the half width of its band divided by 2√(number of paths)."
    )
    ends = "; ".join(
        f"{row['observable']}: {with_error(row['optimizer_mean'], row['optimizer_standard_error'])} and "
        f"{with_error(row['sde_mean'], row['sde_standard_error'])}"
        for row in rows
        if row["observable"] in panels
    )
    chosen = f" Shown are the {len(panels)} of {len(rows)} observables with the largest weak error."
    return (
        f"Optimiser (solid) and SDE (dashed): mean over {run['paths']} paths each, and two standard deviations of "
        "a single path to either side. Circles: mean of the optimiser with Gaussian noise of the same covariance. "
        f"{errors} At time {number(run['time'], 6)}, optimiser and SDE, ± standard error: {ends}."
        f"{chosen if len(rows) > len(panels) else ''}"
    )


def _weak_error(found: dict[str, Any]) -> str:
    rows = [row for row in found["assumptions"] if row["name"].startswith("weak error of ")]
    worst = max(rows, key=lambda row: row["measured"] if row["measured"] is not None else -1)
    return (
        "Weak error, mean of the optimiser less mean of the SDE, in per cent of each observable's range over the "
        f"run. Bars: one standard error; shaded: the {percent(found['confidence'])} band that holds for all "
        f"observables and times at once ({number(found['run']['band_quantile'])} standard errors, and the SDE's "
        f"own discretisation error). Dashed: the tolerance, {percent(found['tolerance'])}. Dotted: the optimiser "
        "with Gaussian noise, whose error is that of the finite step alone. The largest, "
        f"{percent(worst['measured'])} (band {interval(worst['interval'], True)}), is the {worst['name']}."
    )


def _noise_scale(found: dict[str, Any]) -> str:
    room, batch = found["batch_size_room"], found["run"]["batch_size"]
    bound = (
        f"Shaded: batch sizes within the necessary bound, up to {number(room['sharp'] * batch)}."
        if room["sharp"]
        else "There is no bound to draw; the reasons stand in the text."
    )
    return (
        "Batch sizes and the simple noise scale B_simple = B tr Σ/|∇L|², with "
        f"{percent(found['confidence'])} intervals (an arrow: no upper end; at equilibrium: two standard errors). "
        f"{bound}"
    )


def _curves(name: str, test: dict[str, Any], found: dict[str, Any]) -> str:
    reference = {"svag_test": "the optimiser", "scaled_runs": "the recipe"}[name]
    equal = "" if name == "svag_test" else " Times are the recipe's, at equal numbers of examples."
    parts = any(time is not None for curve in test["curves"] for time in curve["parting"].values())
    return (
        f"Means over {found['run']['paths']} paths of {reference} (solid) and of each run beside it (dashed; bars: two "
        f"standard errors). Shaded: the tolerance, {percent(found['tolerance'])} of the scale, about {reference}."
        f"{equal}{' A cross: the first time at which a curve has surely left it.' if parts else ''}"
    )
