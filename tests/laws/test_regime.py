"""The regime of an adaptive rule: r², the speed that it leaves, and what that allows (theory 2.7, amendment 7)."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import itograd as ig
from itograd.analysis.speed_ratio import averaging_bias, convexity_bias, largest_batch_factor, speed_ratio
from itograd.problems.explicit_noise import ExplicitNoise

MAX_Z = 4.5
SIGNALS = np.array([0.02, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0])  # r
SPEEDS = np.array([0.9998, 0.995, 0.981, 0.894, 0.707, 0.447, 0.243])  # 1/√(1+r²), to the digits of theory 2.7


class LinearLoss(ExplicitNoise):
    """L(x) = Σ_i r_i (x_i − x_{n+i}), with one noise of variance 1/B for each pair.

    A pair sees opposite signals and the same noise: the noise cancels from the difference of their displacements.
    """

    signals: np.ndarray
    batch_size: int = eqx.field(static=True, default=1)
    noise_law: str = eqx.field(static=True, default="gaussian")

    @property
    def slopes(self):
        return jnp.concatenate([jnp.asarray(self.signals), -jnp.asarray(self.signals)])

    @property
    def dim(self):
        return 2 * len(self.signals)

    @property
    def noise_dim(self):
        return len(self.signals)

    def loss(self, x):
        return self.slopes @ x

    def sample_root(self, x):
        one = jnp.eye(self.noise_dim)
        return jnp.concatenate([one, one])


def mean_steps(rule, problem, settle, steps, paths=256, seed=0):
    """Of each pair, per path: half the difference of the displacements of a step, after `settle` steps; (paths, n)."""
    runs = ig.simulate(
        rule,
        problem,
        save_at=np.array([settle, settle + steps]) * rule.time_per_step,
        paths=paths,
        keep_paths=paths,
        seed=seed,
        dtype="float64",
        progress=False,
    )
    values = runs["path_values"].values
    moved = (values[:, 0] - values[:, 1]) / steps
    n = problem.dim // 2
    return (moved[:, :n] - moved[:, n:]) / 2


def estimate(samples):
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / len(samples) ** 0.5


RULES = {
    "RMSprop": ig.RMSprop(0.01, 0.999, eps=0.0, v0=1.0, denominator="old"),
    "RMSprop, corrected": ig.RMSprop(0.01, 0.999, eps=0.0, correct_second=True),
    "Adam": ig.Adam(0.01, 0.9, 0.999, eps=0.0),
}


@pytest.mark.parametrize("name", RULES)
def test_the_speed_on_a_linear_loss_is_that_of_the_formula(name):
    """Warm-up of theory 2.7: the speed over the SDE's, η r per step; averaging changes it by at most 1 − b₂."""
    rule = RULES[name]
    moved, error = estimate(mean_steps(rule, LinearLoss(SIGNALS), 10_000, 10_000))
    speed, error = moved / (0.01 * SIGNALS), error / (0.01 * SIGNALS)
    print(name, np.round(speed, 4), np.round(error, 5))
    np.testing.assert_allclose(1 / np.sqrt(1 + SIGNALS**2), SPEEDS, atol=6e-4)
    assert (np.abs(speed - 1 / np.sqrt(1 + SIGNALS**2)) < MAX_Z * error + 1e-3).all()
    one = [ig.regime(rule, LinearLoss(np.array([r])), [0.0, 0.0]).sde_speed for r in SIGNALS]
    np.testing.assert_allclose([found.value for found in one], 1 / np.sqrt(1 + SIGNALS**2), rtol=1e-12)
    assert all(found.standard_error == 0 for found in one)


@pytest.mark.parametrize("factor", [4, 16])
def test_the_speed_after_scaling_is_that_of_the_regime(factor):
    """The descent of all coordinates together, with an ε that matters."""
    rule = ig.RMSprop(0.01, 0.9998, eps=0.5, v0=1.0, denominator="old")
    signals = np.array([0.1, 0.3, 0.6])
    base = mean_steps(rule, LinearLoss(signals), 20_000, 10_000) @ signals
    scaled = mean_steps(rule.scaled(factor), LinearLoss(signals, factor), 20_000 // factor, 10_000 // factor, seed=1)
    scaled = scaled @ signals / factor  # per example
    (before, its_error), (after, error) = estimate(base), estimate(scaled)
    speed, error = after / before, after / before * np.hypot(error / after, its_error / before)
    found = ig.regime(rule, LinearLoss(signals), np.zeros(6)).speed(factor)
    without_eps = ig.regime(dataclasses.replace(rule, eps=0.0), LinearLoss(signals), np.zeros(6)).speed(factor)
    print(f"κ={factor}: {speed:.4f} ± {error:.4f}, {found.value:.4f} (ε = 0: {without_eps.value:.4f})")
    assert abs(speed - found.value) < MAX_Z * error + factor * 2e-4
    assert abs(speed - without_eps.value) > 0.02


@pytest.mark.parametrize(
    "rule",
    [
        ig.RMSprop(0.01, 0.95, eps=0.0, v0=1.0),
        ig.RMSprop(0.01, 0.95, eps=0.0, v0=1.0, denominator="old"),
        ig.Adam(0.01, 0.8, 0.95, eps=0.0),
        ig.Adam(0.01, 0.8, 0.95, eps=0.0, v0=1.0, denominator="old", correct_second=False),
    ],
    ids=["RMSprop", "RMSprop, old", "Adam", "Adam, old"],
)
@pytest.mark.slow
def test_the_averaging_bias_is_the_first_order_of_the_mean_step(rule):
    signal = np.array([0.05])
    moved, error = estimate(mean_steps(rule, LinearLoss(signal), 1000, 20_000)[:, 0])
    bias = moved / (0.01 * 0.05) * (1 + 0.05**2) ** 0.5 - 1
    expected = averaging_bias(getattr(rule, "b1", 0.0), 0.95, rule.denominator)
    print(f"{bias:+.4f} ± {error / 0.0005:.4f}, first order {expected:+.4f}")
    assert abs(bias - expected) < MAX_Z * error / 0.0005 + 3 * 0.05**2


@pytest.mark.slow
def test_the_excess_kurtosis_of_the_noise_does_not_change_what_the_scaling_changes():
    """Examples of ±1: kurtosis 1, not 3, in a batch of one."""
    r, factor = 0.05, 8
    data = np.array([[r + 1, -r + 1], [r - 1, -r - 1]])
    rule = ig.RMSprop(0.01, 0.99, eps=0.0, v0=1.0, denominator="old")
    problem = ig.problems.FiniteSum(lambda w, a: w @ a, data, params=np.zeros(2))
    base, its_error = estimate(mean_steps(rule, problem, 1000, 40_000)[:, 0])
    larger = problem.with_batch_size(factor)
    scaled, error = estimate(mean_steps(rule.scaled(factor), larger, 1000, 20_000, seed=1)[:, 0] / factor)
    found = ig.regime(rule, problem, np.zeros(2))
    change = scaled / base / found.speed(factor).value - 1
    error = np.hypot(error / scaled, its_error / base)
    expected = found.averaging(factor)[1]
    print(f"{change:+.4f} ± {error:.4f}, first order {expected:+.4f}")
    assert abs(change - expected) < MAX_Z * error + 0.08**2
    assert abs(expected) > 0.02


# The formulas


@pytest.mark.parametrize("eps", [0.0, 0.3])
@pytest.mark.parametrize("tolerance", [0.01, 0.05, 0.3])
def test_the_largest_batch_factor_inverts_the_speed(tolerance, eps):
    r2 = np.geomspace(1e-6, 1e6, 25)
    bounds = largest_batch_factor(r2, tolerance, eps)
    speeds = [float(speed_ratio(r, bound, eps)) for r, bound in zip(r2, bounds)]
    np.testing.assert_allclose(speeds, 1 - tolerance, rtol=1e-9)
    if eps == 0:
        np.testing.assert_allclose(bounds, ((1 + r2) / (1 - tolerance) ** 2 - 1) / r2, rtol=1e-12)


def test_limits_of_the_speed():
    assert speed_ratio(0.0, 1e9) == 1
    assert speed_ratio(np.inf, 16) == 0.25
    assert speed_ratio(1e12, 16) == pytest.approx(0.25)
    assert speed_ratio(3.0, 1) == 1
    assert speed_ratio(0.01, 1 / 4) == pytest.approx((1.01 / 1.0025) ** 0.5)
    assert largest_batch_factor(0.0, 0.05) == np.inf
    assert largest_batch_factor(np.inf, 0.05) == pytest.approx(0.95**-2)
    assert speed_ratio(0.04, 16, 1e9) == pytest.approx(1)


def test_at_the_factor_of_the_linear_rule_the_local_exponent_is_three_quarters():
    r2, step = 0.01, 1e-4
    slope = np.diff(np.log(speed_ratio(r2, 1 / r2 * np.exp([-step, step])))) / (2 * step)
    assert 0.5 - slope[0] == pytest.approx(0.75, abs=1e-6)


# The measurement


def regression(batch_size=2, sampling="with_replacement"):
    rng = np.random.default_rng(7)
    inputs = rng.normal(size=(40, 3))
    targets = inputs @ [1.0, -2.0, 0.5] + rng.normal(size=40)
    return ig.problems.FiniteSum(
        lambda w, e: 0.5 * (w @ e[0] - e[1]) ** 2,
        (inputs, targets),
        params=np.zeros(3),
        batch_size=batch_size,
        sampling=sampling,
    )


ADAM = ig.Adam(0.01, eps=0.2)


def squares(problem, points, decay=0.0):
    """(∂F)² and Σ_ii at every point."""
    with np.errstate(all="raise"):
        gradients = [np.asarray(problem.per_example_gradients(jnp.asarray(x)), float) for x in points]
    signal = np.array([(g.mean(axis=0) + decay * x) ** 2 for g, x in zip(gradients, points)])
    return signal, np.array([g.var(axis=0) for g in gradients]) / problem.batch_size


def test_one_point_is_exact():
    x = np.array([0.5, 0.0, 0.2])
    signal, noise = (part[0] for part in squares(regression(), [x]))
    found = ig.regime(ADAM, regression(), x, quantiles=(0.0, 0.4, 1.0), batch_factors=(9,))
    np.testing.assert_allclose([q.value for q in found.squared_signal], np.sort(signal / noise), rtol=1e-4)
    assert all(q.standard_error == 0 for q in (*found.squared_signal, *found.speeds, found.largest_batch_factor))
    descent = [signal / (np.sqrt(noise + k * signal) + 0.2) for k in (0, 1, 9)]
    assert found.speeds[0].value == pytest.approx(descent[2].sum() / descent[1].sum(), rel=1e-5)
    assert found.sde_speed.value == pytest.approx(descent[1].sum() / descent[0].sum(), rel=1e-5)
    order = np.argsort(signal / noise)
    share = np.cumsum(descent[1][order]) / descent[1].sum()
    median = (signal / noise)[order][np.searchsorted(share, 0.5)]
    assert found.linear_from.value == pytest.approx(1 / median, rel=1e-4)
    assert found.speed(found.largest_batch_factor.value).value == pytest.approx(0.95)
    assert "exact at one point" in str(found)
    assert "±" not in str(found)


def test_points_of_several_paths_give_a_ratio_of_means_with_its_standard_error():
    problem, rng = regression(), np.random.default_rng(3)

    def measured(n):
        points = rng.normal(size=(n, 3)) * 0.3
        return points, ig.regime(ADAM, problem, points, batch_factors=(16,))

    points, found = measured(32)
    signal, noise = (part.mean(axis=0) for part in squares(problem, points))
    assert found.squared_signal[3].value == pytest.approx((signal / noise).max(), rel=1e-4)
    assert "±" in str(found)
    repeated = [measured(24)[1] for _ in range(150)]
    for name in ("speeds", "largest_batch_factor", "sde_speed"):
        values = [getattr(one, name) for one in repeated]
        values = [value[0] if isinstance(value, tuple) else value for value in values]
        spread = np.std([value.value for value in values], ddof=1)
        stated = np.mean([value.standard_error**2 for value in values]) ** 0.5
        assert 0.8 < stated / spread < 1.3, name


def test_coordinates_without_noise_and_without_anything_are_counted_apart():
    problem = ig.problems.Quadratic([1.0, 1.0, 1.0], [1.0, 0.0, 0.0])
    found = ig.regime(ADAM, problem, [0.1, 0.1, 0.0], quantiles=(0.5, 1.0))
    assert (found.noiseless, found.still, found.dim) == (1, 1, 3)
    assert found.squared_signal[0].value == pytest.approx(0.01)
    assert found.squared_signal[1].value == np.inf
    assert found.noise_to_signal[1] == 0
    signal, bound = found.by_coordinate()
    np.testing.assert_allclose(signal, [0.01, np.inf, np.nan], rtol=1e-6)
    assert bound[1] == pytest.approx(((0.3 / 0.95 - 0.2) / 0.1) ** 2)
    assert np.isnan(bound[2])
    with pytest.raises(ValueError, match="neither a gradient nor noise"):
        ig.regime(ADAM, ig.problems.Quadratic(1.0, 0.0), [0.0])


def test_decay_is_part_of_the_signal_where_it_is_coupled():
    problem = ig.problems.Quadratic(1.0, 1.0)
    for rule, signal in ((ig.Adam(0.1, weight_decay=0.5), 1.5), (ig.AdamW(0.1, weight_decay=0.5), 1.0)):
        assert ig.regime(rule, problem, [0.2]).squared_signal[0].value == pytest.approx((0.2 * signal) ** 2)


def test_eps_inside_the_root_counts_as_noise():
    problem = ig.problems.Quadratic(1.0, 1.0)
    found = ig.regime(ig.RMSprop(0.1, eps=0.0, eps_root=3.0), problem, [2.0], batch_factors=(4,), tolerance=0.2)
    assert found.squared_signal[0].value == pytest.approx(4)
    assert found.speeds[0].value == pytest.approx((8 / 20) ** 0.5)
    assert found.speed(found.largest_batch_factor.value).value == pytest.approx(0.8)


def test_the_answer_before_a_run():
    problem = ig.problems.Quadratic(1.0, 1.0)
    rule = ig.Adam(0.001, 0.99, 0.9999, eps=0.0)
    found = ig.regime(rule, problem, [0.1])
    assert [found.may_scale(kappa).outcome for kappa in (1, 4, 11, 13)] == ["holds", "holds", "holds", "fails"]
    assert "signal in the second moment, |s − 1|: 0.0" in found.may_scale(16).reason
    assert "κ_max = 11.9" in found.may_scale(16).reason
    few = ig.regime(ig.Adam(0.001, 0.99, 0.98), problem, [0.001])
    assert few.may_scale(16).outcome == "fails"
    assert "averaging of the second moment" in few.may_scale(16).reason
    illegal = found.may_scale(128, betas="linear")
    assert illegal.outcome == "fails"
    assert illegal.reason.startswith("the linear form needs batch_factor*(1 - b1) < 1")
    assert str(found.may_scale(128)).startswith("κ = 128: fails; signal")


def test_an_answer_that_the_points_do_not_give_is_open():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(8, 1)) * 0.1
    found = ig.regime(ig.Adam(0.001, 0.99, 0.9999, eps=0.0), ig.problems.Quadratic(1.0, 1.0), points)
    outcome = found.may_scale(found.largest_batch_factor.value)
    assert outcome.outcome == "open"
    assert found.may_scale(1.5).outcome == "holds"


def test_the_rows_against_the_sde_are_the_limit_of_small_batches():
    found = ig.regime(ADAM, regression(), np.array([0.5, 0.0, 0.2]))
    signal, averaging, both = found.assumptions()
    smaller = found.speed(1e-9).value
    assert signal.measured == pytest.approx(1 - 1 / smaller, rel=1e-6)
    assert averaging.measured == pytest.approx(convexity_bias(0.999), rel=1e-9)
    assert both.measured == pytest.approx(1 - (1 - signal.measured) * (1 + averaging_bias(0.9, 0.999)), rel=1e-9)
    assert signal.interval == (signal.measured, signal.measured)


def test_batches_without_replacement_lose_more_noise_than_the_rule_knows():
    x = np.array([0.1, -0.1, 0.0])
    rows = ig.regime(ADAM, regression(4, "without_replacement"), x).may_scale(4).assumptions
    assert rows[-1].measured == pytest.approx(1 - (24 / 36) ** 0.5)
    assert rows[-1].outcome == "fails"
    assert len(ig.regime(ADAM, regression(4), x).may_scale(4).assumptions) == 3


@pytest.mark.parametrize(
    "rule", [ig.SGD(0.1), ig.Momentum(0.1), ig.Nesterov(0.1)], ids=lambda rule: type(rule).__name__
)
def test_rules_without_a_second_moment_are_refused(rule):
    with pytest.raises(TypeError, match="noise_scale and analysis"):
        ig.regime(rule, regression(), np.zeros(3))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.zeros(2), {}, r"x must have shape \(3,\)"),
        (np.zeros((3, 3)), {}, "one point or at least 8 of them: got 3"),
        (np.full(3, np.nan), {}, "x must be finite"),
        (np.zeros(3), {"tolerance": 1.0}, "tolerance must be"),
        (np.zeros(3), {"quantiles": (1.5,)}, "a level of quantiles must be"),
        (np.zeros(3), {"batch_factors": (0.0,)}, "a batch factor must be"),
    ],
)
def test_measurements_that_cannot_be_made_are_refused(x, options, message):
    with pytest.raises(ValueError, match=message):
        ig.regime(ADAM, regression(), x, **options)


# The betas (amendment 3)


def squares_over_time(b, rate, noise, steps, every):
    """E x² of x ← x − rate m', m' = b m + (1−b)(x + noise), from (1, 0), every so many steps: v is frozen."""
    step = np.array([[1 - rate * (1 - b), -rate * b], [1 - b, b]])
    kick = noise * np.outer([-rate, 1], [-rate, 1]) * (1 - b) ** 2
    mean, covariance, found = np.array([1.0, 0.0]), np.zeros((2, 2)), []
    for _ in range(steps // every):
        for _ in range(every):
            mean, covariance = step @ mean, step @ covariance @ step.T + kick
        found.append(covariance[0, 0] + mean[0] ** 2)
    return np.array(found)


def test_betas_by_memory_keep_a_quadratic_better_than_linear_ones_and_those_better_than_kept_ones():
    """η/√v is κ η/√v after the scaling, with v frozen at the noise variance."""
    rule, rate, steps = ig.Adam(0.002, 0.9), 0.002, 6400
    base = squares_over_time(rule.b1, rate, 1.0, steps, 16)

    def deviation(b, factor):
        return np.abs(squares_over_time(b, rate * factor, 1 / factor, steps // factor, 16 // factor) - base).max()

    for factor in (4, 8):
        memory, linear = (rule.scaled(factor, betas).b1 for betas in ("memory", "linear"))
        found = [deviation(b, factor) for b in (memory, linear, rule.b1)]
        print(factor, np.round(found, 5))
        assert 1.5 * found[0] < found[1] < found[2] / 3
    assert deviation(rule.scaled(16).b1, 16) < deviation(rule.b1, 16) / 5
    with pytest.raises(ValueError, match="the linear form needs"):
        rule.scaled(16, "linear")
