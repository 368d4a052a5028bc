"""The figures of `itograd asynchrony`: staleness against its law, and trajectories predicted against simulated.

On each end of the curvature range h x²/2 runs from x = 1 without noise of batches, so that all scatter is that of
staleness. Predicted are the exact moments of the law that stands for the delays (`advice.py`), simulated is the queue
or the trace itself.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from itograd.analysis.moments import moments
from itograd.asynchrony.advice import LONGEST_SEARCH, Advice
from itograd.asynchrony.asynchronous import Asynchronous
from itograd.asynchrony.closed_law import WRITES
from itograd.asynchrony.events import simulate_events
from itograd.asynchrony.staleness import Geometric
from itograd.asynchrony.trace import Trace
from itograd.asynchrony.worker_queue import WorkerQueue
from itograd.problems.quadratic import Quadratic
from itograd.report.figures import INK, OPTIMIZER, SDE, STYLE, render
from itograd.report.folder import Kind
from itograd.report.numerals import number
from itograd.simulation.ensemble import simulate

FIGURES = ("staleness", "trajectories")
FOLDER = Kind(
    "asynchrony.json",
    "itograd asynchrony",
    ("asynchrony.json", *(f"{name}.{ending}" for name in FIGURES for ending in ("png", "svg"))),
    "earlier advice",
)
PATHS, MOST_HELD = 2048, 20_000_000  # paths, and snapshots of workers in all of them
STEPS, STEPS_OF_RING, SAVED = 400, 150, 40
MOST_BARS = 100


def write_figures(advice: Advice, seed: int, folder: Path) -> None:
    """Write both figures as PNG and SVG into a folder."""
    for name, figure in zip(FIGURES, (staleness(advice, seed), trajectories(advice, *both_moments(advice, seed)))):
        for ending in ("png", "svg"):
            (folder / f"{name}.{ending}").write_bytes(render(figure, ending))


def staleness(advice: Advice, seed: int) -> Figure:
    """The delays of a trace or of an event simulation as bars, and a law's probabilities as points."""
    measured, name = _delays(advice, seed)
    q, law_name = _law(advice)
    shown = _shown(q, measured)
    width = max(1, math.ceil(shown / MOST_BARS))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        bars, points = (_binned(p, width, shown) for p in (measured, q))
        left = width * np.arange(len(bars))
        axes.bar(left + (width - 1) / 2, bars, 0.8 * width, color=OPTIMIZER, alpha=0.35, linewidth=0, label=name)
        axes.plot(left + (width - 1) / 2, points, "o", color=SDE, markersize=3.6, label=law_name)
        axes.axvline(
            advice.law.mean, color=INK, linewidth=0.8, linestyle=(0, (5, 3)), label=f"mean {advice.law.mean:.4g}"
        )
        axes.set_xlabel(r"delay $\tau$, writes since the read")
        axes.set_ylabel("probability" if width == 1 else f"probability of {width} delays")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
    return figure


def both_moments(advice: Advice, seed: int) -> tuple[list[float], list[xr.Dataset], xr.Dataset]:
    """The curvatures shown, the exact moments on each at every step, and a simulation of all with the same delays."""
    curvatures = list(dict.fromkeys(advice.curvatures or (advice.limits["mean_square"] / 2,)))
    steps = _steps(advice)
    predicted = [
        moments(Asynchronous(advice.optimizer, advice.law), Quadratic(h, 0.0), x0=[1.0], steps=steps, save_every=1)
        for h in curvatures
    ]
    workers = getattr(advice.staleness, "workers", 1)
    runs = simulate(
        Asynchronous(advice.optimizer, advice.staleness),
        Quadratic(np.diag(curvatures), np.zeros((len(curvatures),) * 2)),
        x0=np.ones(len(curvatures)),
        paths=max(64, min(PATHS, MOST_HELD // workers)),
        seed=seed,
        progress=False,
        steps=steps,
        save_every=max(1, steps // SAVED),
    )
    return curvatures, predicted, runs


def trajectories(advice: Advice, curvatures: list[float], predicted: list[xr.Dataset], runs: xr.Dataset) -> Figure:
    """Mean ± standard deviation, predicted as line and band, simulated as points with bars, on each curvature."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.7 * max(len(curvatures), 1.4), 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        for i, axes in enumerate(figure.subplots(1, len(curvatures), squeeze=False)[0]):
            exact = predicted[i].isel(observable=0)
            mean, width = exact["mean"].values, np.sqrt(np.maximum(exact["variance"].values, 0))
            kind = "predicted" if advice.approximation is None else "predicted, independent delays"
            axes.fill_between(exact.step, mean - width, mean + width, color=SDE, alpha=0.2, linewidth=0)
            axes.plot(exact.step, mean, color=SDE, linewidth=1.4, label=f"{kind}: mean ± s.d.")
            own = runs.isel(observable=i)
            step = own.step.values
            deviation, variance_error = np.sqrt(own["variance"].values), own["variance_standard_error"].values
            for sign in (-1, 1):
                error = np.divide(variance_error, 2 * deviation, out=np.zeros_like(deviation), where=deviation > 0)
                axes.errorbar(
                    step, own["mean"] + sign * deviation, np.hypot(error, own["mean_standard_error"]),
                    fmt="_", color=OPTIMIZER, markersize=4, elinewidth=0.8, capsize=0,
                )  # fmt: skip
            axes.errorbar(
                step, own["mean"], own["mean_standard_error"], fmt="o", color=OPTIMIZER, markersize=2.6,
                elinewidth=0.8, label=f"simulated, {runs.attrs['paths']} runs: mean, ± s.d. (–), ± 1 s.e.",
            )  # fmt: skip
            axes.axhline(0, color=INK, linewidth=0.6)
            axes.set_title(f"curvature {number(curvatures[i])}" + ("" if advice.curvatures else ", half of the limit"))
            axes.set_xlabel("step (write)")
            axes.locator_params(axis="x", nbins=5)
        figure.axes[0].set_ylabel("$x$, from 1")
        handles, texts = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper center", ncols=1 if len(curvatures) == 1 else 2)
    return figure


def _steps(advice: Advice) -> int:
    """Until the slowest end has fallen tenfold, or the unstable one has grown a thousandfold."""
    rate = 0.0 if advice.margin is None else advice.margin.mean_square_rate
    limit = STEPS
    if advice.law.geometric_ratio is None and len(advice.probabilities) > LONGEST_SEARCH:
        limit = STEPS_OF_RING  # the moments of a long ring are slow
    if advice.margin is None or rate == 1:
        return limit
    wanted = (math.log(1000) if rate > 1 else math.log(10)) / abs(math.log(rate)) if rate else SAVED
    return int(min(limit, max(SAVED, math.ceil(wanted))))


def _delays(advice: Advice, seed: int) -> tuple[np.ndarray, str]:
    """Relative frequencies of delays, and what they are of."""
    given = advice.staleness
    if isinstance(given, Trace):
        return given.probabilities(), f"trace, {len(given.delays)} writes"
    assert isinstance(given, WorkerQueue)
    warm = 100 * given.workers
    delays = simulate_events(given, WRITES + warm, seed + 1).delays[warm:]
    return np.bincount(delays) / len(delays), f"simulated, {len(delays)} writes"


def _law(advice: Advice) -> tuple[np.ndarray, str]:
    """The law to compare with: the queue's, or geometric delays of the same mean."""
    if advice.expected is not None:
        return advice.expected.probabilities(1e-9), f"law of {advice.expected.workers} exponential workers"
    if isinstance(advice.staleness, WorkerQueue) and advice.approximation is None:
        return advice.probabilities, "law"
    return Geometric(mean=advice.law.mean).probabilities(1e-9), "geometric law of the same mean"


def _shown(*laws: np.ndarray) -> int:
    """The number of delays to show: all but a thousandth."""
    return max(int(np.searchsorted(np.cumsum(q), 0.998)) for q in laws) + 2


def _binned(q: np.ndarray, width: int, shown: int) -> np.ndarray:
    padded = np.zeros(width * math.ceil(shown / width))
    padded[: min(len(q), len(padded))] = q[: len(padded)]
    return padded.reshape(-1, width).sum(axis=1)
