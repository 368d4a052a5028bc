"""The digits: the exact recipe of the preset, the losses in closed form, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.datasets import load_digits

from itograd.problems import digits
from itograd.simulation.draws import Draws
from itograd.simulation.precision import as_traced, double


@pytest.fixture(autouse=True)
def float64():
    with double():
        yield


def digits_by_hand():
    pixels, labels = load_digits(return_X_y=True)
    features = (pixels - pixels.mean(0)) / (pixels.std(0) + 1e-3)
    chosen = np.random.default_rng(0).permutation(1797)[:1400]
    return np.hstack([features, np.ones((1797, 1))])[chosen] / 8, labels[chosen]


def test_the_preset_is_the_recipe_of_the_theory():
    problem = digits(preset="S7", batch_size=16)
    features, labels = digits_by_hand()
    np.testing.assert_array_equal(problem.data[0], features)
    np.testing.assert_array_equal(problem.data[1], np.eye(10)[labels])
    assert (problem.dim, problem.dataset_size, problem.batch_size, problem.l2) == (650, 1400, 16, 1e-3)
    assert problem.sampling == "with_replacement"
    assert not problem.x0.any()


def test_softmax_loss_decay_and_accuracy():
    problem = digits(preset="S7")
    features, labels = digits_by_hand()
    weights = np.random.default_rng(7).normal(size=(10, 65))
    logits = features @ weights.T
    loss = np.mean(logsumexp(logits, axis=1) - logits[np.arange(1400), labels]) + 5e-4 * np.sum(weights**2)
    assert float(problem.loss(weights.ravel())) == pytest.approx(loss, rel=1e-13)
    assert float(problem.loss(problem.x0)) == pytest.approx(np.log(10), rel=1e-13)
    accuracy = problem.observables()["accuracy"]
    assert float(accuracy(weights.ravel())) == pytest.approx(np.mean(logits.argmax(1) == labels))


def test_gradient_descent_learns_the_digits():
    problem = digits()
    x = jax.lax.fori_loop(0, 300, lambda _, x: x - 10.0 * problem.gradient(x), jnp.asarray(problem.x0))
    assert problem.l2 == 0
    assert float(problem.accuracy(x)) > 0.97


def test_a_batch_of_losses_is_the_losses_one_by_one():
    for problem in (digits(), digits("mlp", hidden=7)):
        x = problem.x0 + 0.3 * np.random.default_rng(3).normal(size=problem.dim)

        def two_ways(problem, x=x):
            one_by_one = jax.vmap(problem.example_loss, (None, 0))(problem.params(x), problem.data)
            return one_by_one, problem._losses(x, problem.data)

        one_by_one, together = jax.jit(two_ways)(problem)
        np.testing.assert_allclose(together, one_by_one, rtol=1e-12)


def test_the_mlp_is_what_its_docstring_says():
    problem, rng = digits("mlp", hidden=7, seed=5), np.random.default_rng(5)
    first, second = rng.normal(size=(7, 65)), rng.normal(size=(10, 7)) / np.sqrt(7)
    np.testing.assert_array_equal(problem.x0, np.r_[first.ravel(), second.ravel()])
    features, labels = digits_by_hand()
    logits = np.tanh(features @ first.T) @ second.T
    loss = np.mean(logsumexp(logits, axis=1) - logits[np.arange(1400), labels])
    assert float(problem.loss(problem.x0)) == pytest.approx(loss, rel=1e-13)


@pytest.mark.parametrize(("batch_size", "learning_rate", "published"), [(16, 4.0, 479.9), (256, 64.0, 502.0)])
def test_the_squared_norm_of_the_weights_after_a_run_of_the_preset(batch_size, learning_rate, published):
    # Theory, amendment 13: the time is kη = 640; the published numbers have an error of about 0.2.
    with jax.enable_x64(False):
        problem = as_traced(digits(preset="S7", batch_size=batch_size), "float32")
        keys = jnp.asarray(np.random.default_rng(0).integers(0, 2**32, (192, 2), dtype=np.uint32))

        def run(key):
            def step(k, x):
                return x - learning_rate * problem.noisy_gradient(x, Draws(key, k))

            return jax.lax.fori_loop(0, round(640 / learning_rate), step, problem.x0)

        squares = np.sum(np.square(jax.jit(jax.vmap(run))(keys)), axis=1)
    error = np.hypot(squares.std() / np.sqrt(len(squares)), 0.2)
    assert abs(squares.mean() - published) < 4.5 * error
    assert error < 0.7


def test_label_noise_redraws_a_share_of_the_labels():
    clean, noisy = (digits(label_noise=share).data[1].argmax(1) for share in (0.0, 0.4))
    rng = np.random.default_rng(1)
    redrawn = rng.permutation(1400)[:560]
    expected = clean.copy()
    expected[redrawn] = rng.integers(10, size=560)
    np.testing.assert_array_equal(noisy, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "cnn"}, "model must be one of 'softmax', 'mlp': got 'cnn'"),
        ({"preset": "S9"}, "preset must be one of None, 'S7': got 'S9'"),
        ({"preset": "S7", "model": "mlp"}, "preset 'S7' fixes model='softmax': got 'mlp'"),
        ({"preset": "S7", "l2": 0.1}, "preset 'S7' fixes l2=0.001: got 0.1"),
        ({"preset": "S7", "sampling": "reshuffling"}, "fixes sampling='with_replacement'"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"label_noise": 1.5}, "label_noise must be a finite number in"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_digits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits(**arguments)
