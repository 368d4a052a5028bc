"""Transfer operators against the numbers of theory 1.2 and 3.6, and against all paths counted one by one."""

import itertools
import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from itograd.analysis.transfer import transfer_expectation, transfer_on_grid
from itograd.optimizers.momentum import Momentum
from itograd.optimizers.sgd import SGD
from itograd.problems.landscapes import Circle
from itograd.problems.problem import Problem
from itograd.problems.quadratic import Quadratic
from itograd.simulation.schedule import Piecewise
from itograd.simulation.schemes import DiscretisedEquation, EulerMaruyama, ExactAffine, WeakOrder2

POINTS = 2 * math.pi * np.arange(96) / 96
LADDER = (1, 2, 4, 8, 16, 32, 64, 128)
TWO_POINT, SKEWED = ((-1.0, 0.5), (1.0, 0.5)), ((-0.5, 0.8), (2.0, 0.2))


def g(x):
    return jnp.cos(x[0]) + 0.3 * jnp.sin(2 * x[0])


def expectation(*process, x0=1.0, time=1.0, **options):
    return transfer_expectation(*process, observable=g, x0=x0, time=time, **options)


def svag(noise, amplification):
    return SGD(0.2).scaled(1 / amplification), Circle(noise).amplified(amplification)


@pytest.mark.parametrize(
    ("learning_rate", "sgd", "sme1", "sme2"),
    [
        (0.2, 0.981137384422, 1.0093700745, 1.0002843978),
        (0.1, 1.005895892340, 1.0180909657, 1.0109300586),
        (0.05, 1.016525628693, 1.0222473159, 1.0178436340),
    ],
)
def test_table_of_sgd_and_its_modified_equations(learning_rate, sgd, sme1, sme2):
    problem, optimizer = Circle(), SGD(learning_rate)
    assert abs(expectation(optimizer, problem) - sgd) < 2e-12
    assert abs(expectation(optimizer.modified_equation(problem, 1)) - sme1) < 1e-10
    assert abs(expectation(optimizer.modified_equation(problem, 2)) - sme2) < 1e-10


@pytest.mark.parametrize(
    ("amplification", "expected"), [(2, 0.9958638939), (4, 1.0027408577), (8, 1.0060838938), (16, 1.0077337603)]
)
def test_table_of_svag(amplification, expected):
    assert abs(expectation(*svag("two_point", amplification)) - expected) < 1e-10


@pytest.mark.parametrize(
    ("noise", "table"),
    [
        ("two_point", (1.037e-1, 5.083e-2, 2.495e-2, 1.248e-2, 6.226e-3, 3.108e-3, 1.553e-3, 7.760e-4)),
        ("skewed", (2.007e-1, 1.112e-1, 6.132e-2, 3.183e-2, 1.613e-2, 8.111e-3, 4.065e-3, 2.035e-3)),
    ],
)
def test_table_of_svags_largest_error(noise, table):
    limit = expectation(SGD(0.2).modified_equation(Circle(noise)), x0=POINTS)
    for amplification, expected in zip(LADDER, table):
        error = np.abs(expectation(*svag(noise, amplification), x0=POINTS) - limit).max()
        last_digit = 10.0 ** (math.floor(math.log10(expected)) - 3)
        assert abs(error - expected) <= last_digit


def counted(step, atoms, steps, x0=1.0):
    """E g by the sum over all sequences of the noise; `step(k, x, z)`."""
    total = 0.0
    for path in itertools.product(atoms, repeat=steps):
        x = x0
        for k, (z, _) in enumerate(path):
            x = step(k, x, z)
        total += math.prod(p for _, p in path) * (math.cos(x) + 0.3 * math.sin(2 * x))
    return total


def force(x, z):
    return math.sin(x) + 1.2 * math.sin(2 * x) + 0.8 * (1 + 0.4 * math.cos(x)) * z


@pytest.mark.parametrize(("noise", "atoms"), [("two_point", TWO_POINT), ("skewed", SKEWED)])
def test_sgd_equals_the_sum_over_all_paths(noise, atoms):
    exact = counted(lambda k, x, z: x - 0.2 * force(x, z), atoms, steps=5)
    assert abs(expectation(SGD(0.2), Circle(noise)) - exact) < 1e-12


def test_amplified_noise_equals_the_sum_over_all_pairs_of_batches():
    r1, r2 = (1 + 5**0.5) / 2, (1 - 5**0.5) / 2  # a = 3
    pairs = [(r1 * z + r2 * y, p * q) for (z, p), (y, q) in itertools.product(SKEWED, SKEWED)]
    exact = counted(lambda k, x, z: x - 0.2 * force(x, z), pairs, steps=4)
    assert abs(expectation(SGD(0.2), Circle("skewed").amplified(3), time=0.8, modes=512) - exact) < 1e-11


def test_a_schedule_changes_the_operator_from_step_to_step():
    rate = Piecewise(0.2, boundaries=(0.4, 0.8), factors=(1.0, 0.5, 0.25))
    factors = (1.0, 1.0, 0.5, 0.5, 0.25)
    exact = counted(lambda k, x, z: x - 0.2 * factors[k] * force(x, z), TWO_POINT, steps=5)
    assert abs(expectation(SGD(rate), Circle()) - exact) < 1e-12


def test_batch_size_divides_the_noise():
    exact = counted(lambda k, x, z: x - 0.2 * force(x, z / 2), TWO_POINT, steps=5)
    assert abs(expectation(SGD(0.2), Circle(batch_size=4)) - exact) < 1e-12


def test_a_scheme_equals_the_sum_over_all_paths():
    equation = SGD(0.2).modified_equation(Circle())
    chain = DiscretisedEquation(equation, EulerMaruyama("two_point"), 0.25)
    exact = counted(lambda k, x, z: x - 0.25 * force(x, (0.2 / 0.25) ** 0.5 * z), TWO_POINT, steps=4)
    assert abs(expectation(chain, modes=512) - exact) < 1e-11


@pytest.mark.parametrize("rate", [0.2, Piecewise(0.2, boundaries=(0.4, 0.8), factors=(1.0, 0.5, 0.25))])
def test_euler_at_the_optimisers_own_step_is_the_optimiser(rate):
    equation = SGD(rate).modified_equation(Circle())
    chain = DiscretisedEquation(equation, EulerMaruyama("two_point"), 0.2)
    assert abs(expectation(chain) - expectation(SGD(rate), Circle())) < 1e-12


def test_gaussian_noise_is_one_law_however_it_is_stated():
    named = expectation(SGD(0.2), Circle("gaussian"))
    assert abs(expectation(SGD(0.2), Circle("skewed").gaussian()) - named) < 1e-12
    amplified = expectation(SGD(0.1), Circle("gaussian").amplified(2))
    assert abs(expectation(SGD(0.1), Circle("two_point").amplified(2).gaussian()) - amplified) < 1e-12
    equation = SGD(0.2).modified_equation(Circle())
    assert abs(expectation(DiscretisedEquation(equation, EulerMaruyama(), 0.1)) - amplified) < 1e-12


def test_amplification_by_one_changes_nothing():
    assert expectation(*svag("skewed", 1)) == expectation(SGD(0.2), Circle("skewed"))


@pytest.mark.parametrize(
    "process",
    [
        (SGD(0.2), Circle("skewed")),
        (SGD(0.2).modified_equation(Circle(), 2),),
        (DiscretisedEquation(SGD(0.2).modified_equation(Circle()), WeakOrder2(), 0.1),),
    ],
)
def test_mass_is_conserved_and_nothing_moves_in_no_time(process):
    grid, one = transfer_on_grid(*process, observable=lambda x: 1.0, time=1.0)
    np.testing.assert_allclose(one, 1.0, rtol=0, atol=1e-11)
    _, still = transfer_on_grid(*process, observable=g, time=0.0)
    np.testing.assert_allclose(still, np.cos(grid) + 0.3 * np.sin(2 * grid), rtol=0, atol=1e-12)


def test_answers_have_the_shape_of_the_starting_points():
    chain = SGD(0.2).chain(Circle())
    grid, values = transfer_on_grid(chain, observable=g, time=1.0)
    assert isinstance(expectation(chain), float)
    assert expectation(chain, x0=POINTS.reshape(8, 12)).shape == (8, 12)
    np.testing.assert_allclose(expectation(chain, x0=grid), values, rtol=0, atol=1e-12)
    np.testing.assert_allclose(expectation(chain, x0=grid + 4 * math.pi), values, rtol=0, atol=1e-11)


class Sampled(Problem):
    """A periodic problem whose noise is sampled, not stated."""

    batch_size: int = eqx.field(static=True, default=1)
    dim: int = eqx.field(static=True, default=1)
    noise_dim: int = eqx.field(static=True, default=1)
    period: float = eqx.field(static=True, default=2 * math.pi)

    def loss(self, x):
        return -jnp.cos(x[0])

    def noise_root(self, x, z):
        return z

    def noisy_gradient(self, x, draws):
        return self.gradient(x) + draws.uniform((1,)) - 0.5


class TwoDimensional(Circle):
    @property
    def dim(self):
        return 2


def test_noise_of_an_unknown_law_is_refused_and_its_gaussian_taken():
    with pytest.raises(ValueError, match=r"Sampled samples its noise; use problem\.gaussian\(\)"):
        expectation(SGD(0.2), Sampled())
    assert 0 < expectation(SGD(0.2), Sampled().gaussian()) < 2


@pytest.mark.parametrize(
    ("process", "options", "message"),
    [
        ((Momentum(0.1, momentum=0.9), Circle()), {}, "needs a state of one component: Momentum has 2"),
        ((SGD(0.2), Quadratic(1.0, 1.0)), {}, "needs a periodic problem: Quadratic has no `period`"),
        ((SGD(0.2), TwoDimensional()), {}, "needs a problem of one dimension: got 2"),
        ((SGD(0.2, weight_decay=0.1), Circle()), {}, "a step of SGD does not have the problem's period 6.28"),
        ((SGD(0.2, weight_decay=0.1).modified_equation(Circle()),), {}, "drift of SGDEquation does not have the"),
        ((SGD(Piecewise(0.2, (0.4,), (1.0, 0.5))).modified_equation(Circle()),), {}, "an autonomous equation"),
        ((SGD(0.3), Circle()), {}, "whole number of steps of 0.3: got 1, which is 3.33333 steps"),
        ((SGD(0.2),), {}, "an optimiser needs a problem: got SGD"),
        ((SGD(0.2).modified_equation(Circle()), Circle()), {}, "SGDEquation has its own problem"),
        ((SGD(0.2), Circle()), {"modes": 64}, "modes=64 do not resolve the answer"),
        ((SGD(0.05).modified_equation(Circle()),), {"modes": 64}, "modes=64 do not resolve the answer"),
        ((SGD(0.2), Circle()), {"modes": 7}, "modes must be at least 8"),
        ((SGD(0.2), Circle()), {"time": -1.0}, "time must be a finite number in"),
        ((SGD(0.2), Circle()), {"x0": [0.0, math.nan]}, "x0 must be finite"),
        (
            (DiscretisedEquation(SGD(0.2).modified_equation(Circle()), EulerMaruyama(), 0.1, merged=2),),
            {},
            "merged increments have no short list of atoms",
        ),
    ],
)
def test_refusals_say_why(process, options, message):
    with pytest.raises(ValueError, match=message):
        expectation(*process, **options)


def test_a_scheme_with_unknown_increments_is_refused():
    chain = DiscretisedEquation(SGD(0.2).modified_equation(Circle()), EulerMaruyama(), 0.1)
    exact = eqx.tree_at(lambda c: c.scheme, chain, ExactAffine((np.eye(1), np.zeros(1), np.eye(1))))
    with pytest.raises(ValueError, match="must be EulerMaruyama, HeunDrift or WeakOrder2"):
        expectation(exact)


def test_an_observable_without_the_period_is_refused():
    with pytest.raises(ValueError, match="observable must have the problem's period"):
        transfer_expectation(SGD(0.2), Circle(), observable=lambda x: x[0], x0=0.0, time=1.0)


def test_a_process_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="process must be an optimiser"):
        expectation(Circle())
