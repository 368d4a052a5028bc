"""The curves of `svag_test` and `scaled_runs`: means against time, about the reference and its tolerance."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from itograd.analysis.bands import observable_scale
from itograd.analysis.curves import CurveTest
from itograd.report.figures import INK, LIMIT, MAX_PANELS, label, panels

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def curves(test: CurveTest, clock: str) -> Figure:
    """A panel for each observable, at most six: the reference with its tolerance, and the runs beside it."""
    reference = test.reference
    names = reference.observable.values.tolist()
    scales = dict(zip(names, observable_scale(reference)))

    def draw(axes, name: str) -> None:
        time, mean = reference.time.values, reference["mean"].sel(observable=name).values
        margin = test.tolerance * scales[name]
        axes.fill_between(time, mean - margin, mean + margin, color=LIMIT, alpha=0.16, linewidth=0, label="tolerance")
        axes.plot(time, mean, color=INK, linewidth=1.4, label=f"recipe, {test.reference_label}")
        for number, curve in enumerate(test.curves):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            own = curve.runs.sel(observable=name)
            every = max(1, len(time) // 10)
            axes.errorbar(
                own.time.values,
                own["mean"].values,
                yerr=2 * own["mean_standard_error"].values,
                errorevery=(number % every, every),
                markevery=(number % every, every),
                linestyle="--",
                linewidth=1.1,
                color=colour,
                marker=marker,
                markersize=3.6,
                capsize=2,
                elinewidth=0.8,
                label=curve.label,
            )
            if (parting := curve.parting[name]) is not None:
                there = np.interp(parting, own.time.values, own["mean"].values)
                axes.plot(parting, there, "x", color=colour, markersize=9, markeredgewidth=2)
        axes.set_ylabel(label(name))

    return panels(names[:MAX_PANELS], draw, clock, share_y=False)
