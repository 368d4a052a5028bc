"""Batches of indices: uniform, without replacement where they say so, and of the covariance that they say."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itograd.problems.sampling import SAMPLINGS, batch_indices, covariance_factor, permuted
from itograd.simulation.draws import BATCH, SECOND_BATCH, Draws

LARGEST_Z = 4.5


def keys(count, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 2**32, (count, 2), dtype=np.uint32))


def permutations(count, size, seed=0):
    positions = jnp.arange(size, dtype=jnp.uint32)
    return np.asarray(jax.jit(jax.vmap(lambda key: permuted(key, positions, size)))(keys(count, seed)))


def batches(sampling, n, b, paths=1, steps=1, user=BATCH):
    """(paths, steps, b)."""

    def of_path(key):
        return jax.vmap(lambda k: batch_indices(Draws(key, k, user), sampling, n, b))(jnp.arange(steps))

    return np.asarray(jax.jit(jax.vmap(of_path))(keys(paths)))


def chi_square_z(codes, cells):
    """How many standard deviations the chi-square statistic of uniform cells lies above its mean."""
    found, frequencies = np.unique(codes, return_counts=True)
    counts = dict(zip(found.tolist(), frequencies.tolist()))
    assert set(counts) <= set(cells)
    expected = len(codes) / len(cells)
    statistic = sum((counts.get(cell, 0) - expected) ** 2 for cell in cells) / expected
    return (statistic - (len(cells) - 1)) / math.sqrt(2 * (len(cells) - 1))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 12, 97, 1400])
def test_every_key_names_a_permutation(size):
    images = permutations(20, size)
    assert (np.sort(images, axis=1) == np.arange(size)).all()


@pytest.mark.parametrize("size", [5, 6, 7, 12])
def test_ordered_pairs_are_uniform(size):
    images = permutations(100_000, size)
    cells = [i * size + j for i, j in itertools.permutations(range(size), 2)]
    for first, second in [(0, 1), (1, size - 1), (2, 3)]:
        assert chi_square_z(images[:, first] * size + images[:, second], cells) < LARGEST_Z


@pytest.mark.parametrize("size", [4, 5, 6])
def test_whole_permutations_are_uniform(size):
    powers = size ** np.arange(size)
    cells = [int(np.dot(order, powers)) for order in itertools.permutations(range(size))]
    assert chi_square_z(permutations(100_000, size) @ powers, cells) < LARGEST_Z


def test_a_large_permutation_has_uniform_images_and_distances():
    images = permutations(4000, 1000)
    for statistic in (images[:, 0], images[:, 7], images[:, -1], (images[:, 0] - images[:, 1]) % 1000):
        assert chi_square_z(statistic // 100, list(range(10))) < LARGEST_Z


def test_batches_without_replacement_are_uniform_subsets():
    drawn = np.sort(batches("without_replacement", 7, 3, paths=5000, steps=20).reshape(-1, 3), axis=1)
    cells = [100 * a + 10 * b + c for a, b, c in itertools.combinations(range(7), 3)]
    assert chi_square_z(drawn @ [100, 10, 1], cells) < LARGEST_Z


def test_an_epoch_of_reshuffling_is_a_permutation_and_epochs_differ():
    n, b = 12, 3
    drawn = batches("reshuffling", n, b, paths=50, steps=8).reshape(50, 2, n)
    assert (np.sort(drawn, axis=2) == np.arange(n)).all()
    assert (drawn[:, 0] != drawn[:, 1]).any(axis=1).all()
    assert (drawn[:-1, 0] != drawn[1:, 0]).any(axis=1).all()


def test_a_partial_last_batch_is_dropped():
    drawn = batches("reshuffling", 11, 3, paths=1, steps=6)[0].reshape(2, 9)
    assert all(len(set(epoch)) == 9 for epoch in drawn.tolist())
    assert (drawn[0] != drawn[1]).any()


def test_consecutive_epochs_are_independent():
    drawn = batches("reshuffling", 6, 6, paths=50_000, steps=2)
    assert chi_square_z(drawn[:, 0, 0] * 6 + drawn[:, 1, 0], list(range(36))) < LARGEST_Z


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_second_batch_is_independent_of_the_first(sampling):
    first, second = (batches(sampling, 6, 2, paths=50_000, user=u)[:, 0, 0] for u in (BATCH, SECOND_BATCH))
    assert chi_square_z(first * 6 + second, list(range(36))) < LARGEST_Z


def test_two_calls_within_a_step_give_two_batches_except_under_reshuffling():
    for sampling in SAMPLINGS:
        draws = Draws(keys(1)[0], 3)
        first, second = (batch_indices(draws, sampling, 1000, 8).tolist() for _ in range(2))
        assert (first == second) == (sampling == "reshuffling")


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_mean_and_variance_of_a_batch_mean(sampling):
    n, b = 12, 5
    values = np.random.default_rng(1).normal(size=n)
    means = values[batches(sampling, n, b, paths=20_000, steps=2)[:, 1]].mean(1)
    centred = means - values.mean()
    variance = values.var() / b * covariance_factor(sampling, n, b)
    assert covariance_factor(sampling, n, b) == pytest.approx(1 if sampling == "with_replacement" else 7 / 11)
    assert abs(centred.mean()) < LARGEST_Z * math.sqrt(variance / len(means))
    assert abs(np.mean(centred**2) - variance) < LARGEST_Z * np.std(centred**2) / math.sqrt(len(means))


def test_a_whole_data_set_without_replacement_has_no_noise():
    assert covariance_factor("without_replacement", 9, 9) == 0
    assert covariance_factor("reshuffling", 1, 1) == 0
    assert sorted(batches("without_replacement", 9, 9)[0, 0].tolist()) == list(range(9))


@pytest.mark.parametrize("size", [0, 2**31])
def test_a_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match="1 <= size < 2\\^31"):
        permuted(keys(1)[0], jnp.arange(1, dtype=jnp.uint32), size)
