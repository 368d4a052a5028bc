"""Schedules: their values, the steps at which they change, their slopes, and what they refuse."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itograd.optimizers.momentum import Momentum
from itograd.optimizers.sgd import SGD
from itograd.simulation import schedule as schedules
from itograd.simulation.precision import DTYPES, as_traced, double, precision
from itograd.simulation.schedule import Cosine, Exponential, Function, Piecewise, Warmup

PIECEWISE = Piecewise(0.2, boundaries=(2.0, 5.0), factors=(1.0, 0.5, 0.1))
SMOOTH = {
    "cosine": Cosine(0.2, duration=4.0, final=0.1),
    "warmup": Warmup(0.2, duration=4.0, initial=0.3),
    "exponential": Exponential(0.2, rate=0.7),
    "function": Function(0.2, lambda t: 1 + 0.5 * jnp.sin(2 * t)),
}


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (PIECEWISE, {0: 0.2, 1.99: 0.2, 2: 0.1, 4.99: 0.1, 5: 0.02, 100: 0.02}),
        (SMOOTH["cosine"], {0: 0.2, 2: 0.2 * 0.55, 4: 0.02, 9: 0.02}),
        (SMOOTH["warmup"], {0: 0.06, 2: 0.2 * 0.65, 4: 0.2, 9: 0.2}),
        (SMOOTH["exponential"], {0: 0.2, 1: 0.2 * math.exp(-0.7)}),
        (SMOOTH["function"], {0: 0.2, 1: 0.2 * (1 + 0.5 * math.sin(2.0))}),
    ],
)
def test_values(schedule, values):
    with double():
        for time, value in values.items():
            assert float(schedule(time)) == pytest.approx(value, rel=1e-14)
            assert float(schedules.shape(schedule, time)) == pytest.approx(value / 0.2, rel=1e-14)


def test_a_number_is_a_schedule_that_does_not_change():
    assert schedules.base(0.3) == 0.3
    assert schedules.shape(0.3, 5.0) == 1
    assert schedules.shape_slope(0.3, 5.0) == 0
    assert schedules.rebased(0.3, 0.6) == 0.6


@pytest.mark.parametrize("schedule", [PIECEWISE, *SMOOTH.values()], ids=["piecewise", *SMOOTH])
def test_another_base_keeps_the_shape(schedule):
    other = schedules.rebased(schedule, 0.8)
    assert type(other) is type(schedule)
    assert (schedules.base(other), schedules.base(schedule)) == (0.8, 0.2)
    assert float(other(3.0)) == pytest.approx(4 * float(schedule(3.0)), rel=1e-6)


@pytest.mark.parametrize("name", SMOOTH)
def test_slopes_are_those_of_finite_differences(name):
    times = np.array([0.1, 0.9, 2.3, 3.7, 4.5, 8.0])  # on either side of the duration, 4
    step = 1e-5
    with double():
        shape = np.vectorize(lambda t: float(schedules.shape(SMOOTH[name], t)))
        slope = np.vectorize(lambda t: float(schedules.shape_slope(SMOOTH[name], t)))
        differences = (shape(times + step) - shape(times - step)) / (2 * step)
        np.testing.assert_allclose(slope(times), differences, rtol=0, atol=1e-9)


def test_a_jump_has_slope_zero():
    assert [float(PIECEWISE.shape_slope(t)) for t in (0.0, 1.9, 2.0, 5.0, 7.0)] == [0] * 5


CHANGES = np.array([1, 2, 3, 6, 7, 11, 29, 57, 100, 343, 1001, 12_345, 100_003])  # steps


def factors_used(rule, boundaries, steps, dtype):
    """Which of the factors 0, 1, 2, … multiplies the rate at each of the steps, as the engine runs it."""
    schedule = Piecewise(rule.learning_rate, boundaries, factors=np.arange(len(boundaries) + 1.0))
    with precision(dtype):
        traced = as_traced(eqx.tree_at(lambda r: r.learning_rate, rule, schedule), dtype)
        one = jnp.ones(1, dtype)

        def moved(k):
            return -traced.observe(traced.update(traced.init(0 * one), k, one))[0]

        return np.rint(np.asarray(jax.vmap(moved)(jnp.asarray(steps))) / rule.learning_rate)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "rule",
    [
        SGD(0.1),
        SGD(0.3),
        SGD(1 / 3),
        SGD(0.7),
        SGD(1e-3),
        SGD(4.0),
        Momentum(0.1, 0.9),
        Momentum(0.03, 0.99),
        Momentum(0.1, -0.3),
        Momentum(0.01, 0.9, clock="underdamped"),
    ],
    ids=repr,
)
def test_a_boundary_is_reached_at_its_step_despite_rounding(rule, dtype):
    boundaries = CHANGES * rule.time_per_step
    steps = np.unique([CHANGES - 1, CHANGES, CHANGES + 1])
    expected = np.searchsorted(CHANGES, steps, side="right")
    np.testing.assert_array_equal(factors_used(rule, boundaries, steps, dtype), expected)
    as_typed = np.round(boundaries, 12)  # 0.3, and not 3·0.1
    np.testing.assert_array_equal(factors_used(rule, as_typed, steps, dtype), expected)


def test_a_boundary_between_two_steps_is_reached_at_the_second():
    schedule = Piecewise(0.1, 0.35, (1.0, 0.0))
    assert [float(schedule.shape(k * 0.1)) for k in range(6)] == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Piecewise(0.1, (2.0, 1.0), (1, 1, 1)), r"boundaries must increase: got \(2.0, 1.0\)"),
        (lambda: Piecewise(0.1, (1.0, 1.0), (1, 1, 1)), "boundaries must increase"),
        (lambda: Piecewise(0.1, (1.0, math.nan), (1, 1, 1)), "each of boundaries must be a finite number"),
        (lambda: Piecewise(0.1, (0.0,), (1, 1)), "each of boundaries must be a finite number"),
        (lambda: Piecewise(0.1, ("1",), (1, 1)), "each of boundaries must be a number"),
        (lambda: Piecewise(0.1, (1.0,), (1, 0.5, 0.1)), "factors must be one more than boundaries: got 3"),
        (lambda: Piecewise(0.1, (1.0,), (1, -0.5)), "each of factors must be a finite number"),
        (lambda: Piecewise(math.nan, (1.0,), (1, 0.5)), "base must be a finite number"),
        (lambda: Cosine(0.1, duration=-1.0), "duration must be a finite number"),
        (lambda: Cosine(0.1, duration=0.0), "duration must be a finite number"),
        (lambda: Cosine(0.1, duration=1.0, final=-0.1), "final must be a finite number"),
        (lambda: Warmup(0.1, duration=-1.0), "duration must be a finite number"),
        (lambda: Warmup(0.1, duration="4"), "duration must be a number: got '4'"),
        (lambda: Warmup(0.1, duration=1.0, initial=2.0), "initial must be a finite number"),
        (lambda: Exponential(0.1, rate=math.inf), "rate must be a finite number"),
        (lambda: Exponential("0.1", rate=1.0), "base must be a number"),
        (lambda: Function(0.1, 0.5), "function must be callable: got 0.5"),
        (lambda: Function(0.1, lambda t: jnp.array([t, t])), r"function must return a scalar: got shape \(2,\)"),
    ],
)
def test_bad_input_is_refused_with_its_name(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
