"""The verdict: what it decides, from which evidence, and what it names as the cause."""

import shutil

import numpy as np
import pytest
import scipy.stats

import itograd as ig
from itograd.analysis.assumption import FAILS, HOLDS, OPEN, decide
from itograd.analysis.bands import band, observable_scale
from itograd.analysis.verdict_rows import sampling_rows

Q = ig.problems.Quadratic(1.0, 1.0)


def verdict(rate=0.01, problem=Q, **options):
    settings = {
        "x0": [3.0],
        "steps": round(2 / rate),
        "save_every": max(1, round(0.2 / rate)),
        "paths": 2000,
        "progress": False,
    } | options
    return ig.verdict(ig.SGD(rate), problem, **settings)


def rows(result):
    return {row.name: row for row in result.assumptions}


def test_small_steps_are_trusted():
    result = verdict()
    assert result.decision == "trust"
    assert all(row.outcome == HOLDS for row in result.assumptions if row.decisive)


def test_large_steps_are_not_and_the_finite_step_is_named():
    result = verdict(rate=0.5, seed=3)  # one seed in twenty finds the shape of the noise significant by chance
    assert result.decision == "do not trust"
    assert rows(result)["weak error of x0"].outcome == FAILS
    assert any("finite step" in reason for reason in result.remarks)
    assert not any("shape of the noise" in reason for reason in result.remarks)


def test_few_paths_cannot_tell():
    result = verdict(paths=20, tolerance=0.02)
    assert result.decision == "cannot tell"
    assert rows(result)["weak error of x0"].outcome == OPEN
    assert "more paths" in result.reasons[0]


def test_skewed_noise_is_measured_and_named():
    """The third moment of the noise shifts E x³; Gaussian noise of the same covariance does not."""
    skewed = ig.problems.Quadratic(1.0, 25.0, "skewed")
    cube = {"cube": lambda x: x[0] ** 3}
    result = verdict(rate=0.2, problem=skewed, x0=[0.0], steps=20, save_every=2, paths=60_000, observables=cube)
    assert rows(result)["skewness of the noise"].measured == pytest.approx(1.5, abs=0.3)
    assert any("non-Gaussian shape of the noise" in reason for reason in result.remarks)


def test_a_diverged_path_forbids_trust():
    hot = ig.problems.DoubleWell(noise_std=4.0)
    result = ig.verdict(ig.SGD(0.25), hot, x0=[1.0], steps=20, paths=500, tolerance=0.5, progress=False)
    row = rows(result)["diverged paths"]
    assert result.decision == "do not trust"
    assert row.outcome == FAILS
    assert row.measured == result.runs["diverged"].values[-1] / 500
    assert row.interval[0] < row.measured < row.interval[1]


@pytest.mark.slow
def test_reshuffling_decides_only_where_batches_are_reshuffled():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 3)), rng.normal(size=64)
    outcomes = {}
    for sampling in ("with_replacement", "reshuffling"):
        problem = ig.problems.LinearRegression(*data, batch_size=4, sampling=sampling)
        result = ig.verdict(ig.SGD(0.01), problem, x0=np.full(3, 3.0), steps=200, paths=500, progress=False)
        outcomes[sampling] = result
    assert rows(outcomes["with_replacement"])["noise lost if one reshuffled"].outcome == FAILS
    assert outcomes["with_replacement"].decision == "trust"
    assert outcomes["reshuffling"].decision == "do not trust"


def test_the_band_is_simultaneous_over_times_and_observables():
    """The band of an exact pair covers all cells at once, in about 95 of 100 repetitions."""
    exact = ig.moments(ig.SGD(0.1), Q, x0=[1.0], steps=20)
    missed = 0
    for seed in range(100):
        runs = ig.simulate(ig.SGD(0.1), Q, x0=[1.0], steps=20, paths=200, seed=seed, progress=False)
        error = ig.weak_error(runs, exact)
        z = np.abs(error["weak_error"].values[1:] / error["standard_error"].values[1:]).max()
        missed += z > band(error, 0.95)
    assert missed <= 12  # Bonferroni is conservative; 13 of 100 has a chance of 1e-3 at 5 %


def test_a_row_holds_the_band_of_its_largest_error():
    result = verdict(rate=0.05)
    error, scale = result.errors["total"], observable_scale(result.flow)[0]
    e, s, d, sd = (
        np.abs(error[name].values[:, 0])
        for name in ("weak_error", "standard_error", "discretisation_error", "discretisation_error_standard_error")
    )
    at = e.argmax()
    half = band(error, 0.95) * np.hypot(s, sd)[at] + d[at]
    row = rows(result)["weak error of x0"]
    assert row.measured == pytest.approx(e[at] / scale)
    assert row.interval == pytest.approx((max(e[at] - half, 0) / scale, (e[at] + half) / scale))
    assert band(error, 0.95) == pytest.approx(scipy.stats.norm.ppf(1 - 0.05 / (2 * 10)))  # ten times after 0


def test_the_scale_is_the_range_or_the_spread():
    result = verdict()
    mean, variance = (result.flow[name].values for name in ("mean", "variance"))
    assert observable_scale(result.flow)[0] == pytest.approx(max(np.ptp(mean), np.sqrt(variance.max())))


def test_it_prints_a_table_with_the_decision_first():
    text = str(verdict())
    assert text.splitlines()[0] == "trust"
    assert "second moment" not in text  # SGD has none
    assert "limit 0.05 of its scale" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"confidence": 1.0}, "confidence"),
        ({"order": 3}, "order"),
        ({"paths": 1}, "paths"),
        ({"x0": [1.0, 2.0]}, "x0"),
    ],
)
def test_bad_input_is_refused_with_its_name(change, message):
    with pytest.raises(ValueError, match=message):
        verdict(**change)


def test_an_optimiser_without_an_equation_is_refused():
    optax = pytest.importorskip("optax")
    with pytest.raises(ValueError, match="no modified equation"):
        ig.verdict(ig.from_optax(optax.adam(1e-2)), Q, steps=3)


NOISY = ig.problems.Quadratic(np.array([1.0, 0.5]), np.array([400.0, 400.0]))


@pytest.mark.slow
def test_adam_is_compared_from_the_start_of_its_sde():
    """Where noise dominates the SDE of Adam describes it; before the warm start nothing is compared."""
    adam = ig.Adam(0.02, b1=0.99, b2=0.99, eps=0.5)
    start = ig.modified_equation(adam, NOISY, **adam.equation_start(500)).start_time
    found = ig.verdict(
        adam, NOISY, x0=[0.5, 0.5], steps=500, paths=4000, observables=["loss"], tolerance=0.15, progress=False
    )
    assert found.decision == "trust"
    assert 0 < start <= float(found.flow.time[0]) < 2 * start + 0.02
    assert float(found.runs.time[0]) == 0
    np.testing.assert_allclose(found.errors["noise_shape"].time, found.flow.time)
    assert rows(found)["signal in the second moment, |s − 1|, at the start"].outcome == HOLDS
    assert not any("holds signal" in remark for remark in found.remarks)


@pytest.mark.slow
def test_rmsprop_is_not_trusted_where_its_second_moment_holds_the_signal():
    """The SDE's v forgets the signal that the rule's v holds: theory 2.7, r² = 25 at the start."""
    clean = ig.problems.Quadratic(np.array([1.0, 0.5]), np.array([0.01, 0.01]))
    rule = ig.RMSprop(0.02, beta=0.9, eps=1e-3)
    found = ig.verdict(
        rule, clean, x0=[0.5, 0.5], steps=60, save_every=2, paths=500, observables=["loss"], progress=False
    )
    assert found.decision == "do not trust"
    start = ig.regime(rule, clean, [0.5, 0.5], tolerance=0.05)  # what it says before any scaled recipe is run
    row = rows(found)["signal in the second moment, |s − 1|, at the start"]
    assert (row.outcome, row.decisive) == (FAILS, False)
    assert row.measured == start.assumptions()[0].measured > 0.7
    assert found.regimes["start"].may_scale(4).outcome == FAILS
    kappa = f"κ = {start.largest_batch_factor.value:.3g}"
    assert any("at the start the second moment holds signal" in line and kappa in line for line in found.remarks)
    assert rows(found)["averaging of the second moment, |q|"].outcome == HOLDS


def test_reshuffling_with_an_adaptive_method_cannot_be_judged():
    features, targets = np.array([[1.0], [2.0], [-1.0]]), np.array([1.0, 1.0, 0.5])
    plain = ig.problems.LinearRegression(features, targets, batch_size=1)
    shuffled = ig.problems.LinearRegression(features, targets, batch_size=1, sampling="reshuffling")
    (row,) = sampling_rows(ig.Adam(0.01), shuffled, np.zeros(1), 0)
    assert (row.outcome, row.decisive) == (OPEN, True)
    decision, (reason,) = decide([row], why="")
    assert decision == "cannot tell"
    assert "sample with replacement" in reason
    assert not list(sampling_rows(ig.Adam(0.01), plain, np.zeros(1), 0))


def test_a_stored_verdict_goes_on_where_it_was(tmp_path):
    """To the bytes of one that nothing has disturbed; and another run does not go into the same stores."""
    pytest.importorskip("zarr")
    place = tmp_path / "stores"
    plain, stored = verdict(paths=100), verdict(paths=100, store=place)
    assert sorted(path.name for path in place.iterdir()) == ["flow.zarr", "gaussian.zarr", "runs.zarr"]
    shutil.rmtree(place / "flow.zarr")  # as if it had been interrupted there
    again = verdict(paths=100, store=place)
    for name in ("runs", "gaussian", "flow"):
        for other in (stored, again):
            np.testing.assert_array_equal(getattr(plain, name)["mean"], getattr(other, name)["mean"])
    assert plain.assumptions == stored.assumptions == again.assumptions
    with pytest.raises(ValueError, match="seed"):
        verdict(paths=100, store=place, seed=7)
    with pytest.raises(ValueError, match="either a store or a budget"):
        ig.verdict(ig.SGD(0.1), Q, steps=3, store=place, budget=1.0)
