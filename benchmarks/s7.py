"""`python -m benchmarks.s7`: the S7 table of theory 7.1, amendment 13, with the SDE that all of it shares.

SGD on digits (preset S7) at η/B = 1/4, and SVAG of it at a = 2, 4, 8: mean |W|² at T = kη = 640, less that of SGD at
(B, η) = (1, ¼). All of them have one SDE. Every deviation is shown with its standard error, that of the reference
included, beside the table's and the distance of the two in combined standard errors.

The reference is not the SDE: the third cumulant of its noise lifts |W|² by about T(η/B)²κ₃ (tests/orders/test_s7.py),
so the SDE stands in a row of its own.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import itograd as ig
from benchmarks.report import as_table, write_between
from itograd.report.numerals import with_error
from itograd.simulation import EulerMaruyama

BEGIN = "<!-- s7: written by `python -m benchmarks.s7 --write docs/verdict.md` -->"
END = "<!-- end of s7 -->"
AMPLIFICATIONS = (1, 2, 4, 8)
TABLE = {(16, 4.0): (1.4, 0.15, -0.2, -0.25), (64, 16.0): (5.9, 2.5, 0.7, 0.0), (256, 64.0): (23.5, 11.0, 5.1, 2.1)}
TABLE_ERROR = 0.19  # the larger of the two that amendment 13 gives
TIME, STEP = 640.0, 0.25

Estimate = tuple[float, float]  # a mean and its standard error


class Measured(NamedTuple):
    """|W|² of the reference and of the SDE; deviations from the reference by (B, η), one for each amplification."""

    reference: Estimate
    deviations: dict[tuple[int, float], list[Estimate]]
    sde: Estimate


def main(arguments: list[str] | None = None) -> int:
    """Run the table, print it with the seconds it took, and write it into a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s7", description=__doc__)
    parser.add_argument("--paths", type=int, default=1152, metavar="N", help="of each run (1152)")
    parser.add_argument("--write", metavar="PAGE", help="put the table into this page, between its markers")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    text = as_markdown(measured(options.paths), options.paths)
    print(text)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    if options.write:
        write_between(Path(options.write), BEGIN, END, text)
    return 0


def measured(paths: int) -> Measured:
    """Run all of the table."""
    reference = squared_norm(1, 0.25, 1, paths, seed=0)
    return Measured(reference, deviations(reference, paths), squared_norm_of_the_sde(paths, seed=100))


def deviations(reference: Estimate, paths: int) -> dict[tuple[int, float], list[Estimate]]:
    """The rows of the table; seeds from 1 on."""
    seeds = itertools.count(1)
    return {
        (batch_size, rate): [
            difference(squared_norm(batch_size, rate, a, paths, next(seeds)), reference) for a in AMPLIFICATIONS
        ]
        for batch_size, rate in TABLE
    }


def squared_norm(batch_size: int, rate: float, amplification: float, paths: int, seed: int) -> Estimate:
    """Mean |W|² at the end and its standard error, of SVAG at this amplification; at 1 of SGD."""
    problem = ig.problems.digits(preset="S7", batch_size=batch_size)
    name = f"({batch_size}, {rate:g}), a = {amplification:g}"
    return _run(name, ig.SVAG(ig.SGD(rate), amplification), problem, paths=paths, seed=seed)


def squared_norm_of_the_sde(paths: int, seed: int) -> Estimate:
    """The same of the SDE, by Euler–Maruyama at a step whose own deviation is about 1.4/16."""
    sde = ig.modified_equation(ig.SGD(16.0), ig.problems.digits(preset="S7", batch_size=64))
    return _run("SDE", sde, scheme=EulerMaruyama(), dt=STEP, paths=paths, seed=seed)


def _run(name: str, *model, **how) -> Estimate:
    started = time.perf_counter()
    found = ig.simulate(*model, save_at=[TIME], observables=["squared_norm"], progress=False, **how)
    mean, error = (float(found[part].values[-1, 0]) for part in ("mean", "mean_standard_error"))
    print(f"{name:<20} |W|² = {mean:.2f} ± {error:.2f} {time.perf_counter() - started:7.1f} s", file=sys.stderr)
    return mean, error


def difference(one: Estimate, other: Estimate) -> Estimate:
    """The difference of two independent means, with its standard error."""
    return one[0] - other[0], float(np.hypot(one[1], other[1]))


def standard_errors_from_the_table(found: dict[tuple[int, float], list[Estimate]]) -> list[float]:
    """How far the deviations lie from those of TABLE, in combined standard errors."""
    pairs = [pair for key, printed in TABLE.items() for pair in zip(found[key], printed)]
    return [(value - printed) / float(np.hypot(error, TABLE_ERROR)) for (value, error), printed in pairs]


def as_markdown(found: Measured, paths: int) -> str:
    """The table with its caption."""
    head = ["(B, η)", *(f"a = {a}" for a in AMPLIFICATIONS)]
    lines = [
        [f"({batch_size}, {rate:g})", *(f"{with_error(*value)} ({_signed(its)})" for value, its in zip(row, printed))]
        for ((batch_size, rate), row), printed in zip(found.deviations.items(), TABLE.values())
    ]
    furthest = max(map(abs, standard_errors_from_the_table(found.deviations)))
    caption = (
        f"Mean |W|² at T = {TIME:g} less that of SGD at (1, ¼), which is {with_error(*found.reference)}: {paths} paths "
        f"of each, ± standard error, in brackets the theory's. The furthest lies {furthest:.1f} combined standard "
        f"errors from it. The SDE of all of them has {with_error(*found.sde)}."
    )
    return f"{caption}\n\n{as_table([head, *lines])}\n"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if value else "0"


if __name__ == "__main__":
    sys.exit(main())
