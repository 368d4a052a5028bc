"""`simulate`: an ensemble of an optimiser or of an SDE, as a dataset of statistics with standard errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from itograd import __version__
from itograd.problems.problem import Problem
from itograd.simulation.chain import Chain
from itograd.simulation.engine import Ensemble
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.observables import chosen_observables
from itograd.simulation.precision import DTYPES
from itograd.simulation.progress import Progress
from itograd.simulation.refinement import Discretisation, choose_step
from itograd.simulation.result import fingerprint
from itograd.simulation.schemes import DiscretisedEquation, Scheme, default_scheme
from itograd.simulation.statistics import Merged
from itograd.validation import require, require_choice, require_count, require_number

QUANTILE_PATHS = 65_536


def simulate(
    model: Any,
    problem: Problem | None = None,
    *,
    x0: Any = None,
    steps: int | None = None,
    save_every: int | None = None,
    save_at: Sequence[float] | np.ndarray | xr.DataArray | None = None,
    paths: int = 1000,
    seed: int = 0,
    observables: Mapping[str, Callable] | Sequence[str] | None = None,
    quantiles: Sequence[float] = (),
    covariance: bool = False,
    keep_paths: int = 0,
    dtype: str = "float32",
    scheme: Scheme | None = None,
    dt: float | None = None,
    discretisation_tolerance: Mapping[str, float] | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Run many paths of an optimiser on a problem, or of a modified equation, and return their statistics.

    An optimiser runs for `steps` steps, saved every `save_every` (default: about 100 save points) or at the times
    `save_at`, multiples of its clock. An equation runs to the last of the times `save_at`; its step size `dt`, where
    not given, is halved until no observable moves by more than a third of its standard error, and the error that is
    left stands in `discretisation_error`.

    Args:
        model: an `Optimizer` (with `problem`), a `ModifiedEquation` or a `Chain`.
        x0: where every path starts, shape (d,), or a function of `Draws` that samples it; default `problem.x0`.
        paths: the number of independent paths.
        seed: every random word is a function of (seed, path, step, lane).
        observables: functions of x (shape (d,)) that return a scalar, by name; or a list of known names: "loss",
            "squared_norm", the components "x0", "x1" … and the problem's own. Default: the components where d <= 32,
            else the loss, the squared norm and the problem's own.
        quantiles: levels in (0, 1); they are computed from the first 65,536 paths.
        covariance: also the covariance matrix of the observables.
        keep_paths: how many paths to return whole, in `path_values`.
        dtype: "float32" or "float64".
        scheme: the discretisation of an equation; default by `default_scheme`.
        dt: the step size of an equation; chosen if not given.
        discretisation_tolerance: by observable, an error that the choice of dt may leave in any case.
        threads: how many tiles run at once; default all cores of the process.
        progress: a progress bar; default where standard error is a terminal.

    Returns:
        An `xarray.Dataset` with dims `time` and `observable`: `mean`, `mean_standard_error`, `variance`,
        `variance_standard_error`, `diverged` (paths that are not finite, left out of the statistics), and what was
        asked for. Coordinates `time` (continuous) and `step`.

    Raises:
        ValueError or TypeError, before any step is made, where an argument does not fit.

    >>> import itograd as ig
    >>> runs = ig.simulate(ig.SGD(0.1), ig.problems.Quadratic(1.0, 1.0), x0=[1.0], steps=10, paths=100)
    >>> list(runs["mean"].dims)
    ['time', 'observable']
    """
    require_count("paths", paths, minimum=2)
    require_count("keep_paths", keep_paths, minimum=0)
    require_choice("dtype", dtype, DTYPES)
    require(keep_paths <= paths, f"keep_paths must be at most paths={paths}: got {keep_paths}")
    require(all(0 < q < 1 for q in quantiles), f"quantiles must lie in (0, 1): got {list(quantiles)}")
    if threads is not None:
        require_count("threads", threads)
    if isinstance(model, ModifiedEquation):
        require(problem is None, "a modified equation carries its problem: leave the argument `problem` out")
        require(steps is None and save_every is None, "a modified equation runs to the times save_at: give no steps")
        problem = model.problem
    else:
        require(
            scheme is None and dt is None and discretisation_tolerance is None,
            "scheme, dt and discretisation_tolerance belong to a modified equation, not to an optimiser",
        )
        if not isinstance(model, Chain):
            if not (hasattr(model, "chain") and isinstance(problem, Problem)):
                raise TypeError(
                    f"simulate needs an optimiser with a problem, a modified equation or a chain: got {model!r} "
                    f"and problem={problem!r}"
                )
            model = model.chain(problem)
        problem = model.problem
    start = _starting_point(x0, problem)
    chosen = chosen_observables(problem, observables)
    unknown = sorted(set(discretisation_tolerance or {}) - set(chosen))
    require(not unknown, f"discretisation_tolerance names {unknown}, which are no observables: they are {list(chosen)}")

    discretisation = None
    if isinstance(model, ModifiedEquation):
        how = {"paths": paths, "seed": seed, "dtype": dtype, "threads": threads, "progress": progress}
        chain, save_steps, discretisation = _discretise(
            model, scheme, dt, save_at, start, chosen, discretisation_tolerance, how
        )
    else:
        chain, save_steps = model, save_grid(float(model.time_per_step), steps, save_every, save_at)
    ensemble = Ensemble(chain, chosen, start, save_steps, seed, dtype)
    ensemble.check()
    return _collect(
        ensemble,
        paths,
        quantiles=tuple(quantiles),
        covariance=covariance,
        keep_paths=keep_paths,
        threads=threads,
        progress=progress,
        discretisation=discretisation,
    )


def _starting_point(x0, problem: Problem):
    if callable(x0):
        return x0
    point = np.asarray(problem.x0 if x0 is None else x0, float)
    require(point.shape == (problem.dim,), f"x0 must have shape ({problem.dim},): got {point.shape}")
    require(np.isfinite(point).all(), f"x0 must be finite: got {point}")
    return point


def save_grid(time_per_step: float, steps, save_every=None, save_at=None) -> np.ndarray:
    """The step numbers at which an optimiser is saved, from the arguments of `simulate`."""
    if save_at is not None:
        require(steps is None and save_every is None, "give either steps (and save_every) or save_at, not both")
        return _on_grid(save_times(save_at), time_per_step, "the optimiser's clock")
    require(steps is not None, "an optimiser needs `steps` (or the times `save_at`)")
    require_count("steps", steps)
    every = max(1, math.ceil(steps / 100)) if save_every is None else save_every
    require_count("save_every", every)
    require(every <= steps, f"save_every must be at most steps={steps}: got {every}")
    return np.unique(np.append(np.arange(0, steps + 1, every), steps))


def save_times(save_at) -> np.ndarray:
    """The times of `save_at`, checked."""
    times = np.asarray(save_at, float)
    require(times.ndim == 1 and times.size > 0, f"save_at must be a list of times: got shape {times.shape}")
    require(
        np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) > 0).all(),
        "save_at must be finite times that start at or after 0 and increase",
    )
    require(times[-1] > 0, "save_at must reach beyond time 0")
    return times


def _on_grid(times: np.ndarray, step: float, owner: str) -> np.ndarray:
    numbers = times / step
    whole = np.rint(numbers)
    off = np.abs(numbers - whole) > 1e-6 * np.maximum(1.0, whole)
    require(not off.any(), f"save_at must be multiples of {owner}, {step:g}: got {times[off][:1]}")
    require(whole[-1] < 2**31, f"save_at reaches step {whole[-1]:g}: at most 2^31 steps")
    return whole.astype(np.int64)


def _discretise(equation, scheme, dt, save_at, x0, observables, tolerance, how):
    require(save_at is not None, "a modified equation needs the times `save_at`")
    times = save_times(save_at)
    scheme = default_scheme(equation) if scheme is None else scheme
    scheme.check(equation)
    if dt is None:
        accepted = np.array([(tolerance or {}).get(name, 0.0) for name in observables])
        found = choose_step(equation, scheme, times, x0, observables, tolerance=accepted, **how)
    else:
        require_number("dt", dt, minimum=0, exclusive=True)
        found = Discretisation(float(dt))
    chain = DiscretisedEquation(equation, scheme, found.dt)
    return chain, _on_grid(times, found.dt, "dt" if dt is not None else "the common step of save_at"), found


def _collect(ensemble, paths, *, quantiles, covariance, keep_paths, threads, progress, discretisation) -> xr.Dataset:
    wanted = max(keep_paths, min(paths, QUANTILE_PATHS) if quantiles else 0)
    moments, kept = Merged(), []
    lost = np.zeros(len(ensemble.save_steps), np.int64)
    with Progress(paths, progress) as bar:
        for tile in ensemble.tiles(paths, threads=threads, whole=wanted, covariance=covariance):
            moments.add(tile.moments)
            lost += tile.lost
            if tile.values is not None:
                kept.append(tile.values)
            bar.advance(tile.paths)
    whole = np.concatenate(kept, axis=1) if kept else None
    return _dataset(ensemble, paths, moments.total, lost, whole, quantiles, keep_paths, discretisation)


def _dataset(ensemble, paths, moments, diverged, whole, quantiles, keep_paths, discretisation) -> xr.Dataset:
    chain = ensemble.chain
    names = list(ensemble.observables)
    table = ("time", "observable")
    variables: dict[str, Any] = {
        "mean": (table, moments.mean),
        "mean_standard_error": (table, moments.mean_standard_error),
        "variance": (table, moments.variance),
        "variance_standard_error": (table, moments.variance_standard_error),
        "diverged": ("time", diverged),
    }
    coordinates: dict[str, Any] = {
        "time": ensemble.save_steps * float(chain.time_per_step),
        "step": ("time", ensemble.save_steps),
        "observable": names,
    }
    if moments.covariance is not None:
        variables["covariance"] = ((*table, "observable_2"), moments.covariance)
        coordinates["observable_2"] = names
    if quantiles:
        variables["quantile"] = (("level", *table), np.nanquantile(whole, quantiles, axis=1))
        coordinates["level"] = list(quantiles)
    if keep_paths:
        variables["path_values"] = (("path", *table), np.moveaxis(whole[:, :keep_paths], 1, 0))
        coordinates["path"] = np.arange(keep_paths)
    attributes = {
        "model": repr(getattr(chain, "optimizer", getattr(chain, "equation", chain))),
        "problem": repr(chain.problem),
        "fingerprint": fingerprint(chain),
        "seed": str(ensemble.seed),
        "paths": paths,
        "dtype": ensemble.dtype,
        "tile": ensemble.tile,
        "time_per_step": float(chain.time_per_step),
        "itograd_version": __version__,
        "jax_version": jax.__version__,
        "numpy_version": np.__version__,
    }
    if quantiles:
        attributes["quantile_paths"] = whole.shape[1]
    if discretisation is not None:
        attributes |= {
            "scheme": type(chain.scheme).__name__,
            "dt": discretisation.dt,
            "refinement": json.dumps(discretisation.history),
        }
        if discretisation.error is not None:
            variables["discretisation_error"] = (table, discretisation.error)
            variables["discretisation_error_standard_error"] = (table, discretisation.error_standard_error)
    return xr.Dataset(variables, coordinates, attributes)
