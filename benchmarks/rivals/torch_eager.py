"""PyTorch, eager: a loop over steps, all paths in one tensor (paths, d), float32."""

from __future__ import annotations

import itertools
from functools import singledispatch

from benchmarks.left_out import LeftOut
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

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]


def runner(workload: Workload, cores: int) -> Run:
    """From a seed to moments."""
    if torch is None:
        raise LeftOut("PyTorch is not installed")
    torch.set_num_threads(cores)

    def run(seed: int) -> Moments:
        torch.manual_seed(seed)
        with torch.no_grad():
            points = itertools.islice(_points(workload), workload.save_every - 1, workload.steps, workload.save_every)
            return Moments.of([observables() for observables in points])

    return run


def _tensor(a):
    return torch.tensor(a, dtype=torch.float32)


def _start(w: Workload):
    return _tensor(w.x0).repeat(w.paths, 1)


@singledispatch
def _points(workload):
    """After each step, a function that returns the observables (paths, n)."""
    raise TypeError(f"no loop for {workload!r}")


@_points.register
def _(w: LeastSquares):
    x, features, targets = _start(w), _tensor(w.features), _tensor(w.targets)
    everyone, length = torch.arange(w.paths), w.max_delay + 1
    past = x.repeat(length, 1, 1)
    for k in itertools.count():
        y = x
        if w.max_delay:
            delay = torch.empty(w.paths).geometric_(1 - w.delay_ratio).long() - 1
            y = past[(k - delay.clamp(max=w.max_delay)) % length, everyone]
        i = torch.randint(len(targets), (w.paths,))
        a, b = features[i], targets[i]
        x = x - ETA * a * ((a * y).sum(1) - b)[:, None]
        past[(k + 1) % length] = x
        yield lambda x=x: x.numpy()


@_points.register
def _(w: LinearEquation):
    x, step, noise = _start(w), _tensor(w.matrix).T, _tensor(w.noise).T
    while True:
        z = torch.randn_like(x) if w.increment == "gaussian" else 2 * torch.randint(2, x.shape).float() - 1
        x = x - ETA * (x @ step) + ETA * (z @ noise)
        yield lambda x=x: x[:, :2].numpy()


@_points.register
def _(w: Underdamped):
    x, matrix, noise = _start(w), _tensor(w.matrix).T, _tensor(w.noise).T
    v = torch.zeros_like(x)
    while True:
        z = torch.randn_like(x)
        x, v = x + ETA * v, v - ETA * (w.friction * v + x @ matrix) + ETA * (z @ noise)
        yield lambda x=x: x[:, :2].numpy()


@_points.register
def _(w: Adaptive):
    x, curvature = _start(w), _tensor(w.curvature)
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for k in itertools.count(1):
        g = curvature * x + w.sigma * torch.randn_like(x)
        v = w.b2 * v + (1 - w.b2) * g**2
        if w.rule == "adam":
            m = w.b1 * m + (1 - w.b1) * g
            x = x - w.learning_rate * (m / (1 - w.b1**k)) / (torch.sqrt(v / (1 - w.b2**k)) + w.eps)
        else:
            x = x - w.learning_rate * g / (torch.sqrt(v) + w.eps)
        yield lambda x=x: x[:, :2].numpy()


@_points.register
def _(w: SoftmaxDigits):
    features, labels = _tensor(w.data[0]), torch.tensor(w.data[1].argmax(1))
    weights = torch.zeros(w.paths, features.shape[1], w.data[1].shape[1], requires_grad=True)
    while True:
        chosen = torch.randint(len(features), (w.paths, w.batch_size))
        with torch.enable_grad():
            logits = torch.bmm(features[chosen], weights)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[chosen].flatten(), reduction="sum")
            (gradient,) = torch.autograd.grad(loss / w.batch_size, weights)
        weights -= w.learning_rate * gradient
        yield lambda weights=weights: (weights**2).sum((1, 2))[:, None].numpy()
