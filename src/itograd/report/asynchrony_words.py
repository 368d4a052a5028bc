"""What `itograd asynchrony` prints: staleness, momentum, stability, what to set and what it costs, in 80 columns."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.text import Text

from itograd.report.numerals import number
from itograd.report.terminal import print_heading, print_line, table_of

COLOURS: dict[Any, str] = {True: "bold green", False: "bold red"}
NOT_SUMMED = (
    "The two do not add to one total: they act in a row, (1−μ_S B)(1−μ_L B) Δx = −(1−μ_S) η ∇L with B one step back, "
    "so that implicit momentum leaves the effective rate η/(1−μ_L) alone; what YellowFin calls total momentum is a "
    "third quantity."
)
NAMES = {
    "this_momentum": "rate tuned at this momentum",
    "stale": "rate and momentum tuned",
    "fresh": "the same with fresh gradients",
}


def print_advice(found: dict[str, Any], console: Console) -> None:
    """Print the `to_dict` of an `Advice`."""
    console.print(Text(f"itograd asynchrony: {setting(found)}", style="bold"))
    _staleness(found, console)
    _momentum(found, console)
    _stability(found, console)
    if found["tuned"]:
        _what_to_set(found, console)


def setting(found: dict[str, Any]) -> str:
    """The optimiser and the law in a few words."""
    given, law = found["setting"], found["staleness"]
    momentum = f", momentum {number(given['momentum'])}" if given["momentum"] else ""
    return f"SGD, learning rate {number(given['learning_rate'])}{momentum}, {law_name(law)}"


def law_name(law: dict[str, Any]) -> str:
    """Whose delays these are."""
    if law["kind"] == "trace":
        return f"a trace of {law['writes']} writes"
    if law["kind"] == "queue":
        return f"{law['workers']} worker{'s' if law['workers'] > 1 else ''}"
    return law["kind"]


def verdict(found: dict[str, Any]) -> tuple[bool | None, str]:
    """Whether the setting is stable on the given curvatures, and the sentence that says so."""
    margin, eta = found["stability"]["margin"], number(found["setting"]["learning_rate"])
    if margin is None:
        limits = found["stability"]["largest_stable_curvature"]
        single, average = rounded_down(limits["mean_square"]), rounded_down(limits["mean"])
        return None, (
            f"Learning rate {eta} is stable on curvatures up to {single} (single runs), and in the average over runs "
            f"up to {average}. The curvature that matters is the largest "
            "eigenvalue of the Hessian; give its range for more."
        )
    limit = rounded_down(margin["mean_square_limit"])
    low, high = map(number, found["setting"]["curvature_range"])
    where = f"on curvatures from {low} to {high}"
    if margin["is_stable"]:
        return True, (
            f"Stable {where}: single runs converge, and would up to learning rate {limit}, "
            f"{number(margin['margin'])} times this one."
        )
    nearest = f"The nearest stable setting is a learning rate below {limit}"
    if found["setting"]["momentum"]:
        nearest += f" at this momentum, {number(found['setting']['momentum'])}"
    if margin["mean_rate"] >= 1:
        return False, (
            f"Unstable {where}: every run diverges, and so does the average over runs, by a factor of "
            f"{number(margin['mean_rate'], 4)} a step. {nearest}."
        )
    return False, (
        f"Unstable {where}: the average over many runs converges, but a single run diverges, its typical distance "
        f"growing by a factor of {number(margin['mean_square_rate'], 4)} a step. Every gradient is taken at a random "
        f"past point, and the scatter of those points feeds itself. {nearest}."
    )


def _staleness(found: dict[str, Any], console: Console) -> None:
    law, implicit = found["staleness"], found["implicit_momentum"]
    print_heading(console, "Staleness: how many writes old a gradient is when it is applied")
    if implicit["momentum"] is not None:
        text = f"geometric, P(τ = l) = (1−μ) μ^l with μ = {number(implicit['momentum'], 4)}"
        print_line(console, text if implicit["momentum"] else "none: every gradient is fresh")
    elif law["standard_deviation"] == 0:
        print_line(console, "always the same")
    else:
        print_line(
            console,
            f"{law['service']} times; the law has no closed form"
            if law["kind"] == "queue"
            else f"{law['delays_in_law']} different delays",
        )
    print_line(
        console,
        f"mean {number(law['mean'], 4)}, standard deviation {number(law['standard_deviation'], 3)}, 95% at most "
        f"{law['quantile_95']}",
    )
    expected = law["expected"]
    if expected:
        print_line(
            console,
            f"{expected['workers']} equal workers with exponential times have mean {number(expected['mean'], 4)} and "
            f"standard deviation {number(expected['standard_deviation'])}; total variation from their law "
            f"{number(expected['total_variation'], 2)}.",
        )
    if found["approximation"]:
        print_line(console, f"Approximation: {found['approximation']}")


def _momentum(found: dict[str, Any], console: Console) -> None:
    implicit, explicit = found["implicit_momentum"], found["setting"]["momentum"]
    print_heading(console, "Momentum")
    if implicit["momentum"]:
        print_line(
            console,
            f"implicit, from staleness: μ_S = {number(implicit['momentum'], 4)}, with the gradient times "
            f"1−μ_S = {number(1 - implicit['momentum'], 4)}. It describes the average over runs, and no single run.",
        )
    elif implicit["momentum"] == 0:
        print_line(console, "implicit: none, since there is no staleness")
    else:
        past = ", ".join(number(weight, 2) for weight in implicit["kernel_past"])
        print_line(
            console,
            "implicit: none. Delays act as momentum only where P(τ = l) falls by the same factor with every l. In the "
            f"average a step of SGD is the last one, minus η times {number(implicit['kernel_current'], 2)} ∇L now, "
            f"plus η times {past}, … of ∇L one step ago, two, three …",
        )
    print_line(console, f"explicit, as set: μ_L = {number(explicit)}")
    if implicit["momentum"] and explicit:
        print_line(console, NOT_SUMMED)


def _stability(found: dict[str, Any], console: Console) -> None:
    print_heading(console, "Stability")
    stable, sentence = verdict(found)
    print_line(console, sentence, style=COLOURS.get(stable, ""))
    margin = found["stability"]["margin"]
    if margin is None:
        return
    table = table_of("", "a step × ", "largest stable rate")
    table.add_row(
        "a single run (mean square)", number(margin["mean_square_rate"], 4), rounded_down(margin["mean_square_limit"])
    )
    table.add_row("the average over runs (mean)", number(margin["mean_rate"], 4), rounded_down(margin["mean_limit"]))
    console.print(table)


def _what_to_set(found: dict[str, Any], console: Console) -> None:
    print_heading(console, "What to set, and what it costs (noise of the batches aside)")
    table = table_of("", "learning rate", "momentum", "steps a decade")
    given = found["setting"]
    own = found["stability"]["steps_per_decade"]
    table.add_row(
        "as given", number(given["learning_rate"]), number(given["momentum"]), "diverges" if own is None else steps(own)
    )
    searched = any(row["momentum"] for name, row in found["tuned"].items() if name == "stale")
    for name in ("this_momentum", "stale", "fresh"):
        if name in found["tuned"]:
            row = found["tuned"][name]
            title = NAMES[name] if name != "stale" or searched else "rate tuned without momentum"
            table.add_row(title, number(row["learning_rate"]), number(row["momentum"]), steps(row["steps_per_decade"]))
    console.print(table)
    print_line(console, "A decade: the distance of a typical run (root mean square) falls tenfold.")
    if not searched:
        print_line(
            console, "The momentum was not searched: tune(law, …) in Python does, in minutes for a law like this."
        )
    elif abs(found["tuned"]["stale"]["momentum"]) > 0.99:
        print_line(console, "This momentum is the edge of what was searched.")
    time = found["time"]
    if time:
        print_line(
            console,
            f"In units of the time of one gradient: {number(time['asynchronous'])} a decade tuned as above, and "
            f"{number(time['synchronous'])} with synchronous workers, whose step waits for the slowest and takes "
            f"{number(time['synchronous_step'])}. Their gradients are averaged; the noise they save is not counted.",
        )


def rounded_down(limit: float) -> str:
    """A limit with three digits that is not above it.

    >>> rounded_down(0.016921), rounded_down(0.38618)
    ('0.0169', '0.386')
    """
    unit = 10.0 ** (math.floor(math.log10(limit)) - 2)
    return number(math.floor(limit / unit * (1 + 1e-12)) * unit)


def steps(value: float | None) -> str:
    """A number of steps, whole where it is large."""
    return "diverges" if value is None else number(float(round(value)) if value >= 10 else value)
