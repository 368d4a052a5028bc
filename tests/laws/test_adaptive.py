"""RMSprop, Adam and AdamW: exact moments, stationary laws, and where their equations start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import itograd as ig
from itograd.analysis.moments import _affine_equation, _equation_moments
from itograd.optimizers.adam import Adam
from itograd.optimizers.adamw import AdamW
from itograd.optimizers.rmsprop import RMSprop
from itograd.problems.landscapes import DoubleWell, FlatSharp
from itograd.problems.quadratic import Quadratic
from itograd.simulation.draws import INITIAL, Draws
from itograd.simulation.precision import DTYPES, as_traced, double, precision
from itograd.simulation.schedule import Exponential
from itograd.simulation.threefry import path_key, seed_words

ETA = 0.1


def adam(eta=ETA, **options):
    """c₁ = 2, c₂ = 1, ε₀ = .1."""
    return Adam(eta, 1 - 2 * eta**2, 1 - eta**2, eps=0.1 / eta, **options)


def noisy(eta=ETA, hessian=1.0, law="gaussian"):
    """η² Σ = 1."""
    return Quadratic(hessian, 1 / eta**2, law)


def mean_and_square(sde, time, x0=1.0):
    found = ig.moments(sde, x0=[x0], save_at=[time])
    mean, variance = (float(found[name][-1, 0]) for name in ("mean", "variance"))
    return mean, variance + mean**2


@pytest.mark.parametrize("eta", [0.1, 0.25])
def test_moments_of_adam_from_a_stated_start(eta):
    """Theory 2.6, from (θ, m, u) = (1, .3, .5) at t₀ = .5, a time 1 later."""
    sde = ig.modified_equation(adam(eta), noisy(eta), start=(0.5, 0.3, 0.5))
    assert mean_and_square(sde, 1.5) == pytest.approx((0.4106315012, 0.4444044216), abs=1e-9)


def test_moments_of_adam_from_time_0_are_the_limit_of_late_starts():
    """Theory 3.5: from t = 0 and u₀ = 0, where the public equation does not start; here t₀ = 1e-10."""
    t0 = 1e-10
    sde = ig.modified_equation(adam(), noisy(), start=(t0, 0.0, float(-np.expm1(-t0))))
    assert mean_and_square(sde, 1.0) == pytest.approx((0.31143951, 0.70443755), abs=1e-8)
    whole = dataclasses.replace(_affine_equation(sde.affine_form()), observe=(np.eye(2), np.zeros(2)))
    mean, covariance = _equation_moments(whole, np.ones(1), [1.0])
    assert mean[-1, 1] == pytest.approx(0.443476, abs=1e-6)
    assert covariance[-1, 1, 1] + mean[-1, 1] ** 2 == pytest.approx(1.111164, abs=1e-6)


@pytest.mark.parametrize("rule", [adam(), adam(v0=2.0), RMSprop(ETA, 1 - 3 * ETA**2, eps=0.1 / ETA)], ids=repr)
def test_the_stationary_variance_does_not_know_the_betas(rule):
    """Theory 3.5: Var θ = σ₀² s²/(2aP), Var m = σ₀² c₁ s²/2."""
    a, s0 = 2.0, 0.7
    sde = ig.modified_equation(rule, Quadratic(a, (s0 / ETA) ** 2), warm_start=1)
    covariance = ig.stationary_covariance(sde, state=True)
    assert covariance[0, 0] == pytest.approx(s0**2 / (2 * a * (s0 + 0.1)), rel=1e-12)
    assert ig.stationary_covariance(sde)[0, 0] == covariance[0, 0]
    if isinstance(rule, Adam):
        assert covariance[1, 1] == pytest.approx(s0**2 * 2 / 2, rel=1e-12)


def test_moments_of_rmsprop_with_a_settled_second_moment():
    """With w₀ = η² Σ the equation is that of Ornstein and Uhlenbeck: dθ = −(a θ dt + dW)/P."""
    rule, rate = RMSprop(ETA, 0.99, eps=0.1 / ETA, v0=1 / ETA**2), 2.0 / 1.1
    mean, square = mean_and_square(ig.modified_equation(rule, noisy(hessian=2.0)), 0.7)
    variance = (1 - np.exp(-2 * rate * 0.7)) / (2 * rate * 1.1**2)
    assert (mean, square - mean**2) == pytest.approx((np.exp(-0.7 * rate), variance), rel=1e-9)


@pytest.mark.parametrize("times_rate", [True, False])
def test_decoupled_decay_pulls_at_its_own_rate(times_rate):
    """Without a gradient θ decays as e^{−λt/η}, or e^{−λt/η²}."""
    power = 1 if times_rate else 2
    rule = AdamW(ETA, 0.9, 0.99, weight_decay=0.4 * ETA**power, decay_times_rate=times_rate)
    sde = ig.modified_equation(rule, Quadratic(0.0, 1.0), start=(0.5, 0.0, 1.0))
    assert mean_and_square(sde, 1.5)[0] == pytest.approx(np.exp(-0.4), rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ig.moments(adam(), noisy(), steps=3), "moments close only where the update is affine: Adam is not"),
        (lambda: mean_and_square(ig.modified_equation(adam(), noisy(), warm_start=9), 1.0), "need a known start"),
        (
            lambda: ig.moments(
                ig.modified_equation(adam(), FlatSharp(state_dependent_noise=True), warm_start=1), save_at=[1.0]
            ),
            "close only where Σ does not depend on x",
        ),
        (
            lambda: ig.moments(ig.modified_equation(adam(), DoubleWell(), start=(0.1, 0.0, 1.0)), save_at=[1.0]),
            "DoubleWell is not quadratic",
        ),
        (
            lambda: mean_and_square(ig.modified_equation(adam(), noisy(), start=(0.5, 0.0, 1.0)), 0.2),
            "save_at must not lie before the equation's start at time 0.5: got 0.2",
        ),
        (
            lambda: ig.stationary_covariance(
                ig.modified_equation(Adam(Exponential(0.1, 1.0)), noisy(), start=(0.5, 0.0, 1.0))
            ),
            "the learning rate has a schedule",
        ),
    ],
)
def test_moments_are_refused_where_they_do_not_close(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Where the equation starts


def test_from_a_positive_second_moment_it_starts_at_time_0():
    rule = Adam(ETA, v0=3.0, correct_first=False)
    sde = ig.modified_equation(rule, noisy())
    with double():
        x, m, w = sde.start(jnp.ones(1))
    assert sde.start_time == 0
    np.testing.assert_allclose([x[0], m[0], w[0]], [1, 0, 3 * ETA**2], rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "problem", [noisy(law="skewed"), noisy(law="skewed").amplified(2.0)], ids=["plain", "amplified"]
)
def test_a_warm_start_is_the_state_that_the_rule_reaches(problem, dtype):
    rule, warm = adam(), 5
    sde = ig.modified_equation(rule, problem, warm_start=warm)
    assert sde.start_time == pytest.approx(warm * ETA**2, rel=1e-14)
    with precision(dtype):
        draws = Draws(path_key(tuple(seed_words(3)), 1), 0, INITIAL)
        exact, chain = as_traced((sde, rule.chain(problem)), dtype)
        found = exact.start_from(jnp.ones(1), draws)
        state = chain.start(jnp.ones(1))
        for k in range(warm):
            state = chain.step(state, k, draws.at_step(k + 1))
        x, m, v = state
        tolerance = 1e-5 if dtype == "float32" else 1e-13
        assert {leaf.dtype for leaf in found} == {np.dtype(dtype)}
        for ours, theirs in zip(found, (x, m, ETA**2 * v)):
            np.testing.assert_allclose(ours, theirs, rtol=tolerance)
    with pytest.raises(ValueError, match="a warm start is random"):
        sde.start(jnp.ones(1))


def test_a_simulation_begins_with_the_law_of_the_warmed_rule_and_counts_time_from_there():
    rule, problem, warm = adam(), noisy(law="two_point"), 25
    time = warm * ETA**2
    sde = ig.modified_equation(rule, problem, warm_start=warm)
    run = {"x0": [1.0], "paths": 20_000, "progress": False}
    runs = ig.simulate(rule, problem, save_at=[time, 2 * time], **run)
    flow = ig.simulate(sde, save_at=runs.time, dt=time / 25, seed=1, **run)
    np.testing.assert_allclose(flow.time, [time, 2 * time], rtol=1e-12)
    assert flow.step.values.tolist() == [0, 25]
    difference = runs["mean"].values[0, 0] - flow["mean"].values[0, 0]
    error = np.hypot(runs["mean_standard_error"].values[0, 0], flow["mean_standard_error"].values[0, 0])
    assert abs(difference) < 4.5 * error
    again = ig.simulate(sde, save_at=[2 * time], dt=time / 25, seed=1, **run)
    assert again["mean"].values[0, 0] == flow["mean"].values[1, 0]
    for times, message in (
        ([0.1, 1.0], "must not lie before the equation's start at time 0.25"),
        ([time], "reach beyond"),
    ):
        with pytest.raises(ValueError, match=message):
            ig.simulate(sde, save_at=times, **run)


def test_a_random_starting_point_and_the_first_batch_of_a_warm_start_share_no_words():
    """One step of RMSprop that starts at v = 0 moves by −η z/(|z| √(1−β)), z the noise: its sign must not be x0's."""
    rule = RMSprop(ETA, 0.9)
    sde = ig.modified_equation(rule, noisy(hessian=0.0), warm_start=1)
    paths = 4000

    def agreement(k0, k1):
        draws = Draws((k0, k1), 0, INITIAL)
        x0 = draws.normal((1,))
        return (jnp.sign(x0 - sde.start_from(x0, draws)[0]) * jnp.sign(x0))[0]

    signs = jax.vmap(agreement)(*path_key(tuple(seed_words(1)), jnp.arange(paths, dtype=jnp.uint32)))
    assert set(np.abs(signs).tolist()) == {1.0}
    assert abs(np.mean(signs)) < 4.5 / paths**0.5


def test_an_equation_with_a_start_of_its_own_is_not_coupled():
    sde = ig.modified_equation(adam(), noisy(), warm_start=5)
    with pytest.raises(ValueError, match="coupled chains start side by side at time 0"):
        ig.coupled_difference(adam(), sde, noisy(), save_at=[0.5])
