"""Sums of scaled numbers, which are kept open while a step is taken apart, round as they were written."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_evaluation

from itograd.simulation.precision import precision

many = test_evaluation.many
evaluated = partial(test_evaluation.evaluated, compiler=jax.jit)  # as fast as XLA makes them

H, G = jnp.float32(0.1), jnp.float32(0.7)


def test_a_compensated_sum_keeps_its_compensation():
    def step(total, lost, x, v):
        change = H * (G * x - v) - lost
        after = total + change
        return after, (after - total) - change

    x, v = many(2, paths=256)
    total, lost = np.full(256, 1000, "float32"), np.zeros(256, "float32")
    exact = total.astype(float)
    increment = float(H) * (float(G) * x.astype(float) - v) * 1e-3
    small = x * np.float32(1e-3), v * np.float32(1e-3)
    for _ in range(10):
        total, lost = map(np.asarray, evaluated(step, total, lost, *small))
        exact = exact + increment
    np.testing.assert_allclose(total - lost.astype(float), exact, rtol=0, atol=1e-6)  # one rounding alone: up to 3e-5


def test_the_error_of_a_sum_of_products_is_found_by_subtraction():
    """Knuth's two-sum, with both summands open forms."""

    def error(x, y):
        a, b = H * x, 1e-4 * (G * y)
        s = a + b
        bb = s - a
        return (a - (s - bb)) + (b - bb)

    found = np.asarray(evaluated(error, *many()))
    np.testing.assert_array_equal(found, jax.jit(jax.vmap(error))(*many()))
    assert (found != 0).mean() > 0.5


def test_what_is_added_and_taken_away_leaves_its_rounding():
    def rounded(x, y):
        big, sharp = G * (1e7 * y + 2e7), 1e7 + 1e7 * y
        return (x + big) - big, (x + sharp) - sharp, (H * x + big) - big

    for ours, theirs in zip(evaluated(rounded, *many()), jax.jit(jax.vmap(rounded))(*many())):
        np.testing.assert_array_equal(ours, theirs)
        assert (ours != many()[0]).mean() > 0.5


def test_a_number_less_itself_is_zero():
    def differences(x, y):
        forms = [x, H * x, H * x + G * y, x + H * y, H * (x + G * y), H * x * y, -(H * x) + y * G]
        return [f - f for f in forms] + [jnp.stack([f, f]) - f for f in forms]

    for found in evaluated(differences, *many()):
        assert not np.asarray(found).any()


def test_not_a_number_is_not_hidden_by_a_factor():
    x = np.array([np.inf, -np.inf, np.nan, 0, -0.0, 1, 3e38, 1e-38], "float32")

    def risky(x):
        zero = jnp.zeros(())
        return [
            x * 0.0,
            x * zero,
            H * (x * zero),
            H * (zero + x),
            x / jnp.inf,
            x / zero,
            x / (x * zero),
            H * x / G,
            -x * H,
            1 * x,
            x - 0 * x,
            x + 0.0,
        ]

    for ours, theirs in zip(evaluated(risky, x), jax.jit(jax.vmap(risky))(x)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_forms_are_closed(dtype):
    factors = np.random.default_rng(10).normal(size=20)

    def total(*x):
        inner = [sum(f * y for f, y in zip(factors[i:], x)) for i in range(4)]
        return (
            H.astype(dtype) * (inner[0] - 2 * inner[1])
            + inner[2] / 7
            - inner[3] * inner[0]
            + (x[0] + inner[1]) * (x[1] - inner[2])
        )

    with precision(dtype):
        arguments = many(12, dtype)
        ours, theirs = evaluated(total, *arguments), jax.vmap(total)(*arguments.astype("float64"))
        scale = 20 * np.abs(theirs).max()
        np.testing.assert_allclose(ours, np.asarray(theirs), rtol=0, atol=scale * np.finfo(dtype).eps)
