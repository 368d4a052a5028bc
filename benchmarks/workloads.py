"""The workloads: exact definitions, in NumPy float64. What a runner returns is compared with `benchmarks.closed_forms`.

Every workload starts all its paths at x0, makes `steps` steps and reports mean and variance of a few observables every
`save_every` steps. η = 0.01 and the step size of the equations is η too, so all clocks agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

ETA = 0.01


@dataclass(frozen=True, eq=False)
class Workload:
    """What all have in common; sizes are those of a full run of the fast runners."""

    name: str  # as on the command line
    title: str
    paths: int
    steps: int
    save_every: int
    x0: np.ndarray

    observables: ClassVar[tuple[str, ...]] = ("x0", "x1")

    @property
    def saves(self) -> int:
        return self.steps // self.save_every

    @property
    def dim(self) -> int:
        return len(self.x0)

    def resized(self, paths: int | None = None, steps: int | None = None) -> Workload:
        """The same workload with another number of paths, or of steps (at least one save)."""
        steps = self.steps if steps is None else max(steps, self.save_every)
        return replace(self, paths=self.paths if paths is None else paths, steps=steps - steps % self.save_every)


@dataclass(frozen=True, eq=False)
class LeastSquares(Workload):
    """SGD, batch 1, with replacement: x ← x − η a_i (a_i·y − b_i), y = x or, with `delay_ratio` q, a stale point.

    The delay τ has P(τ = j) = (1−q) q^j; what lies beyond `max_delay` counts as `max_delay`.
    """

    features: np.ndarray  # (n, d), the a_i
    targets: np.ndarray  # (n,), the b_i
    delay_ratio: float = 0.0
    max_delay: int = 0


@dataclass(frozen=True, eq=False)
class LinearEquation(Workload):
    """Euler–Maruyama with step η of dX = −A X dt + √η S dW: x ← x − η A x + η S z."""

    matrix: np.ndarray  # A (d, d)
    noise: np.ndarray  # S (d, d)
    increment: str = "gaussian"  # or "two_point"
    form: str = "matmul"  # how the user wrote the drift: see `benchmarks.itograd_models`


@dataclass(frozen=True, eq=False)
class Underdamped(Workload):
    """Euler–Maruyama with step h = η of dV = −(γV + A X) dt + √η S dW, dX = V dt, from V = 0."""

    matrix: np.ndarray
    noise: np.ndarray
    friction: float = 1.5


@dataclass(frozen=True, eq=False)
class Adaptive(Workload):
    """Adam or RMSprop on the gradient λ x + σ z, coordinate by coordinate."""

    rule: str  # "adam" or "rmsprop"
    curvature: np.ndarray  # λ (d,)
    sigma: float = 0.5
    learning_rate: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True, eq=False)
class SoftmaxDigits(Workload):
    """SGD on softmax regression of `ig.problems.digits`, batches with replacement, from W = 0."""

    learning_rate: float = 0.5
    batch_size: int = 32

    observables: ClassVar[tuple[str, ...]] = ("squared_norm",)

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Features (1400, 65) and one-hot labels (1400, 10)."""
        import itograd as ig

        features, labels = ig.problems.digits(batch_size=self.batch_size).data
        return np.asarray(features, float), np.asarray(labels, float)


@dataclass(frozen=True)
class Moments:
    """What a runner returns: mean and variance of the observables at the save points, over `paths` paths."""

    mean: np.ndarray  # (saves, observables)
    variance: np.ndarray  # the same
    paths: int

    @classmethod
    def of(cls, values) -> Moments:
        """From values (saves, paths, observables)."""
        values = np.asarray(values, float)
        return cls(values.mean(1), values.var(1, ddof=1), values.shape[1])


Run = Callable[[int], Moments]  # from a seed


def two_summands() -> tuple[np.ndarray, np.ndarray]:
    """a (2, 2) and b (2,)."""
    return np.array([[1.2, 0.4], [0.3, -0.9]]), np.array([0.5, -0.7])


def hundred_summands() -> tuple[np.ndarray, np.ndarray]:
    """a (100, 2) and b (100,), rounded to float32."""
    rng = np.random.default_rng(12345)
    a = rng.normal(size=(100, 2)) * np.array([1.0, 0.7])
    b = a @ np.array([0.3, -0.2]) + 0.8 * rng.normal(size=100)
    return a.astype(np.float32).astype(float), b.astype(np.float32).astype(float)


def linear_drift(d: int) -> tuple[np.ndarray, np.ndarray]:
    """A and S, not symmetric, (d, d)."""
    if d == 2:
        return np.array([[1.0, 0.3], [0.2, 0.6]]), np.array([[0.8, 0.1], [-0.2, 0.5]])
    rng = np.random.default_rng(777 + d)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    a = rotation @ np.diag(np.linspace(0.2, 2, d)) @ rotation.T + 0.1 * rng.normal(size=(d, d)) / np.sqrt(d)
    return a, 0.3 * np.eye(d) + 0.5 * rng.normal(size=(d, d)) / np.sqrt(d)


def _start(d: int) -> np.ndarray:
    return np.array([1.0, 1.5]) if d == 2 else np.linspace(-1, 1, d)


def _equation(name, title, paths, d, steps=1000, **how):
    return LinearEquation(name, title, paths, steps, 20, _start(d), *linear_drift(d), **how)


def _in_form(form: str, title: str) -> LinearEquation:
    symmetric = np.array([[1.0, 0.3], [0.3, 0.6]])
    noise = linear_drift(2)[1]
    return LinearEquation(f"drift-{form}", title, 409_600, 1000, 20, _start(2), symmetric, noise, form=form)


def _adaptive(rule: str, title: str) -> Adaptive:
    return Adaptive(rule, title, 20_480, 500, 20, np.ones(20), rule, np.linspace(0.1, 2.0, 20))


# A path of d = 2 takes so little that a million of them are needed before the cost of a call to `simulate` is small.
WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        LeastSquares("sgd-2", "SGD finite sum n=2, d=2", 1_024_000, 1000, 20, _start(2), *two_summands()),
        LeastSquares("sgd-100", "SGD finite sum n=100, d=2", 204_800, 1000, 20, _start(2), *hundred_summands()),
        _equation("em-2", "Euler–Maruyama d=2, Gaussian", 409_600, 2),
        _equation("em-2-two-point", "Euler–Maruyama d=2, two-point", 1_024_000, 2, increment="two_point"),
        _equation("em-20", "Euler–Maruyama dense d=20", 20_480, 20),
        _equation("em-100", "Euler–Maruyama dense d=100", 4096, 100, steps=500),
        Underdamped("underdamped-2", "underdamped d=2", 409_600, 1000, 20, _start(2), *linear_drift(2)),
        Underdamped("underdamped-20", "underdamped d=20", 20_480, 1000, 20, _start(20), *linear_drift(20)),
        LeastSquares("async", "asynchronous SGD, ring of 64", 102_400, 1000, 20, _start(2), *two_summands(), 0.8, 63),
        _adaptive("adam", "Adam d=20"),
        _adaptive("rmsprop", "RMSprop d=20"),
        SoftmaxDigits("softmax", "softmax digits, batch 32", 512, 500, 100, np.zeros(650)),
        _in_form("matmul", "the same d=2 SDE: `A @ x`"),
        _in_form("stack", "the same: `jnp.stack` of scalars"),
        _in_form("sum", "the same: sum over an axis"),
        _in_form("grad", "the same: `jax.grad` of a potential"),
    )
}
