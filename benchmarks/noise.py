"""`python -m benchmarks.noise [--json]`: numbers per second of the compiled noise on one core.

Each figure is the best of many short runs in turn: a loop of steps inside one compiled function, each of which
calls the library through `jax.ffi` for an array (rows, 1024), with a stream and a seeding of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import jax
import jax.numpy as jnp

from itograd.simulation import compiled

PARAMETERS = {"index": 100, "geometric": (0.9, 63)}
PATHS, ROWS, NUMBERS = 1024, (2, 16), 1 << 21


def looped(kind: str, instruction_set: str, rows: int):
    """A compiled call that draws NUMBERS numbers, an array (rows, PATHS) to a step."""
    os.environ[compiled.CHOICE] = instruction_set
    size = {"lane": 0, "steps": 1, "rows": rows, "paths": PATHS, "tile_size": PATHS}
    seed = jnp.array([1, 2], jnp.uint32)

    def step(k, total):
        numbers = compiled.draw(kind, seed, jnp.uint32(3), k, parameter=PARAMETERS.get(kind), **size)
        return total + numbers[0, 0, 0].astype(jnp.float32)

    steps = NUMBERS // (rows * PATHS)
    run = jax.jit(lambda first: jax.lax.fori_loop(first, first + jnp.uint32(steps), step, jnp.float32(0)))
    run = run.lower(jnp.uint32(0)).compile()
    del os.environ[compiled.CHOICE]
    return lambda: run(jnp.uint32(5)).block_until_ready()


def best_rates(calls: dict, repeat: int) -> dict:
    """Numbers per second of each call, the calls in turn."""
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    for _ in range(repeat):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: NUMBERS / best[name] for name in calls}


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    if not compiled.available():
        parser.exit(1, f"no compiled noise: {compiled.reason()}\n")
    best = compiled.INSTRUCTION_SETS.index(compiled.instruction_set())
    sets = compiled.INSTRUCTION_SETS[: best + 1]
    calls = {(k, s, rows): looped(k, s, rows) for k in compiled.KINDS for s in sets for rows in ROWS}
    rates = best_rates(calls, options.repeat)
    if options.json:
        names = ("kind", "instruction_set", "rows")
        print(json.dumps([dict(zip(names, key)) | {"per_second": rate} for key, rate in rates.items()], indent=2))
        return
    print("10^9 numbers a second, 2 / 16 rows of 1024")
    print("| kind | " + " | ".join(sets) + " |\n|---|" + "---|" * len(sets))
    for kind in compiled.KINDS:
        pairs = (f"{rates[kind, s, 2] / 1e9:.2f} / {rates[kind, s, 16] / 1e9:.2f}" for s in sets)
        print(f"| {kind} | " + " | ".join(pairs) + " |")


if __name__ == "__main__":
    main()
