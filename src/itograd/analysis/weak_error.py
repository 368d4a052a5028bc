"""The weak error: the difference of the means of two ensembles, with its standard error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from itograd.analysis.coupling import Pair, difference_of
from itograd.optimizers.optimizer import Optimizer, modified_equation
from itograd.problems.problem import Problem
from itograd.simulation.coupled import NoSharedNoise
from itograd.simulation.observables import chosen_observables
from itograd.simulation.save_points import save_grid
from itograd.simulation.schemes import Scheme
from itograd.validation import require, require_number


def weak_error(runs: xr.Dataset, flow: xr.Dataset) -> xr.Dataset:
    """E φ(x_k) − E φ(X_t) for every observable φ and every time that both results share.

        weak_error = mean(runs) − mean(flow),      standard_error² = s.e.(runs)² + s.e.(flow)²

    `runs` and `flow` are results of `simulate` with independent seeds, or of `moments` (exact, no standard error).
    The flow's own discretisation error, where it is known, is passed on in `discretisation_error`; `diverged` counts
    the paths that either result has lost.

    Raises ValueError for two results of one seed, no common time after 0, or no common observable.
    """
    for name, result in (("runs", runs), ("flow", flow)):
        require(
            isinstance(result, xr.Dataset) and "mean" in result,
            f"{name} must be a result of simulate or moments: got {type(result).__name__}",
        )
    seeds = [result.attrs.get("seed") for result in (runs, flow)]
    require(
        None in seeds or seeds[0] != seeds[1],
        f"the two results share seed {seeds[0]}: their paths are not independent, and the standard error would be "
        "wrong; give one of them another seed",
    )
    observables = [name for name in runs.observable.values if name in flow.observable.values]
    require(
        observables,
        f"the two results share no observable: {runs.observable.values.tolist()} and {flow.observable.values.tolist()}",
    )
    here, there = _common_times(runs.time.values, flow.time.values)
    a = runs.sel(observable=observables).isel(time=here)
    b = flow.sel(observable=observables).isel(time=there)

    table = ("time", "observable")
    variance = _standard_error(a) ** 2 + _standard_error(b) ** 2
    variables: dict = {
        "weak_error": (table, a["mean"].values - b["mean"].values),
        "standard_error": (table, np.sqrt(variance)),
        "reference": (table, b["mean"].values),
        "diverged": ("time", _diverged(a) + _diverged(b)),
    }
    for name in ("discretisation_error", "discretisation_error_standard_error"):
        if name in flow:
            variables[name] = (table, b[name].values)
    coordinates: dict = {"time": a.time.values, "observable": observables}
    if "step" in a.coords:
        coordinates["step"] = ("time", a.step.values)
    return xr.Dataset(
        variables, coordinates, {"runs": runs.attrs.get("model", ""), "flow": flow.attrs.get("model", "")}
    )


def weak_error_within(
    optimizer: Optimizer,
    problem: Problem,
    *,
    tolerance: float,
    confidence: float = 0.95,
    paths: int = 10_000_000,
    order: int = 1,
    x0: Any = None,
    steps: int | None = None,
    save_every: int | None = None,
    save_at: Sequence[float] | np.ndarray | xr.DataArray | None = None,
    seed: int = 0,
    observables: Mapping[str, Callable] | Sequence[str] | None = None,
    dtype: str = "float32",
    scheme: Scheme | None = None,
    dt: float | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """The weak error of an optimiser's SDE, with as many paths as it takes to know it to ± `tolerance`.

    Paths of optimiser and SDE are added in pairs until, with z the Bonferroni quantile over all observables and all
    times after 0,

        z(confidence) · standard_error <= tolerance      everywhere,

    or until the budget of `paths` pairs is used up: then a warning says so, and `target_reached` is "false". Where the
    optimiser's noise is Gaussian the two share it (`coupled_difference`); else they are independent, and the attribute
    `sharing` says "independent". The result, its last path included, is a function of the arguments alone.

    The other arguments are those of `coupled_difference`. Returns a Dataset like that of `weak_error`, with
    `variance_ratio`; the attribute `paths` is the number of pairs that were run.

    >>> import itograd as ig
    >>> problem = ig.problems.Quadratic(1.0, 1.0)
    >>> error = weak_error_within(ig.SGD(0.1), problem, tolerance=1e-3, x0=[1.0], save_at=[1.0])
    >>> error.attrs["target_reached"], bool(error["standard_error"].max() < 1e-3)
    ('true', True)
    """
    require_number("tolerance", tolerance, minimum=0, exclusive=True)
    require_number("confidence", confidence, minimum=0, maximum=1, exclusive=True)
    equation = modified_equation(optimizer, problem, order)
    chosen = chosen_observables(problem, observables)
    numbers = save_grid(float(optimizer.time_per_step), steps, save_every, save_at)
    cells = len(chosen) * int((numbers > 0).sum())
    z = float(stats.norm.ppf(1 - (1 - confidence) / (2 * cells)))
    where = {"x0": x0, "seed": seed, "dtype": dtype}
    grid = {"steps": steps, "save_every": save_every, "save_at": save_at}
    how = {"paths": paths, "target": tolerance / z, "threads": threads, "progress": progress}
    try:
        found = difference_of(Pair(optimizer, equation, problem, scheme, "brownian"), chosen, where, grid, how, dt)
    except NoSharedNoise:  # found before any step is made; on words of their own the two are independent
        found = difference_of(Pair(optimizer, equation, problem, scheme, "words"), chosen, where, grid, how, dt)
        found.attrs["sharing"] = "independent"
    found = found.rename(difference="weak_error")
    if "discretisation_error" in found:
        found["discretisation_error"] = -found["discretisation_error"]  # of the SDE, as in `weak_error`
    found.attrs |= {"tolerance": tolerance, "confidence": confidence, "weak_order": order}
    return found


def _common_times(mine: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nearest = np.abs(other[None, :] - mine[:, None]).argmin(axis=1)
    same = np.abs(other[nearest] - mine) <= 1e-6 * max(mine[-1], other[-1])
    require(
        (same & (mine > 0)).any(),
        f"the two results share no time after 0: the first has {_span(mine)}, the second "
        f"{_span(other)}; give save_at=runs.time",
    )
    return np.flatnonzero(same), nearest[same]


def _span(times) -> str:
    return f"{len(times)} times in [{times[0]:g}, {times[-1]:g}]"


def _standard_error(result: xr.Dataset) -> np.ndarray:
    return result["mean_standard_error"].values if "mean_standard_error" in result else np.zeros(result["mean"].shape)


def _diverged(result: xr.Dataset) -> np.ndarray:
    return result["diverged"].values if "diverged" in result else np.zeros(result.sizes["time"], int)
