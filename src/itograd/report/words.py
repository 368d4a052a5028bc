"""The sentences that terminal and page share, made from the `to_dict` of a check."""

from __future__ import annotations

from typing import Any

from itograd.report.numerals import number, percent

MAX_REASONS = 6
CURVES = {"svag_test": "SVAG beside the optimiser", "scaled_runs": "The recipe beside its scaled recipes, run"}
NECESSARY = "The bound is necessary: passing it proves nothing."


def conclusion(found: dict[str, Any]) -> str:
    """The verdict in one sentence."""
    share = percent(found["tolerance"])
    return {
        "trust": f"The SDE describes this run: every mean agrees within {share} of its range over the run.",
        "do not trust": f"The SDE does not describe this run to {share} of the range of its means.",
        "cannot tell": f"These runs do not tell whether the SDE agrees within {share} of the range of its means.",
    }[found["verdict"]]


def reasons(found: dict[str, Any]) -> list[str]:
    """The reasons of the verdict, shortened where they are many, and then its remarks."""
    given, remarks = found["reasons"], found["remarks"]
    if len(given) > MAX_REASONS:
        left_out = len(given) - MAX_REASONS + 1
        given = [*given[: MAX_REASONS - 1], f"and {left_out} more of the kind, in the table of assumptions"]
    budget = found["run"]["budget"]
    costs = [found["reach"]["sentence"], *([budget["sentence"]] if budget else [])]
    return [*given, *remarks, *(_sentence(line).removesuffix(".") for line in costs)]


def curve_notes(test: dict[str, Any]) -> list[str]:
    """Where curves part, what was rounded, and how many paths would decide what is open."""
    needed = [curve for curve in test["curves"] if curve["paths_needed"]]
    return [
        *test["remarks"],
        *(f"{curve['label']}: about {curve['paths_needed']} paths would tell" for curve in needed),
    ]


def setting(found: dict[str, Any]) -> list[str]:
    """What was compared, in short lines."""
    run = found["run"]
    size = f"{run['parameters']} parameter{'s' if run['parameters'] > 1 else ''}"
    data = f", {run['examples']} examples, sampled {run['sampling'].replace('_', ' ')}" if run["examples"] else ""
    return [
        f"{run['optimizer']}, batch size {run['batch_size']}",
        f"{problem_name(found)}: {size}{data}",
        f"{run['steps']} steps, continuous time {number(run['time'], 6)} ({run['clock']}, "
        f"{number(run['time_per_step'], 6)} a step)",
        f"against its SDE of weak order {run['order']}: {run['paths']} paths of each, {run['save_points']} save points",
    ]


def problem_name(found: dict[str, Any]) -> str:
    """The problem as the recipe names it."""
    section = found["recipe"]["problem"]
    name = section.get("function") or section["kind"].replace("_", " ")
    model = section.get("model") or section.get("preset")
    return f"{name} ({model})" if model else name


def simple_scale_sentence(found: dict[str, Any]) -> str:
    """What the simple noise scale says of the batch size."""
    scale = found["noise_scale"].get("end")
    batch = found["run"]["batch_size"]
    if not isinstance(scale, dict) or scale["simple"] is None:
        return "B_simple = B tr Σ/|∇L|² is a heuristic for the batch size above which noise no longer dominates."
    relation, noise = ("below", "larger") if batch < scale["simple"] else ("above", "smaller")
    return (
        f"Batch size {batch} is {relation} B_simple at the end of a run, {number(scale['simple'])}: the noise of a "
        f"step is {noise} than the gradient. B_simple is a heuristic, no bound."
    )


def regime_sentence(place: str, measured: dict[str, Any]) -> str:
    """What the second moment of an adaptive method sees at a place, and how far its own rule goes on that account."""
    if "reason" in measured:
        return f"{place}: {measured['reason']}"
    middle = dict(zip(measured["levels"], measured["squared_signal"]))[0.5]
    return (
        f"{place}: r² = |∇F|²/Σ is {number(middle)} in the median coordinate, by share of the descent; the square-root "
        f"rule keeps the speed within {percent(measured['tolerance'])} up to κ = "
        f"{number(measured['largest_batch_factor'])}; from κ ≈ {number(measured['linear_from'])} on the linear rule is "
        "the right one"
    )


def scaled_notes(scaled: dict[str, Any]) -> list[str]:
    """The rule of a scaled recipe, how its steps were rounded, and what the rule assumes."""
    rule, *assumptions = rule_notes(scaled)
    return [rule, _sentence(scaled["rounding"]), *assumptions]


def rule_notes(scaled: dict[str, Any]) -> list[str]:
    """The rule of a scaled recipe, and what it assumes."""
    return [_sentence(note) for note in (scaled["rule"], *scaled["assumptions"])]


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."
