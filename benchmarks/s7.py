"""`python -m benchmarks.s7`: how long the first column of the S7 table takes, with its SDE (theory 7.1)."""

from __future__ import annotations

import time

import itograd as ig
from itograd.simulation import EulerMaruyama

RECIPES = ((1, 0.25), (16, 4.0), (64, 16.0), (256, 64.0))  # (B, η)
PATHS, TIME, STEP = 576, 640.0, 0.25


def main() -> None:
    """Run the recipes and the SDE that they share, and print mean, standard error and seconds of each."""
    started = time.perf_counter()
    for seed, (batch_size, rate) in enumerate(RECIPES):
        problem = ig.problems.digits(preset="S7", batch_size=batch_size)
        _run(f"SGD ({batch_size}, {rate:g})", ig.SGD(rate), problem, seed=seed)
    sde = ig.modified_equation(ig.SGD(16.0), ig.problems.digits(preset="S7", batch_size=64))
    _run(f"SDE, Euler at dt = {STEP:g}", sde, scheme=EulerMaruyama(), dt=STEP, seed=len(RECIPES))
    print(f"{'all':<24} {time.perf_counter() - started:29.1f} s")


def _run(name: str, *model, **how) -> None:
    started = time.perf_counter()
    found = ig.simulate(*model, save_at=[TIME], paths=PATHS, observables=["squared_norm"], **how)
    mean, error = (float(found[part].values[-1, 0]) for part in ("mean", "mean_standard_error"))
    print(f"{name:<24} |W|² = {mean:.2f} ± {error:.2f} {time.perf_counter() - started:9.1f} s", flush=True)


if __name__ == "__main__":
    main()
