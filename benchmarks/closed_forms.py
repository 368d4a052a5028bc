"""What every runner must return: moments in float64, and the z-score of a runner's moments against them.

Where the dynamics are linear, exact recursions for mean and covariance. Adam, RMSprop and the softmax ensemble have no
closed form: there the reference is a plain NumPy simulation in float64, with its own standard error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, singledispatch

import numpy as np

from benchmarks.workloads import (
    ETA,
    Adaptive,
    LeastSquares,
    LinearEquation,
    Moments,
    SoftmaxDigits,
    Underdamped,
    Workload,
)

# Rounding in float32: a path's own, and that of a variance made from sums of squares.
_ROUNDING = 4e-7


@dataclass(frozen=True)
class Reference:
    """Moments of the observables at the save points; `paths` is infinite where they are exact."""

    mean: np.ndarray  # (saves, observables)
    variance: np.ndarray
    kurtosis: np.ndarray  # E(x − Ex)⁴ / variance²; 3 is assumed in the closed forms, whose laws are nearly Gaussian
    paths: float = np.inf


def largest_z(workload: Workload, found: Moments) -> float:
    """The largest |z| of the means and variances of a runner; infinite where one is not a number."""
    exact = reference(workload)
    shape = (workload.saves, len(workload.observables))
    if found.mean.shape != shape or found.variance.shape != shape:
        raise ValueError(f"{workload.name}: moments must have shape {shape}: got {found.mean.shape}")
    share = 1 / found.paths + 1 / exact.paths
    scale = np.maximum(1.0, exact.mean**2)
    of_mean = np.sqrt(exact.variance * share) + _ROUNDING * scale
    of_variance = exact.variance * np.sqrt((exact.kurtosis - 1) * share) + _ROUNDING * scale
    z = np.abs([(found.mean - exact.mean) / of_mean, (found.variance - exact.variance) / of_variance])
    return float(z.max()) if np.isfinite(z).all() else np.inf


@lru_cache(maxsize=64)
def reference(workload: Workload) -> Reference:
    """The moments of a workload's observables."""
    return _reference(workload)


@singledispatch
def _reference(workload) -> Reference:
    raise TypeError(f"no reference for {workload!r}")


def _exact(saved) -> Reference:
    """From pairs of mean (d,) and covariance (d, d)."""
    mean = np.array([m[:2] for m, _ in saved])
    variance = np.array([np.diag(c)[:2] for _, c in saved])
    return Reference(mean, variance, np.full(mean.shape, 3.0))


@_reference.register
def _(w: LinearEquation) -> Reference:
    step = np.eye(w.dim) - ETA * w.matrix
    return _linear(w, step, ETA * w.noise, w.x0, first=0)


@_reference.register
def _(w: Underdamped) -> Reference:
    h, eye = ETA, np.eye(w.dim)
    step = np.block([[(1 - h * w.friction) * eye, -h * w.matrix], [h * eye, eye]])
    noise = np.vstack([h * w.noise, np.zeros((w.dim, w.dim))])
    return _linear(w, step, noise, np.concatenate([np.zeros(w.dim), w.x0]), first=w.dim)


def _linear(w, step, noise, start, first) -> Reference:
    mean, covariance, saved = start, np.zeros((len(start), len(start))), []
    for k in range(1, w.steps + 1):
        mean, covariance = step @ mean, step @ covariance @ step.T + noise @ noise.T
        if k % w.save_every == 0:
            saved.append((mean[first:], covariance[first:, first:]))
    return _exact(saved)


@_reference.register
def _(w: LeastSquares) -> Reference:
    """Second moments of the last L points, L the longest delay and one: M[i, j] = E x_{k−i} x_{k−j}ᵀ."""
    length, eta = w.max_delay + 1, ETA
    law = (1 - w.delay_ratio) * w.delay_ratio ** np.arange(length)
    law[-1] = w.delay_ratio**w.max_delay
    hessians = w.features[:, :, None] * w.features[:, None, :]  # (n, d, d)
    offsets = w.features * w.targets[:, None]  # (n, d): the gradient of a summand is H_i y − c_i
    hessian, offset = hessians.mean(0), offsets.mean(0)
    mean = np.tile(w.x0, (length, 1))
    second = np.tile(np.outer(w.x0, w.x0), (length, length, 1, 1))
    saved = []
    for k in range(1, w.steps + 1):
        stale_mean, stale_second = law @ mean, np.einsum("j,jjab->ab", law, second)
        gradient_square = np.mean(
            hessians @ stale_second @ hessians.transpose(0, 2, 1)
            - np.einsum("iab,b,ic->iac", hessians, stale_mean, offsets)
            - np.einsum("ia,b,icb->iac", offsets, stale_mean, hessians)
            + offsets[:, :, None] * offsets[:, None, :],
            axis=0,
        )
        # E g x_{k−l}ᵀ for all l, where the delay is independent of the past
        cross = hessian @ np.einsum("j,jlab->lab", law, second) - offset[:, None] * mean[:, None, :]
        newest = second[0, 0] - eta * (cross[0] + cross[0].T) + eta**2 * gradient_square
        with_older = second[0, :-1] - eta * cross[:-1]
        shifted = np.empty_like(second)
        shifted[1:, 1:], shifted[0, 0] = second[:-1, :-1], newest
        shifted[0, 1:], shifted[1:, 0] = with_older, with_older.transpose(0, 2, 1)
        mean = np.vstack([mean[0] - eta * (hessian @ stale_mean - offset), mean[:-1]])
        second = shifted
        if k % w.save_every == 0:
            saved.append((mean[0], second[0, 0] - np.outer(mean[0], mean[0])))
    return _exact(saved)


@_reference.register
def _(w: Adaptive, paths: int = 20_000) -> Reference:
    """By simulation of the first two coordinates, which do not know of the others."""
    rng = np.random.default_rng(2024)
    x = np.tile(w.x0[:2], (paths, 1))
    m, v, saved = np.zeros_like(x), np.zeros_like(x), []
    for k in range(1, w.steps + 1):
        g = w.curvature[:2] * x + w.sigma * rng.standard_normal(x.shape)
        v = w.b2 * v + (1 - w.b2) * g**2
        if w.rule == "adam":
            m = w.b1 * m + (1 - w.b1) * g
            x = x - w.learning_rate * m / (1 - w.b1**k) / (np.sqrt(v / (1 - w.b2**k)) + w.eps)
        else:
            x = x - w.learning_rate * g / (np.sqrt(v) + w.eps)
        if k % w.save_every == 0:
            saved.append(x)
    return _sampled(np.array(saved))


@_reference.register
def _(w: SoftmaxDigits, runs: int = 256) -> Reference:
    rng = np.random.default_rng(2024)
    features, labels = w.data
    weights = np.zeros((runs, features.shape[1], labels.shape[1]))
    saved = []
    for k in range(1, w.steps + 1):
        chosen = rng.integers(len(features), size=(runs, w.batch_size))
        a = features[chosen]  # (runs, batch, feature)
        logits = a @ weights
        share = np.exp(logits - logits.max(-1, keepdims=True))
        error = share / share.sum(-1, keepdims=True) - labels[chosen]
        weights -= w.learning_rate / w.batch_size * a.transpose(0, 2, 1) @ error
        if k % w.save_every == 0:
            saved.append((weights**2).sum((1, 2))[:, None])
    return _sampled(np.array(saved))


def _sampled(x: np.ndarray) -> Reference:
    """From values (saves, paths, observables)."""
    deviation = x - x.mean(1, keepdims=True)
    variance = x.var(1, ddof=1)
    return Reference(x.mean(1), variance, (deviation**4).mean(1) / variance**2, x.shape[1])
