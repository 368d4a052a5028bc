"""Times the runners of a workload in turn, in one process.

A share is the median over the rounds of the ratio of two rates measured in the same round, so that a machine that slows
down for a while does not favour anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.closed_forms import largest_z
from benchmarks.left_out import LeftOut
from benchmarks.runners import Runner
from benchmarks.workloads import Run, Workload

LARGEST_Z = 5.0


@dataclass
class Row:
    """One runner on one workload."""

    workload: str
    runner: str
    cores: int
    paths: int
    steps: int
    first_call_seconds: float
    seconds: float  # the median of the later calls
    path_steps_per_second: float
    largest_z: float  # of means and variances against the reference
    agrees: bool
    share_of_limit: float | None = None
    peak_memory_bytes: int | None = None

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class _Entry:
    runner: Runner
    workload: Workload  # at its size
    run: Run
    first_call: float
    z: float

    @property
    def path_steps(self) -> int:
        return self.workload.paths * self.workload.steps


def measure(
    workload: Workload,
    runners: list[Runner],
    cores: int,
    repeat: int,
    *,
    shrink: int = 1,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[list[Row], list[dict]]:
    """The rows of a workload, and what was left out and why."""
    entries, left_out = [], []
    for runner in runners:
        if workload.name not in runner.workloads:
            continue
        note(f"{workload.name}: {runner.name}")
        try:
            entries.append(_best_size(runner, workload, cores, shrink))
        except LeftOut as reason:
            left_out.append({"workload": workload.name, "runner": runner.name, "reason": str(reason)})
    times = np.empty((repeat, len(entries)))
    for round_ in range(repeat):
        for column, entry in enumerate(entries):
            note(f"{workload.name}: round {round_ + 1} of {repeat}, {entry.runner.name}")
            times[round_, column] = _timed(entry.run, round_ + 2)[0]
    rates = np.array([entry.path_steps for entry in entries]) / times
    limit = next((rates[:, i] for i, entry in enumerate(entries) if entry.runner.name == "limit"), None)
    rows = [
        Row(
            workload=workload.name,
            runner=entry.runner.name,
            cores=cores,
            paths=entry.workload.paths,
            steps=entry.workload.steps,
            first_call_seconds=entry.first_call,
            seconds=float(np.median(times[:, i])),
            path_steps_per_second=float(np.median(rates[:, i])),
            largest_z=entry.z,
            agrees=entry.z < LARGEST_Z,
            share_of_limit=None if limit is None else float(np.median(rates[:, i] / limit)),
        )
        for i, entry in enumerate(entries)
    ]
    return rows, left_out


def _best_size(runner: Runner, workload: Workload, cores: int, shrink: int) -> _Entry:
    found: list[tuple[float, _Entry]] = []
    for sized in runner.sized(workload, shrink):
        run = runner.prepare(sized, cores)
        first_call, moments = _timed(run, 1)
        entry = _Entry(runner, sized, run, first_call, largest_z(sized, moments))
        rate = entry.path_steps / _timed(run, 2)[0] if runner.sizes else 0.0
        found.append((rate, entry))
    return max(found, key=lambda pair: pair[0])[1]


def _timed(run: Run, seed: int):
    start = time.perf_counter()
    moments = run(seed)
    return time.perf_counter() - start, moments
