"""The report page: one HTML file that needs nothing beside it, made from the numbers of check.json."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from itograd.report.numerals import interval, number, of_unit, percent, with_error
from itograd.report.words import NECESSARY, conclusion, problem_name, reasons, setting, simple_scale_sentence


def page(found: Mapping[str, Any], images: Mapping[str, bytes], *, recipe: str, panels: list[str],
         errors_are_small: bool) -> str:
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
    environment.globals.update(with_error=with_error)
    template = environment.from_string((files("itograd") / "report" / "page.html.j2").read_text(encoding="utf-8"))
    captions = {"trajectories": _trajectories(found, panels, errors_are_small), "weak_error": _weak_error(found),
                "noise_scale": _noise_scale(found)}
    return template.render(
        found=found, run=found["run"], room=found["batch_size_room"], recipe=recipe.strip(), captions=captions,
        images={name: f"data:image/svg+xml;base64,{base64.b64encode(image).decode()}" for name, image in images.items()},
        conclusion=conclusion(found), reasons=reasons(found), setting=setting(found), problem=problem_name(found), necessary=NECESSARY,
        scale_sentence=simple_scale_sentence(found))


def _symbols(text: str) -> Markup:
    """The text, escaped, with B_simple as a symbol."""
    return Markup(str(escape(text)).replace("B_simple", "<i>B</i><sub>simple</sub>"))


def _trajectories(found: Mapping[str, Any], panels: list[str], errors_are_small: bool) -> str:
    run, rows = found["run"], found["final_weak_errors"]
    left_out = len(rows) - len(panels)
    errors = ("Standard errors of the means are too small to be seen." if errors_are_small else
              "The standard error of a mean is its band's half width divided by 2√(number of paths).")
    ends = "; ".join(f"{row['observable']}: {with_error(row['optimizer_mean'], row['optimizer_standard_error'])} and "
                     f"{with_error(row['sde_mean'], row['sde_standard_error'])}" for row in rows if row["observable"] in panels)
    some = f" Shown are the {len(panels)} of {len(rows)} observables with the largest weak error." if left_out else ""
    return (f"Optimiser (solid) and SDE (dashed): mean over {run['paths']} paths each, and two standard deviations of a "
            f"single path to either side. Circles: mean of the optimiser with Gaussian noise of the same covariance. {errors} "
            f"At time {number(run['time'], 6)}, optimiser and SDE, ± standard error: {ends}.{some}")


def _weak_error(found: Mapping[str, Any]) -> str:
    rows = [row for row in found["assumptions"] if row["name"].startswith("weak error of ")]
    worst = max(rows, key=lambda row: row["measured"] if row["measured"] is not None else -1)
    largest = f"The largest, {percent(worst['measured'])} (band {interval(worst['interval'], True)}), is the {worst['name']}."
    return (f"Weak error, mean of the optimiser less mean of the SDE, in per cent of each observable's range over the run. "
            f"Bars: one standard error; shaded: the {percent(found['confidence'])} band that holds for all observables and "
            f"times at once ({number(found['run']['band_quantile'])} standard errors, and the SDE's own discretisation "
            f"error). Dashed: the tolerance, {percent(found['tolerance'])}. Dotted: the optimiser with Gaussian noise, "
            f"whose error is that of the finite step alone. {largest}")


def _noise_scale(found: Mapping[str, Any]) -> str:
    room = found["batch_size_room"]
    bound = (f"Shaded: batch sizes within the necessary bound, up to {number(room['sharp'] * found['run']['batch_size'])}."
             if room["sharp"] else "There is no bound to draw; the reasons stand in the text.")
    return (f"Batch sizes and the simple noise scale B_simple = B tr Σ/|∇L|², with {percent(found['confidence'])} intervals "
            f"(an arrow: no upper end; at equilibrium: two standard errors). {bound}")
