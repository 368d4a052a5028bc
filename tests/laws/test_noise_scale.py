"""The gradient noise scale: unbiased, a ratio of means, with intervals that hold (theory 1.4, 5.6)."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from itograd.analysis.noise_scale import (
    batch_gradients,
    fieller_interval,
    noise_scale,
    noise_scale_from_norms,
)
from itograd.problems.finite_sum import FiniteSum
from itograd.problems.landscapes import Circle
from itograd.problems.quadratic import Quadratic
from itograd.simulation.draws import Draws
from itograd.simulation.precision import double
from itograd.simulation.threefry import path_key, seed_words

MAX_Z = 4.5


def half_square(w, example):
    return 0.5 * (w @ example[0] - example[1]) ** 2


def regression(batch_size, sampling="with_replacement"):
    rng = np.random.default_rng(7)
    inputs = rng.normal(size=(24, 3))
    targets = inputs @ [1.0, -2.0, 0.5] + rng.normal(size=24)
    return FiniteSum(half_square, (inputs, targets), params=np.zeros(3), batch_size=batch_size, sampling=sampling)


def quadratic(noise, batch_size, dim=6):
    return Quadratic(
        np.diag(np.linspace(0.5, 2.0, dim)), np.diag(np.linspace(1.0, 3.0, dim)), noise, batch_size=batch_size
    )


CASES = {
    "gaussian quadratic": (quadratic("gaussian", 3), np.full(6, 0.3)),
    "skewed quadratic": (quadratic("skewed", 1), np.full(6, 0.3)),
    "quadratic at its minimum": (quadratic("gaussian", 2), np.zeros(6)),
    "circle": (Circle("skewed", 2), np.array([1.0])),
    "finite sum, with replacement": (regression(2), np.array([0.5, 0.0, 0.2])),
    "finite sum, without replacement": (regression(6, "without_replacement"), np.array([0.5, 0.0, 0.2])),
    "finite sum, reshuffled": (regression(6, "reshuffling"), np.array([0.5, 0.0, 0.2])),
    "gaussian noise of a finite sum": (regression(2).gaussian(), np.array([0.5, 0.0, 0.2])),
}


def exact(problem, x):
    """|∇L|² and tr Σ."""
    with double():
        point = jnp.asarray(x)
        return float((problem.gradient(point) ** 2).sum()), float(problem.noise_trace(point))


def test_estimates_are_unbiased_for_few_batches():
    scores = {}
    for name, (problem, x) in CASES.items():
        found = [noise_scale(problem, x, batches=8, seed=seed) for seed in range(150)]
        estimates = np.array([(scale.squared_gradient, scale.noise_trace) for scale in found])
        errors = estimates.std(axis=0, ddof=1) / len(estimates) ** 0.5
        scores[name] = np.abs((estimates.mean(axis=0) - exact(problem, x)) / errors).max()
    assert max(scores.values()) < MAX_Z, scores


def test_estimates_lie_within_their_standard_errors():
    scores = []
    for problem, x in CASES.values():
        squared_gradient, trace = exact(problem, x)
        scale = noise_scale(problem, x, batches=2000)
        scores += [
            (scale.squared_gradient - squared_gradient) / scale.squared_gradient_standard_error,
            (scale.noise_trace - trace) / scale.noise_trace_standard_error,
        ]
    assert np.abs(scores).max() < MAX_Z, scores


@pytest.mark.parametrize("x", [np.full(6, 0.3), np.full(6, 2.0)])
def test_standard_errors_are_the_spread_over_seeds(x):
    found = [noise_scale(quadratic("skewed", 1), x, batches=100, seed=seed) for seed in range(300)]
    for field in ("squared_gradient", "noise_trace"):
        spread = np.std([getattr(scale, field) for scale in found])
        stated = np.mean([getattr(scale, field + "_standard_error") ** 2 for scale in found]) ** 0.5
        assert 0.85 < stated / spread < 1.25, field


def test_b_simple_is_the_ratio_of_the_means_and_does_not_depend_on_the_batch():
    x = np.array([0.5, 0.0, 0.2])
    squared_gradient, trace = exact(regression(1), x)
    for problem in (regression(1), regression(8), regression(8, "without_replacement")):
        scale = noise_scale(problem, x, batches=4000)
        low, high = scale.simple_interval
        assert abs(scale.simple - trace / squared_gradient) < 4.5 * (high - low) / 3.92
        assert high < 2 * low
        factor = 16 / 23 if problem.sampling == "without_replacement" else 1
        ratio = scale.batch_size * scale.noise_trace / scale.squared_gradient
        np.testing.assert_allclose(scale.simple, ratio / factor, rtol=1e-12)


def test_batch_i_is_path_i_at_step_0():
    problem, x = CASES["finite sum, with replacement"]
    found = np.concatenate([gradients for _, gradients in batch_gradients(problem, x, 20, seed=5)])
    assert found.shape == (20, 3)
    with double():
        draws = Draws(path_key(tuple(seed_words(5)), 17), 0)
        np.testing.assert_allclose(found[17], problem.noisy_gradient(jnp.asarray(x), draws), rtol=1e-12)


def test_without_noise_there_is_no_error_and_without_anything_no_scale():
    problem = Quadratic(1.0, 0.0)
    still, moving = noise_scale(problem, [0.0]), noise_scale(problem, [3.0])
    assert (moving.squared_gradient, moving.noise_trace, moving.simple) == (9.0, 0.0, 0.0)
    assert moving.simple_interval == (0.0, 0.0)
    assert math.isnan(still.simple)
    assert still.simple_interval == (0.0, math.inf)


# Fieller's interval


def test_fieller_covers_a_ratio_as_often_as_it_says():
    rng, trials, replicates = np.random.default_rng(3), 4000, 12
    quantile = stats.t.ppf(0.975, replicates - 1)
    root = np.array([[1.0, 0.0], [-0.6, 0.8]])  # of the covariance of one replicate
    unbounded = {}
    for denominator in (3.0, 0.8, 0.3):
        mean = np.array([5.0, denominator])
        covered = ends = 0
        for sample in mean + rng.normal(size=(trials, replicates, 2)) @ root.T:
            low, high = fieller_interval(*sample.mean(axis=0), np.cov(sample.T) / replicates, quantile)
            covered += low <= mean[0] / mean[1] <= high
            ends += math.isinf(high)
        margin = MAX_Z * (0.95 * 0.05 / trials) ** 0.5
        assert covered / trials > 0.95 - margin
        if denominator > 0.5:  # below it, estimates under 0 are common and count as 0
            assert covered / trials < 0.95 + margin
        unbounded[denominator] = ends / trials
    assert unbounded[3.0] == 0
    assert 0.1 < unbounded[0.8] < 0.9
    assert unbounded[0.3] > 0.7


def test_fieller_is_the_hull_of_the_ratios_that_a_test_accepts():
    rng = np.random.default_rng(4)
    ratios = np.concatenate([[0.0], np.geomspace(1e-6, 1e6, 20_001)])
    seen = set()
    for _ in range(400):
        n, d = rng.normal(scale=2.0, size=2)
        root = rng.normal(size=(2, 2))
        covariance = root @ root.T
        variance = covariance[0, 0] - 2 * ratios * covariance[0, 1] + ratios**2 * covariance[1, 1]
        accepted = ratios[(max(n, 0) - ratios * max(d, 0)) ** 2 <= 1.5**2 * variance]
        low, high = fieller_interval(n, d, covariance, 1.5)
        seen.add((low > 0, math.isinf(high)))
        if len(accepted) == 0:
            assert high / low < 1.002
            continue
        assert abs(accepted[0] - low) <= 1.5e-3 * low + 1e-6
        assert (accepted[-1] == 1e6) == (high > 1e6)
        assert math.isinf(high) or high > 1e6 or abs(accepted[-1] - high) <= 1.5e-3 * high + 1e-6
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_at_a_minimum_only_a_lower_bound_is_left():
    scale = noise_scale(quadratic("gaussian", 2), np.zeros(6))
    low, high = scale.simple_interval
    assert 0 < low < math.inf
    assert high == math.inf
    assert "no upper bound: |∇L|² is not told from 0" in str(scale)
    assert scale.squared_gradient_interval[0] == 0


def test_intervals_cover_as_often_as_they_say():
    problem, x = quadratic("gaussian", 4, dim=20), np.full(20, 0.15)
    squared_gradient, trace = exact(problem, x)
    found = [noise_scale(problem, x, batches=64, seed=seed) for seed in range(400)]
    for field, truth in (
        ("squared_gradient", squared_gradient),
        ("noise_trace", trace),
        ("simple", 4 * trace / squared_gradient),
    ):
        covered = np.mean(
            [low <= truth <= high for low, high in (getattr(scale, field + "_interval") for scale in found)]
        )
        assert abs(covered - 0.95) < MAX_Z * (0.95 * 0.05 / 400) ** 0.5, field


# Two batch sizes


def logged(steps, workers, dim, seed, memory=0.0, nested=True):
    """|g_b|² and |g_B|² for b = 1, B = `workers`; noise of a step is correlated with the one before."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(steps, workers, dim))
    for step in range(1, steps):
        noise[step] = memory * noise[step - 1] + (1 - memory**2) ** 0.5 * noise[step]
    gradients = 0.5 + noise  # |∇L|² = dim/4, tr S = dim
    small = (gradients**2).sum(axis=2)
    big = (gradients.mean(axis=1) ** 2).sum(axis=1)
    return small.mean(axis=1) if nested else small[:, 0], big if nested else np.roll(big, 1)


@pytest.mark.parametrize("nested", [True, False])
def test_two_batch_estimators_are_unbiased(nested):
    scores = []
    for seed in range(10):
        scale = noise_scale_from_norms(*logged(2000, 8, 12, seed, nested=nested), 1, 8, batch_means=100)
        scores += [
            (scale.squared_gradient - 3) / scale.squared_gradient_standard_error,
            (scale.noise_trace - 12) / scale.noise_trace_standard_error,
        ]
        np.testing.assert_allclose(scale.simple, scale.noise_trace / scale.squared_gradient, rtol=1e-12)
    assert np.abs(scores).max() < MAX_Z
    assert np.std(scores) > 0.5


def test_noise_trace_is_that_of_the_smaller_batch():
    small, big = logged(500, 8, 12, 0)
    one, four = noise_scale_from_norms(small, big, 1, 8), noise_scale_from_norms(small, big, 4, 32)
    np.testing.assert_allclose(
        [four.squared_gradient, four.noise_trace, four.simple],
        [one.squared_gradient, one.noise_trace, 4 * one.simple],
        rtol=1e-12,
    )
    assert four.batch_size == 4


def test_batch_means_carry_the_correlation_between_steps():
    found = [noise_scale_from_norms(*logged(1000, 4, 3, seed, memory=0.9), 1, 4) for seed in range(60)]
    spread = np.std([scale.squared_gradient for scale in found])
    stated = np.mean([scale.squared_gradient_standard_error**2 for scale in found]) ** 0.5
    naive = np.mean(
        [
            noise_scale_from_norms(
                *logged(1000, 4, 3, seed, memory=0.9), 1, 4, batch_means=1000
            ).squared_gradient_standard_error
            for seed in range(10)
        ]
    )
    assert 0.75 < stated / spread < 1.25
    assert naive < 0.5 * spread


def test_both_measurements_agree():
    problem, x = CASES["finite sum, with replacement"]
    frozen = noise_scale(problem, x, batches=4000)
    singles = np.concatenate([g for _, g in batch_gradients(problem.with_batch_size(1), x, 8 * 2000, seed=9)])
    workers = singles.reshape(2000, 8, 3)
    norms = noise_scale_from_norms((workers**2).sum(axis=2).mean(axis=1), (workers.mean(axis=1) ** 2).sum(axis=1), 1, 8)
    standard_errors = [(high - low) / 3.92 for low, high in (norms.simple_interval, frozen.simple_interval)]
    assert abs(norms.simple - frozen.simple) < 4.5 * np.hypot(*standard_errors)


# Refusals and the report


FINE = np.ones(20)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((FINE, FINE, 8, 8), {}, ValueError, "small_batch must be below big_batch: got 8 and 8"),
        ((FINE, FINE, 16, 8), {}, ValueError, "small_batch must be below big_batch: got 16 and 8"),
        ((FINE, FINE, 0, 8), {}, ValueError, "small_batch must be at least 1"),
        ((FINE, FINE, 1.5, 8), {}, TypeError, "small_batch must be a whole number"),
        (
            (np.where(np.arange(20) == 3, np.nan, 1), FINE, 1, 8),
            {},
            ValueError,
            "small_squared_norms must be finite: 1 of 20 are not",
        ),
        ((FINE, -FINE, 1, 8), {}, ValueError, "big_squared_norms must be squared norms: the smallest is -1"),
        ((FINE, FINE[1:], 1, 8), {}, ValueError, "must be of one length: got 20 and 19"),
        ((FINE[:7], FINE[:7], 1, 8), {}, ValueError, "batch_means=16 needs at least as many steps: got 7"),
        ((FINE, FINE, 1, 8), {"batch_means": 4}, ValueError, "batch_means must be at least 8"),
        ((FINE, FINE, 1, 8), {"confidence": 1.0}, ValueError, r"confidence must be a finite number in \(0, 1\)"),
        ((FINE[:, None], FINE, 1, 8), {}, ValueError, r"small_squared_norms must be a list of numbers"),
    ],
)
def test_norms_that_tell_nothing_are_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        noise_scale_from_norms(*arguments, **options)


@pytest.mark.parametrize(
    ("problem", "x", "options", "error", "message"),
    [
        (Circle(), [1.0], {"batches": 7}, ValueError, "batches must be at least 8: got 7"),
        (Circle(), [1.0, 2.0], {}, ValueError, r"x must have shape \(1,\): got \(2,\)"),
        (Circle(), [math.nan], {}, ValueError, "x must be finite"),
        (Circle(), [1.0], {"confidence": 95}, ValueError, "confidence must be a finite number"),
        (Circle(), [1.0], {"seed": -1}, ValueError, "seed must be an integer"),
        (Circle().amplified(4), [1.0], {}, ValueError, r"give problem\.original"),
        (regression(24, "without_replacement"), np.zeros(3), {}, ValueError, "a batch of all 24 examples has no"),
        (
            FiniteSum(lambda w, a: jnp.sum(jnp.sqrt(w)) * a, np.ones(4), params=np.ones(1)),
            [0.0],
            {},
            ValueError,
            "the gradient of a batch at x is not finite",
        ),
        ("a problem", [1.0], {}, TypeError, "problem must be a Problem: got str"),
    ],
)
def test_measurements_that_cannot_be_made_are_refused(problem, x, options, error, message):
    with pytest.raises(error, match=message):
        noise_scale(problem, x, **options)


def test_the_report_can_be_read():
    scale = dataclasses.replace(noise_scale(Circle(batch_size=3), [1.0]), confidence=0.9)
    gradient, trace, simple = str(scale).splitlines()
    assert gradient.startswith("|∇L|²    = ")
    assert f"± {scale.squared_gradient_standard_error:.2g}" in gradient
    assert "(90%: " in trace
    assert trace.endswith("at batch size 3")
    assert simple.startswith("B_simple = ")
