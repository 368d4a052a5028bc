"""One measured assumption: the row of every table that decides something."""

from __future__ import annotations

from dataclasses import dataclass

HOLDS, FAILS, OPEN = "holds", "fails", "open"


@dataclass(frozen=True)
class Assumption:
    """A measured value against its limit. `rule` says how `interval` leads to `outcome`: holds, fails or open.

    A value that could not be measured is NaN.
    """

    name: str
    measured: float
    interval: tuple[float, float]
    limit: float
    unit: str
    rule: str
    outcome: str
    decisive: bool = True
    remedy: str = ""  # what to do where the outcome is open
