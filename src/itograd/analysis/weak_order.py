"""The order of a weak error, fitted over a ladder of step sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from itograd.validation import require


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


def fit_weak_order(step_sizes: Sequence[float], errors: Sequence[float],
                   standard_errors: Sequence[float] | None = None, confidence: float = 0.95) -> WeakOrder:
    """Fit the order p of |error| = C h^p by least squares in logarithms.

    With standard errors the points are weighted by (error/s.e.)² and the interval is the normal one of the weighted fit,
    widened by √χ² per degree of freedom where the points scatter more than their errors say. Without, it is Student's
    interval of the scatter about the line.

    Raises ValueError for fewer than three step sizes, or an error below three standard errors: its logarithm would be
    biased, and the ladder needs more paths.

    >>> print(fit_weak_order([0.4, 0.2, 0.1], [1.6e-1, 4e-2, 1e-2]))
    order 2.000 (95% interval 2.000 … 2.000)
    """
    h, e = np.asarray(step_sizes, float), np.abs(np.asarray(errors, float))
    require(h.ndim == 1 and h.shape == e.shape, f"step_sizes and errors must be lists of one length: got {h.shape}, {e.shape}")
    require(len(h) >= 3, f"an order with an interval needs at least 3 step sizes: got {len(h)}")
    require((h > 0).all() and np.isfinite(h).all() and len(set(h)) == len(h), f"step_sizes must be positive and distinct: got {h}")
    require((e > 0).all() and np.isfinite(e).all(), f"errors must be finite and not zero: got {e}")
    require(0 < confidence < 1, f"confidence must lie in (0, 1): got {confidence}")
    weights = np.ones_like(h)
    if standard_errors is not None:
        s = np.asarray(standard_errors, float)
        require(s.shape == e.shape and (s > 0).all(), f"standard_errors must be positive, one for each error: got {s}")
        weak = e < 3 * s
        require(not weak.any(), f"the error at step size {h[weak][:1]} is below three standard errors "
                                f"({e[weak][:1]} ± {s[weak][:1]}): run more paths or leave it out")
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
    return WeakOrder(float(order), (float(order - half), float(order + half)), confidence, float(np.exp(intercept)),
                     tuple(local.tolist()))
