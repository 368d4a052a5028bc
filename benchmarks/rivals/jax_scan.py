"""JAX as usually written: `lax.scan` over steps, `jax.random` inside, all paths in one array (paths, d)."""

from __future__ import annotations

from functools import singledispatch

import jax
import jax.numpy as jnp
from jax import lax, random

from benchmarks.workloads import (
    ETA,
    Adaptive,
    LeastSquares,
    LinearEquation,
    Moments,
    Run,
    SoftmaxDigits,
    Underdamped,
    Workload,
)


def runner(workload: Workload, cores: int) -> Run:
    """From a seed to moments. The compiler uses the cores that the process may use."""
    start, step, observe = _rule(workload)

    @jax.jit
    def simulate(key):
        def one_step(state, k):
            return step(state, k, random.fold_in(key, k)), None

        def to_save(state, steps):
            state, _ = lax.scan(one_step, state, steps)
            return state, observe(state)

        steps = jnp.arange(workload.steps).reshape(workload.saves, workload.save_every)
        return lax.scan(to_save, start, steps)[1]

    return lambda seed: Moments.of(simulate(random.key(seed)))


def _start(w: Workload) -> jax.Array:
    return jnp.tile(jnp.asarray(w.x0, jnp.float32), (w.paths, 1))


@singledispatch
def _rule(workload):
    """(state at step 0, step(state, k, key), observe(state))."""
    raise TypeError(f"no rule for {workload!r}")


@_rule.register
def _(w: LeastSquares):
    features, targets = jnp.asarray(w.features, jnp.float32), jnp.asarray(w.targets, jnp.float32)
    length = w.max_delay + 1

    def moved(x, y, key):
        i = random.randint(key, (w.paths,), 0, len(targets))
        a, b = features[i], targets[i]
        return x - ETA * a * (jnp.sum(a * y, axis=1) - b)[:, None]

    def step(x, k, key):
        return moved(x, x, key)

    def stale_step(state, k, key):
        x, past = state
        key, other = random.split(key)
        delay = jnp.minimum(random.geometric(other, 1 - w.delay_ratio, (w.paths,)) - 1, w.max_delay)
        x = moved(x, past[(k - delay) % length, jnp.arange(w.paths)], key)
        return x, past.at[(k + 1) % length].set(x)

    if w.max_delay:
        x = _start(w)
        return (x, jnp.tile(x, (length, 1, 1))), stale_step, lambda state: state[0]
    return _start(w), step, lambda x: x


@_rule.register
def _(w: LinearEquation):
    matrix, noise = jnp.asarray(w.matrix, jnp.float32), jnp.asarray(w.noise, jnp.float32)
    draw = random.normal if w.increment == "gaussian" else random.rademacher

    def step(x, k, key):
        z = draw(key, x.shape, jnp.float32)
        return x - ETA * (x @ matrix.T) + ETA * (z @ noise.T)

    return _start(w), step, lambda x: x[:, :2]


@_rule.register
def _(w: Underdamped):
    matrix, noise = jnp.asarray(w.matrix, jnp.float32), jnp.asarray(w.noise, jnp.float32)

    def step(state, k, key):
        v, x = state
        z = random.normal(key, x.shape)
        return v - ETA * (w.friction * v + x @ matrix.T) + ETA * (z @ noise.T), x + ETA * v

    x = _start(w)
    return (jnp.zeros_like(x), x), step, lambda state: state[1][:, :2]


@_rule.register
def _(w: Adaptive):
    curvature = jnp.asarray(w.curvature, jnp.float32)

    def step(state, k, key):
        x, m, v = state
        g = curvature * x + w.sigma * random.normal(key, x.shape)
        v = w.b2 * v + (1 - w.b2) * g**2
        if w.rule == "adam":
            m = w.b1 * m + (1 - w.b1) * g
            m_hat, v_hat = m / (1 - w.b1 ** (k + 1)), v / (1 - w.b2 ** (k + 1))
            return x - w.learning_rate * m_hat / (jnp.sqrt(v_hat) + w.eps), m, v
        return x - w.learning_rate * g / (jnp.sqrt(v) + w.eps), m, v

    x = _start(w)
    return (x, jnp.zeros_like(x), jnp.zeros_like(x)), step, lambda state: state[0][:, :2]


@_rule.register
def _(w: SoftmaxDigits):
    features, labels = (jnp.asarray(part, jnp.float32) for part in w.data)

    def loss(weights, a, label):
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(a @ weights.T) * label, axis=-1))

    def step(weights, k, key):
        chosen = random.randint(key, (w.paths, w.batch_size), 0, len(features))
        gradient = jax.vmap(jax.grad(loss))(weights, features[chosen], labels[chosen])
        return weights - w.learning_rate * gradient

    start = jnp.zeros((w.paths, labels.shape[1], features.shape[1]))
    return start, step, lambda weights: jnp.sum(weights**2, axis=(1, 2))[:, None]
