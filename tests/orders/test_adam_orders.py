"""The weak order of Adam's SDE, and of SVAG with Adam, against exact moments (theory 2.6, S5).

The rule runs from (θ, m, u) = (1, .3, .5) at t₀ = .5 to t = 1.5, on the same noise as an affine control whose second
moment follows its mean and whose moments are known: what is left to Monte Carlo is the difference of the two.
"""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import itograd as ig
from itograd.optimizers.adam import Adam
from itograd.problems.problem import Problem
from itograd.problems.quadratic import Quadratic
from itograd.simulation.chain import Chain

MEAN, SQUARE = 0.4106315012, 0.4444044216


class LateAdam(Chain):
    """Adam from step t₀/η² on, from a stated state."""

    problem: Problem
    optimizer: Adam
    first: int = eqx.field(static=True)

    @property
    def time_per_step(self):
        return self.optimizer.time_per_step

    def start(self, x0):
        return x0, jnp.full_like(x0, 0.3), jnp.full_like(x0, 0.5 / self.time_per_step)

    def step(self, state, k, draws):
        return self.optimizer.update(state, k + self.first, self.problem.noisy_gradient(state[0], draws))

    def observe(self, state):
        return state[0]


class Control(LateAdam):
    """The same, where v follows its mean without the signal."""

    def step(self, state, k, draws):
        rule, (x, m, v), j = self.optimizer, state, k + self.first + 1
        m = rule.b1 * m + (1 - rule.b1) * self.problem.noisy_gradient(x, draws)
        v = rule.b2 * v + (1 - rule.b2) * self.problem.noise_variances(x)
        first, second = 1 - rule.b1**j, 1 - rule.b2**j
        return x - rule.learning_rate / first * m / (jnp.sqrt(v / second) + rule.eps), m, v


def moments_of_control(rule, variance, first, steps):
    """E θ and E θ² after `steps` steps of the control, on θ²/2 with noise of this variance."""
    mean, square, v = np.array([1.0, 0.3]), np.outer([1.0, 0.3], [1.0, 0.3]), 0.5 / rule.time_per_step
    for j in range(first + 1, first + steps + 1):
        v = rule.b2 * v + (1 - rule.b2) * variance
        pace = rule.learning_rate / (1 - rule.b1**j) / (np.sqrt(v / (1 - rule.b2**j)) + rule.eps)
        to_m = np.array([1 - rule.b1, rule.b1])
        step, kick = np.array([[1, 0] - pace * to_m, to_m]), (1 - rule.b1) * np.array([-pace, 1.0])
        mean, square = step @ mean, step @ square @ step.T + variance * np.outer(kick, kick)
    return mean[0], square[0, 0]


@functools.cache
def errors(eta, l=1, law="two_point", paths=100_000):
    """E θ and E θ² of the rule less those of the SDE, with their standard errors: (2, 2)."""
    rule = Adam(eta, 1 - 2 * eta**2, 1 - eta**2, eps=0.1 / eta).scaled(1 / l**2, betas="linear")
    problem = Quadratic(1.0, 1 / eta**2, law).amplified(l**2)
    first, steps = round(0.5 / rule.time_per_step), round(1 / rule.time_per_step)
    chains = (kind(problem, rule, first) for kind in (LateAdam, Control))
    found = ig.coupled_difference(
        *chains,
        x0=[1.0],
        steps=steps,
        save_every=steps,
        paths=paths,
        observables={"x": lambda x: x[0], "square": lambda x: x[0] ** 2},
        dtype="float64",
        progress=False,
    )
    exact = np.array(moments_of_control(rule, l**2 / eta**2, first, steps))
    difference, error = (found[name].values[-1] for name in ("difference", "standard_error"))
    return difference + exact - [MEAN, SQUARE], error


def test_adam_has_order_1_in_the_squared_rate():
    (coarse, coarse_error), (fine, fine_error) = errors(0.125), errors(0.0625)
    for value, error in ((coarse, coarse_error), (fine, fine_error)):
        assert (error < 0.05 * np.abs(value)).all()
    assert np.log(coarse / fine) / np.log(4) == pytest.approx([1, 1], abs=0.1)
    for (value, error), expected in ((errors(0.125), 3.88e-3), (errors(0.0625), 9.66e-4)):
        assert abs(value[0] - expected) < 4.5 * error[0] + 0.5e-5


def test_svag_with_adam_has_order_2_or_more_in_the_noise_scale():
    """In E θ²; by then the theory's own order is 2.6."""
    (coarse, coarse_error), (fine, fine_error) = (errors(0.25, l, paths=400_000) for l in (2, 4))
    for (value, error), expected in (((coarse, coarse_error), 2.73e-3), ((fine, fine_error), 4.5e-4)):
        assert error[1] < 0.05 * abs(value[1])
        assert abs(value[1] - expected) < 4.5 * np.hypot(error[1], 2e-5)
    assert np.log2(coarse[1] / fine[1]) >= 1.8
