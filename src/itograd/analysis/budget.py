"""How many paths fit into a time: a run is tried with few, then with four times as many while that costs little.

    n = 16, 16, 64, 256, …  while  4 seconds(n) <= left/4         (the first trial compiles, the second is timed)
    N = n (0.8 left/seconds(n))^{1/p},     p = log(seconds(n)/seconds(n/4))/log 4, at least 1 and at most 3/2

with `left` what is left of the budget after the trials. p is above 1 where more paths need a finer step of an SDE. What
is chosen depends on the machine and the moment; what N paths find does not: N stands in the result, and a run that is
given N repeats it exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from itograd.validation import require_number

LEAST, MOST, GROWTH = 16, 1_000_000, 4
_TRIAL_SHARE, _MARGIN, _STEEPEST = 1 / 4, 0.8, 1.5

Found = TypeVar("Found")


@dataclass(frozen=True)
class Budget:
    """The seconds that were given, the paths that were chosen for them, and the trials: (paths, seconds) of each."""

    seconds: float
    paths: int
    trials: tuple[tuple[int, float], ...]

    def __str__(self) -> str:
        return (
            f"{self.paths} paths were chosen for {self.seconds:g} seconds, after trials with "
            f"{', '.join(str(paths) for paths, _ in self.trials)}; the same number of paths repeats the run exactly"
        )


def require_budget(budget: float) -> None:
    """Raise unless the budget is a number of seconds above 0."""
    require_number("budget", budget, minimum=0, exclusive=True)


def within(
    seconds: float,
    run: Callable[[int], Found],
    *,
    spent: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Found, Budget]:
    """What `run(paths)` finds with as many paths as fit into the budget, and how many those were.

    `spent` are seconds of the budget that are gone already. Where nothing is left after a trial, its result is the
    answer: the fewest paths that are ever run are 16, however little time is given.
    """
    require_budget(seconds)
    begin = clock() - spent
    trials: list[tuple[int, float]] = []

    def timed(paths: int) -> Found:
        started = clock()
        found = run(paths)
        trials.append((paths, clock() - started))
        return found

    def left() -> float:
        return seconds - (clock() - begin)

    found = timed(LEAST)
    if left() > trials[-1][1]:
        found = timed(LEAST)
        while trials[-1][0] < MOST and GROWTH * trials[-1][1] <= _TRIAL_SHARE * left():
            found = timed(min(GROWTH * trials[-1][0], MOST))
    paths = paths_for(left(), trials)
    if paths > trials[-1][0]:
        return run(paths), Budget(float(seconds), paths, tuple(trials))
    return found, Budget(float(seconds), trials[-1][0], tuple(trials))


def paths_for(seconds: float, trials: list[tuple[int, float]]) -> int:
    """N of the head of this file, a multiple of 16; of a single trial, which compiled, no more than its paths."""
    (paths, its_seconds), earlier = trials[-1], [pair for pair in trials[1:] if pair[0] < trials[-1][0]]
    if seconds <= its_seconds or len(trials) == 1:
        return paths
    steepness = 1.0
    if earlier:
        fewer, shorter = earlier[-1]
        steepness = math.log(its_seconds / shorter) / math.log(paths / fewer) if shorter < its_seconds else 1.0
    growth = (_MARGIN * seconds / its_seconds) ** (1 / min(max(steepness, 1.0), _STEEPEST))
    return max(paths, min(MOST, int(growth * paths) // LEAST * LEAST))
