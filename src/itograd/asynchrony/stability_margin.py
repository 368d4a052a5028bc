"""How far a setting is from instability under staleness, in the mean and in the mean square, in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from itograd.asynchrony.stability import largest_stable_learning_rate, mean_rate, mean_square_rate
from itograd.asynchrony.staleness import Staleness
from itograd.optimizers.optimizer import Optimizer
from itograd.validation import require, require_number


@dataclass(frozen=True)
class StabilityMargin:
    """Rates (factors a step, the slowest over the curvatures) and limits of the learning rate of one setting."""

    optimizer: Optimizer
    staleness: Staleness
    mean_rate: float
    mean_square_rate: float
    mean_limit: float
    mean_square_limit: float

    @property
    def margin(self) -> float:
        """The largest mean-square-stable learning rate over that of the setting: below 1 it is unstable."""
        return self.mean_square_limit / self.optimizer.learning_rate  # type: ignore[attr-defined]

    @property
    def is_stable(self) -> bool:
        """Whether single runs converge: stable in the mean square."""
        return self.mean_square_rate < 1

    @property
    def warning(self) -> str | None:
        """What is wrong with the setting and the nearest stable one; None where single runs converge."""
        if self.is_stable:
            return None
        rate = self.optimizer.learning_rate  # type: ignore[attr-defined]
        nearest = f"with {self.staleness!r} the largest stable learning rate is {self.mean_square_limit:.4g}" + (
            f" at momentum {self.optimizer.momentum:g}" if hasattr(self.optimizer, "momentum") else ""
        )
        if self.mean_rate >= 1:
            return f"unstable: at learning rate {rate:.4g} even the average over runs diverges; {nearest}"
        return (
            f"unstable: at learning rate {rate:.4g} the average over many runs converges (by {self.mean_rate:.4g} a "
            f"step), but a single run diverges: its typical distance grows by {self.mean_square_rate:.4g} a step, "
            "because every gradient is taken at a random past point, and the scatter of those points feeds itself. "
            f"Implicit momentum describes the average alone. Take a smaller rate or fewer workers: {nearest}"
        )

    def require_stable(self) -> None:
        """Raise ValueError with the warning where single runs diverge."""
        require(self.is_stable, self.warning or "")


def stability_margin(
    optimizer: Optimizer,
    staleness: Staleness,
    curvature_min: float,
    curvature_max: float,
    *,
    relative_curvature_variance: float = 0.0,
) -> StabilityMargin:
    """The stability of `optimizer` under `staleness` on curvatures in a range, whose ends decide.

    Both criteria are exact for quadratics (`stability.py`), and are the linearisation at a minimum elsewhere.

    >>> import itograd as ig
    >>> from itograd.asynchrony import WorkerQueue
    >>> margin = stability_margin(ig.SGD(1.0), WorkerQueue(10), 0.1, 1.0)
    >>> round(margin.mean_rate, 3), round(margin.margin, 3)
    (0.949, 0.5)
    """
    require_number("curvature_min", curvature_min, minimum=0, exclusive=True)
    require_number("curvature_max", curvature_max, minimum=curvature_min)
    ends = np.array([curvature_min, curvature_max])
    variance = relative_curvature_variance

    def limit(sense):
        return min(largest_stable_learning_rate(optimizer, staleness, float(h), sense, variance) for h in ends)

    return StabilityMargin(
        optimizer,
        staleness,
        float(mean_rate(optimizer, staleness, ends).max()),
        float(mean_square_rate(optimizer, staleness, ends, variance).max()),
        limit("mean"),
        limit("mean_square"),
    )
