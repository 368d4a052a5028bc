"""`python -m benchmarks [--json] [--repeat N]`: path-steps per second and ratios to the named rivals.

Rivals run in turn in one process; a figure counts only if the rivals' means agree within their standard errors.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from benchmarks.workloads import Workload, euler_maruyama, softmax_digits


def measure(workload: Workload, repeat: int) -> list[dict]:
    """One row for each rival: first call, median of the later calls, rate, ratio to itograd, agreement."""
    first, times, means = {}, {name: [] for name in workload.runs}, {name: [] for name in workload.runs}
    for name, run in workload.runs.items():
        start = time.perf_counter()
        run(0)
        first[name] = time.perf_counter() - start
    for seed in range(1, repeat + 1):
        for name, run in workload.runs.items():
            start = time.perf_counter()
            means[name].append(run(seed))
            times[name].append(time.perf_counter() - start)
    ours = np.median(times["itograd"])
    rows = []
    for name in workload.runs:
        deviation = (
            max(float(np.max(np.abs(a - b) / np.hypot(s, t))) for (a, s), (b, t) in zip(means["itograd"], means[name]))
            if name != "itograd"
            else 0.0
        )
        median = float(np.median(times[name]))
        rows.append(
            {
                "workload": workload.name,
                "rival": name,
                "path_steps_per_second": workload.path_steps / median,
                "seconds": median,
                "first_call_seconds": first[name],
                "itograd_is_faster_by": median / ours,
                "largest_z_against_itograd": deviation,
            }
        )
    return rows


def main() -> None:
    """Run the workloads and print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for workload in (euler_maruyama(paths=102_400, steps=500), softmax_digits(paths=512, steps=500)):
        rows += measure(workload, options.repeat)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'workload':<32}{'rival':<26}{'path-steps/s':>14}{'itograd faster by':>20}{'first call':>12}{'max z':>8}")
    for row in rows:
        print(
            f"{row['workload']:<32}{row['rival']:<26}{row['path_steps_per_second']:>14.3g}"
            f"{row['itograd_is_faster_by']:>19.1f}×{row['first_call_seconds']:>10.1f} s"
            f"{row['largest_z_against_itograd']:>8.1f}"
        )


if __name__ == "__main__":
    main()
