"""Two momenta measured from a run, which are not the same quantity (theory: asynchrony 2.4 and 2.5).

With Δ_s = x_s − x_{s−1}, the rate α, explicit momentum μ_L and the gradient g_s taken *at* x_s:

    implicit    μ̂_S = (Δ_{s+1} − μ_L Δ_s + α g_s) / (Δ_s − μ_L Δ_{s−1} + α g_s)          1 − 1/M for M workers
    total       μ̂_T = (Δ_{s+1} + α g_s) / Δ_s                                           YellowFin's

The first is the mean's equation of motion under geometric staleness (Mitliagkas, Zhang, Hadjis, Ré 2016, Theorem 6)
solved for μ_S. The second is μ_L without delay, μ_L + τ α h for slow modes of curvature h under a fixed delay τ, and
μ_S (1 + α g/Δ) for a queue, (M−1) α h for its slow modes (derived): not the sum of implicit and explicit momentum. Both
divide averages: Δ and g are averaged over runs and, with a `memory`, over time, before the division; a ratio of single
noisy steps is biased.

A gradient that was *applied* in the step from x_s, taken at an older point, says nothing of asynchrony: in place of g_s
it returns μ_L as the total and 0 as the implicit momentum, whatever the delay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import signal, stats

from itograd.validation import require, require_count, require_number

Record = Float[np.ndarray, "time *runs d"]

GROUPS = 20  # of runs, or blocks of time, that the jackknife leaves out one by one


@dataclass(frozen=True)
class MomentumEstimate:
    """A momentum, over times and coordinates: the least-squares ratio Σ num·den/Σ den² and the median of the ratios.

    `standard_error` and `median_standard_error` are jackknife's, leaving out one group of runs (of one run: one block
    of time) after another; `interval` is the least-squares ratio's at `confidence`, by Student's quantile.
    """

    least_squares: float
    median: float
    standard_error: float
    median_standard_error: float
    confidence: float
    groups: int

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the least-squares ratio."""
        width = self.standard_error * float(stats.t.ppf((1 + self.confidence) / 2, self.groups - 1))
        return self.least_squares - width, self.least_squares + width


def implicit_momentum_from_run(
    iterates: Record,
    gradients: Record,
    learning_rate: float,
    explicit_momentum: float = 0.0,
    *,
    memory: float = 1.0,
    confidence: float = 0.95,
) -> MomentumEstimate:
    """The momentum μ_S that geometric staleness adds, in a descent: 1 − 1/M for M workers.

    `iterates` and `gradients` are (time, d) of one run or (time, runs, d): x_s, and the gradient *at* x_s, of any
    batch. `memory` is that of an exponential moving average over time, in steps, for Δ and g alike; 1 is none. Two or
    more runs are averaged first. What is measured is the motion of the mean: give the part of the run where it moves,
    and enough runs (or memory) that the noise of the average is small beside it, since noise left in the denominator
    shrinks the ratio and the interval does not show it.

    Raises ValueError for arrays that do not fit, for an explicit momentum outside (−1, 1) and for a run that stands
    still. Source: the authors' sensor, which is Theorem 6 (theory 2.4).

    >>> x = 0.5 ** np.arange(8.0)[:, None] + 0.25 ** np.arange(8.0)[:, None]  # no gradient, momenta 0.5 and 0.25
    >>> round(implicit_momentum_from_run(x, 0 * x, 0.1, explicit_momentum=0.25).least_squares, 12)
    0.5
    """
    require_number("explicit_momentum", explicit_momentum, minimum=-1, maximum=1, exclusive=True)

    def parts(step, push):
        kept = step[1:] - explicit_momentum * step[:-1]  # Δ_{s+1} − μ_L Δ_s, s = 1, 2, …
        return kept[1:] + push[2:-1], kept[:-1] + push[2:-1]  # s = 2, 3, …

    return _estimate(iterates, gradients, learning_rate, parts, memory, confidence)


def total_momentum_from_run(
    iterates: Record,
    gradients: Record,
    learning_rate: float,
    *,
    delay: int = 0,
    memory: float = 1.0,
    confidence: float = 0.95,
) -> MomentumEstimate:
    """YellowFin's total momentum μ̂_T (Zhang, Mitliagkas 2017), its median and the least-squares ratio.

    `gradients[k]` was taken at `iterates[k − delay]`: 0 where they are fresh gradients at the iterates, τ where they
    are those that a run with the fixed delay τ applied at its steps k. With a `memory` this is the early form of the
    paper, median((A + α C)/(A − B)) of the averages A of Δ_{s+1}, B of Δ_{s+1} − Δ_s and C of g_s; without it the final
    one. Arguments, averages and errors are those of `implicit_momentum_from_run`.

    >>> x = 0.5 ** np.arange(8.0)[:, None]
    >>> total_momentum_from_run(x, 0 * x, 0.1).median
    0.5
    """
    require_count("delay", delay, minimum=0)
    length = len(np.asarray(gradients))
    require(length > delay, f"a delay of {delay} needs more than {delay} gradients: got {length}")
    known = np.asarray(iterates)[: length - delay] if delay else iterates

    def parts(step, push):
        return step[1:] + push[1:-1], step[:-1]  # s = 1, 2, …

    return _estimate(known, np.asarray(gradients)[delay:], learning_rate, parts, memory, confidence)


def _estimate(iterates, gradients, learning_rate, parts: Callable, memory, confidence) -> MomentumEstimate:
    """`parts` gives numerator and denominator (time, …, d) from Δ_1, Δ_2, … and α g_0, α g_1, …"""
    require_number("learning_rate", learning_rate, minimum=0, exclusive=True)
    require_number("memory", memory, minimum=1)
    require_number("confidence", confidence, minimum=0, maximum=1, exclusive=True)
    x, g = np.asarray(iterates, float), np.asarray(gradients, float)
    require(
        x.shape == g.shape and x.ndim in (2, 3),
        f"iterates and gradients must both be (time, d) or (time, runs, d): got {x.shape} and {g.shape}",
    )
    require(len(x) >= 4, f"a momentum needs at least 4 iterates: got {len(x)}")
    require(np.isfinite(x).all() and np.isfinite(g).all(), "iterates and gradients must be finite")

    def ratios(x, g):
        numerator, denominator = parts(np.diff(x, axis=0), learning_rate * g)
        return _moving_average(numerator, memory), _moving_average(denominator, memory)

    if x.ndim == 2 or x.shape[1] == 1:
        numerator, denominator = ratios(x.reshape(len(x), -1), g.reshape(len(g), -1))
        groups = min(GROUPS, len(numerator))
        blocks = np.array_split(np.arange(len(numerator)), groups)
        left_out = [
            _summary(np.delete(numerator, block, axis=0), np.delete(denominator, block, axis=0)) for block in blocks
        ]
    else:
        groups = min(GROUPS, x.shape[1])
        parts_of_runs = np.array_split(np.arange(x.shape[1]), groups)
        sums = [(x[:, runs].sum(axis=1), g[:, runs].sum(axis=1), len(runs)) for runs in parts_of_runs]
        all_x, all_g, count = (sum(column) for column in zip(*sums))
        numerator, denominator = ratios(all_x / count, all_g / count)
        left_out = [_summary(*ratios((all_x - a) / (count - n), (all_g - b) / (count - n))) for a, b, n in sums]
    require(groups >= 2, "an interval needs at least two runs, or two times")
    least_squares, median = _summary(numerator, denominator)
    spread = np.sqrt((groups - 1) * np.var(left_out, axis=0))
    return MomentumEstimate(least_squares, median, float(spread[0]), float(spread[1]), float(confidence), groups)


def _moving_average(values, memory: float):
    """Σ_j (1−β) β^j values_{t−j} along the first axis, β = 1 − 1/memory; what it lacks at first, both averages lack."""
    beta = 1 - 1 / memory
    return signal.lfilter([1 - beta], [1, -beta], values, axis=0)


def _summary(numerator, denominator) -> tuple[float, float]:
    moved = denominator != 0
    require(moved.any(), "the run stands still: no momentum can be measured from it")
    n, d = numerator[moved], denominator[moved]
    return float(n @ d / (d @ d)), float(np.median(n / d))
