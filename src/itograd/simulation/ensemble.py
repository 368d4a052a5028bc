"""`simulate`: an ensemble of an optimiser or of an SDE, as a dataset of statistics with standard errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from itograd.problems.problem import Problem
from itograd.simulation.accuracy import Target
from itograd.simulation.chain import Chain
from itograd.simulation.collection import Plan, collect
from itograd.simulation.dataset import as_dataset
from itograd.simulation.engine import Ensemble
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.identity import identity
from itograd.simulation.noise import noise_source
from itograd.simulation.observables import chosen_observables
from itograd.simulation.precision import DTYPES
from itograd.simulation.refinement import Discretisation, choose_step
from itograd.simulation.save_points import on_grid, save_grid, save_times, times_since
from itograd.simulation.schemes import DiscretisedEquation, Scheme, default_scheme
from itograd.simulation.store import Nowhere, Store
from itograd.validation import require, require_choice, require_count, require_number

DEFAULT_PATHS = 1000


def simulate(
    model: Any,
    problem: Problem | None = None,
    *,
    x0: Any = None,
    steps: int | None = None,
    save_every: int | None = None,
    save_at: Sequence[float] | np.ndarray | xr.DataArray | None = None,
    paths: int | None = None,
    seed: int = 0,
    observables: Mapping[str, Callable] | Sequence[str] | None = None,
    quantiles: Sequence[float] = (),
    covariance: bool = False,
    keep_paths: int = 0,
    dtype: str = "float32",
    scheme: Scheme | None = None,
    dt: float | None = None,
    discretisation_tolerance: Mapping[str, float] | None = None,
    target_standard_error: float | Mapping[str, float] | None = None,
    max_paths: int | None = None,
    store: str | os.PathLike | None = None,
    resume: bool = False,
    noise: str | None = None,
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
        paths: the number of independent paths; default 1000, or as many as `target_standard_error` needs.
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
        target_standard_error: instead of `paths`: run until the standard error of the mean of every observable at every
            save time is at or below this number; or a mapping from the observables that matter to theirs. What that
            does to the mean is said at the head of `itograd.simulation.accuracy`.
        max_paths: the most paths that may be run for it, default 1,000,000; where they did not suffice, there is a
            warning, and the attributes `target_reached` and `paths_needed` say so.
        store: a folder (zarr) that keeps finished work while the run goes on, and then the result, for `load`.
        resume: go on with the run in `store`, which was interrupted, killed, or had fewer paths; the result has the
            bytes of an undisturbed run.
        noise: the source of the random numbers, "compiled" or "jax"; default "compiled" where it is there.
        threads: how many tiles run at once; default all cores of the process.
        progress: a progress bar; default where standard error is a terminal.

    Returns:
        An `xarray.Dataset` with dims `time` and `observable`: `mean`, `mean_standard_error`, `variance`,
        `variance_standard_error`, `diverged` (paths that are not finite, left out of the statistics), and what was
        asked for. Coordinates `time` (continuous) and `step`.

    Raises:
        ValueError or TypeError, before any step is made, where an argument does not fit, or where the store is
            of another run.
        OSError where the store cannot be written, or another process has it; what was finished stays in it.

    >>> import itograd as ig
    >>> runs = ig.simulate(ig.SGD(0.1), ig.problems.Quadratic(1.0, 1.0), x0=[1.0], steps=10, paths=100)
    >>> list(runs["mean"].dims)
    ['time', 'observable']
    """
    model = _equation_or_chain(model, problem, steps, save_every, scheme, dt, discretisation_tolerance)
    start = starting_point(x0, model.problem)
    chosen = chosen_observables(model.problem, observables)
    plan = _plan(paths, quantiles, covariance, keep_paths, target_standard_error, max_paths, list(chosen))
    _require_settings(dtype, noise, threads, store, resume)
    basis = None  # what the choice of dt looks at
    if isinstance(model, ModifiedEquation):
        save_points = _times_of_equation(save_at)
        elapsed = times_since(float(model.start_time), save_points)
        scheme = default_scheme(model) if scheme is None else scheme
        scheme.check(model)
        find_step: Callable[[], Discretisation] = partial(Discretisation, dt)  # type: ignore[arg-type]
        if dt is None:
            basis = _basis_of_step(plan, discretisation_tolerance, list(chosen))
            how = {"seed": seed, "dtype": dtype, "noise": noise, "threads": threads, "progress": progress}
            find_step = partial(choose_step, model, scheme, elapsed, start, chosen, **basis, **how)
    else:
        save_points = save_grid(float(model.time_per_step), steps, save_every, save_at)

    settings = {"seed": seed, "dtype": dtype, "save_points": save_points, "dt": dt, "step_size_chosen_for": basis}
    with _place(store, resume, lambda: identity(model, start, chosen, scheme, **settings, **plan.settings)) as place:
        chain, save_steps, discretisation = model, save_points, None
        if isinstance(model, ModifiedEquation):
            discretisation = place.discretisation(find_step)
            chain = DiscretisedEquation(model, scheme, discretisation.dt)
            save_steps = on_grid(elapsed, discretisation.dt, "dt" if dt else "the common step of save_at")
        ensemble = Ensemble(chain, chosen, start, save_steps, seed, dtype, noise)
        ensemble.check()
        place.require_engine(ensemble.provenance())
        finished = place.result()
        if finished is not None and plan.is_that_of(finished):
            return finished
        collected = collect(ensemble, plan, place, threads, progress)
        found = as_dataset(ensemble, collected, plan, discretisation)
        if plan.target:
            found.attrs |= plan.target.outcome(collected.moments, collected.paths)
        place.finish(found)
    return found


def _equation_or_chain(model, problem, steps, save_every, scheme, dt, discretisation_tolerance):
    """What is to be run, a modified equation or a chain; raises where the other arguments do not fit it."""
    if isinstance(model, ModifiedEquation):
        require(problem is None, "a modified equation carries its problem: leave the argument `problem` out")
        require(steps is None and save_every is None, "a modified equation runs to the times save_at: give no steps")
        if dt is not None:
            require_number("dt", dt, minimum=0, exclusive=True)
        return model
    require(
        scheme is None and dt is None and discretisation_tolerance is None,
        "scheme, dt and discretisation_tolerance belong to a modified equation, not to an optimiser",
    )
    if isinstance(model, Chain):
        return model
    if not (hasattr(model, "chain") and isinstance(problem, Problem)):
        raise TypeError(
            f"simulate needs an optimiser with a problem, a modified equation or a chain: got {model!r} "
            f"and problem={problem!r}"
        )
    return model.chain(problem)


def starting_point(x0, problem: Problem):
    """Where paths start, checked: the problem's own point by default, a point, or a function that samples one."""
    if callable(x0):
        return x0
    point = np.asarray(problem.x0 if x0 is None else x0, float)
    require(point.shape == (problem.dim,), f"x0 must have shape ({problem.dim},): got {point.shape}")
    require(np.isfinite(point).all(), f"x0 must be finite: got {point}")
    return point


def _plan(paths, quantiles, covariance, keep_paths, target_standard_error, max_paths, observables: list[str]) -> Plan:
    target = None
    if target_standard_error is not None:
        require(paths is None, "give either paths or target_standard_error (with max_paths), not both")
        target = Target.of(target_standard_error, max_paths, observables)
        paths = target.max_paths
    require(target or max_paths is None, "max_paths is the budget of target_standard_error: give paths, or both")
    paths = DEFAULT_PATHS if paths is None else paths
    require_count("paths", paths, minimum=2)
    require_count("keep_paths", keep_paths, minimum=0)
    require(keep_paths <= paths, f"keep_paths must be at most paths={paths}: got {keep_paths}")
    require(all(0 < q < 1 for q in quantiles), f"quantiles must lie in (0, 1): got {list(quantiles)}")
    return Plan(int(paths), tuple(quantiles), bool(covariance), int(keep_paths), target)


def _require_settings(dtype, noise, threads, store, resume) -> None:
    require_choice("dtype", dtype, DTYPES)
    if noise is not None:
        noise_source(noise)
    if threads is not None:
        require_count("threads", threads)
    require(store is not None or not resume, "resume=True goes on with the run in a store: give store=PATH")


def _times_of_equation(save_at) -> np.ndarray:
    require(save_at is not None, "a modified equation needs the times `save_at`")
    return save_times(save_at)


def _basis_of_step(plan: Plan, tolerance, observables: list[str]) -> dict[str, Any]:
    """The arguments of `choose_step` that say how small the step must be; a target is as good as a tolerance."""
    unknown = sorted(set(tolerance or {}) - set(observables))
    require(not unknown, f"discretisation_tolerance names {unknown}, which are no observables: they are {observables}")
    accepted = np.array([(tolerance or {}).get(name, 0.0) for name in observables])
    if plan.target:
        asked = plan.target.standard_error
        accepted = np.maximum(accepted, np.where(np.isfinite(asked), asked / 3, 0.0))
    return {"paths": plan.paths, "tolerance": accepted}


def _place(store, resume: bool, run: Callable[[], dict]) -> Store | Nowhere:
    return Nowhere() if store is None else Store(store, run(), resume)
