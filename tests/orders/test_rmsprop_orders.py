"""Weak orders of RMSprop's SDE and of SVAG, without Monte Carlo (theory 2.6, 3.6, S4), by a transfer operator."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from rmsprop_circle import LAWS, Case, rmsprop

import itograd as ig
from itograd.analysis.rmsprop_transfer import rmsprop_transfer
from itograd.problems.quadratic import Quadratic

THETA, U = np.meshgrid(2 * math.pi * np.arange(96) / 96, np.linspace(0.5, 1.3, 9), indexing="ij")
LADDER = (25, 50, 100, 200, 400)  # steps to T = 1, at η = .2, .1414, .1, .0707, .05


def cosine(x, w):
    return jnp.cos(x[0])


def g(x, w):
    return jnp.cos(x[0]) + 0.3 * jnp.sin(2 * x[0]) + 0.2 * w[0]


def sde(eta=0.1):
    return ig.modified_equation(rmsprop(eta), Case(1 / eta))


def from_one(*process):
    return rmsprop_transfer(*process, observable=cosine, x0=1.0, w0=1.0, time=1.0)


def everywhere(*process, modes=48):
    return rmsprop_transfer(*process, observable=g, x0=THETA, w0=U, time=1.0, modes=modes, nodes=20)


@functools.cache
def limit():
    return everywhere(sde())


def largest_error(*process, **grid):
    return np.abs(everywhere(*process, **grid) - limit()).max()


@functools.cache
def errors(law, denominator):
    return np.array([largest_error(rmsprop(n**-0.5, denominator), Case(n**0.5, law)) for n in LADDER])


@functools.cache
def svag_error(law, denominator, l):
    """At η = .25, where the noise variance is multiplied by l²."""
    rule, problem = rmsprop(0.25, denominator), Case(4.0, law)
    return largest_error(rule.scaled(1 / l**2, betas="linear"), problem.amplified(l**2), modes=40)


def orders(values):
    return np.log2(values[:-1] / values[1:])


def test_the_value_of_the_sde():
    assert abs(from_one(sde()) - 0.654268631) < 1e-9
    assert abs(from_one(sde(0.3)) - 0.654268631) < 1e-9  # η is in no coefficient


@pytest.mark.parametrize(
    ("steps", "old", "new"),
    [(25, 0.656920372, 0.648481847), (100, 0.654949440, 0.652802604), (400, 0.654439937, 0.653900935)],
)
def test_the_values_of_the_rule(steps, old, new):
    for denominator, expected in (("old", old), ("new", new)):
        assert abs(from_one(rmsprop(steps**-0.5, denominator), Case(steps**0.5)) - expected) < 1e-9


@pytest.mark.parametrize(
    ("denominator", "table"),
    [
        pytest.param("old", (8.02e-3, 4.01e-3, 2.005e-3, 1.003e-3, 5.02e-4), marks=pytest.mark.slow),
        pytest.param("new", (8.16e-3, 4.19e-3, 2.12e-3, 1.07e-3, 5.35e-4), marks=pytest.mark.slow),
    ],
)
def test_the_table_of_the_largest_error(denominator, table):
    """The theory's suprema are over other starting points, inside .5 < u < 1.3: they agree to 4 %."""
    np.testing.assert_allclose(errors("two_point", denominator), table, rtol=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("denominator", ["old", "new"])
def test_order_1_for_symmetric_noise_and_a_half_for_skewed(denominator):
    np.testing.assert_allclose(orders(errors("two_point", denominator))[-2:], 1, rtol=0, atol=0.03)
    np.testing.assert_allclose(orders(errors("skewed", denominator))[-2:], 0.5, rtol=0, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("denominator", ["old", "new"])
@pytest.mark.parametrize("law", LAWS)
def test_svag_has_nearly_order_2_in_the_noise_scale(law, denominator):
    """Symmetric noise becomes more peaked with l (kurtosis 2 − 2/l² + 1/l⁴), so that order 2 is reached slowly."""
    order = math.log2(svag_error(law, denominator, 2) / svag_error(law, denominator, 4))
    assert 1.65 < order < 2.1


@pytest.mark.slow
@pytest.mark.parametrize(("law", "denominator"), [("two_point", "new"), ("skewed", "old"), ("skewed", "new")])
def test_svag_has_order_2_in_the_noise_scale(law, denominator):
    order = math.log2(svag_error(law, denominator, 8) / svag_error(law, denominator, 16))
    assert order == pytest.approx(2, abs=0.03)


@pytest.mark.slow
def test_svag_with_symmetric_noise_has_order_2_once_its_kurtosis_is_allowed_for():
    """From l = 8 to 16 the measured order is 1.967. The error is (A + B/l²)/l²: two values give the third."""
    scaled = [l**2 * svag_error("two_point", "old", l) for l in (4, 8, 16)]
    assert scaled[2] == pytest.approx(scaled[1] + (scaled[1] - scaled[0]) / 4, rel=5e-3)


def counted(step, atoms, steps):
    """E cos x from x = w = 1 by the sum over all sequences of the noise; `step(x, w, z)` for arrays of x and w."""
    x, w, weight = np.ones(1), np.ones(1), np.ones(1)
    for _ in range(steps):
        moved = [(*step(x, w, z), p * weight) for z, p in atoms]
        x, w, weight = map(np.concatenate, zip(*moved))
    return weight @ np.cos(x)


@pytest.mark.parametrize("denominator", ["old", "new"])
@pytest.mark.parametrize("amplification", [1, 4])
def test_the_operator_counts_all_paths(amplification, denominator):
    clock = 0.04 / amplification
    eta, root = clock**0.5, (2 * amplification - 1) ** 0.5
    atoms = [((1 + root) / 2 * a + (1 - root) / 2 * b, 0.25) for a in (-1, 1) for b in (-1, 1)]

    def step(x, w, z):
        g = 0.5 * (np.sin(x) + np.sin(2 * x)) + 5 * z * 0.9 * (1 + 0.2 * np.cos(x))
        new = (1 - clock) * w + clock * clock * g**2
        return x - clock * g / (np.sqrt(new if denominator == "new" else w) + 0.1), new

    rule, problem = (
        rmsprop(0.2, denominator).scaled(1 / amplification, betas="linear"),
        Case(5.0).amplified(amplification),
    )
    assert rule.learning_rate == pytest.approx(eta)
    found = rmsprop_transfer(rule, problem, observable=cosine, x0=1.0, w0=1.0, time=6 * clock)
    assert abs(found - counted(step, atoms, 6)) < 1e-12


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: from_one(rmsprop(0.3), Case(1 / 0.3)), ValueError, "whole number of steps of 0.09: got 1"),
        (lambda: from_one(rmsprop(0.1)), TypeError, "process must be RMSprop, with a problem, or its SDE"),
        (lambda: from_one(sde(), Case(10.0)), ValueError, "an equation has its own problem"),
        (lambda: from_one(rmsprop(0.1), Quadratic(1.0, 1.0)), ValueError, "Quadratic has no `period`"),
        (
            lambda: rmsprop_transfer(sde(), observable=cosine, x0=1.0, w0=0.0, time=1.0),
            ValueError,
            "w0 must be positive",
        ),
        (
            lambda: rmsprop_transfer(rmsprop(0.25), Case(4.0), observable=cosine, x0=1.0, w0=U, time=1.0, nodes=4),
            ValueError,
            "nodes=4 do not resolve the answer",
        ),
        (
            lambda: from_one(ig.RMSprop(0.1, v0=1.0, correct_second=True).modified_equation(Case(10.0))),
            ValueError,
            "autonomous equation",
        ),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
