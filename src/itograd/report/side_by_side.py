"""A recipe and its scaled recipes side by side, as text: the lines that terminal and page share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from itograd.report.numerals import decay_rate, number

DECAY_RATES = ("momentum", "b1", "b2", "beta", "ema")


class Line(NamedTuple):
    """One hyperparameter: its name, its old value and the new ones, and what the rule of the first did to it."""

    name: str
    values: list[str]
    rule: str


def side_by_side(rows: Sequence[dict[str, Any]], only: Sequence[str] | None = None) -> Iterator[Line]:
    """The lines of the scaled recipes `rows`, of which each has "old", "new" and "rules"; `only` names some of them.

    What is not there is left out: a decay of 0, steps that were not given.
    """
    columns = [rows[0]["old"], *(row["new"] for row in rows)]
    for key in columns[0] if only is None else only:
        if only or any(column[key] for column in columns):
            values = [_value(key, column[key]) for column in columns]
            yield Line(key.replace("_", " "), values, rows[0]["rules"].get(key, ""))


def _value(key: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(number(item, 6) for item in value)
    return decay_rate(value) if key in DECAY_RATES else number(value, 6)
