"""The learning rate and explicit momentum that are best for a law of staleness (theory: asynchrony 2.1, 2.3).

Over (η, μ_L) the slowest rate of a range of curvatures is minimised,

    min max_{h ∈ {h_min, h_max}} rate(η, μ_L; h),

where the rate is that of the mean (Theorem 7; any law) or of the mean square. The best explicit momentum falls as
staleness grows and turns negative, in both. But every optimum for the mean that was computed under geometric staleness
diverges in the mean square (theory 2.3: Q = 5, 10, 20 and μ_S = .05 … .95): such a setting is refused by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from itograd.asynchrony.implicit_momentum import MomentumCascade
from itograd.asynchrony.stability import SENSES, mean_rate, mean_square_rate
from itograd.asynchrony.stability_margin import StabilityMargin, stability_margin
from itograd.asynchrony.staleness import Staleness
from itograd.optimizers.momentum import Momentum
from itograd.validation import require_choice, require_number

MOST_MOMENTUM = 0.999


@dataclass(frozen=True)
class Tuning:
    """A tuned setting. `margin` holds its rates and limits; `rate` is the one that was minimised."""

    sense: str
    learning_rate: float
    momentum: float
    rate: float
    margin: StabilityMargin

    @property
    def steps_per_decade(self) -> float:
        """Steps in which the distance (of the mean, or of the mean square's root) shrinks tenfold."""
        return math.log(10) / -math.log(self.rate)

    @property
    def optimizer(self) -> Momentum:
        return Momentum(self.learning_rate, self.momentum)


def tune(
    staleness: Staleness,
    curvature_min: float,
    curvature_max: float,
    *,
    sense: str = "mean_square",
    momentum: float | None = None,
    relative_curvature_variance: float = 0.0,
    allow_unstable: bool = False,
) -> Tuning:
    """The learning rate and momentum of heavy ball that shrink the slowest curvature fastest, under `staleness`.

    `sense` "mean_square" asks for the typical distance of single runs, "mean" for that of the average over runs.
    `momentum` is optimised too unless it is given. The noise enters where it depends on the point,
    `relative_curvature_variance` Var(a)/(B h²); additive noise changes the floor and not the rate (see
    `time_to_target`).

    The momentum is searched up to ±.999. Under a fixed delay the rate improves all the way to −1, and hardly: over
    [.1, 1] with a delay of 15 the answer is −.999 with .99021 a step, where no momentum has .99051.

    Raises ValueError, with what to do instead, where the optimum is unstable in the mean square, unless
    `allow_unstable`; and for a law whose moments do not close.

    >>> from itograd.asynchrony import Fixed
    >>> best = tune(Fixed(0), 1.0, 9.0)  # without delay: ((√Q−1)/(√Q+1))² = .25, 4/(√h₁+√h₂)² = .25
    >>> round(best.learning_rate, 3), round(best.momentum, 3), round(best.rate, 3)
    (0.25, 0.25, 0.5)
    """
    require_choice("sense", sense, SENSES)
    require_number("curvature_min", curvature_min, minimum=0, exclusive=True)
    require_number("curvature_max", curvature_max, minimum=curvature_min)
    rate = _slowest_rate(staleness, [curvature_min, curvature_max], sense, relative_curvature_variance)
    reach = 8 * (1 + staleness.mean) if sense == "mean" else 4.0  # κ beyond which nothing is stable
    bounds = math.log(1e-3 / curvature_max), math.log(reach / curvature_max)
    scans = 60 if staleness.geometric_ratio is not None and sense == "mean" else 10
    tolerance = 1e-9 if sense == "mean" else 1e-5  # at a double root the rate has a cusp like a square root

    def best_log_rate(explicit: float) -> tuple[float, float]:
        return _minimum(lambda log_rate: rate(math.exp(log_rate), explicit), *bounds, scans, tolerance)

    if momentum is None:
        momentum, _ = _minimum(lambda mu: best_log_rate(mu)[1], -MOST_MOMENTUM, MOST_MOMENTUM, scans, tolerance)
    else:
        require_number("momentum", momentum, minimum=-1, maximum=1, exclusive=True)
    log_rate, value = best_log_rate(momentum)
    learning_rate = math.exp(log_rate)
    margin = stability_margin(
        Momentum(learning_rate, momentum),
        staleness,
        curvature_min,
        curvature_max,
        relative_curvature_variance=relative_curvature_variance,
    )
    if not allow_unstable:
        margin.require_stable()
    return Tuning(sense, learning_rate, momentum, value, margin)


def _slowest_rate(staleness, ends, sense, variance) -> Callable[[float, float], float]:
    if sense == "mean_square":
        return lambda eta, mu: float(mean_square_rate(Momentum(eta, mu), staleness, ends, variance).max())
    implicit = staleness.geometric_ratio
    if implicit is not None:
        return lambda eta, mu: MomentumCascade(implicit, mu, eta).rate(ends)
    return lambda eta, mu: float(mean_rate(Momentum(eta, mu), staleness, ends).max())


def _minimum(function, low: float, high: float, scans: int, tolerance: float) -> tuple[float, float]:
    """Where a function of one variable is least, and its value: a scan, then Brent's method around the best point.

    The slowest of two rates has kinks and more than one minimum, so that a descent alone will not do.
    """
    points = np.linspace(low, high, scans)
    values = [function(point) for point in points.tolist()]
    best = int(np.argmin(values))
    around = float(points[max(best - 1, 0)]), float(points[min(best + 1, scans - 1)])
    found = minimize_scalar(function, bounds=around, method="bounded", options={"xatol": tolerance * (high - low)})
    if found.fun < values[best]:
        return float(found.x), float(found.fun)
    return float(points[best]), float(values[best])
