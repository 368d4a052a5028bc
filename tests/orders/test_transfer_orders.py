"""Weak orders without Monte Carlo: modified equations, SVAG and schemes on the circle (theory 1.2, 5.1, 5.8)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itograd.analysis.transfer import transfer_expectation
from itograd.optimizers.sgd import SGD, SGDEquation
from itograd.problems.landscapes import Circle
from itograd.simulation.schemes import DiscretisedEquation, EulerMaruyama, HeunDrift, WeakOrder2

POINTS = 2 * math.pi * np.arange(96) / 96
POINT = POINTS[20]  # 1.309


class Stratonovich(SGDEquation):
    """The SDE with the same coefficients read in the sense of Stratonovich: in Itô's, drift + (η/4) Σ'(x)."""

    def drift(self, t, x):
        slope = jax.grad(lambda y: self.problem.noise_covariance(y)[0, 0])(x)
        return super().drift(t, x) + self.learning_rate / 4 * slope


def expectation(*process, x0, modes=256):
    return transfer_expectation(*process, observable=lambda x: jnp.cos(x[0]) + 0.3 * jnp.sin(2 * x[0]), x0=x0,
                                time=1.0, modes=modes)


def orders(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def equation_errors(make, problem):
    """|E g(SGD) − E g(SDE)| at one point for η = 1/40, 1/80, 1/160."""
    rates = (0.025, 0.0125, 0.00625)
    return [abs(expectation(SGD(eta), problem, x0=POINT, modes=512) - expectation(make(eta), x0=POINT, modes=512))
            for eta in rates]


@pytest.mark.parametrize(("noise", "order", "width"), [("two_point", 1, 0.03), ("two_point", 2, 0.1),
                                                       ("skewed", 2, 0.1)])
def test_modified_equations_have_their_order(noise, order, width):
    problem = Circle(noise)
    measured = orders(equation_errors(lambda eta: SGD(eta).modified_equation(problem, order), problem))
    np.testing.assert_allclose(measured, order, rtol=0, atol=width)


def test_the_stratonovich_reading_keeps_order_one_and_loses_order_two():
    problem = Circle()
    for order in (1, 2):
        measured = orders(equation_errors(lambda eta: Stratonovich(problem, eta, 0.0, order), problem))  # noqa: B023
        np.testing.assert_allclose(measured, 1, rtol=0, atol=0.1)


@pytest.mark.parametrize("noise", ["two_point", "skewed"])
def test_svag_converges_at_finite_learning_rate_to_the_ito_sde(noise):
    limit = expectation(SGD(0.2).modified_equation(Circle(noise)), x0=POINTS)
    stratonovich = expectation(Stratonovich(Circle(noise), 0.2, 0.0, 1), x0=POINTS)
    ladder = (16, 32, 64, 128)
    runs = [expectation(SGD(0.2).scaled(1 / a), Circle(noise).amplified(a), x0=POINTS) for a in ladder]
    errors = [np.abs(run - limit).max() for run in runs]
    np.testing.assert_allclose(orders(errors), 1, rtol=0, atol=0.02)
    assert abs(ladder[-1] * errors[-1] - {"two_point": 0.0993, "skewed": 0.2604}[noise]) < 1e-4
    assert abs(np.abs(runs[-1] - stratonovich).max() - 4.8e-2) < 1e-3


@pytest.mark.parametrize(("scheme", "steps"), [
    (EulerMaruyama(), (40, 80, 160)), (EulerMaruyama("two_point"), (40, 80, 160)), (HeunDrift(), (80, 160, 320)),
    (WeakOrder2(), (10, 20, 40))])
def test_schemes_have_the_weak_order_that_they_declare(scheme, steps):
    equation = SGD(0.2).modified_equation(Circle())
    flow = expectation(equation, x0=POINTS)
    errors = [np.abs(expectation(DiscretisedEquation(equation, scheme, 1 / n), x0=POINTS, modes=512) - flow).max()
              for n in steps]
    np.testing.assert_allclose(orders(errors)[-1], scheme.weak_order, rtol=0, atol=0.05)
