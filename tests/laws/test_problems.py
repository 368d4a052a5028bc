"""What the problems say of themselves: gradients, exact noise covariances, roots, closed forms, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid, quad, trapezoid
from scipy.special import logsumexp

from itograd.problems import (Circle, DoubleWell, FiniteSum, FlatSharp, LinearRegression, Quadratic, Rayleigh,
                              digits)
from itograd.problems import finite_sum as finite_sum_module
from itograd.problems.layout import Layout
from itograd.problems.sampling import SAMPLINGS
from itograd.simulation.draws import Draws
from itograd.simulation.precision import as_traced, double

LARGEST_Z = 4.5
N = 12


def example_loss(params, example):
    """Of no particular form: a pytree of parameters, floats, integers and booleans in the data."""
    hidden = jnp.tanh(params["inner"] @ example["a"])
    output = jnp.sum(hidden) * params["outer"] + example["shift"]
    return jnp.where(example["flag"], output**2, jnp.cos(output) + output)


def finite_sum(**arguments):
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(size=(N, 3)), "shift": rng.integers(-2, 3, N), "flag": rng.random(N) < 0.5}
    params = {"inner": rng.normal(size=(2, 3)), "outer": np.array(0.7)}
    return FiniteSum(**{"loss": example_loss, "data": data, "params": params, "batch_size": 5, "l2": 0.3,
                        **arguments})


ONE_DIMENSIONAL = {"curvatures": [0.5, 1.0, 2.0], "offsets": [0.25, 0.5, -0.75]}
PROBLEMS = {
    "finite sum": finite_sum(),
    "digits": digits(preset="S7", batch_size=16),
    "mlp": digits("mlp", hidden=5),
    "linear regression": LinearRegression([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], [1.0, 2.0, 0.0], batch_size=2, l2=0.1),
    "one-dimensional regression": LinearRegression.one_dimensional(**ONE_DIMENSIONAL, batch_size=2),
    "Rayleigh": Rayleigh(samples=40, batch_size=4),
    "double well": DoubleWell(noise_std=0.7, batch_size=3),
    "flat and sharp": FlatSharp(tilt=-0.02, noise_std=0.7),
    "flat and sharp, state-dependent": FlatSharp(noise_std=0.7, state_dependent_noise=True, batch_size=2),
    "circle": Circle(),
    "quadratic": Quadratic([[2.0, 0.5], [0.5, 1.0]], [[1.0, 0.2], [0.2, 0.5]]),
}
FINITE_SUMS = ["finite sum", "mlp", "linear regression", "one-dimensional regression", "Rayleigh"]


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


@pytest.fixture(autouse=True)
def float64():
    with double():
        yield


def some_point(problem):
    return problem.x0 + 0.3 * np.random.default_rng(3).normal(size=problem.dim)


def population_covariance(problem, x):
    gradients = np.asarray(problem.per_example_gradients(x))
    deviations = gradients - gradients.mean(0)
    return deviations.T @ deviations / len(gradients)


def root_matrix(problem, x):
    return np.asarray(jax.vmap(lambda z: problem.noise_root(x, z))(jnp.eye(problem.noise_dim))).T


# Every problem


def test_the_gradient_is_the_derivative_of_the_loss(problem):
    x = some_point(problem)
    direction = np.random.default_rng(4).normal(size=problem.dim)
    h = 1e-5
    slope = (problem.loss(x + h * direction) - problem.loss(x - h * direction)) / (2 * h)
    assert float(slope) == pytest.approx(float(problem.gradient(x) @ direction), rel=1e-7, abs=1e-9)


def test_perturbed_gradient_is_gradient_plus_scaled_noise(problem):
    x, z = some_point(problem), np.random.default_rng(5).normal(size=problem.noise_dim)
    expected = problem.gradient(x) + 1.7 * problem.noise_root(x, z)
    np.testing.assert_allclose(problem.perturbed_gradient(x, z, 1.7), expected, rtol=1e-11, atol=1e-13)


def test_float32_inside_a_compiled_step(problem):
    with jax.enable_x64(False):
        step = jax.jit(lambda p, x, key: p.noisy_gradient(x, Draws(key, 4)))
        x = jnp.asarray(some_point(problem), jnp.float32)
        gradient = step(as_traced(problem, "float32"), x, jnp.array([1, 2], jnp.uint32))
    assert gradient.dtype == jnp.float32
    assert gradient.shape == (problem.dim,)
    exact = problem.noisy_gradient(some_point(problem), Draws(jnp.array([1, 2], jnp.uint32), 4))
    np.testing.assert_allclose(gradient, exact, rtol=1e-3, atol=1e-4)


def test_the_start_is_a_finite_point_of_r_to_the_d(problem):
    assert np.asarray(problem.x0).shape == (problem.dim,)
    assert np.isfinite(problem.gradient(problem.x0)).all()


# Finite sums


@pytest.mark.parametrize("name", FINITE_SUMS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_root_has_the_population_covariance_exactly(name, sampling):
    original = PROBLEMS[name]
    problem = FiniteSum(original.example_loss, original.data, params=original.params(original.x0), l2=original.l2,
                        sampling=sampling, batch_size=2)
    x = some_point(problem)
    factor = 1 if sampling == "with_replacement" else (problem.dataset_size - 2) / (problem.dataset_size - 1)
    expected = population_covariance(problem, x) / 2 * factor
    root = root_matrix(problem, x)
    size = np.abs(expected).max()
    np.testing.assert_allclose(root @ root.T, expected, rtol=0, atol=1e-12 * size)
    np.testing.assert_allclose(problem.noise_covariance(x), expected, rtol=0, atol=1e-12 * size)
    assert float(problem.noise_trace(x)) == pytest.approx(np.trace(expected), rel=1e-12)


def test_sums_over_examples_do_not_depend_on_the_chunks(monkeypatch):
    problem, x = finite_sum(), some_point(finite_sum())
    whole, trace = problem.noise_covariance(x), problem.noise_trace(x)
    monkeypatch.setattr(finite_sum_module, "_CHUNK", 5 * problem.dim)  # chunks of 5, 5 and 2
    np.testing.assert_allclose(problem.noise_covariance(x), whole, rtol=1e-12)
    assert float(problem.noise_trace(x)) == pytest.approx(float(trace), rel=1e-12)


def test_loss_and_gradient_are_means_over_the_examples():
    problem, x = finite_sum(), some_point(finite_sum())
    params = problem.params(x)
    examples = [jax.tree.map(lambda leaf, i=i: leaf[i], problem.data) for i in range(N)]
    expected = np.mean([example_loss(params, example) for example in examples]) + 0.15 * np.sum(x**2)
    assert float(problem.loss(x)) == pytest.approx(float(expected), rel=1e-13)
    np.testing.assert_allclose(problem.per_example_gradients(x).mean(0), problem.gradient(x), rtol=1e-12)
    np.testing.assert_allclose(problem.gradient(x) - finite_sum(l2=0.0).gradient(x), 0.3 * x, rtol=1e-12)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_noisy_gradient_has_the_stated_mean_and_covariance(sampling):
    problem = finite_sum(sampling=sampling)
    x, draws = some_point(problem), 40_000
    keys = jnp.asarray(np.random.default_rng(6).integers(0, 2**32, (draws, 2), dtype=np.uint32))
    sample = jax.jit(jax.vmap(lambda key: problem.noisy_gradient(x, Draws(key, 1))))(keys)
    noise = np.asarray(sample - problem.gradient(x))
    covariance = np.asarray(problem.noise_covariance(x))
    z_mean = noise.mean(0) / np.sqrt(np.diag(covariance) / draws)
    products = noise[:, :, None] * noise[:, None, :]
    z_covariance = (products.mean(0) - covariance) / (products.std(0) / np.sqrt(draws))
    assert np.abs(z_mean).max() < LARGEST_Z
    assert np.abs(z_covariance).max() < LARGEST_Z


def test_a_batch_of_everything_without_replacement_is_the_gradient():
    problem = finite_sum(sampling="without_replacement", batch_size=N)
    x = some_point(problem)
    noisy = problem.noisy_gradient(x, Draws(jnp.array([1, 2], jnp.uint32), 0))
    np.testing.assert_allclose(noisy, problem.gradient(x), rtol=1e-12)
    assert float(problem.noise_trace(x)) == 0


def test_parameters_go_into_a_vector_and_back():
    problem = finite_sum()
    params = problem.params(problem.x0)
    assert params["inner"].shape == (2, 3)
    assert params["outer"].shape == ()
    assert float(params["outer"]) == 0.7
    np.testing.assert_array_equal(problem.layout.flatten(params), problem.x0)
    with jax.enable_x64(False):
        assert problem.params(jnp.zeros(7, jnp.float32))["inner"].dtype == jnp.float32


def test_a_layout_refuses_other_pytrees():
    layout = Layout.of({"a": np.zeros(2), "b": np.zeros((2, 2))})
    with pytest.raises(ValueError, match=r"x must have shape \(6,\)"):
        layout.unflatten(np.zeros(5))
    with pytest.raises(ValueError, match="the pytree must be"):
        layout.flatten({"a": np.zeros(2)})
    with pytest.raises(ValueError, match="the leaves must have shapes"):
        layout.flatten({"a": np.zeros(3), "b": np.zeros((2, 2))})


def test_observables_of_params_become_functions_of_x():
    problem = finite_sum(observables={"outer": lambda params: params["outer"] ** 2})
    assert float(problem.observables()["outer"](problem.x0)) == pytest.approx(0.49)


def test_another_batch_size():
    problem = finite_sum()
    x = some_point(problem)
    doubled = problem.with_batch_size(10)
    assert doubled.batch_size == 10
    np.testing.assert_allclose(doubled.noise_covariance(x), problem.noise_covariance(x) / 2, rtol=1e-12)
    assert finite_sum(batch_size=100).batch_size == 100  # with replacement, a batch may exceed the data
    with pytest.raises(ValueError, match="at most the 12 examples under 'reshuffling': got 13"):
        finite_sum(sampling="reshuffling").with_batch_size(13)


def test_a_matrix_of_too_many_parameters_is_refused():
    problem = digits("mlp", hidden=64)
    with pytest.raises(ValueError, match="at most 2000 parameters: this problem has 4800"):
        problem.noise_covariance(problem.x0)
    assert float(problem.noise_trace(problem.x0)) > 0


A = np.ones((N, 3))
BAD_FINITE_SUMS = {
    "nan": ({"data": (A, np.r_[np.nan, np.zeros(N - 1)])}, ValueError, r"data\[1\] must be finite: 1 of its 12"),
    "lengths": ({"data": {"u": A, "v": A[1:]}}, ValueError, r"data\['u'\] has 12 examples, data\['v'\] has 11"),
    "lists": ({"data": ([1.0, 2.0],)}, ValueError, r"data\[0\]\[0\] must have a leading axis.*lists are pytrees"),
    "no data": ({"data": ()}, ValueError, "data must hold at least one array"),
    "no examples": ({"data": A[:0]}, ValueError, r"data must not be empty: got shape \(0, 3\)"),
    "strings": ({"data": np.array(["a"] * N)}, TypeError, "data must be an array of real numbers"),
    "complex": ({"data": A + 1j}, TypeError, "data must be an array of real numbers.*complex128"),
    "large integers": ({"data": np.full(N, 2**40)}, ValueError, "data must fit 32-bit integers"),
    "vector loss": ({"loss": lambda w, e: w}, ValueError, r"loss must return a scalar per example: got shape \(3,\)"),
    "pair loss": ({"loss": lambda w, e: (w[0], w[0])}, ValueError, "scalar per example: got 2 arrays"),
    "integer loss": ({"loss": lambda w, e: 1}, ValueError, "loss must return a floating-point number: got int"),
    "no loss": ({"loss": 3.0}, TypeError, "loss must be a function: got 3.0"),
    "integer params": ({"params": {"w": np.ones(3, int)}}, TypeError, r"params\['w'\] must be an array of floating"),
    "callable params": ({"params": [jnp.tanh]}, TypeError, r"params\[0\] must be an array of floating"),
    "infinite params": ({"params": np.array([1.0, np.inf, 0.0])}, ValueError, "params must be finite"),
    "no params": ({"params": {}}, ValueError, "params must hold at least one array"),
    "batch zero": ({"batch_size": 0}, ValueError, "batch_size must be at least 1: got 0"),
    "batch float": ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number: got 2.5"),
    "batch above N": ({"batch_size": 13, "sampling": "without_replacement"}, ValueError, "at most the 12 examples"),
    "sampling": ({"sampling": "epochs"}, ValueError, "sampling must be one of 'with_replacement'.*got 'epochs'"),
    "negative l2": ({"l2": -1.0}, ValueError, "l2 must be a finite number"),
    "observable": ({"observables": {"w": lambda w: w}}, ValueError, r"observable 'w' must return a scalar: got shape"),
}


@pytest.mark.parametrize("case", BAD_FINITE_SUMS)
def test_bad_finite_sums_are_refused(case):
    change, error, message = BAD_FINITE_SUMS[case]
    good = {"loss": lambda w, e: jnp.sum(w) * jnp.sum(jax.tree.leaves(e)[0]), "data": A, "params": np.zeros(3)}
    FiniteSum(**good)
    with pytest.raises(error, match=message):
        FiniteSum(**{**good, **change})


# Digits


def digits_by_hand():
    from sklearn.datasets import load_digits

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
    x = jax.lax.fori_loop(0, 100, lambda _, x: x - 10.0 * problem.gradient(x), jnp.asarray(problem.x0))
    assert problem.l2 == 0
    assert float(problem.accuracy(x)) > 0.97


def test_a_batch_of_losses_is_the_losses_one_by_one():
    for problem in (digits(), digits("mlp", hidden=7)):
        x = some_point(problem)
        one_by_one = jax.vmap(problem.example_loss, (None, 0))(problem.params(x), problem.data)
        np.testing.assert_allclose(problem._losses(x, problem.data), one_by_one, rtol=1e-12)
        np.testing.assert_allclose(problem.per_example_gradients(x).mean(0), problem.gradient(x), atol=1e-14)


def test_the_mlp_is_what_its_docstring_says():
    problem, rng = digits("mlp", hidden=7, seed=5), np.random.default_rng(5)
    first, second = rng.normal(size=(7, 65)), rng.normal(size=(10, 7)) / np.sqrt(7)
    np.testing.assert_array_equal(problem.x0, np.r_[first.ravel(), second.ravel()])
    features, labels = digits_by_hand()
    logits = np.tanh(features @ first.T) @ second.T
    loss = np.mean(logsumexp(logits, axis=1) - logits[np.arange(1400), labels])
    assert float(problem.loss(problem.x0)) == pytest.approx(loss, rel=1e-13)


def test_label_noise_redraws_a_share_of_the_labels():
    clean, noisy = (digits(label_noise=share).data[1].argmax(1) for share in (0.0, 0.4))
    rng = np.random.default_rng(1)
    redrawn = rng.permutation(1400)[:560]
    expected = clean.copy()
    expected[redrawn] = rng.integers(10, size=560)
    np.testing.assert_array_equal(noisy, expected)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"model": "cnn"}, "model must be one of 'softmax', 'mlp': got 'cnn'"),
    ({"preset": "S9"}, "preset must be one of None, 'S7': got 'S9'"),
    ({"preset": "S7", "model": "mlp"}, "preset 'S7' fixes model='softmax': got 'mlp'"),
    ({"preset": "S7", "l2": 0.1}, "preset 'S7' fixes l2=0.001: got 0.1"),
    ({"preset": "S7", "sampling": "reshuffling"}, "fixes sampling='with_replacement'"),
    ({"hidden": 0}, "hidden must be at least 1"),
    ({"label_noise": 1.5}, "label_noise must be a finite number in"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
])
def test_bad_digits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits(**arguments)


# Linear regression and the Rayleigh quotient


def test_linear_regression_in_closed_form():
    problem = PROBLEMS["linear regression"]
    assert problem.is_quadratic
    a, b = problem.data["features"], problem.data["targets"]
    x = some_point(problem)
    assert float(problem.loss(x)) == pytest.approx(np.mean((a @ x - b) ** 2) / 2 + 0.05 * x @ x, rel=1e-13)
    np.testing.assert_allclose(problem.gradient(x), a.T @ (a @ x - b) / 3 + 0.1 * x, rtol=1e-13)


def test_one_dimensional_regression_has_the_stated_curvatures_and_offsets():
    problem = LinearRegression.one_dimensional(**ONE_DIMENSIONAL, batch_size=4)
    h, xi = np.array(ONE_DIMENSIONAL["curvatures"]), np.array(ONE_DIMENSIONAL["offsets"])
    theta = np.array([1.3])
    np.testing.assert_allclose(problem.per_example_gradients(theta)[:, 0], h * 1.3 - xi, rtol=1e-13)
    second = np.cov(h, xi, bias=True)  # of theory 3.2: Var h θ² − 2 Cov(h, ξ) θ + Var ξ
    expected = (second[0, 0] * 1.3**2 - 2 * second[0, 1] * 1.3 + second[1, 1]) / 4
    assert float(problem.noise_covariance(theta)[0, 0]) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: LinearRegression([1.0, 2.0], [1.0, 2.0]), r"features must have shape \(N, d\): got \(2,\)"),
    (lambda: LinearRegression([[1.0], [2.0]], [1.0]), r"targets must have shape \(2,\)"),
    (lambda: LinearRegression([[np.inf]], [1.0]), r"data\['features'\] must be finite"),
    (lambda: LinearRegression.one_dimensional([1.0], [1.0, 2.0]), "must have one shape"),
    (lambda: LinearRegression.one_dimensional([-1.0], [1.0]), "curvature must be a finite number in"),
    (lambda: LinearRegression.one_dimensional([0.0], [1.0]), "an offset needs a curvature"),
    (lambda: Rayleigh(dim=1), "dim must be at least 2"),
    (lambda: Rayleigh(dim=10, samples=9), "samples must be at least dim=10"),
    (lambda: DoubleWell(noise_std=-1.0), "noise_std must be a finite number"),
    (lambda: DoubleWell(noise_law="cauchy"), "noise_law must be one of 'gaussian'"),
    (lambda: DoubleWell(batch_size=0), "batch_size must be at least 1"),
    (lambda: FlatSharp(tilt=np.nan), "tilt must be a finite number"),
    (lambda: FlatSharp(state_dependent_noise="yes"), "state_dependent_noise must be one of False, True"),
])
def test_bad_problems_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_rayleigh_quotient_is_scale_invariant_for_every_batch():
    problem = Rayleigh()
    assert problem.is_scale_invariant
    x = some_point(problem)
    spectrum = np.linspace(0.5, 1.5, 10)
    assert float(problem.loss(x)) == pytest.approx(-np.sum(spectrum * x**2) / (2 * x @ x), rel=1e-12)
    assert float(problem.loss(7 * x)) == pytest.approx(float(problem.loss(x)), rel=1e-13)
    for step in range(5):
        gradient = problem.noisy_gradient(x, Draws(jnp.array([1, 2], jnp.uint32), step))
        assert abs(gradient @ x) < 1e-13 * np.linalg.norm(gradient) * np.linalg.norm(x)


def test_noise_dominates_the_rayleigh_quotient():
    problem, directions = Rayleigh(), np.random.default_rng(8).normal(size=(100, 10))
    traces = jax.vmap(problem.noise_trace)(jnp.asarray(directions))
    squares = jnp.sum(jax.vmap(problem.gradient)(jnp.asarray(directions)) ** 2, axis=1)
    assert 80 < float(jnp.mean(traces) / jnp.mean(squares)) < 140


# Landscapes


@pytest.mark.parametrize(("diffusion", "to_saddle", "to_other"), [
    (0.2, 7.9340174, 19.093897), (0.1, 30.821296, 66.268626), (0.05, 361.90375, 729.67069)])
def test_first_passage_over_the_double_well_by_quadrature(diffusion, to_saddle, to_other):
    x = np.linspace(-4, 1, 200_001)
    f = np.asarray(jax.vmap(DoubleWell().loss)(x[:, None]))
    inner = cumulative_trapezoid(np.exp(-f / diffusion), x, initial=0)
    passage = cumulative_trapezoid(np.exp(f / diffusion) * inner, x, initial=0) / diffusion
    start, saddle = np.searchsorted(x, [-1 - 1e-9, -1e-9])
    assert passage[saddle] - passage[start] == pytest.approx(to_saddle, rel=1e-6)
    assert passage[-1] - passage[start] == pytest.approx(to_other, rel=1e-6)


def test_the_wells_of_flat_and_sharp():
    problem = FlatSharp()
    minima = np.array([[-4 / 3], [2 - np.sqrt(4 / 3)]])
    np.testing.assert_allclose(jax.vmap(problem.gradient)(minima), 0, atol=1e-15)
    np.testing.assert_allclose(jax.vmap(problem.loss)(minima), 0, atol=1e-15)
    flat, sharp = np.asarray(jax.vmap(jax.hessian(problem.loss))(minima)).ravel()
    assert flat == pytest.approx(0.72)
    assert np.sqrt(sharp / flat) == pytest.approx(2.204635, abs=5e-7)
    depths = jax.vmap(FlatSharp(tilt=-0.02).loss)(minima)
    assert float(depths[0] - depths[1]) == pytest.approx(0.04)
    assert FlatSharp().has_additive_noise
    assert not FlatSharp(state_dependent_noise=True).has_additive_noise


@pytest.mark.parametrize(("arguments", "table"), [
    ({}, {0.2: 1.951, 0.1: 2.039, 0.05: 2.131, 0.025: 2.175, 0.0125: 2.191}),
    ({"tilt": -0.02}, {0.2: 1.65, 0.1: 1.42, 0.05: 0.994, 0.025: 0.453, 0.0125: 0.092}),
    ({"state_dependent_noise": True}, {0.1: 5.12, 0.05: 11.26}),
])
def test_the_mass_of_the_flat_well_over_the_sharp_one(arguments, table):
    # p ~ exp(−∫ L'/D)/D with D(x) = D0 S(x)/S of unit noise (theory 4.3).
    problem = FlatSharp(**arguments)
    x = np.linspace(-9, 5, 40_001)
    slope = np.asarray(jax.vmap(problem.gradient)(x[:, None]))[:, 0]
    relative = np.asarray(jax.vmap(problem.noise_covariance)(x[:, None]))[:, 0, 0]
    for diffusion, ratio in table.items():
        potential = cumulative_trapezoid(slope / (diffusion * relative), x, initial=0)
        density = np.exp(-(potential - potential.min())) / relative
        left = x <= 0
        measured = trapezoid(density[left], x[left]) / trapezoid(density[~left], x[~left])
        assert measured == pytest.approx(ratio, abs=0.5 * 10.0 ** -len(str(ratio).split(".")[1]) * 1.5)


def test_landscape_noise_is_divided_by_the_batch():
    x = np.array([0.4])
    assert float(DoubleWell(noise_std=3.0, batch_size=4).noise_trace(x)) == pytest.approx(9 / 4)
    slope = 1 + 0.4 / (2 * np.sqrt(1.16))
    covariance = FlatSharp(noise_std=3.0, batch_size=4, state_dependent_noise=True).noise_trace(x)
    assert float(covariance) == pytest.approx(9 / 4 * (0.4 + 0.6 * slope))
