"""The figures as tables: for the terminal, and for the page docs/performance.md between its two markers."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import LARGEST_Z
from benchmarks.runners import RUNNERS
from benchmarks.workloads import WORKLOADS

BEGIN = "<!-- figures: written by `python -m benchmarks --write` -->"
END = "<!-- end of figures -->"


def write(page: Path, results: dict) -> None:
    """Replace what stands between the markers of a page."""
    write_between(page, BEGIN, END, as_markdown(results))


def write_between(page: Path, begin: str, end: str, content: str) -> None:
    """Replace what stands between two markers of a page."""
    text = page.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{page} must hold the lines {begin!r} and {end!r} once each, in this order")
    before, rest = text.split(begin)
    page.write_text(f"{before}{begin}\n\n{content}\n{end}{rest.split(end)[1]}")


def as_markdown(results: dict) -> str:
    """All tables of a run."""
    machine, versions = results["machine"], results["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    shrink = results["settings"]["shrink"]
    counted = [row["largest_z"] for row in results["rows"]]
    has_limit = any(row["runner"] == "limit" for row in results["rows"])
    vectors = f"the limit built for {machine['vectors']}" if has_limit else machine["vectors"]
    parts = [
        f"{machine['processor']}, {vectors}; {packages}. Medians of {results['settings']['repeat']} rounds"
        + (f", rough: {shrink} times fewer paths." if shrink > 1 else "."),
        f"Largest |z| of {len(counted)} comparisons with the reference: {max(counted):.1f}."
        if counted
        else "Nothing was run.",
    ]
    wrong = [f"{row['runner']} on {row['workload']}" for row in results["rows"] if not row["agrees"]]
    if wrong:
        parts.append(f"**These do not agree with the reference (|z| ≥ {LARGEST_Z:g}): {', '.join(wrong)}.**")
    for cores in sorted({row["cores"] for row in results["rows"]}):
        parts += [f"### {_cores(cores)}: path-steps per second, as shares of the limit", _shares(results, cores)]
    parts += _section("### Two cores against one: rate by rate", _scaling(results))
    parts += _section("### float64: time over that of float32", _double(results))
    parts += _section(
        "### First call: seconds over those of a later one (one core where measured)", _first_calls(results)
    )
    parts += _section("### Peak memory of a process of its own, MiB, imports included", _memory(results))
    reasons = sorted({(RUNNERS[left["runner"]].title, left["reason"]) for left in results["left_out"]})
    if reasons:
        parts.append("Left out: " + "; ".join(f"{title} ({reason})" for title, reason in reasons) + ".")
    return "\n\n".join(parts) + "\n"


def _section(title: str, table: str) -> list[str]:
    return [title, table] if table else []


def _cores(count: int) -> str:
    return "One core" if count == 1 else f"{count} cores"


def _by_cell(results, cores) -> dict[tuple[str, str], dict]:
    return {(row["workload"], row["runner"]): row for row in results["rows"] if row["cores"] == cores}


def _present(results, cores) -> tuple[list[str], list[str]]:
    """The workloads and the runners of a number of cores, in their order."""
    cells = _by_cell(results, cores)
    workloads = [name for name in WORKLOADS if any(cell[0] == name for cell in cells)]
    return workloads, [name for name in RUNNERS if any(cell[1] == name for cell in cells)]


def _shares(results, cores) -> str:
    cells = _by_cell(results, cores)
    workloads, runners = _present(results, cores)
    runners = [name for name in runners if not name.endswith("-float64")]
    ours = next((name for name in runners if name.startswith("itograd")), None)
    head = ["workload", *(RUNNERS[name].title for name in runners)]
    table = [head + ([f"{RUNNERS[ours].title}, over JAX as usually written"] if ours and "jax" in runners else [])]
    for workload in workloads:
        line = [WORKLOADS[workload].title]
        for name in runners:
            row = cells.get((workload, name))
            if row is None:
                line.append("")
            elif name == "limit" or row["share_of_limit"] is None:
                line.append(_rate(row["path_steps_per_second"]))
            else:
                line.append(_short(row["share_of_limit"]))
        if ours and "jax" in runners:
            both = [cells.get((workload, name)) for name in (ours, "jax")]
            rates = [row["path_steps_per_second"] for row in both if row]
            line.append(f"{_short(rates[0] / rates[1])}×" if len(rates) == 2 else "")
        table.append(line)
    return as_table(table)


def _scaling(results) -> str:
    one, two = _by_cell(results, 1), _by_cell(results, 2)
    workloads, runners = _present(results, 2)
    runners = [name for name in runners if any((w, name) in one for w in workloads)]
    if not runners:
        return ""
    table = [["workload", *(RUNNERS[name].title for name in runners)]]
    for workload in workloads:
        line = [WORKLOADS[workload].title]
        for name in runners:
            pair = [cells.get((workload, name)) for cells in (one, two)]
            rates = [row["path_steps_per_second"] for row in pair if row]
            line.append(f"{rates[1] / rates[0]:.2f}" if len(rates) == 2 else "")
        table.append(line)
    return as_table(table)


def _double(results) -> str:
    cells = _by_cell(results, _least_cores(results))
    table = [["workload", "runner", "float64 / float32"]]
    for (workload, name), row in cells.items():
        single = cells.get((workload, name.removesuffix("-float64")))
        if name.endswith("-float64") and single:
            ratio = single["path_steps_per_second"] / row["path_steps_per_second"]
            table.append([WORKLOADS[workload].title, RUNNERS[name].title, f"{ratio:.2f}"])
    return as_table(table) if len(table) > 1 else ""


def _first_calls(results) -> str:
    return _plain(results, _compilation, without=("limit", "numpy"))


def _compilation(row) -> str:
    return f"{max(row['first_call_seconds'] - row['seconds'], 0):.2f}"


def _memory(results) -> str:
    if all(row["peak_memory_bytes"] is None for row in results["rows"]):
        return ""
    return _plain(results, lambda row: f"{row['peak_memory_bytes'] / 2**20:.0f}" if row["peak_memory_bytes"] else "")


def _plain(results, of_row, without=()) -> str:
    cores = _least_cores(results)
    cells = _by_cell(results, cores)
    workloads, runners = _present(results, cores)
    runners = [name for name in runners if name not in without and not name.endswith("-float64")]
    if not runners:
        return ""
    table = [["workload", *(RUNNERS[name].title for name in runners)]]
    for workload in workloads:
        rows = [cells.get((workload, name)) for name in runners]
        table.append([WORKLOADS[workload].title, *(of_row(row) if row else "" for row in rows)])
    return as_table(table)


def _least_cores(results) -> int:
    return min((row["cores"] for row in results["rows"]), default=1)


def _rate(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _short(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def as_table(lines: list[list[str]]) -> str:
    """Lines of cells, the head first, as a table of Markdown."""
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
