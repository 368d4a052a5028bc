"""The verdict: does the SDE describe this run?

The optimiser and its SDE are run from the same point, and the weak error of every observable is held against a
tolerance, over all save points at once:

    U = |e| + z s + |d|,      L = |e| − z s − |d|,      both in units of the observable's scale (`bands.py`),

with e the weak error, s its standard error (that of the discretisation error included), and d the SDE's own
discretisation error.

    trust          every U is within the tolerance, and every other decisive assumption holds
    do not trust   some L is beyond it, or some other decisive assumption fails
    cannot tell    otherwise: more paths, a finer SDE or a longer run are needed

A third ensemble, the optimiser with Gaussian noise of the same covariance, splits the weak error into what the finite
step does and what the non-Gaussian noise does, so that the verdict can name the assumption that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from itograd.analysis.assumption import FAILS, HOLDS, OPEN, Assumption, decide
from itograd.analysis.bands import band, bounds, error_row, largest, observable_scale, own_error
from itograd.analysis.noise_shape import noise_skewness, reshuffling_share
from itograd.analysis.weak_error import weak_error
from itograd.optimizers.adaptive import AdaptiveMethod
from itograd.optimizers.optimizer import Optimizer, modified_equation
from itograd.problems.problem import Problem
from itograd.simulation.engine import final_points
from itograd.simulation.ensemble import simulate
from itograd.simulation.schedule import base
from itograd.validation import require_count, require_number

# Reshuffling may suppress so much of tr Σ before its runs are another process than the SDE's (theory, amendment 8).
RESHUFFLING_LIMIT = 0.05
# A batch noise this skewed along the gradient shifts means at the order of the step (theory 2.1a); informative.
SKEWNESS_LIMIT = 0.5


@dataclass(frozen=True)
class Verdict:
    """The decision, the table behind it and the ensembles behind the table.

    `reasons` led to the decision; `remarks` say what did not: a significant deviation, and what it comes from.
    """

    decision: str
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
    assumptions: tuple[Assumption, ...]
    tolerance: float
    confidence: float
    runs: xr.Dataset
    flow: xr.Dataset
    gaussian: xr.Dataset
    errors: dict[str, xr.Dataset] = field(repr=False)  # "total", "finite_step", "noise_shape"

    def __str__(self) -> str:
        width = max(len(a.name) for a in self.assumptions)
        rows = [
            f"  {a.name:<{width}}  {a.measured:>9.3g}  [{a.interval[0]:.3g}, {a.interval[1]:.3g}]  "
            f"limit {a.limit:.3g} {a.unit}  {a.outcome if a.decisive else f'({a.outcome})'}"
            for a in self.assumptions
        ]
        return "\n".join([self.decision, *(f"  {line}" for line in (*self.reasons, *self.remarks)), *rows])


def verdict(
    optimizer: Optimizer,
    problem: Problem,
    *,
    steps: int,
    save_every: int | None = None,
    x0: Any = None,
    paths: int = 512,
    seed: int = 0,
    observables: Mapping[str, Callable] | Sequence[str] | None = None,
    tolerance: float = 0.05,
    confidence: float = 0.95,
    order: int = 1,
    warm_start: int | None = None,
    dtype: str = "float32",
    progress: bool | None = None,
) -> Verdict:
    """Run optimiser and SDE, and say whether the SDE describes the optimiser; the rules stand at the head of this file.

    Args:
        steps, save_every, x0, observables, dtype: as in `simulate`.
        paths: paths of each of the three ensembles.
        seed: three consecutive seeds from this one are used.
        tolerance: the largest weak error accepted, as a share of the observable's scale.
        confidence: of the simultaneous bands.
        order: the weak order of the modified equation.
        warm_start: the steps after which the SDE of an adaptive method starts; by default its `equation_start`.

    Raises ValueError where the optimiser has no modified equation or an argument does not fit, before anything is run.

    >>> import itograd as ig
    >>> result = ig.verdict(ig.SGD(0.01), ig.problems.Quadratic(1.0, 1.0), x0=[3.0], steps=200, paths=4000)
    >>> result.decision
    'trust'
    """
    require_count("steps", steps)
    require_number("tolerance", tolerance, minimum=0, maximum=1, exclusive=True)
    require_number("confidence", confidence, minimum=0, maximum=1, exclusive=True)
    begin = optimizer.equation_start(steps) if warm_start is None else {"warm_start": warm_start}
    equation = modified_equation(optimizer, problem, order, **begin)
    options: dict = {"x0": x0, "paths": paths, "observables": observables, "dtype": dtype, "progress": progress}
    runs = simulate(optimizer, problem, steps=steps, save_every=save_every, seed=seed, **options)
    times = runs.time.values[runs.time.values >= equation.start_time * (1 - 1e-9)]
    gaussian = simulate(optimizer, problem.gaussian(), save_at=times, seed=seed + 2, **options)
    # The SDE's own error goes into the bands, so it may be larger than a third of a standard error, but not by much.
    accepted = dict(zip(gaussian.observable.values.tolist(), tolerance / 50 * observable_scale(gaussian)))
    flow = simulate(equation, save_at=times, seed=seed + 1, discretisation_tolerance=accepted, **options)
    errors = {
        "total": weak_error(runs, flow),
        "finite_step": weak_error(gaussian, flow),
        "noise_shape": weak_error(runs, gaussian),
    }
    start = problem.x0 if x0 is None else x0
    ends = final_points(optimizer.chain(problem), start, steps, paths=min(paths, 16), seed=seed, dtype=dtype)
    finite = ends[np.isfinite(ends).all(axis=1)]
    end = finite[0] if len(finite) else None  # where the noise is measured
    rows = (
        *_error_rows(errors, flow, tolerance, confidence),
        _discretisation_row(errors["total"], flow, tolerance),
        _divergence_row(runs, flow),
        *_sampling_rows(optimizer, problem, end, seed),
        _skewness_row(problem, end, seed, confidence),
    )
    decision, reasons = decide(rows, why="every weak error lies within the tolerance, at every save point")
    return Verdict(
        decision,
        tuple(reasons),
        tuple(_remarks(errors, confidence)),
        rows,
        tolerance,
        confidence,
        runs,
        flow,
        gaussian,
        errors,
    )


def _error_rows(errors, flow, tolerance, confidence):
    scale = observable_scale(flow)
    for i, name in enumerate(flow.observable.values.tolist()):
        yield error_row(f"weak error of {name}", errors["total"], i, scale, tolerance, confidence, True)
    for label, key in (("finite step (Gaussian noise)", "finite_step"), ("shape of the noise", "noise_shape")):
        worst = largest(bounds(errors[key], scale, confidence)[0].max(axis=0))
        name = flow.observable.values[worst]
        yield error_row(f"{label}, {name}", errors[key], worst, scale, tolerance, confidence, False)


def _discretisation_row(error, flow, tolerance) -> Assumption:
    d, sd = own_error(error)
    share = np.broadcast_to((d + 2 * np.asarray(sd)) / observable_scale(flow), error["weak_error"].shape)
    worst, limit = float(np.nanmax(share)), tolerance / 2
    return Assumption(
        "discretisation of the SDE",
        float(np.nanmax(np.asarray(d) / observable_scale(flow))),
        (0.0, worst),
        limit,
        "of its scale",
        "open if the error with two standard errors exceeds half the tolerance",
        HOLDS if worst <= limit else OPEN,
        remedy="give the SDE a finer step or a better scheme",
    )


def _divergence_row(runs, flow) -> Assumption:
    lost = int(runs["diverged"].values[-1])
    also = int(flow["diverged"].values[-1])
    paths = int(runs.attrs["paths"])
    interval = stats.binomtest(lost, paths).proportion_ci(0.95, method="exact")
    return Assumption(
        "diverged paths",
        lost / paths,
        (interval.low, interval.high),
        0.0,
        "of the optimiser's paths",
        f"fails if any path is lost ({lost} of the optimiser, {also} of the SDE); Clopper–Pearson interval",
        HOLDS if lost + also == 0 else FAILS,
    )


def _sampling_rows(optimizer, problem, point, seed):
    if problem.dataset_size is None:
        return
    reshuffled = problem.sampling == "reshuffling"
    if isinstance(optimizer, AdaptiveMethod):  # a rate of its own for every coordinate: no share is known
        if not reshuffled:
            return
        share, error = np.nan, np.nan
    else:
        rate = effective_learning_rate(optimizer)
        share, error = _measured(point, lambda x: reshuffling_share(problem, x, learning_rate=rate, seed=seed))
    low, high = np.clip([share - 2 * error, share + 2 * error], 0.0, 1.0).tolist()
    outcome = HOLDS if high <= RESHUFFLING_LIMIT else FAILS if low > RESHUFFLING_LIMIT else OPEN
    yield Assumption(
        "noise that reshuffling suppresses" if reshuffled else "noise lost if one reshuffled",
        share,
        (low, high),
        RESHUFFLING_LIMIT,
        "of tr Σ",
        "share of tr Σ in directions with η λ N/B < 20, at the end of a run; two standard errors; "
        "decides only where batches are reshuffled",
        outcome,
        reshuffled,
        remedy="sample with replacement",
    )


def _skewness_row(problem, point, seed, confidence):
    skewness, error = _measured(point, lambda x: noise_skewness(problem, x, batches=2048, seed=seed))
    half = float(stats.norm.ppf((1 + confidence) / 2) * error)
    low, high = skewness - half, skewness + half
    small = max(abs(low), abs(high)) <= SKEWNESS_LIMIT
    large = low > SKEWNESS_LIMIT or high < -SKEWNESS_LIMIT
    return Assumption(
        "skewness of the noise",
        skewness,
        (low, high),
        SKEWNESS_LIMIT,
        "along the gradient",
        f"measured at the end of a run; {confidence:.0%} interval; explains, and does not decide",
        HOLDS if small else FAILS if large else OPEN,
        decisive=False,
    )


def _measured(point, measure) -> tuple[float, float]:
    """Value and standard error of a measurement at a point; NaN where there is no such point, or nothing to measure."""
    if point is None:
        return np.nan, np.nan
    try:
        found = measure(point)
    except ValueError:  # no noise, or no gradient, at the point
        return np.nan, np.nan
    return found.value, found.standard_error


def effective_learning_rate(optimizer: Optimizer) -> float:
    """The rate at which a step moves along a constant gradient: η, or η/(1−μ) with momentum."""
    momentum = getattr(optimizer, "momentum", 0.0)
    return float(base(getattr(optimizer, "learning_rate", optimizer.time_per_step)) / (1 - base(momentum)))


def _remarks(errors, confidence) -> list[str]:
    """What the table does not decide: significant deviations, and which part of the model they come from."""
    z = band(errors["total"], confidence)
    significant = {key: _most_significant(error) for key, error in errors.items()}
    score, name, value, time = significant["total"]
    if score <= z:
        return ["no deviation is significant"]
    remarks = [
        f"a significant deviation: {name} differs by {value:+.3g} at time {time:.4g} ({score:.1f} standard errors)"
    ]
    causes = {
        "finite_step": "the finite step (it is there with Gaussian noise too)",
        "noise_shape": "the non-Gaussian shape of the noise",
    }
    named = [text for key, text in causes.items() if significant[key][0] > z]
    return [*remarks, *(["it comes from " + " and from ".join(named)] if named else [])]


def _most_significant(error: xr.Dataset):
    s = np.hypot(error["standard_error"].values, own_error(error)[1])
    e = error["weak_error"].values
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(s > 0, np.maximum(np.abs(e) - own_error(error)[0], 0) / s, 0.0)
    i, j = np.unravel_index(largest(score), score.shape)
    return float(score[i, j]), str(error.observable.values[j]), float(e[i, j]), float(error.time.values[i])
