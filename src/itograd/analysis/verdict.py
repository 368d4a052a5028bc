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
step does and what the non-Gaussian noise does, so that the verdict can name the assumption that failed. For an adaptive
method the signal in its second moment, at the start and at the end of a run, is named beside them (`regime.py`): it is
known before any scaled recipe is run.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from itograd.analysis.assumption import OPEN, Assumption, decide
from itograd.analysis.bands import (
    band,
    bounds,
    error_row,
    largest,
    observable_scale,
    own_error,
    paths_needed,
    resolvable,
)
from itograd.analysis.budget import Budget, require_budget, within
from itograd.analysis.kept import kept
from itograd.analysis.regime import Regime
from itograd.analysis.verdict_rows import (
    discretisation_row,
    divergence_row,
    regime_remarks,
    regime_rows,
    regimes_at,
    sampling_rows,
    skewness_row,
)
from itograd.analysis.weak_error import weak_error
from itograd.optimizers.optimizer import Optimizer, modified_equation
from itograd.problems.problem import Problem
from itograd.simulation.engine import final_points
from itograd.simulation.ensemble import simulate
from itograd.validation import require, require_count, require_number

DEFAULT_PATHS = 512
WEAK_ERROR = "weak error of "  # how the rows of the observables are named


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
    regimes: dict[str, Regime] = field(repr=False)  # of an adaptive method: "start", "end" of a run
    seconds: float  # that the ensembles took
    budget: Budget | None = None  # how the number of paths was chosen, where a time was given

    @property
    def paths(self) -> int:
        """Of each ensemble."""
        return int(self.runs.attrs["paths"])

    @property
    def resolvable(self) -> float:
        """The half width of the widest deciding band, as a share of its scale: more would have been seen."""
        return resolvable(self.errors["total"], observable_scale(self.flow), self.confidence)

    @property
    def paths_needed(self) -> int | None:
        """So many paths would decide what weak errors leave open; None where they do not, or no number is known."""
        if not any(row.outcome == OPEN and row.name.startswith(WEAK_ERROR) for row in self.assumptions):
            return None
        scale = observable_scale(self.flow)
        return paths_needed(self.errors["total"], scale, self.tolerance, self.confidence, self.paths)

    @property
    def seconds_needed(self) -> float | None:
        """About so many seconds those paths would take, by what these took."""
        needed = self.paths_needed
        return None if needed is None else self.seconds * needed / self.paths

    @property
    def reach(self) -> str:
        """What so many paths can tell, and how many would tell what they do not."""
        said = f"{self.paths} paths know every weak error to ±{self.resolvable:.2g} of its scale or better"
        needed, seconds = self.paths_needed, self.seconds_needed
        if needed is None or seconds is None:
            return said
        return f"{said}; about {_rounded(needed)} would decide, in about {_rounded(seconds)} s"

    def __str__(self) -> str:
        width = max(len(a.name) for a in self.assumptions)
        rows = [
            f"  {a.name:<{width}}  {a.measured:>9.3g}  [{a.interval[0]:.3g}, {a.interval[1]:.3g}]  "
            f"limit {a.limit:.3g} {a.unit}  {a.outcome if a.decisive else f'({a.outcome})'}"
            for a in self.assumptions
        ]
        return "\n".join(
            [self.decision, *(f"  {line}" for line in (*self.reasons, *self.remarks, *self._costs)), *rows]
        )

    @property
    def _costs(self) -> list[str]:
        return [self.reach, *([str(self.budget)] if self.budget else [])]


def verdict(
    optimizer: Optimizer,
    problem: Problem,
    *,
    steps: int,
    save_every: int | None = None,
    x0: Any = None,
    paths: int | None = None,
    budget: float | None = None,
    seed: int = 0,
    observables: Mapping[str, Callable] | Sequence[str] | None = None,
    tolerance: float = 0.05,
    confidence: float = 0.95,
    order: int = 1,
    warm_start: int | None = None,
    dtype: str = "float32",
    store: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> Verdict:
    """Run optimiser and SDE, and say whether the SDE describes the optimiser; the rules stand at the head of this file.

    Args:
        steps, save_every, x0, observables, dtype: as in `simulate`.
        paths: paths of each of the three ensembles; by default 512.
        budget: instead of `paths`, the seconds that all may take: the number of paths is chosen by trials
            (`analysis/budget.py`), from 16 on, and stands in the result, as `budget.paths`.
        seed: three consecutive seeds from this one are used.
        tolerance: the largest weak error accepted, as a share of the observable's scale.
        confidence: of the simultaneous bands.
        order: the weak order of the modified equation.
        store: a folder that keeps the three ensembles while they run: the same call goes on with them after an
            interruption, to the same bytes (docs/results.md). Not with a budget, whose paths are another time's others.
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
    require(paths is None or budget is None, f"give either paths or a budget: got paths={paths}, budget={budget}")
    require(
        store is None or budget is None,
        "give either a store or a budget: a store goes on with a number of paths that does not change",
    )
    options = {"x0": x0, "observables": observables, "dtype": dtype, "progress": progress}

    def ensembles(paths: int) -> Verdict:
        grid = {"steps": steps, "save_every": save_every}
        return _verdict(
            optimizer, problem, equation, grid, {**options, "paths": paths}, seed, tolerance, confidence, store
        )

    if budget is None:
        return ensembles(DEFAULT_PATHS if paths is None else paths)
    require_budget(budget)
    found, spent = within(budget, ensembles)
    return dataclasses.replace(found, budget=spent)


def _verdict(optimizer, problem, equation, grid, options, seed, tolerance, confidence, store) -> Verdict:
    begin = time.monotonic()
    runs = simulate(optimizer, problem, seed=seed, **grid, **options, **kept(store, "runs"))
    times = runs.time.values[runs.time.values >= equation.start_time * (1 - 1e-9)]
    gaussian = simulate(
        optimizer, problem.gaussian(), save_at=times, seed=seed + 2, **options, **kept(store, "gaussian")
    )
    # The SDE's own error goes into the bands, so it may be larger than a third of a standard error, but not by much.
    accepted = dict(zip(gaussian.observable.values.tolist(), tolerance / 50 * observable_scale(gaussian)))
    how = {"discretisation_tolerance": accepted, **kept(store, "flow")}
    flow = simulate(equation, save_at=times, seed=seed + 1, **how, **options)
    errors = {
        "total": weak_error(runs, flow),
        "finite_step": weak_error(gaussian, flow),
        "noise_shape": weak_error(runs, gaussian),
    }
    start = problem.x0 if options["x0"] is None else options["x0"]
    end = _end_of_a_run(optimizer, problem, start, grid["steps"], seed, options)
    regimes = regimes_at(optimizer, problem, {"start": None if callable(start) else start, "end": end}, tolerance)
    rows = (
        *_error_rows(errors, flow, tolerance, confidence),
        discretisation_row(errors["total"], flow, tolerance),
        divergence_row(runs, flow),
        *sampling_rows(optimizer, problem, end, seed),
        skewness_row(problem, end, seed, confidence),
        *regime_rows(regimes),
    )
    decision, reasons = decide(rows, why="every weak error lies within the tolerance, at every save point")
    return Verdict(
        decision,
        tuple(reasons),
        (*_remarks(errors, confidence), *regime_remarks(regimes)),
        rows,
        tolerance,
        confidence,
        runs,
        flow,
        gaussian,
        errors,
        regimes,
        time.monotonic() - begin,
    )


def _end_of_a_run(optimizer, problem, start, steps, seed, options):
    """Where the noise is measured: the end of the first path that is finite; None where none of sixteen is."""
    paths = min(options["paths"], 16)
    ends = final_points(optimizer.chain(problem), start, steps, paths=paths, seed=seed, dtype=options["dtype"])
    finite = ends[np.isfinite(ends).all(axis=1)]
    return finite[0] if len(finite) else None


def _rounded(number: float) -> str:
    """Two digits, upwards: it is an estimate."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / unit) * unit:.6g}"


def _error_rows(errors, flow, tolerance, confidence):
    scale = observable_scale(flow)
    for i, name in enumerate(flow.observable.values.tolist()):
        yield error_row(f"{WEAK_ERROR}{name}", errors["total"], i, scale, tolerance, confidence, True)
    for label, key in (("finite step (Gaussian noise)", "finite_step"), ("shape of the noise", "noise_shape")):
        worst = largest(bounds(errors[key], scale, confidence)[0].max(axis=0))
        name = flow.observable.values[worst]
        yield error_row(f"{label}, {name}", errors[key], worst, scale, tolerance, confidence, False)


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
