"""Chains of every route of the engine, and the engine as one would write it without thinking of speed."""

from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import itograd as ig
from itograd.simulation import EulerMaruyama, WeakOrder2, compiled
from itograd.simulation.chain import Chain
from itograd.simulation.coupled import CoupledChain
from itograd.simulation.draws import STALENESS, Draws
from itograd.simulation.engine import Ensemble
from itograd.simulation.history import recall, remember, ring
from itograd.simulation.precision import as_traced, precision
from itograd.simulation.schemes import DiscretisedEquation
from itograd.simulation.threefry import path_key, seed_words

SOURCES = ["jax"] + ["compiled"] * compiled.available()
SEED = 11


def on_sources(name, *rest, fast=()):
    """(name, source, …) for every source; Threefry takes long to compile: without it in `fast`, it is slow."""
    return [
        pytest.param(name, noise, *rest, marks=[pytest.mark.slow] * (noise != SOURCES[-1] and name not in fast))
        for noise in SOURCES
    ]


class StepOf(Chain):
    """The chain of a function (state, k, draws) -> state; x is its first leaf, as a vector, or `observed(state)`."""

    step_of: Any = eqx.field(static=True)
    start_of: Any = eqx.field(static=True, default=None)
    observed: Any = eqx.field(static=True, default=None)
    problem: Any = None

    @property
    def time_per_step(self):
        return 1.0

    def start(self, x0):
        return x0 if self.start_of is None else self.start_of(x0)

    def step(self, state, k, draws):
        return self.step_of(state, k, draws)

    def observe(self, state):
        return jnp.ravel(jax.tree.leaves(state)[0]) if self.observed is None else self.observed(state)


class StaleSGD(Chain):
    """x' = x − η (A x_stale + z), with the delay drawn."""

    matrix: np.ndarray
    problem: Any = None
    length: int = eqx.field(static=True, default=64)

    @property
    def time_per_step(self):
        return 0.05

    def start(self, x0):
        return x0, ring(x0, self.length)

    def step(self, state, k, draws):
        x, past = state
        past = remember(past, k, x)
        stale = recall(past, k, draws.of(STALENESS).geometric(0.8, maximum=self.length - 1))
        return x - 0.05 * (self.matrix @ stale + draws.normal(x.shape)), past

    def observe(self, state):
        return state[0]


def quadratic(d, noise="gaussian"):
    rng = np.random.default_rng(d)
    a = rng.normal(size=(d, d)) / np.sqrt(d)
    b = rng.normal(size=(d, d)) / np.sqrt(d)
    return ig.problems.Quadratic(a @ a.T + np.eye(d) / 2, b @ b.T + np.eye(d) / 4, noise)


def equation(d, scheme, model=None):
    model = ig.SGD(0.1) if model is None else model
    return DiscretisedEquation(ig.modified_equation(model, quadratic(d)), scheme, 0.05)


def regression(sampling="with_replacement", batch_size=3):
    rng = np.random.default_rng(5)
    return ig.problems.LinearRegression(rng.normal(size=(12, 2)), rng.normal(size=12), batch_size, sampling=sampling)


def digits(model):
    return ig.SGD(0.5).chain(ig.problems.digits(model, 8, **({"hidden": 4} if model == "mlp" else {})))


def softmax_equation():
    """The SDE of softmax regression on 300 examples with 7 features and 4 classes."""
    rng = np.random.default_rng(3)
    data = (rng.normal(size=(300, 7)), rng.integers(0, 4, 300))

    def loss(weights, example):
        features, label = example
        return jax.nn.logsumexp(weights @ features) - (weights @ features)[label]

    problem = ig.problems.FiniteSum(loss, data, params=np.zeros((4, 7)), batch_size=8)
    return DiscretisedEquation(ig.modified_equation(ig.SGD(0.5), problem), EulerMaruyama(), 0.1)


class SideBySide(CoupledChain):
    """Coupled chains whose points are one vector."""

    def observe(self, state):
        return jnp.concatenate(super().observe(state))


def coupled_chains():
    """Chains of different clocks on one path of noise."""
    return SideBySide(ig.SGD(0.1).chain(quadratic(2)), equation(2, EulerMaruyama()))


# name: (how to make it, its route, tile and unroll)
CHAINS = {
    "one dimension": (lambda: ig.SGD(0.1).chain(ig.problems.DoubleWell()), ("scalars", 8192, 4)),
    "two": (lambda: ig.SGD(0.1).chain(quadratic(2, "skewed")), ("scalars", 8192, 4)),
    "two-point": (lambda: equation(2, EulerMaruyama("two_point")), ("scalars", 8192, 4)),
    "underdamped": (
        lambda: equation(2, EulerMaruyama(), ig.Momentum(0.05, 0.9, clock="underdamped")),
        ("scalars", 8192, 4),
    ),
    "weak order 2": (lambda: equation(2, WeakOrder2()), ("scalars", 8192, 1)),
    "momentum": (lambda: ig.Momentum(0.05, 0.9).chain(quadratic(2)), ("scalars", 8192, 4)),
    "nesterov": (lambda: ig.Nesterov(0.05, 0.9).chain(quadratic(2)), ("scalars", 8192, 1)),
    "batches": (lambda: ig.SGD(0.1).chain(regression()), ("scalars", 8192, 4)),
    "reshuffling": (lambda: ig.SGD(0.1).chain(regression("reshuffling")), ("scalars", 8192, 1)),
    "amplified": (lambda: ig.SGD(0.1).chain(regression().amplified(3.0)), ("scalars", 8192, 4)),
    "stale": (lambda: StaleSGD(np.array([[1.0, 0.2], [0.1, 0.5]])), ("scalars", 4096, 1)),
    "stale in three dimensions": (lambda: StaleSGD(np.eye(3), length=7), ("scalars", 4096, 1)),
    "eight": (lambda: equation(8, EulerMaruyama()), ("scalars", 8192, 1)),
    "nine": (lambda: equation(9, EulerMaruyama()), ("lanes", 2048, 1)),
    "twenty": (lambda: equation(20, EulerMaruyama()), ("lanes", 1024, 1)),
    "hundred": (lambda: equation(100, EulerMaruyama()), ("lanes", 1024, 1)),
    "softmax": (lambda: digits("softmax"), ("runs", 32, 1)),
    "mlp": (lambda: digits("mlp"), ("runs", 32, 1)),
    "softmax sde": (softmax_equation, ("rows", 64, 1)),
    "coupled": (coupled_chains, ("scalars", 8192, 4)),
}


@cache
def chain_of(name):
    return CHAINS[name][0]()


def start_of(chain):
    """Where its paths start."""
    if isinstance(chain, StaleSGD):
        return np.linspace(1.0, 2.0, len(chain.matrix))
    return np.asarray(chain.problem.x0, float) + 0.5 if chain.problem.dim < 200 else np.asarray(chain.problem.x0, float)


def _component(i, x):
    return x[i % len(x)]


OBSERVABLES = {"first": partial(_component, 0), "last": partial(_component, -1), "squares": lambda x: x @ x}


def ensemble(chain, steps, *, noise="jax", dtype="float32", seed=SEED, x0=None, observables=None):
    """The engine's run of a chain."""
    x0 = start_of(chain) if x0 is None else x0
    return Ensemble(chain, observables or OBSERVABLES, x0, np.atleast_1d(steps), seed, dtype, noise)


def as_usually_written(chain, steps, paths, *, dtype="float32", seed=SEED, x0=None, observables=None):
    """The observables (s, paths, n) of the chain at each of the steps, by `vmap` of a loop over `chain.step`."""
    x0 = start_of(chain) if x0 is None else x0
    with precision(dtype):
        chain, x0 = as_traced((chain, x0), dtype)

        def to(target, state, k, key):
            return lax.fori_loop(k, target, lambda i, y: chain.step(y, i, Draws(key, i)), state)

        def of_path(*key):
            state, found, k = chain.start(x0), [], 0
            for target in np.atleast_1d(steps):
                state, k = to(target, state, k, key), target
                x = chain.observe(state)
                found.append(jnp.stack([f(x) for f in (observables or OBSERVABLES).values()]))
            return jnp.stack(found)

        keys = path_key(tuple(seed_words(seed)), jnp.arange(paths, dtype=jnp.uint32))
        # Little optimised: it is run once.
        run = jax.jit(jax.vmap(of_path), compiler_options={"xla_backend_optimization_level": 0})
        return np.moveaxis(np.asarray(run(*keys)), 0, 1)
