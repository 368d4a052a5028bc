"""Random words: the published generator, words as values, and the laws made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from itograd.simulation.draws import SECOND_BATCH, Draws
from itograd.simulation.precision import double
from itograd.simulation.threefry import multiply_high, path_key, seed_words, threefry2x32

U = np.uint32


@pytest.mark.parametrize(
    ("key", "counter", "rounds", "expected"),
    [
        ((0x0, 0x0), (0x0, 0x0), 20, (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), 20, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), 20, (0xC4923A9C, 0x483DF7A0)),
        ((0x0, 0x0), (0x0, 0x0), 13, (0x9D1C5EC6, 0x8BD50731)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), 13, (0xFD36D048, 0x2D17272C)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), 13, (0xBA3E4725, 0xF27D669E)),
    ],
)
def test_threefry_gives_the_vectors_of_random123(key, counter, rounds, expected):
    words = threefry2x32([jnp.uint32(U(k)) for k in key], [jnp.uint32(U(c)) for c in counter], rounds)
    assert tuple(int(w) for w in words) == expected


def draws(path=0, step=0, seed=0):
    return Draws(path_key(tuple(seed_words(seed)), path), step)


def many(method, *arguments, count=200_000, seed=3):
    keys = path_key(tuple(seed_words(seed)), jnp.arange(count // 100, dtype=jnp.uint32))
    return np.asarray(jax.vmap(lambda a, b: getattr(Draws((a, b), 5), method)(*arguments, (100,)))(*keys)).ravel()


def test_words_are_values_of_seed_path_step_and_lane():
    first = draws().words(6)
    again = draws()
    np.testing.assert_array_equal(again.words(6), first)
    later = draws()
    later.words(4)
    np.testing.assert_array_equal(later.words(4), np.asarray(draws().words(8))[[2, 3, 6, 7]])
    others = [draws(path=1), draws(step=1), draws(seed=1), draws(seed=2**32), draws().of(SECOND_BATCH)]
    seen = np.concatenate([first, *(d.words(6) for d in others)])
    assert len(set(seen.tolist())) == len(seen)


def test_one_user_does_not_move_the_words_of_another():
    mixed = draws()
    mixed.normal((7,))
    np.testing.assert_array_equal(mixed.of(SECOND_BATCH).words(3), draws().of(SECOND_BATCH).words(3))


def test_float64_draws_are_the_float32_draws_to_rounding():
    single = np.asarray(draws().normal((1000,)))
    with double():
        np.testing.assert_allclose(np.asarray(draws().normal((1000,))), single, atol=2e-5)


@pytest.mark.parametrize(("method", "law"), [("normal", stats.norm.cdf), ("uniform", stats.uniform.cdf)])
def test_continuous_laws(method, law):
    assert stats.kstest(many(method), law).pvalue > 1e-4


def test_neighbouring_draws_are_uncorrelated():
    x = many("normal").reshape(-1, 100)
    correlation = np.corrcoef(x, rowvar=False)
    z = correlation[np.triu_indices(100, 1)] * np.sqrt(len(x))
    assert np.abs(z).max() < 5.5  # 4950 pairs


@pytest.mark.parametrize(("method", "moments"), [("two_point", (0, 1, 0, 1)), ("three_point", (0, 1, 0, 3))])
def test_weak_increments_have_the_moments_they_promise(method, moments):
    x = many(method)
    for power, expected in enumerate(moments, start=1):
        y = x**power
        assert abs(y.mean() - expected) <= 4.5 * y.std() / np.sqrt(len(y)) + 1e-6


def test_index_is_uniform():
    counts = np.bincount(many("index", 7), minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-4


def test_bernoulli():
    hits = many("bernoulli", 0.2)
    assert abs(hits.mean() - 0.2) < 4.5 * np.sqrt(0.16 / len(hits))


def test_multiply_high_is_the_upper_word_of_the_product():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**32, 1000, dtype=np.uint64)
    for n in [1, 7, 2**16 - 1, 2**16, *rng.integers(0, 2**31, 20).tolist()]:
        expected = (a * np.uint64(n)) >> np.uint64(32)
        np.testing.assert_array_equal(multiply_high(jnp.asarray(a.astype(U)), n), expected.astype(U))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        seed_words(seed)
