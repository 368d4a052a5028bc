"""Checks of arguments: every message says what was given and what is needed."""

from __future__ import annotations

import math
import numbers
from typing import Any


def require(condition: Any, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def is_concrete(value: Any) -> bool:
    """Whether the value is a plain real number, rather than an array or a tracer inside a compiled step."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def require_number(
    name: str, value: Any, *, minimum: float = -math.inf, maximum: float = math.inf, exclusive: bool = False
) -> None:
    """Raise unless `value` is a finite number within the bounds (excluded themselves where `exclusive`)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number: got {value!r}")
    value = float(value)
    inside = minimum < value < maximum if exclusive else minimum <= value <= maximum
    bounds = f"({minimum:g}, {maximum:g})" if exclusive else f"[{minimum:g}, {maximum:g}]"
    require(math.isfinite(value) and inside, f"{name} must be a finite number in {bounds}: got {value:g}")


def require_count(name: str, value: Any, *, minimum: int = 1) -> None:
    """Raise unless `value` is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number: got {value!r}")
    require(int(value) >= minimum, f"{name} must be at least {minimum}: got {value}")


def require_choice(name: str, value: Any, choices) -> None:
    """Raise unless `value` is one of the choices."""
    require(value in choices, f"{name} must be one of {', '.join(map(repr, choices))}: got {value!r}")
