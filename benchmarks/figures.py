"""All figures of one process, with the machine and the versions they hold for."""

from __future__ import annotations

from collections.abc import Callable

import jax

from benchmarks.machine import machine, versions
from benchmarks.measure import measure
from benchmarks.memory import peak_memory
from benchmarks.runners import RUNNERS, Runner
from benchmarks.workloads import Workload


def figures(
    workloads: list[Workload],
    runners: list[Runner],
    cores: int,
    repeat: int,
    *,
    shrink: int = 1,
    memory: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> dict:
    """Rows and what was left out, as the JSON file holds them."""
    jax.block_until_ready(jax.numpy.zeros(1) + 1)  # so that no first call pays for the start of jax
    rows, left_out = [], []
    for workload in workloads:
        found, missing = measure(workload, runners, cores, repeat, shrink=shrink, note=note)
        for row in found if memory else []:
            note(f"{workload.name}: memory of {row.runner}")
            home, options = RUNNERS[row.runner].home, dict(RUNNERS[row.runner].options)
            row.peak_memory_bytes = peak_memory(row.workload, home, options, cores, row.paths, row.steps)
        rows += [row.as_dict() for row in found]
        left_out += missing
    note("")
    return {
        "machine": machine(),
        "versions": versions(),
        "settings": {"repeat": repeat, "shrink": shrink},
        "rows": rows,
        "left_out": left_out,
    }
