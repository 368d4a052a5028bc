"""Streaming moments equal the moments of all paths at once, in any grouping."""

import numpy as np
import pytest

from itograd.simulation.statistics import Merged, Moments


@pytest.fixture
def values():
    return np.random.default_rng(0).gamma(2.0, size=(3, 500, 2)) + 10.0


def merged(values, valid, cuts):
    parts = [
        Moments.of(v, m, covariance=True) for v, m in zip(np.split(values, cuts, axis=1), np.split(valid, cuts, axis=1))
    ]
    stream = Merged()
    for part in parts:
        stream.add(part)
    return stream.total


@pytest.mark.parametrize("cuts", [[], [100, 350], [1, 2, 3], [250], list(range(10, 500, 10))])
def test_merged_groups_have_the_moments_of_the_whole(values, cuts):
    m = merged(values, np.ones((3, 500), bool), cuts)
    centred = values - values.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(m.mean, values.mean(axis=1), rtol=1e-13)
    np.testing.assert_allclose(m.variance, values.var(axis=1, ddof=1), rtol=1e-11)
    for power, total in ((3, m.m3), (4, m.m4)):
        np.testing.assert_allclose(total, (centred**power).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(m.covariance, [np.cov(v, rowvar=False) for v in values], rtol=1e-10)


def test_lost_paths_are_left_out(values):
    valid = np.ones((3, 500), bool)
    valid[1:, ::7] = False
    spoiled = np.where(valid[..., None], values, np.nan)
    m = merged(spoiled, valid, [123])
    np.testing.assert_allclose(m.mean[1], values[1][valid[1]].mean(axis=0), rtol=1e-13)
    assert m.count[:, 0].tolist() == [500, valid[1].sum(), valid[2].sum()]


def test_a_group_without_paths_changes_nothing(values):
    valid = np.ones((3, 500), bool)
    valid[:, 300:] = False
    m = merged(values, valid, [300])
    np.testing.assert_allclose(m.variance, values[:, :300].var(axis=1, ddof=1), rtol=1e-11)
    lost = Moments.of(values, np.zeros((3, 500), bool))
    assert np.isnan(lost.variance).all()
    assert np.isnan(lost.mean).all()


def test_standard_errors_have_the_spread_they_claim():
    rng = np.random.default_rng(1)
    x = rng.exponential(size=(4000, 200))
    m = Moments.of(x[..., None], np.ones(x.shape, bool))
    assert m.mean.std() == pytest.approx(m.mean_standard_error.mean(), rel=0.05)
    assert m.variance.std() == pytest.approx(np.sqrt((m.variance_standard_error**2).mean()), rel=0.1)
