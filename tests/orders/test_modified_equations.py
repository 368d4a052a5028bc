"""Weak orders of the modified equations by exact moments on a quadratic, without Monte Carlo.

Orders are in h = √η for the underdamped clock (theory 5.2), in η for SGD and the overdamped clock. What an equation
leaves out shows as a lost order: schedule terms (amendment 4), the place of the rate (amendment 5).
"""

import dataclasses
import functools

import numpy as np
import pytest

import itograd as ig
from itograd.optimizers.momentum import Momentum
from itograd.optimizers.nesterov import Nesterov
from itograd.optimizers.sgd import SGD, SGDEquation
from itograd.optimizers.underdamped import METHODS, UnderdampedEquation
from itograd.problems.quadratic import Quadratic
from itograd.simulation.schedule import Exponential, Function, shape, shape_slope

PROBLEM = Quadratic(2.0, 0.5)
END = 2.0


def friction(h, slope=0.0):
    """The momentum 1 − h(1.5 + slope·t)."""
    if slope == 0:
        return 1 - 1.5 * h
    return Function(1 - 1.5 * h, lambda t: 1 - slope * t * h / (1 - 1.5 * h))


def faded(rate):
    return Exponential(rate, 0.4)


def underdamped(method, **options):
    """The method with constants, or with decay and both hyperparameters scheduled, as functions of h."""
    return {
        "constant": lambda h: method(h**2, friction(h), clock="underdamped", **options),
        "scheduled": lambda h: method(faded(h**2), friction(h, 0.7), 0.3, "underdamped", **options),
    }


OPTIMIZERS = {
    "sgd": {"constant": lambda eta: SGD(eta, 0.3), "scheduled": lambda eta: SGD(faded(eta), 0.3)},
    "heavy ball": underdamped(Momentum),
    "nesterov, lookahead": underdamped(Nesterov),
    "nesterov, iterate": underdamped(Nesterov, point="iterate"),
}
OVERDAMPED = {
    "heavy ball": lambda step: Momentum(step * (1 - 0.8), 0.8, 0.3),
    "heavy ball, negative": lambda step: Momentum(step * (1 + 0.5), -0.5),
    "heavy ball, scheduled": lambda step: Momentum(faded(step * (1 - 0.8)), 0.8),
    "nesterov, lookahead": lambda step: Nesterov(step * (1 - 0.8), 0.8),
    "nesterov, iterate": lambda step: Nesterov(faded(step * (1 - 0.8)), 0.8, 0.3, point="iterate"),
}


def mean_and_variance(model, *problem):
    exact = ig.moments(model, *problem, x0=[1.0], save_at=[END])
    return np.array([exact["mean"][-1, 0], exact["variance"][-1, 0]])


@functools.cache
def of_the_rule(make, step):
    return mean_and_variance(make(step), PROBLEM)


def order(make, equation, steps=(0.01, 0.005)):
    """The orders of the errors in mean and variance: `make` gives the optimiser, `equation` its SDE."""
    errors = np.abs([of_the_rule(make, step) - mean_and_variance(equation(make(step))) for step in steps])
    return np.log2(errors[0] / errors[1])


@pytest.mark.parametrize("hyperparameters", [pytest.param("constant", marks=pytest.mark.slow), "scheduled"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_orders_of_mean_and_variance(name, hyperparameters):
    make = OPTIMIZERS[name][hyperparameters]
    first, second = (order(make, lambda o, n=n: ig.modified_equation(o, PROBLEM, n)) for n in (1, 2))
    assert first[0] == pytest.approx(1, abs=0.05)
    assert second == pytest.approx([2, 2], abs=0.05)


@pytest.mark.parametrize("name", OVERDAMPED)
def test_momentum_in_its_overdamped_clock_has_order_1(name):
    assert order(OVERDAMPED[name], lambda o: ig.modified_equation(o, PROBLEM))[0] == pytest.approx(1, abs=0.05)


def test_increasing_momentum_has_nearly_order_1():
    """Theory 3.4: .85 to .97, from h = .1 to .0125 at T = 4."""
    problem = Quadratic(1.0, 1.0)

    def mean(model, *problem):
        return float(ig.moments(model, *problem, x0=[1.0], save_at=[4.0])["mean"][-1, 0])

    rules = [Nesterov.increasing(h**2, point="iterate") for h in (0.1, 0.05, 0.025, 0.0125)]
    errors = np.abs([mean(rule, problem) - mean(ig.modified_equation(rule, problem)) for rule in rules])
    measured = np.log2(errors[:-1] / errors[1:]).round(2)
    assert (measured[0], measured[-1]) == (0.85, 0.97)
    assert 0.85 < measured[1] < 0.97


class WithoutTheRatesSlope(UnderdampedEquation):
    def drift(self, t, y):
        dx, dv = super().drift(t, y)
        gamma = METHODS[self.method][1]
        return dx + self.h * (0.5 + gamma) * shape_slope(self.learning_rate, t) * y[1], dv


class WithoutTheFrictionsSlope(UnderdampedEquation):
    def _friction_slope(self, t):
        return 0.0


class SGDWithoutTheRatesSlope(SGDEquation):
    def drift(self, t, x):
        eta = self.learning_rate.base
        return super().drift(t, x) - eta / 2 * shape_slope(self.learning_rate, t) * self._force(x)


class RateInsideEquation(UnderdampedEquation):
    """dV = −(μ̂V + u∇F) dt + u (hΣ)^½ dW, dX = V dt: the order-1 SDE of the textbook's v, which holds the rate."""

    def drift(self, t, y):
        x, v = y
        return v, -self.friction(t) * v - shape(self.learning_rate, t) * self._force(x)

    def diffusion(self, t, y, z):
        dx, dv = super().diffusion(t, y, z)
        return dx, shape(self.learning_rate, t) * dv


class RateInside(Momentum):
    """v ← μv − η_k g, x ← x + v."""

    def update(self, state, k, gradient):
        x, v = state
        v = self._momentum(k) * v - self._rate(k) * (gradient + self.weight_decay * x)
        return x + v, v


def as_equation(kind, order):
    """A function that turns an optimiser's equation into one of another kind with the same fields."""

    def equation(optimizer):
        own = ig.modified_equation(optimizer, PROBLEM, order)
        return kind(**{field.name: getattr(own, field.name) for field in dataclasses.fields(own)})

    return equation


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("sgd", SGDWithoutTheRatesSlope),
        ("heavy ball", WithoutTheRatesSlope),
        ("heavy ball", WithoutTheFrictionsSlope),
        ("nesterov, iterate", WithoutTheRatesSlope),
        ("nesterov, iterate", WithoutTheFrictionsSlope),
    ],
)
def test_without_a_schedule_term_order_2_is_lost(name, without):
    assert order(OPTIMIZERS[name]["scheduled"], as_equation(without, 2))[0] == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_the_rate_inside_or_outside_the_velocity_are_two_equations():
    outside = OPTIMIZERS["heavy ball"]["scheduled"]
    inside = lambda h: RateInside(*vars(outside(h)).values())  # noqa: E731
    pytorch, textbook = as_equation(UnderdampedEquation, 1), as_equation(RateInsideEquation, 1)
    assert order(outside, pytorch)[0] == pytest.approx(1, abs=0.05)
    assert order(inside, textbook)[0] == pytest.approx(1, abs=0.05)
    assert order(outside, textbook)[0] == pytest.approx(0, abs=0.05)
    assert order(inside, pytorch)[0] == pytest.approx(0, abs=0.05)
