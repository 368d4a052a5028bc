"""What the problems say of themselves: gradients, exact noise covariances and their roots, closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import itograd as ig
from itograd.problems import (
    Circle,
    DoubleWell,
    FiniteSum,
    FlatSharp,
    LinearRegression,
    LogCosh,
    Quadratic,
    Rayleigh,
    digits,
)
from itograd.problems import finite_sum as finite_sum_module
from itograd.problems.layout import Layout
from itograd.problems.problem import Problem
from itograd.problems.sampling import SAMPLINGS
from itograd.simulation.draws import Draws
from itograd.simulation.precision import as_traced, double, precision

LARGEST_Z = 4.5
N = 12
KEY = jnp.array([1, 2], jnp.uint32)


def example_loss(params, example):
    """Of no particular form: a pytree of parameters; floats, integers and booleans in the data."""
    hidden = jnp.tanh(params["inner"] @ example["a"])
    output = jnp.sum(hidden) * params["outer"] + example["shift"]
    return jnp.where(example["flag"], output**2, jnp.cos(output) + output)


def finite_sum(**changes):
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(size=(N, 3)), "shift": rng.integers(-2, 3, N), "flag": rng.random(N) < 0.5}
    params = {"inner": rng.normal(size=(2, 3)), "outer": np.array(0.7)}
    default = {"loss": example_loss, "data": data, "params": params, "batch_size": 5, "l2": 0.3}
    return FiniteSum(**{**default, **changes})


def regression(**changes):
    features, targets = [[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], [1.0, 2.0, 0.0]
    return LinearRegression(features, targets, batch_size=2, **changes)


def rayleigh(**changes):
    return Rayleigh(samples=40, batch_size=4, **changes)


CURVATURES, OFFSETS = np.array([0.5, 1.0, 2.0]), np.array([0.25, 0.5, -0.75])
PROBLEMS = {
    "finite sum": finite_sum(),
    "softmax": digits(preset="S7", batch_size=16),
    "mlp": digits("mlp", hidden=5),
    "linear regression": regression(l2=0.1),
    "one-dimensional regression": LinearRegression.one_dimensional(CURVATURES, OFFSETS, batch_size=2),
    "Rayleigh": rayleigh(),
    "double well": DoubleWell(noise_std=0.7, batch_size=3),
    "log cosh": LogCosh(noise_std=0.7, batch_size=2),
    "flat and sharp": FlatSharp(tilt=-0.02, noise_std=0.7),
    "flat and sharp, state-dependent": FlatSharp(noise_std=0.7, state_dependent_noise=True, batch_size=2),
    "circle": Circle(),
    "quadratic": Quadratic([[2.0, 0.5], [0.5, 1.0]], [[1.0, 0.2], [0.2, 0.5]]),
}

# As in the engine, the problem is an argument of the compiled function.
loss = jax.jit(lambda problem, x: problem.loss(x))
gradient = jax.jit(lambda problem, x: problem.gradient(x))
noisy_gradient = jax.jit(lambda problem, x, k: problem.noisy_gradient(x, Draws(KEY, k)))
root = jax.jit(lambda problem, x, z: problem.noise_root(x, z))
perturbed = jax.jit(lambda problem, x, z, scale: problem.perturbed_gradient(x, z, scale))
covariance = jax.jit(lambda problem, x: problem.noise_covariance(x))
trace = jax.jit(lambda problem, x: problem.noise_trace(x))
variances = jax.jit(lambda problem, x: problem.noise_variances(x))
per_example = jax.jit(lambda problem, x: problem.per_example_gradients(x))


@pytest.fixture(autouse=True)
def float64():
    with double():
        yield


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return as_traced(PROBLEMS[request.param], "float64")


def some_point(problem):
    return np.asarray(problem.x0) + 0.3 * np.random.default_rng(3).normal(size=problem.dim)


# Every problem


def test_the_gradient_is_the_derivative_of_the_loss(problem):
    x, h = some_point(problem), 1e-5
    direction = np.random.default_rng(4).normal(size=problem.dim)
    slope = (loss(problem, x + h * direction) - loss(problem, x - h * direction)) / (2 * h)
    assert float(slope) == pytest.approx(float(gradient(problem, x) @ direction), rel=1e-7, abs=1e-9)


def test_perturbed_gradient_is_gradient_plus_scaled_noise(problem):
    x, z = some_point(problem), np.random.default_rng(5).normal(size=problem.noise_dim)
    expected = gradient(problem, x) + 1.7 * root(problem, x, z)
    np.testing.assert_allclose(perturbed(problem, x, z, 1.7), expected, rtol=1e-11, atol=1e-13)


def test_float32_and_float64_follow_the_same_draws(problem):
    x = some_point(problem)
    exact = noisy_gradient(problem, x, 4)
    with jax.enable_x64(False):
        rounded = noisy_gradient(as_traced(problem, "float32"), jnp.asarray(x, jnp.float32), 4)
    assert rounded.dtype == jnp.float32
    assert rounded.shape == (problem.dim,)
    np.testing.assert_allclose(rounded, exact, rtol=1e-3, atol=1e-4)


def test_the_start_is_a_point_of_finite_gradient(problem):
    assert problem.x0.shape == (problem.dim,)
    assert np.isfinite(gradient(problem, np.asarray(problem.x0))).all()


# Finite sums


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("make", [finite_sum, regression, rayleigh])
def test_the_root_has_the_population_covariance_exactly(make, sampling):
    problem = as_traced(make(sampling=sampling), "float64")
    x, n, b = some_point(problem), problem.dataset_size, problem.batch_size
    gradients = np.asarray(per_example(problem, x))
    deviations = gradients - gradients.mean(0)
    factor = 1 if sampling == "with_replacement" else (n - b) / (n - 1)
    expected = factor * deviations.T @ deviations / (n * b)
    columns = np.array([root(problem, x, z) for z in np.eye(n)])
    tolerance = 1e-12 * np.abs(expected).max()
    np.testing.assert_allclose(columns.T @ columns, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(covariance(problem, x), expected, rtol=0, atol=tolerance)
    assert float(trace(problem, x)) == pytest.approx(np.trace(expected), rel=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_noise_variances_are_the_diagonal_of_the_covariance(name):
    problem = PROBLEMS[name]
    x = some_point(problem)
    expected = np.diagonal(covariance(problem, x))
    tolerance = 1e-12 * expected.max()
    for same in (problem, problem.gaussian()):
        np.testing.assert_allclose(variances(same, x), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(variances(problem.amplified(3.0), x), 3 * expected, rtol=0, atol=3 * tolerance)
    if problem.noise_dim < 100:  # else the default, column by column, is slow
        by_columns = jax.jit(lambda problem, x: Problem.noise_variances(problem, x))
        np.testing.assert_allclose(by_columns(problem, x), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_noise_variances_of_digits_hold_in_float32(name):
    x = some_point(PROBLEMS[name])
    expected = np.asarray(variances(PROBLEMS[name], x))
    with precision("float32"):
        found = variances(as_traced(PROBLEMS[name], "float32"), jnp.asarray(x, "float32"))
    assert (np.asarray(found) >= 0).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())


def test_sums_over_examples_do_not_depend_on_the_chunks(monkeypatch):
    problem, x = finite_sum(), some_point(finite_sum())
    whole = covariance(problem, x)
    monkeypatch.setattr(finite_sum_module, "_CHUNK", 5 * problem.dim)  # chunks of 5, 5 and 2
    chunked, chunked_variances, chunked_trace = jax.jit(
        lambda p: (p.noise_covariance(x), p.noise_variances(x), p.noise_trace(x))
    )(problem)
    np.testing.assert_allclose(chunked, whole, rtol=1e-12)
    np.testing.assert_allclose(chunked_variances, np.diagonal(whole), rtol=1e-12)
    assert float(chunked_trace) == pytest.approx(np.trace(whole), rel=1e-12)


def test_loss_and_gradient_are_means_over_the_examples():
    problem, x = finite_sum(), some_point(finite_sum())
    examples = [jax.tree.map(lambda leaf, i=i: leaf[i], problem.data) for i in range(N)]
    mean = np.mean([example_loss(problem.params(x), example) for example in examples])
    assert float(loss(problem, x)) == pytest.approx(mean + 0.15 * np.sum(x**2), rel=1e-13)
    np.testing.assert_allclose(per_example(problem, x).mean(0), gradient(problem, x), rtol=1e-12)
    np.testing.assert_allclose(gradient(problem, x) - gradient(finite_sum(l2=0.0), x), 0.3 * x, rtol=1e-12)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_noisy_gradient_has_the_stated_mean_and_covariance(sampling):
    problem = finite_sum(sampling=sampling)
    x, draws = some_point(problem), 40_000
    keys = jnp.asarray(np.random.default_rng(6).integers(0, 2**32, (draws, 2), dtype=np.uint32))
    sample = jax.jit(jax.vmap(lambda key: problem.noisy_gradient(x, Draws(key, 1))))(keys)
    noise, expected = np.asarray(sample - gradient(problem, x)), np.asarray(covariance(problem, x))
    z_mean = noise.mean(0) / np.sqrt(np.diag(expected) / draws)
    products = noise[:, :, None] * noise[:, None, :]
    z_covariance = (products.mean(0) - expected) / (products.std(0) / np.sqrt(draws))
    assert np.abs(z_mean).max() < LARGEST_Z
    assert np.abs(z_covariance).max() < LARGEST_Z


def test_a_batch_of_everything_without_replacement_is_the_gradient():
    problem = finite_sum(sampling="without_replacement", batch_size=N)
    x = some_point(problem)
    np.testing.assert_allclose(noisy_gradient(problem, x, 0), gradient(problem, x), rtol=1e-12)
    assert float(trace(problem, x)) == 0


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
    problem, x = finite_sum(), some_point(finite_sum())
    doubled = problem.with_batch_size(10)
    assert doubled.batch_size == 10
    np.testing.assert_allclose(covariance(doubled, x), covariance(problem, x) / 2, rtol=1e-12)
    assert finite_sum(batch_size=100).batch_size == 100  # with replacement, a batch may exceed the data
    with pytest.raises(ValueError, match="at most the 12 examples under 'reshuffling': got 13"):
        finite_sum(sampling="reshuffling").with_batch_size(13)


def test_a_matrix_of_too_many_parameters_is_refused():
    problem = digits("mlp", hidden=64)
    with pytest.raises(ValueError, match="at most 2000 parameters: this problem has 4800"):
        problem.noise_covariance(problem.x0)


A = np.ones((N, 3))
NAN = np.r_[np.nan, np.zeros(N - 1)]
BAD_FINITE_SUMS = [
    ({"data": (A, NAN)}, ValueError, r"data\[1\] must be finite: 1 of its 12 numbers"),
    ({"data": {"u": A, "v": A[1:]}}, ValueError, r"data\['u'\] has 12 examples, data\['v'\] has 11"),
    ({"data": ([1.0, 2.0],)}, ValueError, r"data\[0\]\[0\] must have a leading axis.*lists are pytrees"),
    ({"data": ()}, ValueError, "data must hold at least one array"),
    ({"data": A[:0]}, ValueError, r"data must not be empty: got shape \(0, 3\)"),
    ({"data": np.array(["a"] * N)}, TypeError, "data must be an array of real numbers"),
    ({"data": A + 1j}, TypeError, "data must be an array of real numbers.*complex128"),
    ({"data": np.full(N, 2**40)}, ValueError, "data must fit 32-bit integers"),
    ({"loss": lambda w, e: w}, ValueError, r"loss must return a scalar per example: got shape \(3,\)"),
    ({"loss": lambda w, e: (w[0], w[0])}, ValueError, "loss must return a scalar per example: got 2 arrays"),
    ({"loss": lambda w, e: 1}, ValueError, "loss must return a floating-point number: got int"),
    ({"loss": 3.0}, TypeError, "loss must be a function: got 3.0"),
    ({"params": {"w": np.ones(3, int)}}, TypeError, r"params\['w'\] must be an array of floating-point"),
    ({"params": [jnp.tanh]}, TypeError, r"params\[0\] must be an array of floating-point"),
    ({"params": np.array([1.0, np.inf, 0.0])}, ValueError, "params must be finite"),
    ({"params": {}}, ValueError, "params must hold at least one array"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1: got 0"),
    ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number: got 2.5"),
    ({"batch_size": 13, "sampling": "without_replacement"}, ValueError, "at most the 12 examples"),
    ({"sampling": "epochs"}, ValueError, "sampling must be one of 'with_replacement'.*got 'epochs'"),
    ({"l2": -1.0}, ValueError, "l2 must be a finite number"),
    ({"observables": {"w": lambda w: w}}, ValueError, r"observable 'w' must return a scalar: got shape"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_FINITE_SUMS)
def test_bad_finite_sums_are_refused(change, error, message):
    good = {"loss": lambda w, e: w[0] * e[0], "data": A, "params": np.zeros(3)}
    with pytest.raises(error, match=message):
        FiniteSum(**{**good, **change})


# Linear regression and the Rayleigh quotient


def test_linear_regression_in_closed_form():
    problem = regression(l2=0.1)
    a, b = problem.data["features"], problem.data["targets"]
    x = some_point(problem)
    assert problem.is_quadratic
    expected = np.mean((a @ x - b) ** 2) / 2 + 0.05 * x @ x
    assert float(loss(problem, x)) == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(gradient(problem, x), a.T @ (a @ x - b) / 3 + 0.1 * x, rtol=1e-13)


def test_one_dimensional_regression_has_the_stated_curvatures_and_offsets():
    problem = LinearRegression.one_dimensional(CURVATURES, OFFSETS, batch_size=4)
    theta = np.array([1.3])
    np.testing.assert_allclose(per_example(problem, theta)[:, 0], CURVATURES * 1.3 - OFFSETS, rtol=1e-13)
    second = np.cov(CURVATURES, OFFSETS, bias=True)
    expected = (second[0, 0] * 1.3**2 - 2 * second[0, 1] * 1.3 + second[1, 1]) / 4  # theory 3.2
    assert float(covariance(problem, theta)[0, 0]) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearRegression([1.0, 2.0], [1.0, 2.0]), r"features must have shape \(N, d\): got \(2,\)"),
        (lambda: LinearRegression([[1.0], [2.0]], [1.0]), r"targets must have shape \(2,\)"),
        (lambda: LinearRegression([[np.inf]], [1.0]), r"data\['features'\] must be finite"),
        (lambda: LinearRegression.one_dimensional([1.0], [1.0, 2.0]), "must have one shape"),
        (lambda: LinearRegression.one_dimensional([-1.0], [1.0]), "curvature must be a finite number in"),
        (lambda: LinearRegression.one_dimensional([0.0], [1.0]), "an offset needs a curvature: got offset 1.0"),
        (lambda: Rayleigh(dim=1), "dim must be at least 2"),
        (lambda: Rayleigh(dim=10, samples=9), "samples must be at least dim=10"),
    ],
)
def test_bad_regressions_and_quotients_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_rayleigh_quotient_is_scale_invariant_for_every_batch():
    problem = Rayleigh()
    x = some_point(problem)
    assert problem.is_scale_invariant
    quotient = -np.sum(np.linspace(0.5, 1.5, 10) * x**2) / (2 * x @ x)
    assert float(loss(problem, x)) == pytest.approx(quotient, rel=1e-12)
    assert float(loss(problem, 7 * x)) == pytest.approx(quotient, rel=1e-12)
    for k in range(5):
        g = np.asarray(noisy_gradient(problem, x, k))
        assert abs(g @ x) < 1e-13 * np.linalg.norm(g) * np.linalg.norm(x)


def test_the_noise_of_the_rayleigh_quotient_is_a_hundred_times_its_signal():
    problem, points = Rayleigh(), np.random.default_rng(8).normal(size=(100, 10))
    noise = np.mean([trace(problem, x) for x in points])
    signal = np.mean([np.sum(np.square(gradient(problem, x))) for x in points])
    assert 80 < noise / signal < 120


OUTSIDE = np.linspace(0.5, 1.5, 3)


def test_a_loss_may_use_arrays_from_outside_in_both_precisions():
    """jax alone fails here: it remembers the float32 copy of an array by the identity of the array."""
    data, shift = np.random.default_rng(0).normal(size=(20, 3)), np.array([0.1, 0.2, 0.3])

    def loss(w, a):
        return jnp.sum(OUTSIDE * (w - a - shift) ** 2)

    problem = FiniteSum(loss, data, params=np.zeros(3), batch_size=4, observables={"far": lambda w: jnp.sum(w * shift)})
    names = {"weighted": lambda x: jnp.sum(x * OUTSIDE), **problem.observables()}
    ends = {}
    for dtype in ("float32", "float64", "float32"):
        runs = ig.simulate(ig.SGD(0.1), problem, steps=5, paths=64, observables=names, dtype=dtype, progress=False)
        ends[dtype] = runs["mean"].values[-1]
        exact = (-2 * OUTSIDE * (data + shift)).mean(axis=0)
        assert ig.noise_scale(problem, np.zeros(3), batches=64).squared_gradient == pytest.approx(
            exact @ exact, rel=0.3
        )
    np.testing.assert_allclose(ends["float32"], ends["float64"], rtol=1e-4)
    assert hash(problem.example_loss) == hash(FiniteSum(loss, data, params=np.zeros(3)).example_loss)
