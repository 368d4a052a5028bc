"""Peak memory of a runner, alone in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.loading import load
from benchmarks.workloads import WORKLOADS


def peak_memory(workload: str, home: str, options: dict[str, str], cores: int, paths: int, steps: int) -> int:
    """Bytes, imports included, of a fresh process that makes two calls; it has the cores of this one."""
    arguments = [workload, home, json.dumps(options), *map(str, (cores, paths, steps))]
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def own_peak() -> int:
    """Bytes that this process has held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts in ru_maxrss what the parent held before this program started
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _main(workload: str, home: str, options: str, cores: str, paths: str, steps: str) -> None:
    sized = WORKLOADS[workload].resized(int(paths), int(steps))
    run = load(home)(sized, int(cores), **json.loads(options))
    for seed in (1, 2):
        run(seed)
    print(own_peak())


if __name__ == "__main__":
    _main(*sys.argv[1:])
