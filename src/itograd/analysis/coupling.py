"""Differences of means by common random numbers.

Two processes φ(x), φ(y) on one path of noise (`simulation/coupled.py`) have

    Var(φ(x) − φ(y)) = Var φ(x) + Var φ(y) − 2 Cov(φ(x), φ(y)),

and each has the law that it has alone: the mean of the difference is the difference of the means. The gain over
independent runs of the same number of paths is measured, never assumed:

    variance_ratio = (Var φ(x) + Var φ(y)) / Var(φ(x) − φ(y)).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np
import xarray as xr

from itograd.optimizers.optimizer import Optimizer
from itograd.problems.problem import Problem
from itograd.simulation.chain import Chain
from itograd.simulation.coupled import CoupledChain
from itograd.simulation.engine import Ensemble
from itograd.simulation.ensemble import starting_point
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.observables import chosen_observables
from itograd.simulation.precision import DTYPES
from itograd.simulation.progress import Progress
from itograd.simulation.refinement import common_step
from itograd.simulation.save_points import save_grid, save_times
from itograd.simulation.schemes import DiscretisedEquation, ExactAffine, HeunDrift, Scheme, default_scheme
from itograd.simulation.statistics import Merged, Moments
from itograd.validation import require, require_choice, require_count, require_number

FIRST_PARTS = 4  # an SDE begins with so many steps in a common step …
MOST_PARTS = 256  # … and ends, at the latest, with so many
GROWTH = 1.1  # between two looks at the standard error the number of tiles grows by so much
LEAST_TILES = 2


def coupled_difference(
    first: Optimizer | ModifiedEquation | Chain,
    second: Optimizer | ModifiedEquation | Chain,
    problem: Problem | None = None,
    *,
    x0: Any = None,
    steps: int | None = None,
    save_every: int | None = None,
    save_at: Sequence[float] | np.ndarray | xr.DataArray | None = None,
    paths: int = 1000,
    target_standard_error: float | None = None,
    seed: int = 0,
    observables: Mapping[str, Callable] | Sequence[str] | None = None,
    dtype: str = "float32",
    scheme: Scheme | None = None,
    dt: float | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """E φ(first) − E φ(second) for every observable φ and time, both processes on the same path of noise.

    An SDE's Brownian motion drives the other's Gaussian noise: the increment over an optimiser's step is that step's
    noise. So the problem must have Gaussian noise (`problem.gaussian()` gives it). Two optimisers, or two chains, of
    one clock may have any noise, and share its words: the same batches.

    Args:
        first, second: an optimiser (on `problem`), a modified equation or a chain; both start at `x0`.
        problem: what optimisers run on; optimisers on two problems are given as `optimizer.chain(problem)`.
        steps, save_every, save_at, x0, seed, observables, dtype, threads, progress: as in `simulate`. `steps` counts
            common steps, the shortest time that is a multiple of both clocks: of the coarser, where they divide.
        paths: the number of pairs; with `target_standard_error` the budget, the most that may be run.
        target_standard_error: pairs are added until no standard error is larger.
        scheme: the discretisation of equations, with Gaussian increments; default `ExactAffine` where it applies,
            else `HeunDrift`.
        dt: the step size of equations; where not given it is halved until the discretisation error is below a third of
            the standard error, or cannot be told from 0.

    Returns:
        A Dataset like that of `weak_error`: `difference`, `standard_error`, `variance_ratio` (by how much fewer pairs
        these are than independent ones with the same standard error), `reference` (the mean of `second`), `diverged`
        pairs, and `discretisation_error` of equations that are not exact. The attribute `target_reached` says whether
        the target was met within the budget; a warning is given where it was not.

    Raises ValueError where the two cannot share their noise, and where an argument does not fit, before any step.

    >>> import itograd as ig
    >>> problem = ig.problems.Quadratic(1.0, 1.0)
    >>> sgd = ig.SGD(0.1)
    >>> found = coupled_difference(sgd, ig.modified_equation(sgd, problem), problem, x0=[1.0], save_at=[1.0])
    >>> bool(found["variance_ratio"][-1, 0] > 100)
    True
    """
    pair = Pair(first, second, problem, scheme, "brownian")
    chosen = chosen_observables(pair.problem, observables)
    where = {"x0": x0, "seed": seed, "dtype": dtype}
    grid = {"steps": steps, "save_every": save_every, "save_at": save_at}
    how = {"paths": paths, "target": target_standard_error, "threads": threads, "progress": progress}
    return difference_of(pair, chosen, where, grid, how, dt)


class Pair:
    """Two processes, and how their noise is shared."""

    def __init__(self, first, second, problem, scheme: Scheme | None, sharing: str):
        members = [_process(name, model, problem) for name, model in (("first", first), ("second", second))]
        equations = [m for m in members if isinstance(m, ModifiedEquation)]
        require(scheme is None or equations, "scheme belongs to a modified equation: neither of the two is one")
        for equation in equations:
            (scheme or default_scheme(equation)).check(equation)
        if sharing == "brownian" and not equations and _draw_alike(*members):
            sharing = "words"
        self.first, self.second = self.members = tuple(members)
        self.scheme, self.sharing = scheme, sharing

    @property
    def problem(self) -> Problem:
        return self.first.problem

    @property
    def common_clock(self) -> float | None:
        """The common step of the members whose clock is given; None for two equations."""
        chains = [m for m in self.members if isinstance(m, Chain)]
        return float(CoupledChain(*chains, sharing="words").time_per_step) if chains else None

    def scheme_of(self, equation: ModifiedEquation) -> Scheme:
        if self.scheme is not None:
            return self.scheme
        best = default_scheme(equation)
        return best if self.sharing == "words" or isinstance(best, ExactAffine) else HeunDrift()

    @property
    def _schemes(self) -> list[Scheme]:
        return [self.scheme_of(m) for m in self.members if isinstance(m, ModifiedEquation)]

    @property
    def is_exact(self) -> bool:
        """Whether no member has a discretisation error."""
        return all(isinstance(scheme, ExactAffine) for scheme in self._schemes)

    @property
    def order(self) -> int:
        """The weak order of the discretisation."""
        return int(max(1, min(scheme.weak_order for scheme in self._schemes)))

    def chain(self, step: float, parts: int, factor: int | None) -> tuple[CoupledChain, tuple[int, int]]:
        """The members, equations at `parts` steps a common step, and where the two stand when they are coarser.

        The coarser equations, if asked for, follow behind; they make 1/factor as many steps.
        """
        chains, coarser = [self._discretised(m, step, parts, 1) for m in self.members], [0, 1]
        for i, member in enumerate(self.members):
            if factor is not None and isinstance(member, ModifiedEquation):
                coarser[i] = len(chains)
                chains.append(self._discretised(member, step, parts, factor))
        return CoupledChain(*chains, sharing=self.sharing), (coarser[0], coarser[1])

    def _discretised(self, member, step, parts, factor):
        if isinstance(member, Chain):
            return member
        scheme = self.scheme_of(member)
        if isinstance(scheme, ExactAffine):
            return DiscretisedEquation(member, scheme, step)
        # On a Brownian path the coupled chain merges the increments; otherwise the coarser SDE does so itself.
        merged = factor if self.sharing == "words" else 1
        return DiscretisedEquation(member, scheme, step / parts * factor, merged)


def difference_of(pair: Pair, observables, where: dict, grid: dict, how: dict, dt) -> xr.Dataset:
    """`coupled_difference` for a pair; the step of its equations is halved until it no longer shows, if not given."""
    require_count("paths", how["paths"], minimum=2)
    require_choice("dtype", where["dtype"], DTYPES)
    if how["target"] is not None:
        require_number("target_standard_error", how["target"], minimum=0, exclusive=True)
    if how["threads"] is not None:
        require_count("threads", how["threads"])
    where = where | {"x0": starting_point(where["x0"], pair.problem)}
    step, numbers = _common_grid(pair, dt, **grid)
    parts = FIRST_PARTS if dt is None else _parts(step, dt)
    lost_before = None
    while True:
        factor = None if pair.is_exact or parts == 1 else next(r for r in range(2, parts + 1) if parts % r == 0)
        chain, coarser = pair.chain(step, 1 if pair.is_exact else parts, factor)
        most = int(numbers[-1]) * max(chain.counts)
        require(most < 2**31, f"a chain would make {most:.3g} steps, and at most 2^31 are counted")
        functions = {
            str(i): f for i, f in enumerate(_functions(list(observables.values()), coarser if factor else None))
        }
        ensemble = Ensemble(chain, functions, where["x0"], numbers, where["seed"], where["dtype"])
        ensemble.check()
        found, lost, count, reached = _run(ensemble, len(observables), **how)
        # Pairs that are lost may be the doing of too coarse an equation: a finer one must lose as many.
        settled = lost[-1] == 0 or lost[-1] == lost_before
        if dt is not None or factor is None:
            break
        if settled and _is_fine_enough(found, len(observables), where["dtype"], how["target"]):
            break
        lost_before = lost[-1]
        if 2 * parts > MOST_PARTS:
            warnings.warn(
                f"the step size of the SDE was halved to {step / parts:g} and still shows: see discretisation_error",
                stacklevel=3,
            )
            break
        parts *= 2
    if not reached:
        warnings.warn(
            f"the budget of {how['paths']} paths ended before the standard error reached {how['target']:g}: it is "
            f"{_split(found.mean_standard_error, len(observables))[2].max():.3g}; give more paths",
            stacklevel=3,
        )
    attributes = {
        "first": _name(pair.first),
        "second": _name(pair.second),
        "problem": repr(pair.problem),
        "sharing": pair.sharing,
        "seed": str(where["seed"]),
        "paths": count,
        "dtype": where["dtype"],
        "target_reached": str(reached).lower(),
    }
    if how["target"] is not None:
        attributes["target_standard_error"] = how["target"]
    if factor is not None:
        attributes["dt"] = step / parts
    extrapolation = None if factor is None else 1 / (factor**pair.order - 1)
    return _dataset(found, lost, numbers, step, list(observables), extrapolation, attributes)


class _Of(eqx.Module):
    """φ of one member."""

    function: Callable
    member: int = eqx.field(static=True)

    def __call__(self, points):
        return self.function(points[self.member])


class _Difference(eqx.Module):
    """φ(first) − φ(second)."""

    function: Callable
    members: tuple[int, int] = eqx.field(static=True, default=(0, 1))

    def __call__(self, points):
        i, j = self.members
        return self.function(points[i]) - self.function(points[j])


class _Move(eqx.Module):
    """How much the difference moves from the finer to the coarser equations."""

    function: Callable
    coarser: tuple[int, int] = eqx.field(static=True)

    def __call__(self, points):
        return _Difference(self.function, self.coarser)(points) - _Difference(self.function)(points)


def _functions(observables: list[Callable], coarser: tuple[int, int] | None) -> list[Callable]:
    """What the engine observes: of all observables in turn the first, the second, the difference and its move."""
    found: list[Callable] = [_Of(f, i) for i in (0, 1) for f in observables]
    found += [_Difference(f) for f in observables]
    return found + [_Move(f, coarser) for f in observables] if coarser else found


def _split(table: np.ndarray, count: int) -> list[np.ndarray]:
    return [table[:, i : i + count] for i in range(0, table.shape[1], count)]


def _run(ensemble: Ensemble, count: int, *, paths, target, threads, progress):
    """(moments, lost, paths run, whether the target was reached), tile by tile until the target or the budget."""
    merged, lost, done, tiles, look = Merged(), np.zeros(len(ensemble.save_steps), np.int64), 0, 0, LEAST_TILES
    reached = target is None
    with Progress(paths, progress) as bar:
        stream = ensemble.tiles(paths, threads=threads)
        for tile in stream:
            merged.add(tile.moments)
            lost += tile.lost
            done += tile.paths
            tiles += 1
            bar.advance(tile.paths)
            if target is not None and (tiles >= look or done == paths):
                look = math.ceil(GROWTH * tiles)
                error = _split(merged.total.mean_standard_error, count)[2]
                if (error <= target).all():  # not where it is NaN
                    reached = True
                    stream.close()  # type: ignore[attr-defined]
                    break
    return merged.total, lost, done, reached


def _is_fine_enough(found: Moments, count: int, dtype: str, target: float | None) -> bool:
    """Whether the discretisation is below a third of the standard error (or of its target), or rounding, or noise."""
    first, second, _, move = _split(found.mean, count)
    _, _, error, noise = _split(found.mean_standard_error, count)
    rounding = 20 * np.finfo(dtype).eps * np.maximum(np.abs(first), np.abs(second))
    allowed = np.maximum(np.maximum(np.maximum(error, target or 0.0) / 3, rounding), 3 * noise)
    return bool((np.abs(move) <= allowed).all() or np.isnan(move).any())


def _dataset(found: Moments, lost, numbers, step, names, extrapolation, attributes) -> xr.Dataset:
    table = ("time", "observable")
    mean, variance, error = (_split(t, len(names)) for t in (found.mean, found.variance, found.mean_standard_error))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (variance[0] + variance[1]) / variance[2]
    variables: dict[str, Any] = {
        "difference": (table, mean[2]),
        "standard_error": (table, error[2]),
        "variance_ratio": (table, ratio),
        "reference": (table, mean[1]),
        "diverged": ("time", lost),
    }
    if extrapolation is not None:
        # As in weak_error: the error that the equations' own step leaves in the difference, to be subtracted.
        variables["discretisation_error"] = (table, mean[3] * extrapolation)
        variables["discretisation_error_standard_error"] = (table, error[3] * extrapolation)
    coordinates = {"time": numbers * step, "step": ("time", numbers), "observable": names}
    return xr.Dataset(variables, coordinates, attributes)


def _process(name: str, model, problem) -> Chain | ModifiedEquation:
    if isinstance(model, Chain | ModifiedEquation):
        return model
    if not isinstance(model, Optimizer) or not isinstance(problem, Problem):
        raise TypeError(
            f"{name} must be an optimiser with a problem, a modified equation or a chain: got {model!r} and "
            f"problem={problem!r}"
        )
    return model.chain(problem)


def _draw_alike(first, second) -> bool:
    """Whether two chains of one clock share all their noise by drawing the same words."""
    discretised = [isinstance(c, DiscretisedEquation) for c in (first, second)]
    if not np.isclose(float(first.time_per_step), float(second.time_per_step), rtol=1e-9, atol=0):
        return False
    return not any(discretised) or (all(discretised) and type(first.scheme) is type(second.scheme) is not ExactAffine)


def _name(member) -> str:
    return repr(getattr(member, "optimizer", getattr(member, "equation", member)))


def _common_grid(pair: Pair, dt, *, steps, save_every, save_at):
    """The common step, and the numbers of the steps to save at."""
    clock = pair.common_clock
    require(dt is None or not isinstance(pair.first, Chain) or not isinstance(pair.second, Chain), _NO_EQUATION)
    if dt is not None:
        require_number("dt", dt, minimum=0, exclusive=True)
    if clock is None:
        require(save_at is not None and steps is None, "two modified equations need the times `save_at`, not steps")
        times = save_times(save_at)
        clock = common_step(times)
        if dt is None:  # no coarser than the clocks of the optimisers that they model
            members = (pair.first, pair.second)
            clock /= math.ceil(clock / min(float(m.time_per_step) for m in members) - 1e-9)
        return clock, np.rint(times / clock).astype(np.int64)
    return clock, save_grid(clock, steps, save_every, save_at)


_NO_EQUATION = "dt belongs to a modified equation: neither of the two is one"


def _parts(step: float, dt: float) -> int:
    parts = round(step / dt)
    require(
        parts >= 1 and abs(step / dt / parts - 1) < 1e-6,
        f"dt must be {step:g}, the common step of the two, over a whole number: got {dt:g}",
    )
    return parts
