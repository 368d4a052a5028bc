"""The neighbours' rules against staleness: their formulas, and the oracles of theory 4."""

import jax.numpy as jnp
import numpy as np
import pytest

import itograd as ig
from itograd.asynchrony import (
    AdaptiveDelayCompensated,
    Asynchronous,
    DelayAdaptive,
    DelayCompensated,
    Dropping,
    Fixed,
    GapAware,
    Geometric,
    MindTheStep,
    StalenessAware,
    WorkerQueue,
    compare_rules,
)
from itograd.asynchrony.compensation import CurvatureCompensation
from itograd.asynchrony.staleness import Read
from itograd.simulation.precision import double

Z = 4.5
RULES = {
    "staleness-aware": StalenessAware(),
    "staleness-aware, plus one": StalenessAware(plus_one=True),
    "mind the step": MindTheStep(1.1),
    "delay-adaptive": DelayAdaptive(4),
    "dropping": Dropping(6),
    "compensated": DelayCompensated(),
    "compensated, adaptive": AdaptiveDelayCompensated(),
    "gap-aware": GapAware(0.1),
}
NOTHING = ig.problems.Quadratic([2.0, 0.5], 0.0 * np.eye(2))
NOISY = ig.problems.Quadratic([2.0, 0.5], np.eye(2), "two_point")


@pytest.mark.parametrize(
    ("rule", "factor"),
    [
        (StalenessAware(), 0.3303),
        (StalenessAware(plus_one=True), 0.2558),
        (DelayAdaptive(10), 0.8556),
        (Dropping(9), 1 - 0.9**10),
    ],
)
def test_mean_factors_at_ten_workers(rule, factor):
    for law in (WorkerQueue(10), Geometric(mean=9)):
        assert rule.mean_factor(law) == pytest.approx(factor, abs=5e-5)


@pytest.mark.parametrize("mu", [0.5, 0.9, 0.96])
def test_mean_factors_have_their_closed_forms(mu):
    law, log = Geometric(ratio=mu), np.log1p(-mu)
    assert StalenessAware().mean_factor(law) == pytest.approx((1 - mu) * (1 - log), abs=1e-12)
    assert StalenessAware(plus_one=True).mean_factor(law) == pytest.approx(-(1 - mu) * log / mu, abs=1e-12)
    assert MindTheStep(1.25).mean_factor(law) == pytest.approx((1 - mu) / (1 - mu / 1.25), abs=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_a_fresh_gradient_is_left_as_it_is_and_a_stale_one_is_not(name):
    rule, x, g = RULES[name], jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    memory = rule.start(x)
    same, memory = rule.compensate(g, Read(x, 0), x, memory)
    np.testing.assert_array_equal(same, g)
    stale, _ = rule.compensate(g, Read(x + 0.1, 7), x, memory)
    assert (np.asarray(stale) != np.asarray(g)).all()


class ExactCurvature(CurvatureCompensation):
    """The Hessian's own diagonal."""

    diagonal: tuple[float, ...]

    def curvature(self, gradient, memory):
        return jnp.stack([jnp.asarray(h, gradient.dtype) for h in self.diagonal]), memory


@pytest.mark.parametrize(
    ("optimizer", "law"),
    [
        (ig.SGD(0.1), Geometric(mean=5)),
        pytest.param(ig.Momentum(0.05, 0.5), WorkerQueue(6), marks=pytest.mark.slow),
        pytest.param(ig.Adam(0.05), Fixed(5), marks=pytest.mark.slow),
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_the_exact_hessian_removes_staleness_on_a_quadratic(optimizer, law):
    options = {"x0": [1.0, -2.0], "steps": 40, "save_every": 1, "paths": 8, "keep_paths": 8, "dtype": "float64"}
    options["noise"] = "jax"  # whose words do not depend on how a chain is compiled
    fresh = ig.simulate(optimizer, NOISY, **options)["path_values"]
    cured = ig.simulate(Asynchronous(optimizer, law, ExactCurvature((2.0, 0.5))), NOISY, **options)["path_values"]
    np.testing.assert_allclose(cured.values, fresh.values, rtol=0, atol=1e-11)
    wrong = ig.simulate(Asynchronous(optimizer, law, ExactCurvature((2.0, 0.4))), NOISY, **options)["path_values"]
    assert np.abs(wrong.values - fresh.values).max() > 1e-3


@pytest.mark.parametrize("base", [1.0, 1.5])
def test_mind_the_step_has_the_implicit_momentum_mu_over_c(base):
    """E Δ_{k+1} = ρ E Δ_k − (1−μ) η h E x_k from Δ_1 = −η h x_0 on, exactly, though reads before step 0 are of x_0."""
    rule, law, eta, h = MindTheStep(base), Geometric(mean=3), 0.3, 1.0
    rho = rule.implicit_momentum(law)
    assert rho == pytest.approx(0.75 / base)
    expected = [1.0, 1.0 - eta * h]
    for _ in range(39):
        expected.append(expected[-1] + rho * (expected[-1] - expected[-2]) - 0.25 * eta * h * expected[-1])
    one = ig.problems.Quadratic(h, 0.0)
    runs = ig.simulate(
        Asynchronous(ig.SGD(eta), law, rule), one, x0=[1.0], steps=40, save_every=1, paths=100_000, dtype="float64"
    )
    error = np.maximum(runs["mean_standard_error"].values[:, 0], 1e-12)
    z = (runs["mean"].values[:, 0] - expected) / error
    assert np.abs(z).max() < Z
    assert np.abs(z[2:]).max() > 0.1  # it is random from step 2 on


def test_mind_the_step_refuses_what_has_no_momentum():
    with pytest.raises(ValueError, match=r"base > μ=0.75"):
        MindTheStep(0.7).implicit_momentum(Geometric(mean=3))
    with pytest.raises(ValueError, match="geometric delays alone"):
        MindTheStep(1.0).implicit_momentum(Fixed(3))
    for make in (lambda: MindTheStep(0.0), lambda: GapAware(0.0), lambda: GapAware(0.1, 1.0), lambda: Dropping(-1)):
        with pytest.raises(ValueError, match="must be"):
            make()


def replayed(compensate, steps=30, delay=2, eta=0.1):
    """SGD with a fixed delay in plain NumPy, its gradients changed by `compensate(g, x − x̂)`."""
    points = [np.array([1.0, -2.0])]
    for k in range(steps):
        read = points[max(0, k - delay)]
        points.append(points[-1] - eta * compensate(np.array([2.0, 0.5]) * read, points[-1] - read))
    return np.array(points)


def gap_aware(eta=0.1, memory=0.9):
    averages = []

    def compensate(g, moved):
        averages.append(g**2)
        weights = memory ** np.arange(len(averages))[::-1]
        typical = eta * np.sqrt(weights @ np.array(averages) / weights.sum())
        return g / (1 + np.abs(moved) / typical)

    return compensate


def adaptive_curvature(strength=2.0, memory=0.8, eps=1e-7):
    averages = []

    def compensate(g, moved):
        averages.append(g**2)
        v = (1 - memory) * memory ** np.arange(len(averages))[::-1] @ np.array(averages)
        return g + strength * g**2 / np.sqrt(v + eps) * moved

    return compensate


@pytest.mark.parametrize(
    ("rule", "compensate"),
    [
        (DelayCompensated(0.3), lambda g, moved: g + 0.3 * g * g * moved),
        (AdaptiveDelayCompensated(2.0, 0.8), adaptive_curvature()),
        (GapAware(0.1, 0.9), gap_aware()),
        (StalenessAware(), None),
    ],
    ids=["compensated", "adaptive", "gap-aware", "staleness-aware"],
)
def test_rules_in_the_engine_are_their_formulas(rule, compensate):
    runs = ig.simulate(
        Asynchronous(ig.SGD(0.1), Fixed(2), rule), NOTHING, x0=[1.0, -2.0], steps=30, save_every=1, paths=2,
        keep_paths=1, dtype="float64",
    )  # fmt: skip
    if compensate is None:
        age = iter([0, 1, *[2] * 28])
        compensate = lambda g, moved: g / max(1, next(age))  # noqa: E731
    expected = replayed(compensate)
    np.testing.assert_allclose(runs["path_values"].values.reshape(31, 2), expected, atol=1e-13)


def test_a_dropped_gradient_leaves_sgd_where_it_is():
    runs = ig.simulate(
        Asynchronous(ig.SGD(0.1), Fixed(4), Dropping(3)), NOISY, x0=[1.0, 1.0], steps=20, paths=4, keep_paths=4,
        save_every=1,
    )  # fmt: skip
    values = runs["path_values"].transpose("time", "path", "observable").values
    assert (values[4:] == values[4]).all()  # the first four are younger than four writes
    assert (np.diff(values[:5], axis=0) != 0).all()


def test_rules_are_compared_in_one_table():
    rules = {"rate over delay": StalenessAware(), "gap": GapAware(0.1)}
    options = {"x0": [1.0, 1.0], "steps": 40, "save_every": 1, "paths": 500, "seed": 3}
    table = compare_rules(ig.SGD(0.1), WorkerQueue(10), NOISY, rules, target_loss=0.2, **options)
    assert table.rule.values.tolist() == ["fresh gradients", "no rule", "rate over delay", "gap"]
    alone = ig.simulate(
        Asynchronous(ig.SGD(0.1), WorkerQueue(10), rules["gap"]), NOISY, observables=["loss"], **options
    )
    np.testing.assert_array_equal(table["loss"].sel(rule="gap"), alone["mean"].squeeze())
    np.testing.assert_array_equal(table["loss_standard_error"].sel(rule="gap"), alone["mean_standard_error"].squeeze())
    np.testing.assert_allclose(table["mean_factor"], [1, 1, 0.3303, np.nan], atol=5e-5)
    assert (table["diverged"] == 0).all()
    reached, error = table["steps_to_target"].values, table["steps_to_target_standard_error"].values
    loss = table["loss"].sel(rule="no rule").values
    first = np.flatnonzero(loss <= 0.2)[0]
    assert first - 1 < reached[1] <= first
    assert 0 < error[1] < 3
    assert reached[0] != reached[2]


def test_steps_to_a_target_are_exact_on_a_known_curve():
    one = ig.problems.Quadratic(1.0, 0.0)
    table = compare_rules(ig.SGD(0.1), Fixed(1), one, {}, target_loss=0.25, x0=[1.0], steps=20, save_every=1, paths=2)
    curve = 0.5 * 0.9 ** (2 * np.arange(21))
    assert table["steps_to_target"].values[0] == pytest.approx(np.interp(-0.25, -curve, np.arange(21)), rel=1e-5)
    with pytest.raises(ValueError, match="rules may not be named"):
        compare_rules(ig.SGD(0.1), Fixed(1), one, {"no rule": StalenessAware()}, steps=2)
    with pytest.raises(ValueError, match=r"\['x'\] are none"):
        compare_rules(ig.SGD(0.1), Fixed(1), one, {"x": None}, steps=2)
    with double():
        assert float(StalenessAware().factor(jnp.array(4.0))) == 0.25
