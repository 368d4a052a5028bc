"""A battery of statistical tests for both sources of random words, in the orders in which the engine uses them.

Fifteen tests of dieharder (Brown, Eddelbuettel, Bauer; Debian's package of that name), 17 p-values to a stream.
dieharder calls a p-value outside [0.005, 0.995] weak and one outside [1e-6, 1 − 1e-6] failed. A stream passes if
none is failed, and if a weak one is not weak again when its test is run once more on other words: a stream of good
words fails with probability 17 / 100^2. Left out are tests that dieharder calls suspect, slow ones, and its serial
test (-d 102), which found 6 of 210 p-values of NumPy's PCG64 weak (seeds 100 to 106), one of them 0.99999.
"""

import shutil
import subprocess
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itograd.simulation import compiled
from itograd.simulation.draws import Draws
from itograd.simulation.threefry import path_key

TESTS = {
    "birthdays": "-d 0",
    "overlapping permutations": "-d 1 -p 50",
    "rank of 32x32 matrices": "-d 2 -p 20",
    "rank of 6x8 matrices": "-d 3",
    "bitstream": "-d 4",
    "count the ones, stream": "-d 8",
    "count the ones, byte": "-d 9 -p 50",
    "runs": "-d 15",
    "monobit": "-d 100",
    "bit distribution": "-d 200 -n 6 -p 50",
    "permutations": "-d 202 -n 5 -p 50",
    "byte distribution": "-d 205",
    "discrete cosine transform": "-d 206",
    "fill tree": "-d 207",
    "monobit of blocks": "-d 209",
}

U = np.uint32
STEPS, ROWS, PATHS = 64, 2, 1024

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("dieharder"), reason="dieharder is missing (apt-get install dieharder)"),
]


def compiled_words(seed, tile, step, steps, rows):
    if not compiled.available():
        pytest.skip(compiled.reason())
    size = {"steps": steps, "rows": rows, "paths": PATHS, "tile_size": PATHS}
    return compiled.draw("words", seed, tile, step, lane=0, **size)


def threefry_words(seed, tile, step, steps, rows):
    paths = tile * U(PATHS) + jnp.arange(PATHS, dtype=U)

    def of_path(key, at):
        return Draws(key, at).words(rows)

    keys = path_key((seed[0], seed[1]), paths)
    at = step + jnp.arange(steps, dtype=U)
    return jax.vmap(lambda s: jax.vmap(of_path, (0, None), 1)(keys, s))(at)


def tile_by_tile(words, seed):
    """All steps of a tile, then the next tile: (step, row, path)."""
    block = jax.jit(lambda tile: words(jnp.array(seed, U), tile, U(0), STEPS, ROWS))
    tile = 0
    while True:
        yield np.asarray(block(U(tile)))
        tile += 1


def path_by_path(words, seed):
    """One path through many steps, then the next path: (path, step)."""
    steps = 32 * STEPS
    block = jax.jit(lambda tile: words(jnp.array(seed, U), tile, U(0), steps, 1)[:, 0].T)
    tile = 0
    while True:
        yield np.asarray(block(U(tile)))
        tile += 1


def assessments(stream, options: str) -> list[tuple[float, str]]:
    """The p-values of one test on the words of a stream, with dieharder's verdicts."""
    columns = [part for name in ("pvalues", "assessment") for part in ("-D", name)]
    command = ["dieharder", "-g", "200", *options.split(), *columns]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with suppress(BrokenPipeError):
            for block in stream:
                process.stdin.write(block.tobytes())
        lines = process.stdout.read().decode().splitlines()
        with suppress(BrokenPipeError):
            process.stdin.close()
    found = [line.split("|") for line in lines if not line.startswith("#")]
    return [(float(p), verdict.strip()) for p, verdict in found]


@pytest.mark.parametrize("order", [tile_by_tile, path_by_path])
@pytest.mark.parametrize("words", [compiled_words, threefry_words])
def test_random_words_pass_the_battery(words, order):
    offenders = []
    for number, (name, options) in enumerate(TESTS.items()):
        found = assessments(order(words, (20_260_101, number)), options)
        assert found, f"dieharder gave nothing for {name}"
        print(f"\n{words.__name__} {order.__name__} {name}: " + " ".join(f"{p:.4f}" for p, _ in found), end="")
        weak = {i for i, (_, verdict) in enumerate(found) if verdict == "WEAK"}
        if weak:
            again = assessments(order(words, (20_260_102, number)), options)
            print(", again " + " ".join(f"{again[i][0]:.4f}" for i in sorted(weak)), end="")
            weak &= {i for i, (_, verdict) in enumerate(again) if verdict == "WEAK"}
            found += again
        if weak or "FAILED" in {verdict for _, verdict in found}:
            offenders.append(name)
    assert not offenders


def test_the_battery_can_fail():
    """Words of which one in 32 has its lowest bit stuck."""

    def stuck():
        for block in tile_by_tile(threefry_words, (1, 2)):
            block = block.copy()
            block[..., ::32] |= U(1)
            yield block

    assert "FAILED" in {verdict for _, verdict in assessments(stuck(), TESTS["monobit"])}
