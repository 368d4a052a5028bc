"""The numbers that the compiled noise makes of words, for every word: errors, symmetry, ends of the range."""

import ctypes

import numpy as np
import pytest
from scipy.special import ndtri

from itograd.simulation import compiled

U, U64 = np.uint32, np.uint64

pytestmark = pytest.mark.skipif(not compiled.available(), reason=compiled.reason() or "it is there")


def convert(kind, words, instruction_set=None, n=0, ratio=0.0):
    """The numbers that given words stand for, as the library makes them (two_point: 32 to a word)."""
    words = np.ascontiguousarray(words, U)
    assert words.size % 16 == 0
    dtype = compiled._DTYPES.get(kind, "float32")
    out = np.empty(words.size * (32 if kind == "two_point" else 1), dtype)
    compiled._library().itograd_noise_convert(
        ctypes.c_int(compiled.INSTRUCTION_SETS.index(instruction_set or compiled.instruction_set())),
        ctypes.c_int(compiled.KINDS.index(kind)),
        ctypes.c_uint32(n),
        ctypes.c_float(ratio),
        words.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_size_t(words.size // 16),
        out.ctypes.data_as(ctypes.c_void_p),
    )
    return out


def telling_words():
    """Both ends, all around powers of two, all rare words of both signs, and a grid: 2^20 words or so."""
    near = np.arange(-64, 64)
    edges = [sign * place + near for place in (*(2**e for e in range(32)), 2**32 // 6) for sign in (1, -1)]
    rare = np.arange(-(2**18), 2**18)
    grid = np.arange(0, 2**32, 8191)
    words = np.concatenate([*edges, rare, grid]) % 2**32
    return np.resize(words, -(-words.size // 4096) * 4096).astype(U)


@pytest.mark.parametrize("kind", compiled.KINDS)
def test_the_instruction_sets_turn_any_word_into_the_same_bytes(kind):
    words = telling_words()
    best = compiled.INSTRUCTION_SETS.index(compiled.instruction_set()) + 1
    expected = convert(kind, words, "portable", n=1000, ratio=0.9).tobytes()
    for instruction_set in compiled.INSTRUCTION_SETS[:best]:
        assert convert(kind, words, instruction_set, n=1000, ratio=0.9).tobytes() == expected


def normal_errors(words):
    """Errors of the normals of odd words k < 2^31; the exact quantile of the tail k 2^-32."""
    exact = -ndtri(words * 2.0**-32)
    return convert("normal", words).astype(np.float64) - exact, exact


def test_normals_are_quantiles():
    words = telling_words()
    words = words[words < 2**31] | U(1)
    error, exact = normal_errors(np.resize(words, words.size // 16 * 16))
    assert np.abs(error).max() < 2.2e-6
    away = exact > 0.5
    assert np.abs(error[away] / exact[away]).max() < 4e-6


def test_the_law_of_normals_is_symmetric():
    words = telling_words()
    z = convert("normal", words)
    np.testing.assert_array_equal(convert("normal", words ^ U(1)), z)
    np.testing.assert_array_equal(convert("normal", U(0) - (words | U(1))), -z)


@pytest.mark.slow
def test_the_instruction_sets_agree_on_all_words():
    """For normals every odd word below 2^31, for delays every float32 that a uniform can be."""
    best = compiled.INSTRUCTION_SETS.index(compiled.instruction_set()) + 1
    odd = (np.arange(start, start + (1 << 23), 2, dtype=U) for start in range(1, 2**31, 1 << 23))
    floats = [np.arange(2**e, 2 ** (e + 1), 2 ** (e - 23), dtype=U64).astype(U) for e in range(24, 32)]
    floats.append(np.arange(2**24, dtype=U))
    for kind, chunks in (("normal", odd), ("geometric", floats)):
        for words in chunks:
            expected = convert(kind, words, "portable", n=2**24 - 1, ratio=0.99999)
            for instruction_set in compiled.INSTRUCTION_SETS[1:best]:
                found = convert(kind, words, instruction_set, n=2**24 - 1, ratio=0.99999)
                np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_normals_of_all_words():
    """The exact discrete law: every odd k stands for two words, and −k for two more with the opposite number."""
    largest, relative, sums, count = 0.0, 0.0, np.zeros(3), 0
    for start in range(1, 2**31, 1 << 23):
        words = np.arange(start, start + (1 << 23), 2, dtype=U)
        error, exact = normal_errors(words)
        z = convert("normal", words)
        for same, sign in ((words - U(1), 1), (U(0) - words, -1), (U(0) - words - U(1), -1)):
            np.testing.assert_array_equal(convert("normal", same) * np.float32(sign), z)
        largest = max(largest, np.abs(error).max())
        away = exact > 0.5
        relative = max(relative, np.abs(error[away] / exact[away]).max(initial=0))
        square = z.astype(np.float64) ** 2
        sums += [square.sum(), (square**2).sum(), (square**3).sum()]
        count += words.size
    variance, fourth, sixth = sums / count
    print(f"\nnormals of all 2^32 words: largest error {largest:.3g}, relative beyond 1/2 {relative:.3g}, mean 0,")
    print(f"variance 1 {variance - 1:+.2g}, 4th moment 3 {fourth - 3:+.2g}, 6th moment 15 {sixth - 15:+.2g}")
    assert count == 2**30
    assert largest < 2.1e-6
    assert relative < 4e-6
    assert abs(variance - 1) < 5e-8
    assert abs(fourth - 3) < 1e-6
    assert abs(sixth - 15) < 2e-5


def test_bits_thirds_uniforms_and_indices_are_exact_functions_of_the_word():
    words = telling_words()
    exact = words.astype(np.float64)
    bits = (words[:4096, None] >> np.arange(32, dtype=U)) & U(1)
    np.testing.assert_array_equal(convert("two_point", words[:4096]), (2.0 * bits - 1).ravel())
    third = np.where(exact <= 715827882, -1, np.where(exact >= 2**32 - 715827883, 1, 0)) * np.float32(np.sqrt(3))
    np.testing.assert_array_equal(convert("three_point", words), third)
    u = convert("uniform", words)
    np.testing.assert_array_equal(u, (words.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32))
    assert u.min() == 2.0**-33
    assert u.max() == 1
    for n in (1, 2, 1000, 2**31 - 1):
        np.testing.assert_array_equal(convert("index", words, n=n), (words.astype(U64) * U64(n)) >> U64(32))


@pytest.mark.parametrize("q", [0.05, 0.5, 0.9, 0.99, 0.999])
def test_geometric_delays_have_their_law(q):
    """P(delay >= j) is 2^-32 times the number of words that give one, found by bisection."""
    q = float(np.float32(q))
    largest = int(min(60 / -np.log2(q), 20_000))
    j = np.arange(1, largest // 16 * 16 + 17)
    low, high = np.zeros(j.size, np.int64), np.full(j.size, 2**32)  # words below `low` give at least j
    while np.any(high - low > 1):
        middle = (low + high) // 2
        at_least = convert("geometric", middle.astype(U), n=2**24 - 1, ratio=q) >= j
        low, high = np.where(at_least, middle, low), np.where(at_least, high, middle)
    tail = (low + 1.0) * (convert("geometric", np.zeros(j.size, U), n=2**24 - 1, ratio=q) >= j) / 2.0**32
    assert np.abs(tail - q**j).max() < 1e-7


def test_geometric_delays_at_the_ends_of_their_range():
    words = telling_words()
    assert not convert("geometric", words, n=63, ratio=0.0).any()
    assert convert("geometric", words, n=63, ratio=0.9).max() == 63
    below_one = np.resize(words[words < 2**32 - 128], words.size)
    assert (convert("geometric", below_one, n=63, ratio=1.0) == 63).all()
    exact = np.minimum(np.floor(np.log((words + 0.5) * 2.0**-32) / np.log(0.9)), 63)
    assert (exact == convert("geometric", words, n=63, ratio=0.9)).mean() > 0.9999
