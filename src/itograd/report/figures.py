"""The figures of a check: trajectories, weak error against time, and the batch size on the scale of the noise.

Each is a `matplotlib.figure.Figure` of its own; neither pyplot nor the global settings are touched. Colours are Okabe
and Ito's, which colour-blind readers can tell apart; markers and dashes say the same once more.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from itograd.analysis.bands import band, observable_scale
from itograd.analysis.verdict import Verdict

OPTIMIZER, SDE, GAUSSIAN, LIMIT, INK = "#0072B2", "#D55E00", "#009E73", "#4D4D4D", "#222222"
MAX_PANELS = 6

STYLE: Any = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "itograd",  # the same figure gives the same bytes
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
}

_LABELS = {"loss": r"loss $L$", "squared_norm": r"squared norm $|x|^2$", "accuracy": "accuracy"}


def label(observable: str) -> str:
    """The name of an observable as an axis label."""
    if observable in _LABELS:
        return _LABELS[observable]
    component = observable[:1] == "x" and observable[1:].isdigit()
    return rf"$x_{{{observable[1:]}}}$" if component else observable.replace("_", " ")


def shown_observables(result: Verdict) -> list[str]:
    """The observables with a panel: all, or those with the largest weak error where they are many."""
    error = result.errors["total"]
    share = np.abs(error["weak_error"].values) / observable_scale(result.flow)
    largest = np.nan_to_num(share, nan=np.inf).max(axis=0)
    chosen = sorted(np.argsort(-largest, kind="stable")[:MAX_PANELS])
    return [str(error.observable.values[i]) for i in chosen]


def trajectories(result: Verdict, clock: str) -> Figure:
    """Means of optimiser, SDE and optimiser with Gaussian noise; of the first two also ± 2 standard deviations."""

    def draw(axes, name: str) -> None:
        for data, colour, style, text in ((result.flow, SDE, "--", "SDE"), (result.runs, OPTIMIZER, "-", "optimiser")):
            mean, width = _of(data, "mean", name), 2 * np.sqrt(_of(data, "variance", name))
            axes.fill_between(data.time, mean - width, mean + width, color=colour, alpha=0.16, linewidth=0)
            axes.plot(data.time, mean, style, color=colour, linewidth=1.5, label=f"{text}: mean, ± 2 s.d. of a path")
        gaussian = result.gaussian
        axes.plot(
            gaussian.time,
            _of(gaussian, "mean", name),
            linestyle="none",
            marker="o",
            markersize=3.6,
            markerfacecolor="none",
            markeredgecolor=GAUSSIAN,
            markeredgewidth=0.9,
            markevery=_every(gaussian, 12),
            label="optimiser with Gaussian noise: mean",
        )
        axes.set_ylabel(label(name))

    return panels(shown_observables(result), draw, clock, share_y=False)


def weak_errors(result: Verdict, clock: str) -> Figure:
    """Weak error against time in % of the observable's scale: standard errors, simultaneous band, tolerance."""
    scales = dict(zip(result.flow.observable.values.tolist(), observable_scale(result.flow)))
    total, finite_step = result.errors["total"], result.errors["finite_step"]
    z = band(total, result.confidence)

    def draw(axes, name: str) -> None:
        unit = 100 / scales[name] if scales[name] > 0 else np.nan
        time, value = total.time.values, unit * _of(total, "weak_error", name)
        standard, own = (unit * part for part in _spread(total, name))
        axes.fill_between(
            time,
            value - z * standard - own,
            value + z * standard + own,
            color=OPTIMIZER,
            alpha=0.16,
            linewidth=0,
            label=f"simultaneous {result.confidence:.0%} band",
        )
        every = _every(total, 24)
        axes.errorbar(
            time,
            value,
            yerr=standard,
            errorevery=every,
            markevery=every,
            color=OPTIMIZER,
            linewidth=1.2,
            marker="o",
            markersize=3.4,
            capsize=2,
            elinewidth=0.9,
            label="optimiser − SDE, ± 1 s.e.",
        )
        axes.plot(
            finite_step.time,
            unit * _of(finite_step, "weak_error", name),
            ":",
            color=GAUSSIAN,
            linewidth=1,
            marker="o",
            markersize=3.4,
            markevery=every,
            markerfacecolor="white",
            label="the same with Gaussian noise",
        )
        axes.axhline(0, color=INK, linewidth=0.7)
        for sign in (-1, 1):
            axes.axhline(
                sign * 100 * result.tolerance,
                color=LIMIT,
                linewidth=0.9,
                linestyle=(0, (5, 3)),
                label="tolerance" if sign > 0 else None,
            )
        axes.set_title(label(name))

    return panels(shown_observables(result), draw, clock, share_y=True, y_label="weak error, % of scale")


def noise_scales(found: dict[str, Any]) -> Figure:
    """The batch sizes of a check (its `to_dict`) on one logarithmic axis with B_simple and the bound."""
    room, batch = found["batch_size_room"], found["run"]["batch_size"]
    rows = [
        (f"$B_{{\\rm simple}}$ at the {place}", scale["simple"], scale["simple_interval"])
        for place, scale in found["noise_scale"].items()
        if isinstance(scale, dict) and scale["simple"] is not None
    ]
    if room["equilibrium"] and room["equilibrium"]["simple_noise_scale"] is not None:
        rows.append(
            (
                "$B_{\\rm simple}$ at equilibrium",
                room["equilibrium"]["simple_noise_scale"],
                room["equilibrium"]["simple_noise_scale_interval"],
            )
        )
    others = [scaled["new"]["batch_size"] for scaled in found["scaled_recipes"] if "new" in scaled]
    bounds = [room["sharp"] * batch] if room["sharp"] else []
    seen = [batch, *others, *bounds] + [value for _, value, _ in rows]
    seen += [end for _, _, interval in rows for end in interval if end]
    low, high = max(min(seen) / 2.2, 0.6), max(seen) * 2.2
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 1.35 + 0.36 * (len(rows) + 1)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for position, (_, value, interval) in enumerate(rows, start=1):
            end = interval[1] if interval[1] is not None else high
            axes.plot(
                [max(interval[0], low), end], [position, position], color=GAUSSIAN, linewidth=2, solid_capstyle="butt"
            )
            if interval[1] is None:  # no upper end
                axes.plot(high / 1.06, position, marker=">", color=GAUSSIAN, markersize=6)
            axes.plot(value, position, "o", color=GAUSSIAN, markersize=6, markeredgecolor="white")
        axes.plot(batch, 0, "s", color=OPTIMIZER, markersize=7, label="this recipe")
        if others:
            axes.plot(
                others,
                [0] * len(others),
                "D",
                markerfacecolor="white",
                markeredgecolor=OPTIMIZER,
                markersize=6,
                label="batch sizes asked for",
            )
        if bounds:
            axes.axvspan(low, bounds[0], color=OPTIMIZER, alpha=0.08, linewidth=0)
            axes.axvline(bounds[0], color=LIMIT, linestyle=(0, (5, 3)), linewidth=1, label="bound, necessary")
        axes.set_yticks(range(len(rows) + 1), ["batch size $B$", *(name for name, _, _ in rows)])
        axes.set_ylim(len(rows) + 0.6, -0.6)
        axes.set_xscale("log", base=2)
        axes.set_xlim(low, high)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("examples in a batch")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#E4E4E4", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=3)
    return figure


def render(figure: Figure, file_format: str) -> bytes:
    """The figure as "png" (200 dots an inch) or "svg"; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if file_format == "svg" else {"Software": None}
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=file_format, dpi=200, metadata=metadata)
    return buffer.getvalue()


def errors_too_small_to_see(result: Verdict, names: Iterable[str]) -> bool:
    """Whether every standard error of a mean is below a hundredth of the range that its panel shows."""
    for data in (result.runs, result.flow):
        for name in names:
            mean, deviation = _of(data, "mean", name), np.sqrt(_of(data, "variance", name))
            shown = np.nanmax(mean + 2 * deviation) - np.nanmin(mean - 2 * deviation)
            if not np.nanmax(_of(data, "mean_standard_error", name)) <= 0.01 * shown:
                return False
    return True


def panels(names: list[str], draw: Callable, clock: str, *, share_y: bool, y_label: str | None = None) -> Figure:
    """A panel for each observable, which `draw(axes, name)` fills, with one legend and continuous time below."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with matplotlib.rc_context(STYLE):
        width = 3.6 * columns if columns < 2 else 7.4
        figure = Figure(figsize=(max(width, 4.6), 0.55 + 2.35 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
        for axes, name in zip(grid.flat, names):
            draw(axes, name)
            axes.margins(x=0.02)
            axes.locator_params(axis="x", nbins=5)
        for axes in list(grid.flat)[len(names) :]:
            axes.set_visible(False)
        if y_label:
            for row in grid:
                row[0].set_ylabel(y_label)
        figure.supxlabel(f"continuous time {_mathematics(clock)}", fontsize=10)
        handles, texts = _in_order(*grid.flat[0].get_legend_handles_labels())
        figure.legend(
            handles, texts, loc="outside upper center", ncols=min(len(texts), 4), columnspacing=1.4, handlelength=2.0
        )
    return figure


def _in_order(handles: list, texts: list[str]) -> tuple[list, list[str]]:
    """The optimiser first in the legend, whatever was drawn first."""
    order = sorted(range(len(texts)), key=lambda i: not texts[i].startswith(("optimiser", "recipe")))
    return [handles[i] for i in order], [texts[i] for i in order]


def _mathematics(clock: str) -> str:
    """t = k√η as matplotlib's mathematics."""
    for plain, tex in (("√η", r"\sqrt{\eta}"), ("η", r"\eta"), ("μ", r"\mu"), ("−", "-")):
        clock = clock.replace(plain, tex)
    return f"${clock}$"


def _of(data: xr.Dataset, variable: str, observable: str) -> np.ndarray:
    return data[variable].sel(observable=observable).values


def _spread(error: xr.Dataset, observable: str) -> tuple[np.ndarray, np.ndarray]:
    """(standard error, discretisation error of the SDE) of one observable."""
    standard = _of(error, "standard_error", observable)
    if "discretisation_error" not in error:
        return standard, np.zeros_like(standard)
    return (
        np.hypot(standard, _of(error, "discretisation_error_standard_error", observable)),
        np.abs(_of(error, "discretisation_error", observable)),
    )


def _every(data: xr.Dataset, markers: int) -> int:
    """Which points to mark, so that there are no more than so many markers."""
    return -(-data.sizes["time"] // markers)
