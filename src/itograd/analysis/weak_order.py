"""The order of a weak error, fitted over a ladder of step sizes.

`fit_weak_order` fits errors that are known already; `weak_order` runs the ladder by Monte Carlo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from itograd.analysis.weak_error import weak_error
from itograd.optimizers.optimizer import Optimizer, modified_equation
from itograd.problems.problem import Problem
from itograd.simulation.ensemble import simulate
from itograd.validation import require, require_number


@dataclass(frozen=True)
class WeakOrder:
    """The fit |error| = constant · h^order, with the confidence interval of the order.

    `local` are the orders between neighbours of the ladder: a fit is to be believed where they agree.
    """

    order: float
    interval: tuple[float, float]
    confidence: float
    constant: float
    local: tuple[float, ...]

    def __str__(self) -> str:
        low, high = self.interval
        return f"order {self.order:.3f} ({self.confidence:.0%} interval {low:.3f} … {high:.3f})"


def fit_weak_order(
    step_sizes: Sequence[float],
    errors: Sequence[float],
    standard_errors: Sequence[float] | None = None,
    confidence: float = 0.95,
) -> WeakOrder:
    """Fit the order p of |error| = C h^p by least squares in logarithms.

    With standard errors the points are weighted by (error/s.e.)² and the interval is the normal one of the weighted
    fit, widened by √χ² per degree of freedom where the points scatter more than their errors say. Without, it is
    Student's interval of the scatter about the line.

    Raises ValueError for fewer than three step sizes, or an error below three standard errors: its logarithm would be
    biased, and the ladder needs more paths.

    >>> print(fit_weak_order([0.4, 0.2, 0.1], [1.6e-1, 4e-2, 1e-2]))
    order 2.000 (95% interval 2.000 … 2.000)
    """
    h, e = np.asarray(step_sizes, float), np.abs(np.asarray(errors, float))
    require(
        h.ndim == 1 and h.shape == e.shape,
        f"step_sizes and errors must be lists of one length: got {h.shape}, {e.shape}",
    )
    require(len(h) >= 3, f"an order with an interval needs at least 3 step sizes: got {len(h)}")
    require(
        (h > 0).all() and np.isfinite(h).all() and len(set(h)) == len(h),
        f"step_sizes must be positive and distinct: got {h}",
    )
    require((e > 0).all() and np.isfinite(e).all(), f"errors must be finite and not zero: got {e}")
    require(0 < confidence < 1, f"confidence must lie in (0, 1): got {confidence}")
    weights = np.ones_like(h)
    if standard_errors is not None:
        s = np.asarray(standard_errors, float)
        require(s.shape == e.shape and (s > 0).all(), f"standard_errors must be positive, one for each error: got {s}")
        weak = e < 3 * s
        require(
            not weak.any(),
            f"the error at step size {h[weak][:1]} is below three standard errors "
            f"({e[weak][:1]} ± {s[weak][:1]}): run more paths or leave it out",
        )
        weights = (e / s) ** 2
    x, y = np.log(h), np.log(e)
    centre = np.average(x, weights=weights)
    spread = (weights * (x - centre) ** 2).sum()
    order = (weights * (x - centre) * y).sum() / spread
    intercept = np.average(y, weights=weights) - order * centre
    chi2 = (weights * (y - intercept - order * x) ** 2).sum() / (len(h) - 2)
    if standard_errors is None:
        half = stats.t.ppf((1 + confidence) / 2, len(h) - 2) * np.sqrt(chi2 / spread)
    else:
        half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(max(1.0, chi2) / spread)
    ladder = np.argsort(h)[::-1]
    local = np.diff(y[ladder]) / np.diff(x[ladder])
    return WeakOrder(
        float(order),
        (float(order - half), float(order + half)),
        confidence,
        float(np.exp(intercept)),
        tuple(local.tolist()),
    )


def weak_order(
    optimizer: Callable[[float], Optimizer],
    problem: Problem,
    step_sizes: Sequence[float],
    *,
    time: float,
    order: int = 1,
    seed: int = 0,
    confidence: float = 0.95,
    **options,
) -> dict[str, WeakOrder]:
    """Run optimiser and SDE over a ladder of step sizes, and fit the order of the weak error of every observable.

    `optimizer(h)` makes the optimiser whose order in h is wanted, for instance `ig.SGD`; `time` is the continuous time
    of the comparison, a multiple of every optimiser's clock. `order` is that of the modified equation, and `options` go
    to `simulate` (x0, paths, observables, dtype). Every run has a seed of its own.

    Raises ValueError where an error is not resolved by the paths (see `fit_weak_order`).

    >>> import itograd as ig
    >>> problem = ig.problems.Quadratic(1.0, 1.0)
    >>> orders = weak_order(ig.SGD, problem, [0.25, 0.125, 0.0625], time=1.0, x0=[1.0], paths=400_000)
    >>> round(orders["x0"].order, 1)  # 1 in the limit of small steps
    1.1
    """
    require_number("time", time, minimum=0, exclusive=True)
    require(len(step_sizes) >= 3, f"an order with an interval needs at least 3 step sizes: got {len(step_sizes)}")
    ladder = []
    for number, h in enumerate(step_sizes):
        rule = optimizer(h)
        sde = modified_equation(rule, problem, order)
        runs = simulate(rule, problem, save_at=[time], seed=seed + 2 * number, **options)
        flow = simulate(sde, save_at=[time], seed=seed + 2 * number + 1, **options)
        ladder.append(weak_error(runs, flow).isel(time=-1))
    return {
        str(name): fit_weak_order(
            step_sizes,
            [float(e["weak_error"].sel(observable=name)) for e in ladder],
            [float(e["standard_error"].sel(observable=name)) for e in ladder],
            confidence,
        )
        for name in ladder[0].observable.values
    }
