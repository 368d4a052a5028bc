"""The compiled noise: every word is that of the published generators, and every number that of its law."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from itograd.simulation import compiled
from itograd.simulation.precision import double

U, U64 = np.uint32, np.uint64
PARAMETERS = {"index": 1000, "geometric": (0.9, 63)}

needs_library = pytest.mark.skipif(not compiled.available(), reason=compiled.reason() or "it is there")


def sets():
    library, _ = compiled._load()
    return [s for i, s in enumerate(compiled.INSTRUCTION_SETS) if library and library.itograd_noise_supports(i)]


def numbers(kind, seed=(7, 8), tile=0, step=0, lane=0, steps=1, rows=1, paths=1024, tile_size=None):
    size = {"steps": steps, "rows": rows, "paths": paths, "tile_size": tile_size or paths}
    seed = np.array(seed, U)
    parameter = PARAMETERS.get(kind)
    return np.asarray(compiled.draw(kind, seed, U(tile), U(step), lane=lane, parameter=parameter, **size))


# ---- the reference: the papers' algorithms once more, in NumPy


def philox4x32(counter, key, rounds=10):
    """Random123's Philox4x32 of arrays of 32-bit words."""
    c0, c1, c2, c3 = (np.asarray(c, U64) for c in counter)
    k0, k1 = (int(k) for k in key)
    low = U64(0xFFFFFFFF)
    for _ in range(rounds):
        p0, p1 = c0 * U64(0xD2511F53), c2 * U64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> U64(32)) ^ c1 ^ U64(k0), p1 & low, (p0 >> U64(32)) ^ c3 ^ U64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def xoshiro256pp(state, count):
    """`count` rows of outputs of generators with states (4, lanes)."""

    def rotated(x, k):
        return (x << U64(k)) | (x >> U64(64 - k))

    s0, s1, s2, s3 = np.array(state, U64)
    rows = []
    for _ in range(count):
        rows.append(rotated(s0 + s3, 23) + s0)
        t = s1 << U64(17)
        s2, s3 = s2 ^ s0, s3 ^ s1
        s1, s0 = s1 ^ s2, s0 ^ s3
        s2, s3 = s2 ^ t, rotated(s3, 45)
    return np.array(rows)


def reference_words(count, seed, tile, step, lane):
    blocks = philox4x32((tile, step, lane, np.arange(16)), seed)
    state = [b[0::2] | (b[1::2] << U64(32)) for b in map(np.atleast_1d, blocks)]
    rows = xoshiro256pp(state, -(-count // 16))
    return np.stack([rows & U64(0xFFFFFFFF), rows >> U64(32)], axis=-1).ravel()[:count].astype(U)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_reference_gives_the_vectors_of_random123(counter, key, expected):
    assert tuple(int(w) for w in philox4x32(counter, key)) == expected


def test_the_reference_gives_the_published_vector_of_xoshiro():
    # The test vector of the crate rand_xoshiro, made by its authors with the C code of Blackman and Vigna.
    expected = [41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205, 9973669472204895162]
    assert xoshiro256pp([[1], [2], [3], [4]], 6).ravel().tolist() == expected


# ---- words as values


@needs_library
@pytest.mark.parametrize("instruction_set", sets())
def test_every_word_is_that_of_the_reference(instruction_set, monkeypatch):
    monkeypatch.setenv(compiled.CHOICE, instruction_set)
    seed, tile, step, lane = (0x12345678, 0x9ABCDEF0), 2**32 - 1, 3_000_000_000, 2**32 - 2
    words = numbers("words", seed, tile, step, lane, steps=2, rows=5, paths=2 * 336, tile_size=336)
    for i in range(2):
        for j in range(2):
            number = (tile + j) % 2**32
            expected = reference_words(5 * 336, seed, number, step + i, lane).reshape(5, 336)
            np.testing.assert_array_equal(words[i, :, 336 * j : 336 * (j + 1)], expected)


@needs_library
@pytest.mark.parametrize("kind", compiled.KINDS)
def test_numbers_do_not_depend_on_how_many_steps_or_tiles_a_call_fills(kind):
    for tile_size in (1024, 40, 7):
        whole = numbers(kind, tile=5, step=9, steps=3, rows=3, paths=2 * tile_size, tile_size=tile_size)
        for step in range(3):
            for tile in range(2):
                part = numbers(kind, tile=5 + tile, step=9 + step, rows=3, paths=tile_size)
                np.testing.assert_array_equal(whole[step, :, tile * tile_size :][:, :tile_size], part[0])


@needs_library
@pytest.mark.parametrize("kind", compiled.KINDS)
def test_a_longer_tile_or_more_rows_only_go_on(kind):
    few, more = numbers(kind, paths=5, rows=3), numbers(kind, paths=5, rows=1200)
    np.testing.assert_array_equal(more[0, :3], few[0])
    long = numbers(kind, paths=6000)
    np.testing.assert_array_equal(long.ravel(), more.ravel())


@needs_library
@pytest.mark.parametrize("kind", compiled.KINDS)
def test_the_instruction_sets_give_the_same_bytes(kind, monkeypatch):
    found = []
    for instruction_set in sets():
        monkeypatch.setenv(compiled.CHOICE, instruction_set)
        found.append(numbers(kind, steps=4, rows=17, paths=2 * 1000, tile_size=1000).tobytes())
    assert len(set(found)) == 1


@needs_library
def test_words_may_be_drawn_inside_loops_and_with_traced_numbers():
    def body(total, step):
        words = compiled.draw(
            "words", jnp.array([7, 8], U), jnp.uint32(4), step, lane=3, steps=1, rows=2, paths=32, tile_size=32
        )
        return total, words[0]

    loop = jax.jit(lambda first: jax.lax.scan(body, 0, first + jnp.arange(5, dtype=U))[1])
    np.testing.assert_array_equal(loop(U(6)), numbers("words", tile=4, step=6, lane=3, steps=5, rows=2, paths=32))
    with double():
        np.testing.assert_array_equal(loop(U(6)), numbers("words", tile=4, step=6, lane=3, steps=5, rows=2, paths=32))


# ---- laws


def z_scores(x, moments):
    x = np.asarray(x, np.float64).ravel()
    return [((x**p).mean() - m) / ((x**p).std() / np.sqrt(x.size) + 1e-12) for p, m in moments.items()]


@needs_library
@pytest.mark.parametrize(
    ("kind", "moments"),
    [
        ("normal", {1: 0, 2: 1, 3: 0, 4: 3, 6: 15}),
        ("two_point", {1: 0}),
        ("three_point", {1: 0, 2: 1, 3: 0, 4: 3}),
        ("uniform", {1: 1 / 2, 2: 1 / 3, 3: 1 / 4}),
        ("index", {1: 999 / 2, 2: 999 * 1999 / 6}),
        ("geometric", {1: sum(0.9**j for j in range(1, 64))}),
    ],
)
def test_moments(kind, moments):
    x = numbers(kind, steps=4, rows=256, paths=4 * 1024, tile_size=1024)
    assert max(map(abs, z_scores(x, moments))) < 4.5


@needs_library
def test_distributions():
    size = {"steps": 2, "rows": 64, "paths": 8192, "tile_size": 1024}
    assert stats.kstest(numbers("normal", **size).ravel(), stats.norm.cdf).pvalue > 1e-4
    assert stats.kstest(numbers("uniform", **size).ravel(), stats.uniform.cdf).pvalue > 1e-4
    counts = np.bincount(numbers("index", **size).ravel(), minlength=1000)
    assert len(counts) == 1000
    assert stats.chisquare(counts).pvalue > 1e-4
    counts = np.bincount(numbers("geometric", **size).ravel(), minlength=64)
    law = 0.1 * 0.9 ** np.arange(64.0)
    law[63] = 0.9**63
    assert stats.chisquare(counts, law * counts.sum()).pvalue > 1e-4
    values, counts = np.unique(numbers("three_point", **size), return_counts=True)
    np.testing.assert_array_equal(values, np.array([-np.sqrt(3), 0, np.sqrt(3)], np.float32))
    assert stats.chisquare(counts, np.array([1, 4, 1]) / 6 * counts.sum()).pvalue > 1e-4
    values, counts = np.unique(numbers("two_point", **size), return_counts=True)
    np.testing.assert_array_equal(values, [-1, 1])
    assert stats.chisquare(counts).pvalue > 1e-4


@needs_library
def test_neighbouring_streams_are_uncorrelated():
    """Normals and their squares: against the neighbouring tile, step, lane, row, seed, and along the paths."""
    n = 1 << 16
    base = numbers("normal", rows=64, paths=1024).ravel()
    others = [
        numbers("normal", rows=64, paths=1024, **change).ravel()
        for change in ({"tile": 1}, {"step": 1}, {"lane": 1}, {"seed": (8, 8)}, {"seed": (7, 9)})
    ] + [np.roll(base, shift) for shift in (1, 2, 8, 16, 1024)]
    z = []
    for other in others:
        z.append(np.mean(base * other) * np.sqrt(n))
        z.append(np.mean((base**2 - 1) * (other**2 - 1)) / 2 * np.sqrt(n))
    assert max(map(abs, z)) < 4.5


@needs_library
def test_one_path_through_many_steps_is_white():
    x = numbers("normal", steps=4096, rows=1, paths=16)[:, 0].astype(np.float64)
    z = [np.sum(x[lag:] * x[:-lag]) / np.sqrt(x[lag:].size) for lag in range(1, 33)]
    assert max(map(abs, z)) < 4.5


# ---- what can go wrong


@needs_library
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "gaussian"}, "kind"),
        ({"lane": -1}, r"lane must be in \[0, 2\^32\): got -1"),
        ({"lane": 2**32}, "lane"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"paths": 100, "tile_size": 64}, "multiple of tile_size: got 100 and 64"),
        ({"kind": "index", "parameter": 0}, r"1 <= n < 2\^31: got n=0"),
        ({"kind": "index", "parameter": 2**31}, "n=2147483648"),
        ({"kind": "index"}, "n=None"),
        ({"kind": "geometric", "parameter": (0.5, 2**24)}, r"n < 2\^24: got n=16777216"),
        ({"kind": "geometric", "parameter": 0.5}, r"\(q, n\)"),
        ({"kind": "normal", "parameter": 3}, "takes no parameter"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    given = {"kind": "words", "lane": 0, "steps": 1, "rows": 1, "paths": 64, "tile_size": 64} | change
    with pytest.raises(ValueError, match=message):
        compiled.draw(given.pop("kind"), np.array([1, 2], U), U(0), U(0), **given)


@needs_library
def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv(compiled.CHOICE, "sse9")
    with pytest.raises(ValueError, match="ITOGRAD_NOISE_ISA"):
        compiled.instruction_set()


@pytest.fixture
def reloaded(monkeypatch):
    """A library that is looked for again, before and after the test."""
    compiled._load.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    compiled._load.cache_clear()


def test_a_missing_library_is_named_as_the_reason(reloaded, tmp_path):
    reloaded.setattr(compiled, "_files", lambda: [])
    assert not compiled.available()
    assert "installed without it" in compiled.reason()
    with pytest.raises(RuntimeError, match="C compiler"):
        compiled.draw("normal", np.array([1, 2], U), U(0), U(0), lane=0, steps=1, rows=1, paths=16, tile_size=16)
    with pytest.raises(RuntimeError, match="C compiler"):
        compiled.instruction_set()


@needs_library
def test_a_library_built_from_other_sources_is_refused(reloaded):
    reloaded.setattr(compiled, "INTERFACE", compiled.INTERFACE + 1)
    assert not compiled.available()
    assert "other sources; install itograd again" in compiled.reason()


def test_a_broken_library_is_named_as_the_reason(reloaded, tmp_path):
    broken = tmp_path / "libitograd_noise.so"
    broken.write_text("no library")
    package = type("package", (), {"__path__": [str(tmp_path)]})
    reloaded.setitem(sys.modules, compiled.__package__, package)
    assert compiled._files()[0] == broken
    assert not compiled.available()
    assert "libitograd_noise.so cannot be loaded" in compiled.reason()
