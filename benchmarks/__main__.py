"""`python -m benchmarks`: path-steps per second of itograd and its rivals, as shares of the machine's limit.

Without --cores it runs itself on one core and on two, one after the other; rivals are measured on one core only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; the exit status is 1 where a runner disagrees with the reference."""
    options = _parser().parse_args(arguments)
    if options.cores is not None:
        results = _measured(options)
    else:
        counts = [count for count in (1, 2) if count <= _available()]
        results = _merged([_in_child(options, count) for count in counts])
    if options.json == "-":
        print(json.dumps(results, indent=2))
    elif options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    # Only now: an import of the runners starts jax, which must not happen before the cores are chosen.
    from benchmarks.report import as_markdown, write

    if options.write:
        write(Path(options.write), results)
    if options.json != "-":
        print(as_markdown(results))
    return 0 if all(row["agrees"] for row in results["rows"]) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--workload", nargs="+", metavar="NAME", help="default: all; a wrong name lists them")
    parser.add_argument("--rivals", nargs="*", metavar="NAME", help="default: all; no name: none")
    parser.add_argument("--cores", type=int, choices=(1, 2), help="default: one, then two")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds (5; with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="eight times fewer paths: the rates are rough")
    parser.add_argument("--memory", action="store_true", help="also peak memory, each runner in a process of its own")
    parser.add_argument("--json", metavar="FILE", help="write all figures; - for standard output, without tables")
    parser.add_argument("--write", metavar="PAGE", help="put the tables into this page, between its markers")
    return parser


def _available() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _measured(options) -> dict:
    """In this process, on the cores asked for."""
    if _available() < options.cores:
        raise SystemExit(f"--cores {options.cores}: this process may use {_available()}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    from benchmarks.figures import figures
    from benchmarks.runners import RUNNERS
    from benchmarks.workloads import WORKLOADS

    workloads = chosen("workload", options.workload, list(WORKLOADS))
    rivals = chosen("rival", options.rivals, [name for name, runner in RUNNERS.items() if runner.is_rival])
    return figures(
        [WORKLOADS[name] for name in workloads],
        [runner for runner in RUNNERS.values() if not runner.is_rival or runner.name in rivals],
        options.cores,
        options.repeat or (3 if options.quick else 5),
        shrink=8 if options.quick else 1,
        memory=options.memory,
        note=_note,
    )


def chosen(what: str, names: list[str] | None, known: list[str]) -> list[str]:
    """The names, in the order of the known ones; all of them where none are given."""
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise SystemExit(f"no {what} {', '.join(unknown)}: there are {', '.join(known)}")
    return known if names is None else [name for name in known if name in names]


def _in_child(options, cores: int) -> dict:
    """The results of a process that has so many cores from its start."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "results.json")
        command = [sys.executable, "-m", "benchmarks", "--cores", str(cores), "--json", str(file)]
        command += ["--workload", *options.workload] if options.workload else []
        rivals = options.rivals if cores == 1 else options.rivals or []
        command += ["--rivals", *rivals] if rivals is not None else []
        command += ["--repeat", str(options.repeat)] if options.repeat else []
        command += ["--quick"] if options.quick else []
        command += ["--memory"] if options.memory and cores == 1 else []
        status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        if not file.exists():
            raise SystemExit(status)
        return json.loads(file.read_text())


def _merged(results: list[dict]) -> dict:
    first = results[0]
    rows = [row for result in results for row in result["rows"]]
    left_out = [left for result in results for left in result["left_out"]]
    return {**first, "machine": results[-1]["machine"], "rows": rows, "left_out": left_out}


def _note(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
