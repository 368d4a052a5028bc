"""Any optimiser with stale gradients: one list of optimisers, crossed with what all of them promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import itograd as ig
from itograd.asynchrony import Asynchronous, Dropping, Fixed, Gamma, Geometric, Pmf, StalenessAware, Trace, WorkerQueue
from itograd.asynchrony.asynchronous import AsynchronousChain
from itograd.simulation.draws import INITIAL, STALENESS, Draws
from itograd.simulation.precision import as_traced, double
from itograd.simulation.threefry import path_key, seed_words

OPTIMIZERS = {
    "sgd": ig.SGD(0.1, weight_decay=0.05),
    "momentum": ig.Momentum(0.05, 0.8),
    "negative momentum": ig.Momentum(0.1, -0.5),
    "nesterov": ig.Nesterov(0.05, 0.8),
    "increasing nesterov": ig.Nesterov.increasing(0.02),
    "rmsprop": ig.RMSprop(0.02, 0.9),
    "adam": ig.Adam(0.02, 0.8, 0.95),
    "adamw": ig.AdamW(0.02, 0.8, 0.95, weight_decay=0.1),
}
LAWS = {
    "fixed": Fixed(3),
    "geometric": Geometric(mean=3),
    "pmf": Pmf([0.25, 0.25, 0.5]),
    "trace": Trace([0, 1, 4, 2]),
    "queue": WorkerQueue(4),
    "queue, rates": WorkerQueue(3, rates=[1, 2, 3]),
    "queue, uniform, crashes": WorkerQueue(4, "uniform", crash_probability=0.1, restart_time=1.0),
}
CURVATURES = np.array([2.0, 0.5, 1.0])
QUIET = ig.problems.Quadratic(CURVATURES, np.zeros((3, 3)))
X0 = np.array([1.0, -2.0, 0.5])
STEPS, PATHS = 25, 4


class WithDelay(AsynchronousChain):
    """The chain, observed with the delay of its last gradient beside x."""

    def start_from(self, x0, draws):
        return super().start_from(x0, draws), jnp.zeros(1)

    def step(self, state, k, draws):
        stale, _ = state
        point = self.optimizer.read(stale[0])
        read, _ = self.optimizer.staleness.read(stale[1], k, point, draws.of(STALENESS))  # as the step itself does
        return super().step(stale, k, draws), jnp.asarray(read.delay, float)[None]

    def observe(self, state):
        return jnp.concatenate([super().observe(state[0]), state[1]])


CROSSED = [(name, "queue") for name in OPTIMIZERS] + [("sgd", law) for law in LAWS if law != "queue"]


@pytest.mark.parametrize(("name", "law"), CROSSED)
def test_the_stale_chain_is_a_replay_with_its_delays(name, law):
    optimizer = OPTIMIZERS[name]
    chain = WithDelay(QUIET, Asynchronous(optimizer, LAWS[law]))
    seen = {name: (lambda y, i=i: y[i]) for i, name in enumerate(["x0", "x1", "x2", "delay"])}
    options = {"steps": STEPS, "save_every": 1, "paths": PATHS, "keep_paths": PATHS, "dtype": "float64"}
    runs = ig.simulate(chain, x0=X0, observables=seen, seed=7, **options)
    values = runs["path_values"].transpose("path", "time", "observable").values
    if law == "trace":  # what is observed beside it does not change the run
        plain = ig.simulate(Asynchronous(optimizer, LAWS[law]), QUIET, x0=X0, seed=7, **options)["path_values"]
        np.testing.assert_allclose(plain.transpose("path", "time", "observable"), values[..., :3], atol=1e-13)
    assert values[..., 3].max() > 1
    with double():
        update, read = jax.jit(optimizer.update), jax.jit(optimizer.read)
        for path in values:
            state, points = optimizer.init(jnp.asarray(X0)), []
            for k in range(STEPS):
                points.append(np.asarray(read(state)))
                stale = points[k - int(path[k + 1, 3])]
                state = update(state, jnp.int32(k), jnp.asarray(CURVATURES * stale))
                np.testing.assert_allclose(optimizer.observe(state), path[k + 1, :3], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_delay_it_is_the_plain_chain(name):
    plain = OPTIMIZERS[name].chain(QUIET)
    for law in (Fixed(0), Geometric(mean=0), WorkerQueue(1), WorkerQueue(1, Gamma(2.0)), Pmf([1.0, 0.0]), Trace([0])):
        for rule in (None, StalenessAware()):
            chain = Asynchronous(OPTIMIZERS[name], law, rule).chain(QUIET)
            assert type(chain) is type(plain)
            assert chain.optimizer is plain.optimizer
            assert chain.problem is QUIET


MLP = ig.problems.digits(model="mlp", batch_size=8, hidden=4)


@pytest.mark.slow
def test_a_network_is_trained_by_the_steps_of_one_path_alone():
    """The engine's route of many paths against the chain itself, step by step on one path."""
    optimizer = Asynchronous(ig.Momentum(0.5, 0.5), LAWS["queue, uniform, crashes"], StalenessAware())
    options = {"steps": 8, "paths": 3, "keep_paths": 3, "noise": "jax", "dtype": "float64", "seed": 5}
    runs = ig.simulate(optimizer, MLP, observables=["loss", "squared_norm"], save_every=8, **options)
    assert runs.attrs["route"] == "runs"
    with double():
        chain = as_traced(optimizer.chain(MLP), "float64")
        step = jax.jit(lambda state, k, key: chain.step(state, k, Draws(key, k)))
        for path in (0, 2):
            key = path_key(tuple(seed_words(5)), path)
            state = chain.start_from(jnp.asarray(MLP.x0), Draws(key, 0, INITIAL))
            for k in range(8):
                state = step(state, k, key)
            x = chain.observe(state)
            expected = [chain.problem.loss(x), x @ x]
            found = runs["path_values"].transpose("path", "time", "observable").values[path, -1]
            np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_network_learns_from_stale_gradients():
    optimizer = Asynchronous(ig.Momentum(0.3, -0.3), WorkerQueue(8, Gamma(2.0)))
    runs = ig.simulate(optimizer, MLP, steps=300, paths=8, observables=["loss"], seed=2)
    loss = runs["mean"].values[:, 0]
    assert runs["diverged"].values.max() == 0
    assert loss[-1] + 4.5 * runs["mean_standard_error"].values[-1, 0] < 0.7 * loss[0]


def test_what_has_no_meaning_with_stale_gradients_is_refused():
    stale = Asynchronous(ig.SGD(0.1), Fixed(2))
    dropping = Asynchronous(ig.SGD(0.1), Geometric(2), Dropping(5))
    refusals = {
        "SVAG changes the problem or the steps itself": lambda: Asynchronous(ig.SVAG(ig.SGD(0.1), 4), Fixed(2)),
        "Asynchronous changes the problem": lambda: Asynchronous(stale, Fixed(2)),
        "no scaling rule is known for Asynchronous": lambda: ig.SVAG(stale, 4),
        "of stale gradients needs a geometric law": lambda: ig.modified_equation(stale, QUIET),
        "no modified equation is known with Dropping": lambda: ig.modified_equation(dropping, QUIET),
        "Asynchronous is not; simulate it": lambda: ig.moments(dropping, QUIET, x0=X0, steps=3),
    }
    for message, make in refusals.items():
        with pytest.raises(ValueError, match=message):
            make()
    for arguments in ((ig.SGD(0.1), 2), ("sgd", Fixed(2)), (ig.SGD(0.1), Fixed(2), "gap")):
        with pytest.raises(TypeError, match="must be a"):
            Asynchronous(*arguments)
