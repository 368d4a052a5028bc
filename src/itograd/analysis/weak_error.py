"""The weak error: the difference of the means of two ensembles, with its standard error."""

from __future__ import annotations

import numpy as np
import xarray as xr

from itograd.validation import require


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
