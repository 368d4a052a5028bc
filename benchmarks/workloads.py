"""The workloads: each as itograd runs it, as JAX is usually written, and in NumPy. All return a mean to compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import itograd as ig
from itograd.simulation import EulerMaruyama

A = np.array([[1.0, 0.3], [0.3, 0.6]])
S = np.array([[0.8, 0.1], [0.1, 0.5]])
X0 = np.array([1.0, 1.5])


@dataclass(frozen=True)
class Workload:
    """`runs` maps a rival's name to a function of a seed that returns the mean of x (or of the loss) and its error."""

    name: str
    path_steps: int
    runs: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]]


def euler_maruyama(paths: int, steps: int, eta: float = 0.01) -> Workload:
    """dX = −AX dt + √η S dW in two dimensions, Euler–Maruyama with Gaussian increments at dt = η."""
    problem = ig.problems.Quadratic(A, S @ S)
    sde = ig.modified_equation(ig.SGD(eta), problem)

    def ours(seed):
        flow = ig.simulate(
            sde, x0=X0, save_at=[steps * eta], dt=eta, scheme=EulerMaruyama(), paths=paths, seed=seed, progress=False
        )
        return flow["mean"].values[-1], flow["mean_standard_error"].values[-1]

    @partial(jax.jit, static_argnums=0)
    def usual(count, key):
        def step(x, k):
            z = jax.random.normal(jax.random.fold_in(key, k), x.shape)
            return x - eta * x @ A.T.astype("float32") + eta * z @ S.T.astype("float32"), None

        return jax.lax.scan(step, jnp.tile(jnp.asarray(X0, jnp.float32), (count, 1)), jnp.arange(steps))[0]

    def with_numpy(seed):
        rng = np.random.default_rng(seed)
        x = np.tile(X0.astype("f4"), (paths, 1))
        for _ in range(steps):
            x = x - eta * x @ A.T.astype("f4") + eta * rng.standard_normal(x.shape, dtype="f4") @ S.T.astype("f4")
        return _summary(x)

    return Workload(
        "Euler–Maruyama, d = 2",
        paths * steps,
        {
            "itograd": ours,
            "jax as usually written": lambda seed: _summary(usual(paths, jax.random.key(seed))),
            "numpy": with_numpy,
        },
    )


def softmax_digits(paths: int, steps: int, rate: float = 0.5, batch_size: int = 32) -> Workload:
    """SGD on softmax regression of the digits: an ensemble of runs, batches with replacement; the final loss."""
    problem = ig.problems.digits(batch_size=batch_size)
    features, labels = (np.asarray(part, np.float32) for part in problem.data)

    def ours(seed):
        runs = ig.simulate(
            ig.SGD(rate),
            problem,
            save_at=[steps * rate],
            paths=paths,
            seed=seed,
            observables={"loss": problem.loss},
            progress=False,
        )
        return runs["mean"].values[-1], runs["mean_standard_error"].values[-1]

    def loss(w, x, y):
        return -(jax.nn.log_softmax(x @ w.T) * y).sum(-1).mean()

    @partial(jax.jit, static_argnums=0)
    def usual(count, key):
        def one(key):
            def step(w, k):
                index = jax.random.randint(jax.random.fold_in(key, k), (batch_size,), 0, len(features))
                return w - rate * jax.grad(loss)(w, jnp.asarray(features)[index], jnp.asarray(labels)[index]), None

            w = jax.lax.scan(step, jnp.zeros((10, features.shape[1])), jnp.arange(steps))[0]
            return loss(w, features, labels)[None]

        return jax.vmap(one)(jax.random.split(key, count))

    return Workload(
        "SGD, softmax digits, batch 32",
        paths * steps,
        {"itograd": ours, "jax as usually written": lambda seed: _summary(usual(paths, jax.random.key(seed)))},
    )


def _summary(x) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(x, np.float64)
    return x.mean(axis=0), x.std(axis=0, ddof=1) / np.sqrt(len(x))
