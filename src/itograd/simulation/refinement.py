"""The step size of a simulated SDE: halved until the discretisation no longer shows.

A coarse and a fine discretisation follow the same Brownian paths (the coarse increment is the sum of two fine ones), so
the difference D of their means has a small standard error. The step is halved until, for every observable and time,

    |D| <= s.e./3,      s.e. that of the mean over all paths that will be run,

or |D| is below a tolerance that the caller accepts, or D is not significant (Student's quantile for all observables and
times at once) and s.e.(D) itself is below s.e./3; a pilot too small for that is enlarged. The finer step is used; its
own error is D/(2^p − 1), with p the weak order of the scheme.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from itograd.simulation.engine import Ensemble
from itograd.simulation.progress import Progress
from itograd.simulation.schemes import DiscretisedEquation, ExactAffine
from itograd.validation import require

MAX_TRIALS = 16
_PILOT_SHARE = 8  # the pilot begins with a tile or an eighth of the paths, whichever is more


@dataclass(frozen=True)
class Discretisation:
    """A step size, the error it leaves (signed, with its standard error) and how it was found."""

    dt: float
    error: np.ndarray | None = None
    error_standard_error: np.ndarray | None = None
    history: list = field(default_factory=list)


def common_step(times: np.ndarray) -> float:
    """The largest step of which all times are multiples, by Euclid's algorithm to a relative 1e-7.

    >>> round(common_step(np.array([0.5, 0.75, 2.0])), 12)
    0.25
    """
    tolerance = 1e-7 * times[-1]
    step = 0.0
    for time in times:
        a, b = max(time, step), min(time, step)
        while b > tolerance:
            a, b = b, a % b
            b = 0.0 if a - b < tolerance else b  # a multiple but for rounding
        step = a
    gap = np.diff(times, prepend=0.0)
    require(
        step > gap[gap > 0].min() / 1000,
        "save_at has no common step that is not absurdly small beside its gaps: round the times to a grid",
    )
    return float(times[-1] / np.rint(times[-1] / step))


def choose_step(
    equation,
    scheme,
    times,
    x0,
    observables,
    *,
    paths,
    seed,
    dtype,
    threads=None,
    progress=False,
    tolerance=0.0,
    noise=None,
) -> Discretisation:
    """Find the step size for `simulate`; see the head of this file. `tolerance` is one number an observable."""
    spacing = common_step(times)
    if isinstance(scheme, ExactAffine):
        exact = np.zeros((len(times), len(observables)))
        return Discretisation(spacing, exact, exact)
    parts = int(np.ceil(spacing / max(equation.time_per_step, times[-1] / 128)))

    def ensemble(count, merged):
        dt = spacing / count
        chain = DiscretisedEquation(equation, scheme, dt, merged)
        return Ensemble(chain, observables, x0, np.rint(times / dt).astype(np.int64), seed, dtype, noise)

    ensemble(2 * parts, 1).check()
    tile = ensemble(2 * parts, 1).tile
    pilot = min(paths, tile * max(1, paths // (tile * _PILOT_SHARE)))
    history: list[dict] = []

    def observed(count, merged):
        found = []
        with Progress(pilot, progress, f"choosing dt: {spacing / count:.3g}") as bar:
            for part in ensemble(count, merged).tiles(pilot, threads=threads, whole=pilot, may_be_lost=True):
                found.append(part.values)
                bar.advance(part.paths)
        return np.concatenate(found, axis=1).astype(float)

    error = None
    while len(history) < MAX_TRIALS:
        fine = observed(2 * parts, 1)
        difference = observed(parts, 2) - fine
        usable = np.isfinite(difference).all(axis=(0, 2))  # the two must be compared on the same paths
        history.append({"dt": spacing / parts, "paths": pilot, "lost": int((~usable).sum())})
        if usable.mean() < 0.5 or usable.sum() < 2:
            parts *= 2
            continue
        d, count = difference[:, usable], int(usable.sum())
        error, uncertainty = d.mean(axis=1), d.std(axis=1, ddof=1) / np.sqrt(count)
        standard_error = fine[:, usable].std(axis=1, ddof=1) / np.sqrt(paths)
        history[-1]["largest_move_in_standard_errors"] = _largest(error, standard_error)
        rounding = 20 * np.finfo(dtype).eps * np.abs(fine[:, usable]).max(axis=(0, 1))
        allowed = np.maximum(np.maximum(standard_error / 3, rounding), tolerance)
        significant = stats.t.ppf(1 - 0.005 / error.size, count - 1) * uncertainty
        if (np.abs(error) > np.maximum(allowed, significant)).any():
            parts *= 2
        elif (np.abs(error) > allowed).any() and (uncertainty > allowed).any() and pilot < paths:
            pilot = min(paths, 4 * pilot)
        else:
            break
    else:
        warnings.warn(
            f"the step size of the SDE was halved to {spacing / (2 * parts):g} and its observables still move: "
            "see discretisation_error",
            stacklevel=4,
        )
    require(error is not None, "the SDE diverged at every step size tried: see its drift, or give dt")
    order = max(1, int(scheme.weak_order))
    return Discretisation(spacing / (2 * parts), error / (2**order - 1), uncertainty / (2**order - 1), history)


def _largest(error, standard_error) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(error) / standard_error
    return float(np.nanmax(np.where(np.isfinite(ratio), ratio, 0.0)))
