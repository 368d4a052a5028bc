"""`python -m benchmarks.asynchrony [--write docs/asynchrony.md]`: the best explicit momentum against the workers.

The experiment is that of `asynchronous_digits.py`. With --write the table goes into the page, between its markers, and
the figure beside it, into images/asynchronous-digits.svg.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.asynchronous_digits import (
    FIRST_RATE,
    Best,
    Curvatures,
    Predicted,
    Search,
    curvatures,
    predicted,
)
from benchmarks.report import as_table, write_between
from itograd.report.figures import GAUSSIAN, INK, OPTIMIZER, SDE, STYLE, render
from itograd.report.numerals import with_error

BEGIN = "<!-- digits: written by `python -m benchmarks.asynchrony --write docs/asynchrony.md` -->"
END = "<!-- end of digits -->"
WORKERS = (1, 2, 4, 8, 16, 32)
FIGURE = "asynchronous-digits.svg"


def main(arguments: list[str] | None = None) -> int:
    """Run the searches, print the table with the seconds it took, and write table and figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.asynchrony", description=__doc__)
    parser.add_argument("--paths", type=int, default=64, metavar="N", help="of each setting (64)")
    parser.add_argument("--write", metavar="PAGE", help="put the table into this page, and the figure beside it")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    found, searches = curvatures(), searched(WORKERS, options.paths)
    predictions = [predicted(search.workers, found) for search in searches]
    text = as_markdown(found, searches, predictions)
    print(text)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    if options.write:
        page = Path(options.write)
        write_between(page, BEGIN, END, text)
        (page.parent / "images").mkdir(exist_ok=True)
        (page.parent / "images" / FIGURE).write_bytes(render(drawn(searches, predictions), "svg"))
    return 0


def searched(workers, paths: int) -> list[Search]:
    """The search of each number of workers, in rising order: each begins at half the best rate of the one before."""
    searches: list[Search] = []
    for count in workers:
        started, first = time.perf_counter(), FIRST_RATE
        if searches:
            best = searches[-1].best()
            first = best.rate[0] / (1 - best.momentum[0]) / 2
        searches.append(Search(count, paths, first_rate=first))
        print(f"{count} workers {time.perf_counter() - started:7.1f} s", file=sys.stderr)
    return searches


def as_markdown(found: Curvatures, searches: list[Search], predictions: list[Predicted]) -> str:
    """The table with its caption."""
    head = ["workers", "best momentum", "at learning rate", "steps", "at momentum 0"]
    head += ["predicted: momentum (mean)", "momentum (mean square)", "at learning rate", "steps"]
    lines = [_line(search.workers, search.best(), theory) for search, theory in zip(searches, predictions)]
    settings = sum(len(row) for search in searches for row in search.scores.values())
    caption = (
        f"{settings} settings, {searches[0].paths} paths each; ± the standard error over paths. Measured on the way of "
        f"gradient descent: h_min = {found.smallest:.4f}, h_max = {found.largest:.3f}, Q = "
        f"{found.largest / found.smallest:.1f}, for which heavy ball without delay or noise has the momentum "
        f"{found.best_momentum:.2f}."
    )
    return f"{caption}\n\n{as_table([head, *lines])}\n"


def _line(workers: int, best: Best, theory: Predicted) -> list[str]:
    measured = [with_error(*value) for value in best]
    momenta = [f"{value:+.2f}" for value in (theory.mean_momentum, theory.momentum)]
    cells = [str(workers), *measured, *momenta, f"{theory.rate:.3g}", f"{theory.steps:.3g}"]
    return [cell.replace("-", "−") for cell in cells]


def drawn(searches: list[Search], predictions: list[Predicted]) -> Figure:
    """The best momentum against M beside its predictions, and what another momentum costs."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        workers = [search.workers for search in searches]
        momenta = np.array([search.best().momentum for search in searches])
        left.axhline(0, color=INK, linewidth=0.5)
        left.plot(workers, [p.momentum for p in predictions], "s--", color=SDE, label="predicted, mean square", ms=4)
        left.plot(workers, [p.mean_momentum for p in predictions], "^:", color=GAUSSIAN, label="predicted, mean", ms=4)
        left.errorbar(workers, *momenta.T, fmt="o", color=OPTIMIZER, capsize=3, label="measured (± standard error)")
        left.set(xscale="log", xlabel="workers $M$", ylabel="best explicit momentum")
        left.set_xticks(workers, [str(count) for count in workers])
        left.minorticks_off()
        left.legend()
        shades = np.linspace(0.25, 1, len(searches))
        for search, shade in zip(searches, shades):
            steps, _ = search.profile()
            right.plot(
                search.momenta, steps / np.min(steps), "o-", color=OPTIMIZER, alpha=shade, ms=3, label=search.workers
            )
        right.set(xlabel="explicit momentum", ylabel="steps, over those of the best", ylim=(0.97, 1.6))
        right.legend(title="workers", ncols=2)
    return figure


if __name__ == "__main__":
    sys.exit(main())
