"""What staleness does to one setting, and what to set: the numbers behind `itograd asynchrony`.

Three laws may stand for the workers' delays. Independent, equal exponential or equal deterministic workers have exact
moments. Any other queue, and a measured trace, is taken as independent delays with its own marginal law, simulated or
measured: an approximation, which the record names. (Between the queue of exponential workers and independent delays
of the same law the limits differ by up to 16 %, at M = 2, and by less for more workers: theory 1.8.)

Limits are those of one eigen-direction h x²/2 and depend on ηh alone, so that without a curvature range they are the
largest curvature at which the given learning rate is stable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from itograd.asynchrony.closed_law import closed_law
from itograd.asynchrony.implicit_momentum import implicit_momentum, memory_kernel
from itograd.asynchrony.stability import largest_stable_learning_rate
from itograd.asynchrony.stability_margin import StabilityMargin, stability_margin
from itograd.asynchrony.staleness import Fixed, Staleness
from itograd.asynchrony.trace import Trace
from itograd.asynchrony.tuning import Tuning, tune
from itograd.asynchrony.worker_queue import WorkerQueue
from itograd.optimizers.momentum import Momentum
from itograd.optimizers.optimizer import Optimizer
from itograd.optimizers.sgd import SGD
from itograd.validation import require, require_number

LONGEST_SEARCH = 48  # delays up to which rate and momentum are tuned together
KERNEL_SHOWN = 6


@dataclass(frozen=True)
class Advice:
    """What is known of one setting; `to_dict` has it as plain values. What was not asked for or is unknown is None."""

    optimizer: Optimizer
    staleness: Staleness  # as given: what is simulated
    law: Staleness  # what the moments are taken of: the same, or independent delays of its law
    approximation: str | None
    curvatures: tuple[float, float] | None
    limits: dict[str, float]  # largest stable curvature at the given rate, by sense
    margin: StabilityMargin | None
    tuned: dict[str, Tuning]
    expected: WorkerQueue | None = None  # what a trace is compared with

    @property
    def probabilities(self) -> np.ndarray:
        return self.law.probabilities(1e-9)

    @property
    def is_stable(self) -> bool | None:
        """Whether single runs converge on the curvature range; None where none is given."""
        return None if self.margin is None else self.margin.is_stable

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": "itograd asynchrony 1",
            "setting": {
                "learning_rate": self.optimizer.learning_rate,  # type: ignore[attr-defined]
                "momentum": getattr(self.optimizer, "momentum", 0.0),
                "curvature_range": self.curvatures,
            },
            "staleness": self._staleness(),
            "approximation": self.approximation,
            "implicit_momentum": self._implicit(),
            "stability": self._stability(),
            "tuned": {name: _tuned(found) for name, found in self.tuned.items()},
            "time": self._time(),
        }

    def _staleness(self) -> dict[str, Any]:
        law = self.law
        return {
            "kind": _kind(self.staleness),
            "workers": getattr(self.staleness, "workers", None),
            "service": type(self.staleness.service).__name__ if isinstance(self.staleness, WorkerQueue) else None,
            "writes": len(self.staleness.delays) if isinstance(self.staleness, Trace) else None,
            "mean": law.mean,
            "standard_deviation": math.sqrt(max(law.variance, 0.0)),
            "quantile_95": _quantile(law, 0.95),
            "delays_in_law": int(np.count_nonzero(self.probabilities)),
            "expected": self._expected(),
        }

    def _expected(self) -> dict[str, Any] | None:
        if self.expected is None:
            return None
        q, p = self.expected.probabilities(1e-9), self.probabilities
        length = max(len(q), len(p))
        q, p = (np.pad(each, (0, length - len(each))) for each in (q, p))
        return {
            "workers": self.expected.workers,
            "mean": self.expected.mean,
            "standard_deviation": math.sqrt(self.expected.variance),
            "total_variation": 0.5 * float(np.abs(q - p).sum()),
        }

    def _implicit(self) -> dict[str, Any]:
        kernel = memory_kernel(self.law, 1e-9)
        try:
            momentum = implicit_momentum(self.law)
        except ValueError:
            momentum = None
        return {"momentum": momentum, "kernel_current": kernel.current, "kernel_past": kernel.past[:KERNEL_SHOWN]}

    def _stability(self) -> dict[str, Any]:
        found: dict[str, Any] = {"largest_stable_curvature": self.limits, "margin": None}
        if self.margin is not None:
            names = ("mean_rate", "mean_square_rate", "mean_limit", "mean_square_limit", "margin", "is_stable")
            found["margin"] = {name: getattr(self.margin, name) for name in names}
            found["steps_per_decade"] = _steps_per_decade(self.margin.mean_square_rate)
        return found

    def _time(self) -> dict[str, Any] | None:
        """Times to a tenth of the distance, in mean times of one gradient: M writes a unit, or one step in H_M."""
        queue = self.staleness
        tuned = isinstance(queue, WorkerQueue) and queue.geometric_ratio is not None and "stale" in self.tuned
        if not tuned or queue.workers == 1:  # type: ignore[attr-defined]
            return None
        workers = queue.workers  # type: ignore[attr-defined]
        slowest = queue.service.mean_of_largest(workers)  # type: ignore[attr-defined]
        return {
            "asynchronous": self.tuned["stale"].steps_per_decade / workers,
            "synchronous": self.tuned["fresh"].steps_per_decade * slowest,
            "synchronous_step": slowest,
        }


def advise(
    staleness: Staleness,
    learning_rate: float,
    momentum: float = 0.0,
    *,
    curvature_min: float | None = None,
    curvature_max: float | None = None,
    relative_curvature_variance: float = 0.0,
    expected: WorkerQueue | None = None,
    seed: int = 0,
) -> Advice:
    """What `staleness` does to heavy ball (SGD where `momentum` is 0), and what to set for a curvature range.

    `expected` is a law to compare the delays with, as those of a trace; `seed` that of the simulation of a queue
    whose law has no closed form.

    Raises ValueError for a rate that is not positive, |momentum| ≥ 1, a range that is no range, and a law with more
    than 512 different delays whose moments do not close. An unstable setting is an answer, not an error.

    >>> from itograd.asynchrony import WorkerQueue
    >>> found = advise(WorkerQueue(10), 0.1)
    >>> round(found.limits["mean_square"], 9), found.margin is None  # κ = .5
    (5.0, True)
    """
    require_number("learning_rate", learning_rate, minimum=0, maximum=math.inf, exclusive=True)
    require_number("momentum", momentum, minimum=-1, maximum=1, exclusive=True)
    require_number("relative_curvature_variance", relative_curvature_variance, minimum=0)
    require(
        (curvature_min is None) == (curvature_max is None),
        "curvature_min and curvature_max belong together: "
        f"{'curvature_min' if curvature_min is None else 'curvature_max'} is missing",
    )
    curvatures = None
    if curvature_min is not None and curvature_max is not None:
        require_number("curvature_min", curvature_min, minimum=0, exclusive=True)
        require(
            math.isfinite(curvature_max) and curvature_max >= curvature_min,
            f"curvature_max must be finite and at least curvature_min, {curvature_min:g}: got {curvature_max:g}",
        )
        curvatures = (float(curvature_min), float(curvature_max))
    law, approximation = closed_law(staleness, seed)
    optimizer: Optimizer = Momentum(learning_rate, momentum) if momentum else SGD(learning_rate)
    variance = relative_curvature_variance
    limits = {
        sense: largest_stable_learning_rate(optimizer, law, 1.0, sense, variance) / learning_rate
        for sense in ("mean", "mean_square")
    }
    margin, tuned = None, {}
    if curvatures is not None:
        margin = stability_margin(optimizer, law, *curvatures, relative_curvature_variance=variance)
        tuned = _tunings(law, curvatures, momentum, variance)
    return Advice(optimizer, staleness, law, approximation, curvatures, limits, margin, tuned, expected)


def _tunings(law: Staleness, curvatures, momentum: float, variance: float) -> dict[str, Tuning]:
    """The rate tuned at this momentum, rate and momentum tuned (or without momentum), and the same without delays."""

    def tuned(staleness, explicit):
        return tune(
            staleness, *curvatures, momentum=explicit, relative_curvature_variance=variance, allow_unstable=True
        )

    searchable = law.geometric_ratio is not None or len(law.probabilities(1e-9)) <= LONGEST_SEARCH
    best = None if searchable else 0.0
    found = {"stale": tuned(law, best), "this_momentum": tuned(law, momentum), "fresh": tuned(Fixed(0), best)}
    if best == momentum:
        found["stale"] = found.pop("this_momentum")
    return found


def _tuned(found: Tuning) -> dict[str, Any]:
    names = ("learning_rate", "momentum", "rate")
    return {name: getattr(found, name) for name in names} | {
        "steps_per_decade": _steps_per_decade(found.rate),
        "mean_square_limit": found.margin.mean_square_limit,
    }


def _steps_per_decade(rate: float) -> float | None:
    """Steps in which the typical distance shrinks tenfold; None where it does not."""
    return math.log(10) / -math.log(rate) if rate < 1 else None


def _kind(staleness: Staleness) -> str:
    names = {WorkerQueue: "queue", Trace: "trace"}
    return names.get(type(staleness), type(staleness).__name__.lower())


def _quantile(law: Staleness, level: float) -> int:
    """The smallest delay that is not exceeded with this probability."""
    if law.geometric_ratio:
        return max(0, math.ceil(math.log1p(-level) / math.log(law.geometric_ratio) - 1e-9) - 1)
    return int(np.searchsorted(np.cumsum(law.probabilities(1e-12)), level - 1e-12))
