"""NumPy: a loop over steps, all paths at once, float32."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

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
    """From a seed to moments."""

    def run(seed: int) -> Moments:
        saved = []
        for k, values in enumerate(_values(workload, np.random.default_rng(seed)), start=1):
            if k % workload.save_every == 0:
                saved.append(values())
            if k == workload.steps:
                return Moments.of(saved)
        raise AssertionError("the generator of a workload does not end")

    return run


def _start(w: Workload) -> np.ndarray:
    return np.tile(w.x0.astype("f4"), (w.paths, 1))


@singledispatch
def _values(workload, rng):
    """After each step, a function that returns the observables (paths, n)."""
    raise TypeError(f"no loop for {workload!r}")


@_values.register
def _(w: LeastSquares, rng):
    x, features, targets = _start(w), w.features.astype("f4"), w.targets.astype("f4")
    everyone, length = np.arange(w.paths), w.max_delay + 1
    past = np.tile(x, (length, 1, 1))
    k = 0
    while True:
        y = x
        if w.max_delay:
            delay = np.minimum(rng.geometric(1 - w.delay_ratio, w.paths) - 1, w.max_delay)
            y = past[(k - delay) % length, everyone]
        i = rng.integers(len(targets), size=w.paths)
        a, b = features[i], targets[i]
        x = x - np.float32(ETA) * a * ((a * y).sum(1) - b)[:, None]
        k += 1
        past[k % length] = x
        yield lambda x=x: x


@_values.register
def _(w: LinearEquation, rng):
    x, step, noise = _start(w), _matrix(np.eye(w.dim) - ETA * w.matrix), _matrix(ETA * w.noise)
    while True:
        gaussian = w.increment == "gaussian"
        z = rng.standard_normal(x.shape, "f4") if gaussian else 2 * rng.integers(2, size=x.shape).astype("f4") - 1
        x = x @ step + z @ noise
        yield lambda x=x: x[:, :2]


@_values.register
def _(w: Underdamped, rng):
    x, force, noise = _start(w), _matrix(ETA * w.matrix), _matrix(ETA * w.noise)
    v, h = np.zeros_like(x), np.float32(ETA)
    while True:
        z = rng.standard_normal(x.shape, "f4")
        x, v = x + h * v, np.float32(1 - ETA * w.friction) * v - x @ force + z @ noise
        yield lambda x=x: x[:, :2]


@_values.register
def _(w: Adaptive, rng):
    x, curvature, sigma = _start(w), w.curvature.astype("f4"), np.float32(w.sigma)
    m, v, k = np.zeros_like(x), np.zeros_like(x), 0
    b1, b2, eta, eps = (np.float32(number) for number in (w.b1, w.b2, w.learning_rate, w.eps))
    while True:
        k += 1
        g = curvature * x + sigma * rng.standard_normal(x.shape, "f4")
        v = b2 * v + (1 - b2) * g**2
        if w.rule == "adam":
            m = b1 * m + (1 - b1) * g
            x = x - eta * (m / (1 - b1**k)) / (np.sqrt(v / (1 - b2**k)) + eps)
        else:
            x = x - eta * g / (np.sqrt(v) + eps)
        yield lambda x=x: x[:, :2]


@_values.register
def _(w: SoftmaxDigits, rng):
    features, labels = (part.astype("f4") for part in w.data)
    weights = np.zeros((w.paths, features.shape[1], labels.shape[1]), "f4")
    rate = np.float32(w.learning_rate / w.batch_size)
    while True:
        chosen = rng.integers(len(features), size=(w.paths, w.batch_size))
        a = features[chosen]  # (runs, batch, feature)
        logits = a @ weights
        share = np.exp(logits - logits.max(-1, keepdims=True))
        error = share / share.sum(-1, keepdims=True) - labels[chosen]
        weights -= rate * (a.transpose(0, 2, 1) @ error)
        yield lambda weights=weights: (weights**2).sum((1, 2))[:, None]


def _matrix(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a.T, np.float32)
