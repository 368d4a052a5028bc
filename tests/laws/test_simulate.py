"""The engine's promises: bytes, laws, divergence, results, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

import itograd as ig
from itograd.simulation import EulerMaruyama
from itograd.simulation.engine import final_points

Q = ig.problems.Quadratic([[1.0, 0.2], [0.2, 0.5]], [[1.0, 0.3], [0.3, 0.5]], "skewed")
SGD = ig.SGD(0.1)
X0 = [1.0, 1.5]


def run(**changes):
    options = {"x0": X0, "steps": 20, "paths": 3000, "seed": 4, "keep_paths": 100, "progress": False}
    return ig.simulate(SGD, Q, **(options | changes))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bytes_do_not_depend_on_paths_threads_or_save_grid(dtype):
    whole = run(dtype=dtype)
    fewer = run(dtype=dtype, paths=130)
    coarse = run(dtype=dtype, save_every=5, threads=1)
    values = whole["path_values"].values
    assert values.dtype == dtype
    np.testing.assert_array_equal(fewer["path_values"].values, values)
    np.testing.assert_array_equal(coarse["path_values"].values, values[:, ::5])
    np.testing.assert_array_equal(coarse["mean"].values, whole["mean"].values[::5])


def test_a_seed_is_a_run_and_another_seed_another():
    assert run().equals(run())
    assert not np.array_equal(run()["mean"].values, run(seed=5)["mean"].values)


def test_float32_follows_float64():
    np.testing.assert_allclose(run()["path_values"].values, run(dtype="float64")["path_values"].values, atol=2e-5)


def test_ensemble_has_the_exact_moments():
    runs = run(paths=40_000, covariance=True, keep_paths=0)
    exact = ig.moments(SGD, Q, x0=X0, steps=20)
    z = (runs["mean"] - exact["mean"]).values[1:] / runs["mean_standard_error"].values[1:]
    zv = (runs["variance"] - exact["variance"]).values[1:] / runs["variance_standard_error"].values[1:]
    assert np.abs(z).max() < 4.5
    assert np.abs(zv).max() < 4.5
    np.testing.assert_allclose(runs["covariance"].values[-1], exact["covariance"].values[-1], atol=0.005)


def test_observables_keep_their_names():
    names = {"zz": lambda x: x[0], "a": lambda x: x[1], "m": lambda x: x @ x}
    runs = run(observables=names)
    reference = run()["path_values"].values
    assert runs.observable.values.tolist() == ["zz", "a", "m"]
    np.testing.assert_array_equal(runs["path_values"].values[..., :2], reference)
    np.testing.assert_allclose(runs["path_values"].values[..., 2], (reference**2).sum(-1), rtol=1e-5)


def test_quantiles_are_those_of_the_paths():
    runs = run(quantiles=[0.1, 0.5], keep_paths=3000)
    np.testing.assert_allclose(runs["quantile"].values, np.quantile(runs["path_values"].values, [0.1, 0.5], axis=0))
    assert runs.attrs["quantile_paths"] == 3000


def test_x0_may_be_sampled():
    runs = run(x0=lambda draws: 2 + draws.normal((2,)), paths=4000)
    z = (runs["mean"].values[0] - 2) / runs["mean_standard_error"].values[0]
    assert np.abs(z).max() < 4.5
    assert runs["variance"].values[0] == pytest.approx([1, 1], rel=0.15)


def test_a_diverged_path_is_counted_and_left_out():
    unstable = ig.problems.DoubleWell(noise_std=4.0)
    runs = ig.simulate(
        ig.SGD(0.25), unstable, x0=[1.0], steps=30, save_every=3, paths=2000, keep_paths=2000, progress=False
    )
    lost = runs["diverged"].values
    finite = np.isfinite(runs["path_values"].values[..., 0])
    assert 0 < lost[-1] < 2000
    assert (np.diff(lost) >= 0).all()
    np.testing.assert_array_equal(lost, 2000 - finite.sum(axis=0))
    assert runs["mean"].values[-1, 0] == pytest.approx(
        runs["path_values"].values[finite[:, -1], -1, 0].astype(float).mean()
    )


def test_default_observables_follow_the_dimension():
    assert run().observable.values.tolist() == ["x0", "x1"]
    digits = ig.simulate(ig.SGD(1.0), ig.problems.digits(), steps=2, paths=2, progress=False)
    assert digits.observable.values.tolist() == ["loss", "squared_norm", "accuracy"]


def test_observables_may_be_named():
    runs = run(observables=["squared_norm", "x1", "loss"])
    x = run()["path_values"].values[..., :2]
    assert runs.observable.values.tolist() == ["squared_norm", "x1", "loss"]
    np.testing.assert_allclose(runs["path_values"].values[..., 0], (x**2).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(runs["path_values"].values[..., 1], x[..., 1])


def test_a_result_survives_netcdf(tmp_path):
    runs = run(quantiles=[0.5], covariance=True)
    again = ig.load(ig.save(runs, tmp_path / "runs.nc"))
    assert again.equals(runs)
    assert again.attrs == runs.attrs


def test_a_result_knows_its_recipe():
    prints = {run(paths=2, keep_paths=0).attrs["fingerprint"] for _ in range(2)}
    for optimizer, problem in (
        (ig.SGD(0.1000001), Q),
        (SGD, ig.problems.Quadratic(Q.hessian + 1e-9 * np.eye(2), [[1.0, 0.3], [0.3, 0.5]], "skewed")),
        (SGD, ig.problems.Quadratic(Q.hessian, [[1.0, 0.3], [0.3, 0.5]])),
    ):
        prints.add(ig.simulate(optimizer, problem, x0=X0, steps=2, paths=2, progress=False).attrs["fingerprint"])
    assert len(prints) == 4


def test_an_unwritable_result_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        ig.save(run(), tmp_path / "nowhere" / "runs.nc")
    assert not any(tmp_path.iterdir())


def test_final_points_are_where_the_paths_end():
    np.testing.assert_array_equal(
        final_points(SGD.chain(Q), X0, 20, paths=3, seed=4), run()["path_values"].values[:3, -1]
    )


def test_times_are_the_optimisers_clock():
    runs = ig.simulate(ig.Momentum(0.1, 0.5), Q, steps=10, save_every=4, paths=2, progress=False)
    np.testing.assert_allclose(runs.time, np.array([0, 4, 8, 10]) * 0.2)
    assert runs.step.values.tolist() == [0, 4, 8, 10]
    again = ig.simulate(ig.Momentum(0.1, 0.5), Q, save_at=runs.time, paths=2, progress=False)
    assert again.equals(runs)


class Shrinking(ig.SGD):
    def update(self, state, k, gradient):
        return state[:1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": [1.0]}, "x0 must have shape"),
        ({"x0": [1.0, np.nan]}, "x0 must be finite"),
        ({"paths": 1}, "paths must be at least 2"),
        ({"paths": 10.5}, "paths must be a whole number"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": None}, "needs `steps`"),
        ({"save_every": 30}, "save_every must be at most"),
        ({"steps": None, "save_at": [0.05]}, "multiples of the optimiser's clock"),
        ({"steps": None, "save_at": [0.2, 0.1]}, "increase"),
        ({"save_at": [0.1]}, "not both"),
        ({"dtype": "float16"}, "dtype"),
        ({"noise": "dice"}, "noise must be one of"),
        ({"quantiles": [1.5]}, "quantiles"),
        ({"keep_paths": 5000}, "keep_paths"),
        ({"seed": -3}, "seed"),
        ({"dt": 0.1}, "belong to a modified equation"),
        ({"observables": {"both": lambda x: x}}, "'both' must return a scalar"),
        ({"observables": {}}, "at least one"),
        ({"observables": []}, "at least one"),
        (
            {"observables": ["loss", "accuracy", "x2"]},
            r"names among loss, squared_norm and x0 … x1: got \['accuracy', 'x2'\]",
        ),
    ],
)
def test_bad_input_is_refused_with_its_name(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        run(**change)


def test_a_step_that_changes_shape_is_found_before_the_run():
    with pytest.raises(ValueError, match="must return the state it was given"):
        ig.simulate(Shrinking(0.1), Q, steps=5, paths=4)


def test_an_equation_wants_times_and_no_problem():
    sde = ig.modified_equation(SGD, Q)
    with pytest.raises(ValueError, match="save_at"):
        ig.simulate(sde, x0=X0, paths=4)
    with pytest.raises(ValueError, match="carries its problem"):
        ig.simulate(sde, Q, x0=X0, save_at=[1.0], paths=4)
    with pytest.raises(ValueError, match="multiples of dt"):
        ig.simulate(sde, x0=X0, save_at=[1.0], dt=0.3, paths=4, scheme=EulerMaruyama())
    with pytest.raises(TypeError, match="optimiser with a problem"):
        ig.simulate(SGD, x0=X0, steps=3)


def test_a_user_step_sees_no_float64_in_a_float32_run():
    class Watched(ig.SGD):
        def update(self, state, k, gradient):
            assert state.dtype == gradient.dtype == jnp.float32
            return super().update(state, k, gradient)

    ig.simulate(Watched(0.1), Q, steps=2, paths=2, progress=False)


def test_paths_that_are_all_lost_at_once_are_refused():
    class Spoilt(type(SGD.chain(Q))):
        def step(self, state, k, draws):
            return super().step(state, k, draws) * jnp.nan

    with pytest.raises(ValueError, match=r"no path is finite after the first step.*'x0'"):
        ig.simulate(Spoilt(Q, SGD), x0=X0, steps=10, paths=10)
