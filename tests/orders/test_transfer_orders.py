"""Weak orders without Monte Carlo: modified equations, SVAG and schemes on the circle (theory 1.2, 5.1,
5.8)."""

import functools
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
RATES = (0.025, 0.0125, 0.00625)


class Stratonovich(SGDEquation):
    """The SDE with the same coefficients in the sense of Stratonovich: in Itô's, drift + (η/4) Σ'(x)."""

    def drift(self, t, x):
        slope = jax.grad(lambda y: self.problem.noise_covariance(y)[0, 0])(x)
        return super().drift(t, x) + self.learning_rate / 4 * slope


def expectation(*process, modes=384):
    """E cos x + .3 sin 2x at time 1 from each of POINTS."""
    return transfer_expectation(
        *process, observable=lambda x: jnp.cos(x[0]) + 0.3 * jnp.sin(2 * x[0]), x0=POINTS, time=1.0, modes=modes
    )


def orders(errors):
    """Local orders along a ladder of halved step sizes, the first axis."""
    errors = np.abs(errors)
    return np.log2(errors[:-1] / errors[1:])


@functools.cache
def equation_orders(kind, order, noise):
    """Orders in η of SGD's distance to an equation, for each pair of rates and each starting point."""
    problem = Circle(noise)
    return orders(
        np.array([expectation(SGD(eta), problem) - expectation(kind(problem, eta, 0.0, order)) for eta in RATES])
    )


@pytest.mark.parametrize(
    ("order", "noise", "width"), [(1, "two_point", 0.03), (2, "two_point", 0.1), (2, "skewed", 0.1)]
)
def test_modified_equations_have_their_order(order, noise, width):
    pointwise = equation_orders(SGDEquation, order, noise)[:, 20]  # x0 = 1.309
    np.testing.assert_allclose(pointwise, order, rtol=0, atol=width)


def test_the_stratonovich_reading_keeps_order_one_and_loses_order_two():
    last = {
        (kind, order): equation_orders(kind, order, "two_point")[-1, 60]  # x0 = 3.927
        for kind in (SGDEquation, Stratonovich)
        for order in (1, 2)
    }
    expected = {(SGDEquation, 1): 1, (SGDEquation, 2): 2, (Stratonovich, 1): 1, (Stratonovich, 2): 1}
    assert all(abs(last[key] - order) < 0.1 for key, order in expected.items()), last


@pytest.mark.parametrize(("noise", "constant"), [("two_point", 0.0993), ("skewed", 0.2604)])
def test_svag_converges_at_finite_learning_rate_to_the_ito_sde(noise, constant):
    problem, ladder = Circle(noise), (16, 32, 64, 128)
    runs = np.array([expectation(SGD(0.2).scaled(1 / a), problem.amplified(a), modes=256) for a in ladder])
    errors = np.abs(runs - expectation(SGDEquation(problem, 0.2, 0.0, 1))).max(axis=1)
    np.testing.assert_allclose(orders(errors), 1, rtol=0, atol=0.02)
    assert abs(ladder[-1] * errors[-1] - constant) < 1e-4
    stalled = np.abs(runs - expectation(Stratonovich(problem, 0.2, 0.0, 1))).max(axis=1)
    assert abs(2 * stalled[-1] - stalled[-2] - 0.0475) < 1e-4  # extrapolated in 1/a: 4.8e-2 in theory 1.2


@pytest.mark.parametrize(
    ("scheme", "steps"),
    [
        (EulerMaruyama(), (80, 160)),
        (EulerMaruyama("two_point"), (80, 160)),
        (HeunDrift(), (160, 320)),
        (WeakOrder2(), (40, 80)),
    ],
)
def test_schemes_have_the_weak_order_that_they_declare(scheme, steps):
    equation = SGDEquation(Circle(), 0.2, 0.0, 1)
    runs = np.array([expectation(DiscretisedEquation(equation, scheme, 1 / n)) for n in steps])
    errors = np.abs(runs - expectation(equation)).max(axis=1)
    np.testing.assert_allclose(orders(errors), scheme.weak_order, rtol=0, atol=0.05)
