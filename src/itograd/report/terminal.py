"""A check on the terminal: the verdict first and last, and the tables behind it between, in 80 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from itograd.report.numerals import interval, number, of_unit, percent, with_error
from itograd.report.side_by_side import side_by_side
from itograd.report.words import (
    CURVES,
    NECESSARY,
    conclusion,
    curve_notes,
    reasons,
    regime_sentence,
    rule_notes,
    scaled_notes,
    setting,
    simple_scale_sentence,
)

COLOURS = {"trust": "bold green", "do not trust": "bold red", "cannot tell": "bold yellow"}
OUTCOMES = {"holds": "green", "fails": "red", "open": "yellow"}


def print_check(found: dict[str, Any], console: Console) -> None:
    """Print the `to_dict` of a check."""
    console.print(Text(f"itograd check: {found['recipe']['name']}", style="bold"))
    for line in setting(found):
        print_line(console, line)
    _verdict(found, console)
    for reason in reasons(found):
        print_line(console, reason, bullet=True)
    _assumptions("Assumptions", found["assumptions"], console)
    _final_errors(found, console)
    _noise(found, console)
    _room(found, console)
    _curves(found, console)
    _verdict(found, console)


def print_scaled(scaled: dict[str, Any], console: Console, *, bound: list[str]) -> None:
    """Print one scaled recipe, old and new side by side, and what is known of the bound."""
    console.print(_side_by_side([scaled], rules=True))
    for note in scaled_notes(scaled):
        print_line(console, note)
    for note in bound:
        print_line(console, note)


def _verdict(found: dict[str, Any], console: Console) -> None:
    text = Text("Verdict: ").append(found["verdict"], style=COLOURS[found["verdict"]]).append(f". {conclusion(found)}")
    console.print()
    console.print(text)


def print_line(console: Console, line: str, bullet: bool = False, style: str = "") -> None:
    """Print a sentence, indented."""
    if not bullet:
        console.print(Padding(Text(line, style=style), (0, 0, 0, 2), expand=False))
        return
    grid = Table.grid(padding=(0, 1, 0, 2))
    grid.add_row("•", Text(line))
    console.print(grid)


def print_heading(console: Console, title: str) -> None:
    """Print the title of a section."""
    console.print()
    console.print(Text(title, style="bold"))


def table_of(*columns: str) -> Table:
    """An empty table; all columns but the first are numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="", padding=(0, 1))
    for i, column in enumerate(columns):
        table.add_column(
            column, justify="right" if i else "left", no_wrap=i > 0, min_width=0 if i else 12, overflow="fold"
        )
    return table


def _assumptions(title: str, rows: list[dict[str, Any]], console: Console) -> None:
    print_heading(console, title)
    table = table_of("assumption", "measured", "interval", "limit", "outcome")
    for row in rows:
        shown = of_unit(row)
        outcome = Text(
            row["outcome"] if row["decisive"] else f"({row['outcome']})",
            style=OUTCOMES[row["outcome"]] if row["decisive"] else "dim",
        )
        name = Text(row["name"]).append(f"\n  {row['unit']}", style="dim")
        table.add_row(name, shown["measured"], shown["interval"], shown["limit"], outcome)
    console.print(table)
    if any(not row["decisive"] for row in rows):
        print_line(console, "An outcome in parentheses explains, and does not decide.")


def _final_errors(found: dict[str, Any], console: Console) -> None:
    rows, digits = found["final_weak_errors"], 2 if console.width > 90 else 1
    print_heading(console, f"Means at the end of the run, time {number(rows[0]['time'], 6)} (± standard error)")
    table = table_of("observable", "optimiser", "SDE", "difference", "of scale")
    for row in rows:
        table.add_row(
            row["observable"],
            with_error(row["optimizer_mean"], row["optimizer_standard_error"], digits),
            with_error(row["sde_mean"], row["sde_standard_error"], digits),
            with_error(row["weak_error"], row["standard_error"], digits),
            percent(row["share_of_scale"], 2),
        )
    console.print(table)


def _noise(found: dict[str, Any], console: Console) -> None:
    print_heading(console, "Gradient noise scale (± standard error)")
    table = table_of("", "|∇L|²", "tr Σ", "B_simple", "interval")
    notes = []
    for place, scale in found["noise_scale"].items():
        if isinstance(scale, str):
            notes.append(f"{place}: {scale}")
            continue
        table.add_row(
            place,
            with_error(scale["squared_gradient"], scale["squared_gradient_standard_error"]),
            with_error(scale["noise_trace"], scale["noise_trace_standard_error"]),
            number(scale["simple"]),
            interval(scale["simple_interval"]),
        )
    settled = found["batch_size_room"]["equilibrium"]
    if settled is not None:
        table.add_row(
            "equilibrium*",
            with_error(*settled["squared_gradient"]),
            with_error(*settled["noise_trace"]),
            number(settled["simple_noise_scale"]),
            interval(settled["simple_noise_scale_interval"]),
        )
        notes.append("* averages over a long run; |∇L|² without the gradient of the decay")
    if table.row_count:
        console.print(table)
        print_line(console, simple_scale_sentence(found))
    for note in notes:
        print_line(console, note)


def _room(found: dict[str, Any], console: Console) -> None:
    room = found["batch_size_room"]
    print_heading(console, "Room for other batch sizes")
    if room["sharp"] is not None:
        print_line(
            console,
            f"κ ≤ {number(room['sharp'])} ({interval(room['sharp_interval'])}; weak form: "
            f"{number(room['weak'])}), to stay {number(room['closeness'])}-close to this run at "
            f"equilibrium. {NECESSARY}",
        )
    else:
        print_line(console, "There is no bound on the batch factor:")
        for reason in room["reasons"]:
            print_line(console, reason, bullet=True)
    for place, measured in found["regime"].items():
        print_line(console, regime_sentence(place, measured), bullet=True)
    if room["equilibrium"] is not None:
        _assumptions("Guards of the bound", room["equilibrium"]["guards"], console)
    scaled = [row for row in found["scaled_recipes"] if "new" in row]
    if scaled:
        print_heading(console, "The recipe at other batch sizes")
        console.print(_side_by_side(scaled))
        for note in rule_notes(scaled[0]):
            print_line(console, note)
        for row in scaled:
            print_line(console, f"B = {row['new']['batch_size']}: {row['rounding']}; {row['bound']}", bullet=True)
    for row in found["scaled_recipes"]:
        if "reason" in row:
            print_line(console, row["reason"], bullet=True)


def _curves(found: dict[str, Any], console: Console) -> None:
    for name, test in found["curves"].items():
        if "reason" in test:
            print_heading(console, CURVES[name])
            print_line(console, f"not run: {test['reason']}")
            continue
        rows = [row for curve in test["curves"] for row in curve["assumptions"]]
        _assumptions(f"{CURVES[name]}: {test['decision']}", rows, console)
        for line in curve_notes(test):
            print_line(console, line, bullet=True)


def _side_by_side(rows: list[dict[str, Any]], rules: bool = False) -> Table:
    """The old column and the new ones; with `rules`, for one scaled recipe, what was done to each line, and groups."""
    news = [f"new, κ = {number(row['batch_factor'])}" for row in rows]
    table = table_of("", "old", *news, *(["rule"] if rules else []))
    _lines(table, rows, rules)
    if rules:
        for name, group in rows[0].get("groups", {}).items():
            differing = [
                key for key in group["rules"] if any(group[side][key] != rows[0][side][key] for side in ("old", "new"))
            ]
            _lines(table, [group], rules, only=differing, prefix=f"{name}: ")
    return table


def _lines(table: Table, rows: list[dict[str, Any]], rules: bool, only: list[str] | None = None, prefix="") -> None:
    for line in side_by_side(rows, only):
        table.add_row(prefix + line.name, *line.values, *([line.rule] if rules else []))
