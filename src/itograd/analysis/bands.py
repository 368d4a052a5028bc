"""Simultaneous bands about a weak error, and what they say of a tolerance.

    U = |e| + z s + |d|,      L = |e| − z s − |d|,      in units of the observable's scale

with e the difference of two means, s its standard error, d a known error of the reference, and z the Bonferroni
quantile over all observables and all times after 0. The scale is the range of the reference's mean over the run, or its
largest standard deviation over paths where that is larger.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from scipy import stats

from itograd.analysis.assumption import FAILS, HOLDS, OPEN, Assumption


def observable_scale(flow: xr.Dataset) -> np.ndarray:
    """The scale of every observable: the range of its mean over the run, or its largest standard deviation."""
    mean = flow["mean"].values
    spread = np.sqrt(np.nanmax(flow["variance"].values, axis=0))
    return np.maximum(np.nanmax(mean, axis=0) - np.nanmin(mean, axis=0), spread)


def band(error: xr.Dataset, confidence: float) -> float:
    """z: the Bonferroni quantile over all observables and all times after 0."""
    cells = int((error.time.values > 0).sum()) * error.sizes["observable"]
    return float(stats.norm.ppf(1 - (1 - confidence) / (2 * max(cells, 1))))


def bounds(error: xr.Dataset, scale: np.ndarray, confidence: float):
    """(|e|, L, U) in units of the scale, arrays (time, observable)."""
    d, sd = own_error(error)
    s = np.hypot(error["standard_error"].values, sd)
    e = np.abs(error["weak_error"].values)
    z = band(error, confidence)
    return e / scale, np.maximum(e - z * s - d, 0) / scale, (e + z * s + d) / scale


def resolvable(error: xr.Dataset, scale: np.ndarray, confidence: float) -> float:
    """The half width z s + |d| of the widest band, in units of its scale: a larger deviation would have been seen."""
    e, _, high = bounds(error, scale, confidence)
    return float(np.max(high - e))


def paths_needed(error: xr.Dataset, scale: np.ndarray, tolerance: float, confidence: float, paths: int) -> int | None:
    """So many paths would decide, if the means are where they seem to be; None where no number is known to.

    They put the band of the largest deviation beyond the tolerance, or all bands within it. z s falls as the root of
    the number of paths, and d, which paths do not change, stays.
    """
    d, sd = own_error(error)
    half = band(error, confidence) * np.hypot(error["standard_error"].values, sd)
    room = tolerance * scale - np.abs(error["weak_error"].values)  # below 0: the deviation is beyond the tolerance
    margin = np.abs(room) - d
    if not (np.isfinite(room).all() and np.isfinite(half).all()):
        return None
    beyond = (room < 0) & (margin > 0)
    if not beyond.any() and (margin <= 0).any():
        return None
    with np.errstate(divide="ignore"):
        times = (half / margin) ** 2
    times = np.min(times[beyond]) if beyond.any() else np.max(times)
    return math.ceil(paths * max(1.0, float(times)))


def own_error(error: xr.Dataset):
    """|d| and its standard error; zero where the reference has none."""
    if "discretisation_error" not in error:
        return 0.0, 0.0
    return np.abs(error["discretisation_error"].values), error["discretisation_error_standard_error"].values


def error_row(name, error, i, scale, tolerance, confidence, decisive) -> Assumption:
    """Whether the band of observable number i lies within the tolerance at every time."""
    e, low, high = (b[:, i] for b in bounds(error, scale, confidence))
    at = largest(e)
    if np.isfinite(high).all() and (high <= tolerance).all():
        outcome = HOLDS
    else:
        outcome = FAILS if (low > tolerance).any() else OPEN
    if outcome == FAILS:
        at = largest(low)
    return Assumption(
        name,
        float(e[at]),
        (float(low[at]), float(high[at])),
        tolerance,
        "of its scale",
        f"fails if some simultaneous {confidence:.0%} band lies beyond the limit, holds if all lie within",
        outcome,
        decisive,
        remedy="run more paths",
    )


def largest(values) -> int:
    """The place of the largest of the values that are numbers; 0 where none is (no path is left to measure it)."""
    return int(np.argmax(np.where(np.isnan(values), -np.inf, values)))
