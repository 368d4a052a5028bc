"""Control variates: closed forms, no bias, honest standard errors, the quadratic model as a control, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

import itograd as ig
from itograd.analysis.control_variates import Linearised, _corrected
from itograd.simulation import HeunDrift, WeakOrder2
from itograd.simulation.statistics import Moments

Q = ig.problems.Quadratic([[1.0, 0.3], [0.3, 2.0]], [[1.0, 0.2], [0.2, 0.5]])
X0 = [1.0, -1.0]
SGD = ig.SGD(0.1)
TIMES = [0.5, 1.0, 2.0]
DIRECTION = np.array([1.0, -0.5])
WELL = ig.problems.DoubleWell(0.5)


def cosine(x):
    return jnp.cos(x @ jnp.asarray([1.0, -0.5]))


def first_cosine(x):
    return jnp.cos(x[0])


def controlled(model, problem=None, **options):
    return ig.control_variates(
        model, problem, **({"x0": X0, "save_at": TIMES, "paths": 4000, "progress": False} | options)
    )


def gaussian_cosine(exact):
    """E cos(a·x) for normal x."""
    m, c = exact["mean"].values @ DIRECTION, exact["covariance"].values @ DIRECTION @ DIRECTION
    return np.exp(-c / 2) * np.cos(m)


def z_of(found, exact):
    return (found["mean"].values - exact) / found["mean_standard_error"].values


# ---- closed forms


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (SGD, Q),
        pytest.param(ig.Momentum(0.01, 0.9, clock="underdamped"), Q, marks=pytest.mark.slow),
        pytest.param(ig.modified_equation(SGD, Q, 2), None, marks=pytest.mark.slow),
        (ig.modified_equation(ig.Momentum(0.01, 0.9, clock="underdamped"), Q), None),
    ],
    ids=["sgd", "momentum", "sgd-sde", "momentum-sde"],
)
def test_means_of_a_normal_law_are_those_of_the_closed_form(model, problem):
    found = controlled(model, problem, observables={"cos": cosine})
    exact = gaussian_cosine(ig.moments(model, problem, x0=X0, save_at=TIMES))
    assert np.abs(z_of(found, exact[:, None])).max() < 4.5
    assert (found["variance_ratio"].values > 20).all()
    plain = (found["plain_mean"].values[:, 0] - exact) / found["plain_standard_error"].values[:, 0]
    assert np.abs(plain).max() < 4.5


def test_what_the_controls_span_is_exact():
    found = controlled(SGD, Q, observables=["x0", "loss", "squared_norm"])
    exact = ig.moments(SGD, Q, x0=X0, save_at=TIMES)
    second = exact["covariance"].values + np.einsum("si,sj->sij", exact["mean"].values, exact["mean"].values)
    np.testing.assert_allclose(found["mean"][:, 0], exact["mean"].values[:, 0], rtol=1e-10)
    np.testing.assert_allclose(found["mean"][:, 1], np.einsum("ij,sij->s", Q.hessian, second) / 2, rtol=1e-10)
    np.testing.assert_allclose(found["mean"][:, 2], np.einsum("sii->s", second), rtol=1e-10)
    assert found["mean_standard_error"].values.max() < 1e-8


def test_a_degree_of_one_leaves_the_second_order():
    one, two = (controlled(SGD, Q, degree=d, observables={"cos": cosine}) for d in (1, 2))
    assert (two["variance_ratio"].values > 2 * one["variance_ratio"].values).all()
    assert (one["variance_ratio"].values > 1).all()
    exact = gaussian_cosine(ig.moments(SGD, Q, x0=X0, save_at=TIMES))
    assert np.abs(z_of(one, exact[:, None])).max() < 4.5


@pytest.mark.parametrize("sampling", ["with_replacement", pytest.param("without_replacement", marks=pytest.mark.slow)])
def test_batches_of_a_data_set(sampling):
    """Noise that depends on x: the controls' moments close, and the cosine agrees with a larger plain run."""
    rng = np.random.default_rng(0)
    problem = ig.problems.LinearRegression(rng.normal(size=(6, 2)), rng.normal(size=6), 2, sampling=sampling)
    found = controlled(SGD, problem, observables={"cos": cosine})
    plain = ig.simulate(
        SGD, problem, x0=X0, save_at=TIMES, paths=40_000, seed=5, observables={"cos": cosine}, progress=False
    )
    error = ig.weak_error(found, plain)
    assert np.abs(error["weak_error"] / error["standard_error"]).max() < 4.5
    assert (found["variance_ratio"].values > 3).all()


# ---- no bias, honest standard errors


def replicated(replicates, paths, seed):
    """Halves of replicates on the axis of the save points: φ = c² − 1, c skewed with mean 0 and variance 1."""
    rng = np.random.default_rng(seed)
    for _ in range(2):
        c = rng.exponential(size=(replicates, paths)) - 1
        values = np.stack([c**2 - 1, c], axis=2)
        yield Moments.of(values, np.ones((replicates, paths), bool), covariance=True)


def score(x):
    return x.mean() / (x.std() / np.sqrt(len(x)))


def test_the_split_has_no_bias_where_the_plain_regression_has_one():
    halves = list(replicated(20_000, 10, 1))
    assert abs(score(_corrected(halves, np.zeros((20_000, 1)), 1)["mean"][:, 0])) < 4.5
    in_sample = [h.mean[:, 0] - h.covariance[:, 0, 1] / h.covariance[:, 1, 1] * h.mean[:, 1] for h in halves]
    assert abs(score(sum(in_sample) / 2)) > 20


def test_the_standard_error_has_the_spread_it_claims():
    """But for a covariance of the two halves, of order 1/n² where the variance is of order 1/n."""
    found = _corrected(list(replicated(20_000, 100, 2)), np.zeros((20_000, 1)), 1)
    claimed = (found["mean_standard_error"][:, 0] ** 2).mean()
    np.testing.assert_allclose(claimed, found["mean"][:, 0].var(), rtol=0.04)


def test_the_intervals_cover_the_truth():
    """200 replicates of 240 paths; 95 % of 200 is 190, fewer than 178 or all 200 has a chance below 1e-3."""
    controls = {"x": lambda x: x[0], "y": lambda x: x[1], "xx": lambda x: x[0] ** 2}
    controls |= {"xy": lambda x: x[0] * x[1], "yy": lambda x: x[1] ** 2}
    options = {"x0": X0, "save_at": [1.0]}
    runs = ig.simulate(
        SGD, Q, paths=48_000, keep_paths=48_000, dtype="float64", observables={"cos": cosine} | controls,
        progress=False, **options,
    )  # fmt: skip
    values = runs["path_values"].values[:, 0].reshape(200, 2, 120, 6)
    halves = [Moments.of(values[:, h], np.ones((200, 120), bool), covariance=True) for h in (0, 1)]
    exact = ig.moments(SGD, Q, **options)
    m, c = exact["mean"].values[0], exact["covariance"].values[0]
    means = [m[0], m[1], c[0, 0] + m[0] ** 2, c[0, 1] + m[0] * m[1], c[1, 1] + m[1] ** 2]
    found = _corrected(halves, np.tile(means, (200, 1)), 1)
    z = (found["mean"] - gaussian_cosine(exact))[:, 0] / found["mean_standard_error"][:, 0]
    assert 178 <= (np.abs(z) < 1.97).sum() < 200
    assert abs(z.mean()) < 4.5 / np.sqrt(200)


# ---- the quadratic model as a control


@pytest.mark.parametrize("noise", ["gaussian", "two_point", "skewed"])
def test_the_quadratic_model_has_the_moments_that_are_used(noise):
    model = Linearised(ig.problems.Circle("gaussian").with_batch_size(2), [0.3])
    model = Linearised(ig.problems.DoubleWell(0.5, noise, 2), [-0.8]) if noise != "gaussian" else model
    runs = ig.simulate(SGD, model, x0=[-0.5], save_at=TIMES, paths=20_000, progress=False)
    exact = ig.moments(SGD, model, x0=[-0.5], save_at=TIMES)
    for name in ("mean", "variance"):
        assert np.abs((runs[name] - exact[name]) / runs[f"{name}_standard_error"]).max() < 4.5


def test_the_quadratic_model_touches_the_loss():
    model, point = Linearised(WELL, [-0.8]), np.array([-0.8])
    assert float(model.loss(point)) == pytest.approx(float(WELL.loss(point)))
    h = 1e-2
    difference = (float(model.loss(point + h)) - float(model.loss(point - h))) / (2 * h)
    assert difference == pytest.approx(float(model.gradient(point)[0]), rel=1e-4)
    assert model.hessian == pytest.approx(3 * 0.64 - 1)
    np.testing.assert_allclose(model.noise_covariance(point), WELL.noise_covariance(point))


@pytest.mark.parametrize("noise", ["gaussian", "two_point", "skewed"])
def test_a_run_near_a_minimum_is_controlled_by_its_quadratic_model(noise):
    problem = ig.problems.DoubleWell(0.5, noise)
    options = {"x0": [-1.0], "observables": {"x": lambda x: x[0], "cos": first_cosine}}
    found = controlled(SGD, problem, linearised_at=[-1.0], **options)
    assert (found["variance_ratio"].values > 10).all()
    plain = ig.simulate(SGD, problem, save_at=TIMES, paths=100_000, seed=7, progress=False, **options)
    error = ig.weak_error(found, plain)
    assert np.abs(error["weak_error"] / error["standard_error"]).max() < 4.5
    # The correction is needed: most of what the plain mean of these paths is off by is gone.
    assert (error["standard_error"] < found["plain_standard_error"] / 2).all()


def test_an_sde_near_a_minimum_is_controlled_on_the_same_path():
    sde = ig.modified_equation(SGD, WELL)
    options = {"x0": [-1.0], "dt": 0.025, "observables": {"cos": first_cosine}}
    found = controlled(sde, linearised_at=[-1.0], **options)
    assert (found["variance_ratio"].values > 10).all()
    plain = ig.simulate(sde, save_at=TIMES, paths=100_000, seed=7, progress=False, scheme=HeunDrift(), **options)
    error = ig.weak_error(found, plain)
    assert np.abs(error["weak_error"] / error["standard_error"]).max() < 4.5


def test_the_gain_is_measured_and_falls_away_from_the_point():
    near, far = (controlled(SGD, WELL, x0=[-1.0], linearised_at=[c], save_at=[2.0]) for c in (-1.0, 2.0))
    assert near["variance_ratio"].values[-1, 0] > 10 * far["variance_ratio"].values[-1, 0]
    later = controlled(ig.SGD(0.3), WELL, x0=[-1.0], linearised_at=[-1.0], save_at=[0.3, 30.0])
    assert later["variance_ratio"].values[0, 0] > 10 * later["variance_ratio"].values[1, 0]


@pytest.mark.slow
def test_batches_of_a_loss_that_is_not_quadratic():
    rng = np.random.default_rng(2)
    data = {"a": rng.normal(size=(8, 2)), "b": rng.normal(size=8)}
    problem = ig.problems.FiniteSum(_log_cosh, data, params=np.zeros(2), batch_size=2)
    point = ig.simulate(ig.SGD(0.5), problem.gaussian(), steps=40, paths=64, progress=False)["mean"].values[-1]
    found = controlled(SGD, problem, x0=point, linearised_at=point, observables={"cos": cosine})
    assert (found["variance_ratio"].values > 1.5).all()
    plain = ig.simulate(
        SGD, problem, x0=point, save_at=TIMES, paths=40_000, seed=5, observables={"cos": cosine}, progress=False
    )
    error = ig.weak_error(found, plain)
    assert np.abs(error["weak_error"] / error["standard_error"]).max() < 4.5


def _log_cosh(x, example):
    return jnp.log(jnp.cosh(example["a"] @ x - example["b"]))


# ---- what comes out, and what is refused


def test_the_result_is_an_operand_of_a_weak_error():
    sde = ig.modified_equation(SGD, Q)
    options = {"observables": {"cos": cosine}}
    error = ig.weak_error(controlled(SGD, Q, **options), controlled(sde, seed=1, **options))
    exact = gaussian_cosine(ig.moments(SGD, Q, x0=X0, save_at=TIMES)) - gaussian_cosine(
        ig.moments(sde, x0=X0, save_at=TIMES)
    )
    assert np.abs((error["weak_error"].values[:, 0] - exact) / error["standard_error"].values[:, 0]).max() < 4.5
    assert np.abs(exact / error["standard_error"].values[:, 0]).max() > 20
    with pytest.raises(ValueError, match="share seed 0"):
        ig.weak_error(controlled(SGD, Q, **options), controlled(sde, **options))


def test_the_result_is_a_function_of_the_arguments():
    first, second = (controlled(SGD, Q, threads=n, observables={"cos": cosine}) for n in (1, 2))
    assert first.identical(second)
    assert not first.identical(controlled(SGD, Q, seed=1, observables={"cos": cosine}))


def test_the_halves_are_two_independent_runs():
    found = controlled(SGD, Q, observables={"cos": cosine})
    halves = [
        ig.simulate(SGD, Q, x0=X0, save_at=TIMES, paths=2000, seed=seed, dtype="float64", observables={"cos": cosine})[
            "mean"
        ].values
        for seed in (0, 1 << 63)
    ]
    np.testing.assert_allclose(found["plain_mean"], (halves[0] + halves[1]) / 2, rtol=1e-12)
    assert (np.abs(halves[0] - halves[1]) > 1e-4).all()


def test_a_path_that_is_lost_takes_the_mean_with_it():
    with pytest.warns(UserWarning, match="paths diverged"):
        found = controlled(ig.SGD(0.5), WELL, x0=[2.2], linearised_at=[1.0], save_at=[0.0, 10.0])
    assert found["diverged"].values[-1] > 0
    assert np.isnan(found["mean"].values[-1]).all()
    assert np.isfinite(found["mean"].values[0]).all()


@pytest.mark.parametrize(
    ("model", "problem", "options", "message"),
    [
        (SGD, WELL, {"x0": [-1.0]}, "give linearised_at"),
        (SGD, WELL, {"x0": [-1.0], "linearised_at": [1.0, 2.0]}, r"finite point of shape \(1,\)"),
        (SGD, WELL, {"x0": [np.nan], "linearised_at": [1.0]}, "x0 must be finite"),
        (SGD, Q, {"x0": lambda draws: draws.normal((2,))}, "fixed starting point"),
        (SGD, Q, {"paths": 100}, "5 controls need at least 200 paths"),
        (SGD, Q, {"degree": 3}, "degree must be one of 1, 2"),
        (SGD, Q, {"dt": 0.1}, "leave scheme and dt out"),
        (SGD, WELL, {"x0": [-1.0], "linearised_at": [-1.0], "dt": 0.1}, "belong to a modified equation"),
        (SGD, Q, {"save_at": [0.15]}, "multiples of the optimiser's clock"),
        (SGD, ig.problems.Quadratic(np.eye(20), np.eye(20)), {"x0": np.zeros(20)}, "230 controls.*take degree=1"),
        (ig.modified_equation(SGD, WELL), None, {"x0": [-1.0], "linearised_at": [-1.0]}, "needs its step size `dt`"),
        (
            ig.modified_equation(SGD, WELL),
            None,
            {"x0": [-1.0], "linearised_at": [-1.0], "dt": 0.1, "scheme": WeakOrder2()},
            "three-point",
        ),
        (ig.modified_equation(SGD, Q), Q, {}, "carries its problem"),
        (
            ig.modified_equation(SGD, ig.problems.LinearRegression([[1.0, 0.0], [1.0, 1.0]], [1.0, 3.0])),
            None,
            {},
            "noise depends on the state",
        ),
        (
            SGD,
            ig.problems.LinearRegression([[1.0, 0.0], [1.0, 1.0]], [1.0, 3.0], sampling="reshuffling"),
            {},
            "independent batches",
        ),
    ],
)
def test_what_cannot_be_controlled_is_refused(model, problem, options, message):
    with pytest.raises(ValueError, match=message):
        controlled(model, problem, **options)


def test_models_of_the_wrong_kind_are_refused():
    with pytest.raises(TypeError, match="need an optimiser with a problem"):
        controlled(SGD)
