"""Do curves coincide in continuous time? Runs that follow one SDE must, up to their noise.

Two questions, one comparison:

    svag_test      the optimiser against SVAG of itself (theory 1.2, 2.5): more of the noise, less of the step. Where
                   the curves part, the SDE does not describe the optimiser. No SDE is simulated: it serves any problem.
    scaled_runs    the recipe against its scaled recipes at other batch sizes: does the scaling rule hold?

Every curve is the mean of each observable over paths, at equal continuous times. The difference of two curves is held
against a tolerance as in `verdict`, over all observables and times at once (`bands.py`), the scale being that of the
reference. A curve parts at the first time at which its band lies wholly beyond the tolerance.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from itograd.analysis.assumption import OPEN, Assumption, decide
from itograd.analysis.bands import bounds, error_row, observable_scale, paths_needed
from itograd.analysis.kept import kept
from itograd.analysis.weak_error import weak_error
from itograd.optimizers.optimizer import Optimizer
from itograd.optimizers.svag import SVAG
from itograd.problems.problem import Problem
from itograd.simulation.ensemble import simulate
from itograd.validation import require, require_count, require_number

MOST_SAVES = 20  # save points, unless the steps have no such divisor


@dataclass(frozen=True)
class Curve:
    """One run beside the reference: `rows` say of every observable whether the two agree within the tolerance."""

    label: str
    steps: int
    decision: str
    rows: tuple[Assumption, ...]
    parting: dict[str, float | None]  # by observable: the time at which the curves part, if they do
    paths_needed: int | None  # so many paths would decide, where the decision is open and any number would
    runs: xr.Dataset = field(repr=False)
    error: xr.Dataset = field(repr=False)  # run − reference


@dataclass(frozen=True)
class CurveTest:
    """The decision over all curves, its reasons, and the runs behind it."""

    decision: str
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
    tolerance: float
    confidence: float
    reference: xr.Dataset = field(repr=False)
    reference_label: str
    curves: tuple[Curve, ...]

    def __str__(self) -> str:
        lines = [self.decision, *(f"  {line}" for line in (*self.reasons, *self.remarks))]
        for curve in self.curves:
            for row in curve.rows:
                low, high = row.interval
                lines.append(f"  {row.name:<40} {row.measured:>9.3g}  [{low:.3g}, {high:.3g}]  {row.outcome}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Variant:
    label: str
    optimizer: Optimizer
    problem: Problem
    steps: float  # before they are rounded


def svag_test(
    optimizer: Optimizer,
    problem: Problem,
    *,
    steps: int,
    amplifications: Sequence[float] = (2, 4),
    save_every: int | None = None,
    x0: Any = None,
    paths: int = 512,
    seed: int = 0,
    observables: Mapping[str, Callable] | Sequence[str] | None = None,
    tolerance: float = 0.05,
    confidence: float = 0.95,
    dtype: str = "float32",
    store: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> CurveTest:
    """The optimiser beside SVAG of itself at each of the `amplifications` a > 1: where do the curves part?

    A run at a makes a·steps steps of two batches each, with a seed of its own. Other arguments as in `verdict`.

    Raises ValueError where an argument does not fit, or the optimiser has no scaling rule, before anything is run.

    >>> import itograd as ig
    >>> problem = ig.problems.Quadratic(1.0, 1.0)
    >>> ig.svag_test(ig.SGD(0.01), problem, x0=[3.0], steps=200, paths=4000).decision
    'trust'
    """
    require(len(amplifications) > 0, "amplifications must hold at least one number above 1: got none")
    for a in amplifications:
        require_number("amplifications", a, minimum=1, exclusive=True)
    variants = [_Variant(f"a = {a:g}", SVAG(optimizer, a), problem, steps * a) for a in amplifications]
    options = {
        "x0": x0,
        "paths": paths,
        "observables": observables,
        "dtype": dtype,
        "store": store,
        "progress": progress,
    }
    return _compared(
        _Variant("a = 1", optimizer, problem, steps), variants, save_every, seed, tolerance, confidence, options
    )


def scaled_runs(
    optimizer: Optimizer,
    problem: Problem,
    *,
    steps: int,
    batch_sizes: Sequence[int],
    rule: Callable[[Optimizer, float], Optimizer] = lambda optimizer, batch_factor: optimizer.scaled(batch_factor),
    save_every: int | None = None,
    x0: Any = None,
    paths: int = 512,
    seed: int = 0,
    observables: Mapping[str, Callable] | Sequence[str] | None = None,
    tolerance: float = 0.05,
    confidence: float = 0.95,
    dtype: str = "float32",
    store: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> CurveTest:
    """The recipe beside its scaled recipes at other `batch_sizes`, run for as many examples: do the curves coincide?

    `rule(optimizer, batch_factor)` scales; by default the optimiser's own rule. Times are those of the recipe, at equal
    numbers of examples, which for the optimiser's own rule is equal continuous time. Other arguments as in `verdict`.

    Raises ValueError where an argument does not fit or the rule refuses, before anything is run.

    >>> import itograd as ig
    >>> problem = ig.problems.Quadratic(1.0, 1.0, batch_size=4)
    >>> ig.scaled_runs(ig.SGD(0.01), problem, x0=[3.0], steps=200, batch_sizes=[8], paths=4000).decision
    'trust'
    """
    require(len(batch_sizes) > 0, "batch_sizes must hold at least one size: got none")
    variants = []
    for size in batch_sizes:
        require_count("batch_sizes", size)
        factor = size / problem.batch_size
        variants.append(
            _Variant(f"B = {size}", rule(optimizer, factor), problem.with_batch_size(int(size)), steps / factor)
        )
    options = {
        "x0": x0,
        "paths": paths,
        "observables": observables,
        "dtype": dtype,
        "store": store,
        "progress": progress,
    }
    return _compared(
        _Variant(f"B = {problem.batch_size}", optimizer, problem, steps),
        variants,
        save_every,
        seed,
        tolerance,
        confidence,
        options,
    )


def _compared(base: _Variant, variants, save_every, seed, tolerance, confidence, options) -> CurveTest:
    require_count("steps", base.steps)
    require_number("tolerance", tolerance, minimum=0, maximum=1, exclusive=True)
    require_number("confidence", confidence, minimum=0, maximum=1, exclusive=True)
    whole = [max(1, round(variant.steps)) for variant in variants]
    saves = _common_saves([int(base.steps), *whole], save_every)
    remarks = [
        f"{variant.label}: {variant.steps:.6g} steps were rounded to {steps}"
        for variant, steps in zip(variants, whole)
        if abs(variant.steps - steps) > 1e-9 * steps
    ]
    reference = _run(base, int(base.steps), saves, seed, options)
    curves = []
    for number, (variant, steps) in enumerate(zip(variants, whole), start=1):
        runs = _run(variant, steps, saves, seed + number, options).assign_coords(time=reference.time.values)
        curves.append(_curve(variant.label, steps, runs, reference, tolerance, confidence))
    rows = [row for curve in curves for row in curve.rows]
    decision, reasons = decide(rows, why=f"every curve stays with that of {base.label} within the tolerance")
    for curve in curves:
        remarks += [
            f"{curve.label}: {name} parts from {base.label} at time {time:.4g}"
            for name, time in curve.parting.items()
            if time is not None
        ]
    return CurveTest(
        decision, tuple(reasons), tuple(remarks), tolerance, confidence, reference, base.label, tuple(curves)
    )


def _common_saves(steps: list[int], save_every: int | None) -> int:
    """How many times every run can be saved at equal shares of its steps."""
    common = math.gcd(*steps)
    if save_every is None:
        return max(n for n in range(1, min(common, MOST_SAVES) + 1) if common % n == 0)
    require_count("save_every", save_every)
    wanted = steps[0] / save_every
    require(
        wanted == int(wanted) and common % int(wanted) == 0,
        f"save_every must divide the steps of every run ({', '.join(map(str, steps))}) in the same shares: got "
        f"{save_every}; leave it out, or take steps that are multiples of one another",
    )
    return int(wanted)


def _run(variant: _Variant, steps: int, saves: int, seed: int, options) -> xr.Dataset:
    options = {**options, **kept(options["store"], variant.label.replace(" = ", "-"))}
    return simulate(variant.optimizer, variant.problem, steps=steps, save_every=steps // saves, seed=seed, **options)


def _curve(label, steps, runs, reference, tolerance, confidence) -> Curve:
    error, scale = weak_error(runs, reference), observable_scale(reference)
    names = error.observable.values.tolist()
    rows = tuple(
        error_row(f"{name} at {label}", error, i, scale, tolerance, confidence, True) for i, name in enumerate(names)
    )
    low = bounds(error, scale, confidence)[1]
    parting = {
        name: float(error.time.values[np.argmax(low[:, i] > tolerance)]) if (low[:, i] > tolerance).any() else None
        for i, name in enumerate(names)
    }
    decision, _ = decide(rows, why="")
    needed = None
    if any(row.outcome == OPEN for row in rows):
        needed = paths_needed(error, scale, tolerance, confidence, int(runs.attrs["paths"]))
    return Curve(label, steps, decision, rows, parting, needed, runs, error)
