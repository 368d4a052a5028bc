"""S6: the square-root rule on digits, where noise dominates and where the signal does (theory 2.7, amendment 13).

Adam at B = 2, η = .002, for 12,800 steps; with batches κ times larger, for as many examples. Where noise dominates
(40 % of the labels redrawn, from the minimiser) the observable is the mean of |W − W*|², which the rule must keep.
"""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import itograd as ig
from itograd.simulation.precision import as_traced, double

BASE = ig.Adam(0.002, 0.996, 0.998, eps=2e-3)
STEPS, SEEDS, DECAY = 12_800, 96, 2e-3
RATIOS = {4: 1.004, 16: 0.993, 64: 0.950}  # of the full rule to the base, ±.012
RATIO_ERROR = 0.012
# 2.7's table at 24 seeds: mean |W − W*|², with a base of 3.10 ± .045.
ABLATIONS = {
    ("betas kept", 4): 2.44,
    ("eps kept", 4): 2.71,
    ("linear", 4): 5.37,
    ("fixed", 4): 1.13,
    ("betas kept", 64): 3.59,
    ("eps kept", 64): 1.59,
    ("linear", 64): 19.0,
    ("fixed", 64): 0.172,
}
ABLATION_BASE = 3.10
TOLERANCE = 0.08


def rival(rule, factor):
    """The base rule for a batch `factor` times larger, by the square-root rule or by what leaves a part of it out."""
    full = BASE.scaled(factor, "linear" if factor * (1 - BASE.b1) < 1 else "memory")
    changes = {
        "linear betas": {},
        "memory": dataclasses.asdict(BASE.scaled(factor)),
        "betas kept": {"b1": BASE.b1, "b2": BASE.b2},
        "eps kept": {"eps": BASE.eps},
        "linear": {"learning_rate": BASE.learning_rate * factor},
        "fixed": dataclasses.asdict(BASE),
    }
    return dataclasses.replace(full, **changes[rule])


def noisy_digits(batch_size):
    return ig.problems.digits(batch_size=batch_size, l2=DECAY, label_noise=0.4)


@cache
def minimiser():
    """W* of the noisy digits."""
    with double():
        problem = as_traced(noisy_digits(2), "float64")
        value_and_gradient = jax.jit(jax.value_and_grad(problem.loss))

    def objective(x):
        with double():
            value, gradient = value_and_gradient(jnp.asarray(x))
        return float(value), np.asarray(gradient)

    found = minimize(
        objective, np.zeros(650), jac=True, method="L-BFGS-B", options={"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-10}
    )
    assert np.abs(objective(found.x)[1]).max() < 1e-7
    return found.x


@cache
def spread(rule, factor, seed):
    """Mean and standard error of |W − W*|² at the end."""
    target = minimiser()
    steps = STEPS // factor
    runs = ig.simulate(
        BASE if rule == "base" else rival(rule, factor),
        noisy_digits(2 * factor),
        x0=target,
        steps=steps,
        save_every=steps,
        paths=SEEDS,
        seed=seed,
        observables={"distance": lambda x: jnp.sum((x - target) ** 2)},
        progress=False,
    )
    return float(runs["mean"].values[-1, 0]), float(runs["mean_standard_error"].values[-1, 0])


def ratio_to_base(rule, factor, seed):
    (value, error), (base, its_error) = spread(rule, factor, seed), spread("base", 1, 0)
    ratio, error = value / base, value / base * np.hypot(error / value, its_error / base)
    print(f"{rule}, κ={factor}: {ratio:.3f} ± {error:.3f}")
    return ratio, error


def test_the_label_noise_is_that_of_the_recipe():
    """Amendment 13: 40 % of the 1400 labels redrawn uniformly over all ten classes, whatever they were."""
    labels = [np.argmax(p.data[1], axis=1) for p in (ig.problems.digits(), noisy_digits(2))]
    changed = np.mean(labels[0] != labels[1])
    assert changed == pytest.approx(0.4 * 0.9, abs=3 * (0.4 * 0.1 * 0.9 / 1400) ** 0.5)
    redrawn = labels[1][labels[0] != labels[1]]
    assert np.bincount(redrawn, minlength=10).min() > 0.6 * len(redrawn) / 10
    assert noisy_digits(2).decay == DECAY


def test_the_regime_trusts_the_rule_where_noise_dominates_and_not_where_the_signal_does():
    found = ig.regime(BASE, noisy_digits(2), minimiser(), tolerance=TOLERANCE)
    for betas in ("memory", "linear"):
        assert [found.may_scale(factor, betas).outcome for factor in (4, 16, 64)] == ["holds"] * 3
    clean = ig.problems.digits(batch_size=2)
    start = ig.regime(BASE, clean, clean.x0, tolerance=TOLERANCE)
    answers = [start.may_scale(factor) for factor in (4, 16, 64)]
    assert [answer.outcome for answer in answers] == ["fails"] * 3
    assert all("signal in the second moment" in answer.reason for answer in answers)


@pytest.mark.slow
def test_s6_the_full_rule_keeps_the_spread():
    print(f"base: {spread('base', 1, 0)}")
    for seed, (factor, expected) in enumerate(RATIOS.items(), start=1):
        ratio, error = ratio_to_base("linear betas", factor, seed)
        assert abs(ratio - 1) < TOLERANCE
        assert abs(ratio - expected) < 4.5 * np.hypot(error, RATIO_ERROR)
        ratio, error = ratio_to_base("memory", factor, seed + 10)
        assert abs(ratio - 1) < TOLERANCE


@pytest.mark.slow
def test_s6_what_leaves_a_part_of_the_rule_out_does_not():
    found = {}
    for seed, ((rule, factor), value) in enumerate(ABLATIONS.items(), start=20):
        ratio, error = found[rule, factor] = ratio_to_base(rule, factor, seed)
        expected = value / ABLATION_BASE
        assert abs(ratio - expected) < 4.5 * np.hypot(error, 0.025 * expected)  # a 24-seed figure is good to 2.5 %
    assert found["linear", 4][0] > 1.6
    assert found["fixed", 4][0] < 1 / 2.5
    assert min(abs(ratio - 1) for ratio, _ in found.values()) > TOLERANCE


@pytest.mark.slow
def test_s6_where_the_signal_dominates_the_rule_is_too_slow_as_the_regime_says():
    """Clean labels, from zero: the training loss rises with κ by the rule's own scaling and falls by the linear one."""
    losses = {}
    for seed, (rule, factor) in enumerate((r, f) for f in (4, 16) for r in ("memory", "linear betas", "linear")):
        losses[rule, factor] = training_loss(rival(rule, factor), factor, seed + 1)
    base = training_loss(BASE, 1, 0)
    print("base", base, losses)
    for rule in ("memory", "linear betas"):
        (four, its_error), (sixteen, error) = losses[rule, 4], losses[rule, 16]
        assert four - base[0] > 4.5 * np.hypot(its_error, base[1])
        assert sixteen - four > 4.5 * np.hypot(its_error, error)
    assert losses["linear", 16][0] < losses["linear", 4][0] < base[0]


def training_loss(rule, factor, seed):
    steps = STEPS // factor
    runs = ig.simulate(
        rule,
        ig.problems.digits(batch_size=2 * factor),
        steps=steps,
        save_every=steps // 8,
        paths=24,
        seed=seed,
        observables=["loss"],
        progress=False,
    )
    print(rule.learning_rate, np.round(runs["mean"].values[:, 0], 4))
    return float(runs["mean"].values[-1, 0]), float(runs["mean_standard_error"].values[-1, 0])
