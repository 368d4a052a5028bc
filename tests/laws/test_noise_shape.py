"""Skewness of gradient noise, and the share of it that reshuffling suppresses (theory 1.2, 1.6)."""

import jax.numpy as jnp
import numpy as np
import pytest

from itograd.analysis.noise_shape import RESHUFFLING_THRESHOLD, noise_skewness, reshuffling_share
from itograd.problems.finite_sum import FiniteSum
from itograd.problems.landscapes import Circle
from itograd.problems.quadratic import Quadratic

MAX_Z = 4.5


def half_square(w, example):
    return 0.5 * (w @ example[0] - example[1]) ** 2


def regression(dim=6, examples=40, batch_size=2, seed=0, sampling="with_replacement"):
    """Least squares with curvatures over three decades."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(examples, dim)) * np.geomspace(3.0, 0.1, dim)
    targets = rng.normal(size=examples)
    return FiniteSum(half_square, (inputs, targets), params=np.zeros(dim), batch_size=batch_size, sampling=sampling)


def exact_share(problem, x, learning_rate):
    inputs, targets = problem.data
    curvature, directions = np.linalg.eigh(inputs.T @ inputs / len(inputs))
    gradients = (inputs @ x - targets)[:, None] * inputs
    noise = ((gradients @ directions) ** 2).mean(axis=0) - (gradients @ directions).mean(axis=0) ** 2
    number = learning_rate * curvature * problem.dataset_size / problem.batch_size
    return noise[number < RESHUFFLING_THRESHOLD].sum() / noise.sum()


# Skewness


@pytest.mark.parametrize(("x", "sign"), [(1.0, 1), (-1.0, -1)])
def test_skewness_is_that_of_the_law_along_the_gradient(x, sign):
    found = noise_skewness(Quadratic(1.0, 4.0, "skewed", batch_size=9), [x])
    assert abs(found.value - sign * 1.5) < MAX_Z * found.standard_error < 0.02


def test_skewness_in_every_case_of_known_value():
    root = np.array([[2.0, 0.5], [0.5, 1.0]])
    plane = Quadratic(np.eye(2), root @ root.T, "skewed")
    x = np.array([1.0, 2.0])
    weights = plane.root.T @ (x / np.linalg.norm(x))
    line = regression(dim=1, examples=5, batch_size=3)
    gradients = np.asarray(line.per_example_gradients(np.array([2.0])))[:, 0]
    centred = (gradients - gradients.mean()) * np.sign(gradients.mean())
    sample = (centred**3).mean() / (centred**2).mean() ** 1.5
    a = 4.0
    cases = [
        (plane, x, 1.5 * (weights**3).sum() / (weights**2).sum() ** 1.5),
        (Circle("two_point"), [1.0], 0.0),
        (Circle("gaussian"), [1.0], 0.0),
        (Circle("skewed").amplified(a), [1.0], 1.5 * (3 * a - 1) / (2 * a**1.5)),  # theory 1.2
        (Circle("skewed").gaussian(), [1.0], 0.0),
        (line, [2.0], sample / 3**0.5),
        (line.with_batch_size(12), [2.0], sample / 12**0.5),
    ]
    scores = []
    for problem, point, expected in cases:
        found = noise_skewness(problem, point, batches=8192, seed=1)
        scores.append((found.value - expected) / found.standard_error)
    assert np.abs(scores).max() < MAX_Z, scores


def test_the_standard_error_of_skewness_is_the_spread_over_seeds():
    found = [noise_skewness(Circle("gaussian"), [1.0], batches=500, seed=seed) for seed in range(200)]
    spread, stated = np.std([f.value for f in found]), np.mean([f.standard_error**2 for f in found]) ** 0.5
    assert 0.85 < stated / spread < 1.2


@pytest.mark.parametrize(
    ("problem", "x", "options", "message"),
    [
        (Circle(), [0.0], {}, "the gradient vanishes at x"),
        (Quadratic(np.eye(2), np.diag([0.0, 1.0])), [1.0, 0.0], {}, "there is no noise along the gradient"),
        (Circle(), [1.0], {"batches": 3}, "batches must be at least 8"),
        (Circle(), [1.0, 1.0], {}, r"x must have shape \(1,\)"),
    ],
)
def test_skewness_is_refused_where_there_is_none(problem, x, options, message):
    with pytest.raises(ValueError, match=message):
        noise_skewness(problem, x, **options)


# Reshuffling


@pytest.mark.parametrize("dim", [1, 6, 64])
def test_the_share_is_exact_in_expectation(dim):
    problem, x = regression(dim, examples=40), np.full(dim, 0.1)
    scores, shares = [], []
    for learning_rate in (0.01, 0.12, 0.3, 1.0, 20.0):
        shares.append(exact_share(problem, x, learning_rate))
        found = reshuffling_share(problem, x, learning_rate, probes=100, seed=3)
        scores.append((found.value - shares[-1]) / max(found.standard_error, 1e-9))
    assert np.abs(scores).max() < MAX_Z, (scores, shares)
    assert shares[0] > 0.99
    assert len({round(share, 3) for share in shares}) >= min(dim + 1, 4)


@pytest.mark.parametrize("dim", [7, 50])
def test_one_direction_of_noise_gives_the_share_without_error(dim):
    rng = np.random.default_rng(2)
    curvatures = np.geomspace(1e-3, 1.0, dim)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    hessian, shift = basis * curvatures @ basis.T, rng.normal(size=dim)
    problem = FiniteSum(
        lambda w, example: 0.5 * w @ example[0] @ w + example[1] @ w,
        (np.stack([hessian, hessian]), np.stack([shift, -shift])),
        params=np.zeros(dim),
    )
    x = rng.normal(size=dim)
    limits = np.sqrt(curvatures[1:] * curvatures[:-1])[:: dim // 5]  # between two curvatures each
    for limit in limits:
        learning_rate = RESHUFFLING_THRESHOLD / (2 * limit)
        found = reshuffling_share(problem, x, learning_rate, probes=8)
        weights = (basis.T @ shift) ** 2 / (shift @ shift)
        np.testing.assert_allclose(found.value, weights[curvatures < limit].sum(), rtol=0, atol=1e-9)
        assert found.standard_error < 1e-9


def test_few_lanczos_steps_come_close():
    problem = regression(30, examples=60)
    x = np.full(30, 0.1)
    full = reshuffling_share(problem, x, 0.2, probes=8)
    short = reshuffling_share(problem, x, 0.2, probes=8, lanczos_steps=10)
    assert abs(short.value - full.value) < 1e-3
    assert full.value != short.value


def test_negative_and_no_curvature_count_as_suppressed():
    data = np.array([[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])
    problem = FiniteSum(lambda w, a: 50 * (w[2] ** 2 - w[0] ** 2) + a @ w, data, params=np.zeros(3))  # Σ = 1
    found = reshuffling_share(problem, np.ones(3), 1.0, probes=2000)
    assert abs(found.value - 2 / 3) < MAX_Z * found.standard_error < 0.05


def test_the_standard_error_of_the_share_is_the_spread_over_seeds():
    problem, x = regression(), np.full(6, 0.1)
    assert 0.1 < exact_share(problem, x, 0.2) < 0.9
    found = [reshuffling_share(problem, x, 0.2, probes=40, seed=seed) for seed in range(100)]
    spread, stated = np.std([f.value for f in found]), np.mean([f.standard_error**2 for f in found]) ** 0.5
    assert 0.8 < stated / spread < 1.25


def test_the_share_depends_on_the_epoch_and_not_on_the_sampling():
    x = np.full(6, 0.1)
    with_replacement = reshuffling_share(regression(), x, 0.2)
    reshuffled = reshuffling_share(regression(sampling="reshuffling"), x, 0.2)
    np.testing.assert_allclose(reshuffled.value, with_replacement.value, rtol=1e-9)
    larger = reshuffling_share(regression(batch_size=4), x, 0.4)
    np.testing.assert_allclose(larger.value, with_replacement.value, rtol=1e-9)


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        (Circle(), {}, "reshuffling needs a data set: Circle has no dataset_size"),
        (regression(1, batch_size=40, sampling="reshuffling"), {}, "there is no noise at x"),
        (regression(1), {"learning_rate": 0.0}, "learning_rate must be a finite number"),
        (regression(1), {"probes": 4}, "probes must be at least 8"),
        (regression(1), {"lanczos_steps": 0}, "lanczos_steps must be at least 1"),
        (
            FiniteSum(lambda w, a: jnp.sum(jnp.sqrt(w - 1)) * a, np.arange(4.0), params=np.ones(1)),
            {},
            "the noise or the curvature at x is not finite",
        ),
    ],
)
def test_the_share_is_refused_with_the_reason(problem, options, message):
    with pytest.raises(ValueError, match=message):
        reshuffling_share(problem, [1.0], **{"learning_rate": 0.1, **options})
