"""Numbers as text: as many digits as the standard error allows, percentages, intervals; "–" where there is none."""

from __future__ import annotations

import math
from typing import Any

NOTHING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Rounded to `digits` significant digits, without an exponent where that is readable.

    >>> number(1209.46), number(0.0297), number(None), number(2.0)
    ('1209', '0.0297', '–', '2')
    """
    if value is None:
        return NOTHING
    if isinstance(value, int) or (10**digits <= abs(value) < 1e6 and math.isfinite(value)):
        return f"{value:.0f}"
    mantissa, _, power = f"{value:.{digits}g}".partition("e")
    return mantissa.replace("-", "−") + (_power_of_ten(int(power)) if power else "")


def _power_of_ten(power: int) -> str:
    return "×10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def decay_rate(value: float | None) -> str:
    """A decay rate, with so many digits that 1 − b has four.

    >>> decay_rate(0.9), decay_rate(0.9999**0.0625), decay_rate(0.9**16)
    ('0.9', '0.99999375', '0.185302')
    """
    if value is None:
        return NOTHING
    decimals = 6 if value <= 0.9 else max(6, 3 - math.floor(math.log10(1 - value)))
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".").replace("-", "−")


def percent(share: float | None, digits: int = 3) -> str:
    """A share in per cent.

    >>> percent(0.0297), percent(-0.00012)
    ('2.97%', '−0.012%')
    """
    return NOTHING if share is None else f"{number(100 * share, digits)}%"


def with_error(value: float | None, error: float | None, digits: int = 2) -> str:
    """A value and its standard error, both to `digits` digits of the error (one more where a single one is a 1).

    >>> with_error(484.5612, 0.213), with_error(6.51, 0.0), with_error(1.087e-4, 7.6e-6)
    ('484.56 ± 0.21', '6.51', '(1.087 ± 0.076)×10⁻⁴')
    """
    if value is None or not error:
        return number(value, 4)
    lead = math.floor(math.log10(error))
    decimals = (2 if digits == 1 and error < 2 * 10.0**lead else digits) - 1 - lead
    power = math.floor(math.log10(max(abs(value), error)))
    if (power > -4 or lead > -6) and power < 6:
        shown = max(decimals, 0)
        return f"{round(value, decimals):.{shown}f} ± {round(error, decimals):.{shown}f}".replace("-", "−")
    shown = max(decimals + power, 0)
    scaled = f"({value / 10.0**power:.{shown}f} ± {error / 10.0**power:.{shown}f})".replace("-", "−")
    return scaled + _power_of_ten(power)


def interval(ends: Any, as_percent: bool = False) -> str:
    """An interval; an upper end that is None is infinite.

    >>> interval([0.0279, 0.0314], as_percent=True), interval([360.0, None])
    ('2.79 … 3.14%', 'from 360')
    """
    low, high = ends
    if low is None:
        return NOTHING
    if high is None:
        return f"from {percent(low) if as_percent else number(low)}"
    if as_percent:
        return f"{number(100 * low)} … {number(100 * high)}%"
    return f"{number(low)} … {number(high)}"


def of_unit(row: dict[str, Any]) -> dict[str, str]:
    """Measured value, interval and limit of an assumption as text: shares of something in per cent."""
    share = row["unit"].startswith("of ")
    show = percent if share else number
    return {
        "measured": show(row["measured"]),
        "interval": interval(row["interval"], share),
        "limit": show(row["limit"]),
    }
