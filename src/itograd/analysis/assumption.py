"""One measured assumption: the row of every table that decides something; and what a table of them decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TRUST, DO_NOT_TRUST, CANNOT_TELL = "trust", "do not trust", "cannot tell"
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


def decide(rows: Iterable[Assumption], *, why: str) -> tuple[str, list[str]]:
    """The decision of a table and its reasons: the rows that failed, those that are open, or `why` one may trust."""
    rows = list(rows)
    failed = [row for row in rows if row.decisive and row.outcome == FAILS]
    unclear = [row for row in rows if row.decisive and row.outcome == OPEN]
    if failed:
        return DO_NOT_TRUST, [
            f"{row.name}: {row.measured:.3g} {row.unit}, and at most {row.limit:.3g} is accepted" for row in failed
        ]
    if unclear:
        return CANNOT_TELL, [
            f"{row.name}: the interval [{row.interval[0]:.3g}, {row.interval[1]:.3g}] {row.unit} reaches "
            f"beyond the limit {row.limit:.3g}; {row.remedy}"
            for row in unclear
        ]
    return TRUST, [why]
