"""Weak errors and their order: estimates, standard errors and refusals."""

import numpy as np
import pytest

import itograd as ig

Q = ig.problems.Quadratic([[1.0, 0.2], [0.2, 0.5]], [[1.0, 0.3], [0.3, 0.5]], "two_point")
X0 = [1.0, 1.5]
SGD = ig.SGD(0.2)


def runs(seed=0, **options):
    return ig.simulate(SGD, Q, **({"x0": X0, "steps": 20, "paths": 20_000, "seed": seed, "progress": False} | options))


def flow(seed=1, **options):
    sde = ig.modified_equation(SGD, Q)
    return ig.simulate(
        sde, **({"x0": X0, "save_at": np.arange(21) * 0.2, "paths": 20_000, "seed": seed, "progress": False} | options)
    )


def test_the_weak_error_is_the_exact_one_within_its_standard_error():
    error = ig.weak_error(runs(), flow())
    exact = ig.weak_error(
        ig.moments(SGD, Q, x0=X0, steps=20),
        ig.moments(ig.modified_equation(SGD, Q), x0=X0, save_at=np.arange(21) * 0.2),
    )
    z = (error["weak_error"] - exact["weak_error"]).values[1:] / error["standard_error"].values[1:]
    assert np.abs(z).max() < 4.5
    assert (
        np.abs(exact["weak_error"].values / np.where(error["standard_error"] > 0, error["standard_error"], 1)).max() > 8
    )
    assert (exact["standard_error"].values == 0).all()


def test_the_standard_error_has_the_spread_it_claims():
    errors = [ig.weak_error(runs(seed, paths=500), flow(seed + 100, paths=500)) for seed in range(40)]
    last = np.array([e["weak_error"].values[-1] for e in errors])
    claimed = np.array([e["standard_error"].values[-1] for e in errors]).mean(axis=0)
    np.testing.assert_allclose(last.std(axis=0, ddof=1), claimed, rtol=0.4)


def test_the_standard_errors_of_both_results_add_in_squares():
    a, b = runs(paths=50), flow(paths=200)
    expected = a["mean_standard_error"].values ** 2 + b["mean_standard_error"].values ** 2
    np.testing.assert_allclose(ig.weak_error(a, b)["standard_error"].values ** 2, expected, rtol=1e-12)


def test_only_shared_times_are_compared():
    error = ig.weak_error(runs(), flow(save_at=[0.0, 1.0, 3.0]))
    np.testing.assert_allclose(error.time, [0, 1, 3])
    assert error.step.values.tolist() == [0, 5, 15]
    assert "discretisation_error" in error


def test_two_results_of_one_seed_are_refused():
    with pytest.raises(ValueError, match="share seed 0"):
        ig.weak_error(runs(0, paths=2), flow(0, paths=2))


def test_results_that_share_nothing_are_refused():
    with pytest.raises(ValueError, match="share no time after 0"):
        ig.weak_error(runs(paths=2), flow(save_at=[0.0, 0.5], paths=2))
    with pytest.raises(ValueError, match="share no observable"):
        ig.weak_error(runs(paths=2), flow(paths=2, observables={"norm": lambda x: x @ x}))
    with pytest.raises(ValueError, match="runs must be a result"):
        ig.weak_error([1, 2], flow(paths=2))


def test_the_order_of_a_ladder_with_its_interval():
    rng = np.random.default_rng(0)
    h = np.array([0.4, 0.2, 0.1, 0.05])
    s = 0.002 * np.ones(4)
    covered = 0
    for _ in range(200):
        fit = ig.fit_weak_order(h, 0.3 * h + rng.normal(size=4) * s, s)
        covered += fit.interval[0] <= 1 <= fit.interval[1]
    assert 180 <= covered <= 200  # 95 % of 200; fewer than 180 has a chance below 1e-3


def test_a_ladder_is_run_and_fitted():
    ladder = [0.5, 0.25, 0.125]
    orders = ig.weak_order(lambda eta: ig.SGD(eta, 0.1), Q, ladder, time=1.0, x0=X0, paths=20_000)
    exact = []
    for eta in ladder:
        sde = ig.modified_equation(ig.SGD(eta, 0.1), Q)
        exact.append(
            ig.weak_error(ig.moments(ig.SGD(eta, 0.1), Q, x0=X0, save_at=[1.0]), ig.moments(sde, x0=X0, save_at=[1.0]))[
                "weak_error"
            ].values[-1]
        )
    assert set(orders) == {"x0", "x1"}
    for i, fit in enumerate(orders.values()):
        standard_error = (fit.interval[1] - fit.interval[0]) / 2 / 1.96
        assert abs(fit.order - ig.fit_weak_order(ladder, [e[i] for e in exact]).order) < 4.5 * standard_error
    with pytest.raises(ValueError, match="run more paths"):
        ig.weak_order(ig.SGD, Q, [0.05, 0.025, 0.0125], time=1.0, x0=X0, paths=100)


def test_local_orders_run_down_the_ladder():
    h = np.array([0.1, 0.4, 0.2])
    fit = ig.fit_weak_order(h, h**2 + h**3)
    assert fit.local[0] > fit.local[1] > 2
    assert fit.interval[0] < fit.order < fit.interval[1]


@pytest.mark.parametrize(
    ("h", "e", "s", "message"),
    [
        ([0.1, 0.2], [1, 2], None, "at least 3"),
        ([0.1, 0.2, 0.2], [1, 2, 3], None, "distinct"),
        ([0.1, 0.2, 0.4], [1, 2, 0], None, "not zero"),
        ([0.1, 0.2, 0.4], [1, 2, 3], [0.1, 0.1], "one for each"),
        ([0.1, 0.2, 0.4], [1, 2, 3], [0.5, 0.1, 0.1], "run more paths"),
    ],
)
def test_ladders_that_cannot_give_an_order_are_refused(h, e, s, message):
    with pytest.raises(ValueError, match=message):
        ig.fit_weak_order(h, e, s)
