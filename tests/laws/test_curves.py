"""Curves in continuous time: where a run parts from SVAG of itself, or from its scaled recipes."""

import numpy as np
import pytest

import itograd as ig
from itograd.analysis.curves import MOST_SAVES, _common_saves

QUIET = {"progress": False}


def quadratic(**options):
    return ig.problems.Quadratic([[2.0, 0.3], [0.3, 0.5]], [[1.0, 0.2], [0.2, 0.6]], **options)


def exact_share(optimizer, other, problem, time, x0):
    """The difference of E|x|² at a time, in units of the range of E|x|² over the run of `optimizer`."""
    clock = optimizer.time_per_step
    grid = clock * np.arange(0, round(time / clock) + 1)

    def squares(rule, times):
        found = ig.moments(rule, problem, x0=x0, save_at=times)
        return (found["variance"] + found["mean"] ** 2).sum("observable").values

    own = squares(optimizer, grid)
    return (squares(other, [time])[0] - own[-1]) / np.ptp(own)


def test_a_small_step_stays_with_its_svag():
    found = ig.svag_test(ig.SGD(0.01), quadratic(), steps=200, x0=[2.0, 2.0], paths=4000, **QUIET)
    assert found.decision == "trust"
    assert [curve.label for curve in found.curves] == ["a = 2", "a = 4"]
    assert [curve.steps for curve in found.curves] == [400, 800]
    assert all(time is None for curve in found.curves for time in curve.parting.values())


def test_a_large_step_parts_from_its_svag_where_the_exact_moments_do():
    optimizer, x0, steps = ig.SGD(0.8), [3.0, 3.0], 40
    found = ig.svag_test(
        optimizer,
        quadratic(),
        steps=steps,
        amplifications=[8],
        x0=x0,
        paths=4000,
        observables=["squared_norm"],
        **QUIET,
    )
    (curve,) = found.curves
    assert found.decision == curve.decision == "do not trust"
    share = curve.error["weak_error"].values[-1, 0] / np.ptp(found.reference["mean"].values)
    error = curve.error["standard_error"].values[-1, 0] / np.ptp(found.reference["mean"].values)
    exact = exact_share(optimizer, ig.SVAG(optimizer, 8), quadratic(), steps * 0.8, x0)
    assert abs(share - exact) < 4.5 * error
    parting = curve.parting["squared_norm"]
    assert parting is not None
    assert any(f"squared_norm parts from a = 1 at time {parting:.4g}" in remark for remark in found.remarks)
    before = curve.error.sel(time=slice(0.1, parting - 1e-6))["weak_error"].values[:, 0]
    assert (np.abs(before) < np.abs(curve.error["weak_error"].sel(time=parting).values[0])).all()


def test_too_few_paths_cannot_tell_and_say_how_many_could():
    few = ig.svag_test(ig.SGD(0.01), quadratic(), steps=100, x0=[2.0, 2.0], paths=40, tolerance=0.02, **QUIET)
    assert few.decision == "cannot tell"
    needed = max(curve.paths_needed or 0 for curve in few.curves)
    assert 40 < needed < 10**6
    many = ig.svag_test(ig.SGD(0.01), quadratic(), steps=100, x0=[2.0, 2.0], paths=8 * needed, tolerance=0.02, **QUIET)
    assert many.decision == "trust"


def test_the_linear_rule_holds_for_small_steps_and_fails_for_large_ones():
    options = {"batch_sizes": [8, 16], "x0": [2.0, 2.0], "paths": 4000, "observables": ["squared_norm"], **QUIET}
    small = ig.scaled_runs(ig.SGD(0.005), quadratic(batch_size=4), steps=400, **options)
    assert small.decision == "trust"
    assert [curve.steps for curve in small.curves] == [200, 100]
    large = ig.scaled_runs(ig.SGD(0.2), quadratic(batch_size=4), steps=40, **options)
    assert large.decision == "do not trust"
    assert any(remark.startswith("B = 16: squared_norm parts from B = 4") for remark in large.remarks)


def test_the_square_root_rule_of_adam_holds_where_noise_dominates_and_the_linear_rule_does_not():
    noisy = ig.problems.Quadratic(np.array([1.0, 0.5]), np.array([400.0, 400.0]), batch_size=4)
    adam = ig.Adam(0.01, b1=0.998, b2=0.998, eps=0.5)
    options = {"batch_sizes": [16], "x0": [0.5, 0.5], "paths": 8000, "observables": ["squared_norm"], **QUIET}
    options |= {"tolerance": 0.1}
    assert ig.scaled_runs(adam, noisy, steps=4000, **options).decision == "trust"

    def linear(optimizer, factor):
        return ig.Adam(optimizer.learning_rate * factor, b1=0.992, b2=0.992, eps=0.25)

    found = ig.scaled_runs(adam, noisy, steps=4000, rule=linear, **options)
    assert found.decision == "do not trust"


def test_rounded_steps_are_said():
    found = ig.scaled_runs(ig.SGD(0.01), quadratic(batch_size=4), steps=90, batch_sizes=[16], paths=50, **QUIET)
    assert any("B = 16: 22.5 steps were rounded to 22" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("steps", "every", "saves"),
    [([100, 200], None, 20), ([7, 14], None, 7), ([100, 30], None, 10), ([97, 48], None, 1), ([100, 200], 25, 4)],
)
def test_runs_are_saved_at_equal_shares_of_their_steps(steps, every, saves):
    assert _common_saves(steps, every) == saves <= MOST_SAVES


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ig.svag_test(ig.SGD(0.1), quadratic(), steps=10, amplifications=[]), "at least one number above 1"),
        (lambda: ig.svag_test(ig.SGD(0.1), quadratic(), steps=10, amplifications=[1]), "amplifications"),
        (lambda: ig.svag_test(ig.SGD(0.1), quadratic(), steps=0), "steps"),
        (lambda: ig.svag_test(ig.SGD(0.1), quadratic(), steps=10, save_every=3), "save_every must divide the steps"),
        (lambda: ig.svag_test(ig.SGD(0.1), quadratic(), steps=10, tolerance=2.0), "tolerance"),
        (lambda: ig.scaled_runs(ig.SGD(0.1), quadratic(), steps=10, batch_sizes=[]), "at least one size"),
        (lambda: ig.scaled_runs(ig.SGD(0.1), quadratic(), steps=10, batch_sizes=[0]), "batch_sizes"),
    ],
)
def test_bad_input_is_found_before_anything_is_run(call, message):
    with pytest.raises(ValueError, match=message):
        call()
