"""Hardware against statistical efficiency: time to a target loss, by the number of workers (theory: asynchrony 2.2).

    time = steps × time per step

M asynchronous workers write M/E[T] gradients in unit time, T the service time of one, and each write is a step. M
synchronous workers make one step, with the mean of their M gradients, in E max(T₁ … T_M): the hardware speed-up of
asynchrony is M E max/E[T] a gradient, E max/E[T] = H_M = 1 + ½ + … + 1/M for exponential times. Staleness and noise
decide the steps: they are counted on the exact expected loss of a quadratic, in its eigen-directions,

    E L(x_k) − min L = Σ_i ½ h_i E x_i²(k),

which decouple for additive noise (theory 1.8). Fewer workers have less throughput and more workers have staler
gradients, which need a smaller learning rate: in between there is a best M.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import xarray as xr

from itograd.analysis.affine_rule import affine_modes, unpacked
from itograd.analysis.moments import start_point
from itograd.asynchrony.closed_law import closed_law
from itograd.asynchrony.moments import StaleMoments, stale_moments
from itograd.asynchrony.service import Service, service_law
from itograd.asynchrony.stability import largest_stable_learning_rate
from itograd.asynchrony.staleness import Fixed, Staleness
from itograd.asynchrony.worker_queue import WorkerQueue
from itograd.optimizers.optimizer import Optimizer
from itograd.problems.problem import Problem
from itograd.simulation.affine import affine_map
from itograd.simulation.precision import as_traced, double
from itograd.validation import require, require_count, require_number

SCHEMES = ("asynchronous", "synchronous")
LONGEST_RING = 64  # delays whose moments are still found in seconds
BLOCK = 64  # steps whose losses are found at once


def time_to_target(
    optimizer: Optimizer,
    problem: Problem,
    target: float,
    *,
    x0=None,
    workers: Sequence[int] = (1, 2, 4, 8, 16, 32),
    service: str | Service = "exponential",
    staleness: Callable[[int], Staleness] | None = None,
    tune_learning_rate: bool = True,
    max_steps: int = 100_000,
) -> xr.Dataset:
    """Predicted time until the expected loss is first at most `target`, for numbers of workers, in both schemes.

    `steps`, `time_per_step`, `time` and `learning_rate` over (scheme, workers); `time` is infinite where the target is
    not reached within `max_steps`, as below the noise floor. Time is in the unit of `service`, a law of
    `asynchrony.service` or its name: 1 is the mean of all but `Uniform` and `Empirical`. `staleness` gives the law of M
    workers: by default that of their queue, exact for exponential and deterministic times, else simulated and taken as
    independent, up to 64 delays (`closed_law.py`). With `tune_learning_rate` each number of workers has its best rate,
    else the optimiser's own. The best number of workers is `result["time"].idxmin("workers")`.

    Assumes a quadratic problem with additive noise, a batch of the problem's size for each worker, and workers of one
    speed whose time is spent on gradients. Raises ValueError where this does not hold.

    >>> import itograd as ig
    >>> problem = ig.problems.Quadratic(1.0, 1.0)
    >>> costs = time_to_target(ig.SGD(0.1), problem, 0.05, x0=[10.0], workers=[1, 4, 16])
    >>> costs["time"].idxmin("workers").astype(int).values.tolist()
    [16, 16]
    """
    for count in workers:
        require_count("workers", count)
    require_count("max_steps", max_steps)
    times = service_law(service)
    law_of = staleness or (lambda count: closed_law(WorkerQueue(count, times), longest=LONGEST_RING)[0])
    modes, laws = _modes_of(problem, x0, target), [law_of(count) for count in workers]
    rows: dict[str, list] = {scheme: [] for scheme in SCHEMES}
    for count, stale in zip(workers, laws):
        for scheme, law, averaged, time_per_step in (
            ("asynchronous", stale, 1, times.mean / count),
            ("synchronous", Fixed(0), count, times.mean_of_largest(count)),
        ):
            rate, steps = _best_rate(optimizer, law, modes, averaged, max_steps, tune_learning_rate)
            rows[scheme].append((steps, time_per_step, steps * time_per_step, rate))
    table = np.array([rows[scheme] for scheme in SCHEMES])  # (scheme, workers, quantity)
    names = ("steps", "time_per_step", "time", "learning_rate")
    return xr.Dataset(
        {name: (("scheme", "workers"), table[:, :, i]) for i, name in enumerate(names)},
        {"scheme": list(SCHEMES), "workers": list(workers)},
        {"optimizer": repr(optimizer), "problem": repr(problem), "target": float(target)},
    )


@dataclasses.dataclass(frozen=True)
class _Modes:
    """The directions of a quadratic: curvatures, noise variances, squared starts; and the excess loss aimed at."""

    curvatures: np.ndarray
    noise: np.ndarray
    squared_start: np.ndarray
    excess: float


def _modes_of(problem: Problem, x0, target) -> _Modes:
    require(
        problem.is_quadratic and problem.has_additive_noise,
        f"the time to a target is predicted on quadratics with additive noise: got {type(problem).__name__}; simulate "
        "it instead",
    )
    require_number("target", target)
    point = start_point(problem, x0)
    with double():
        exact = as_traced(problem, "float64")
        hessian, shift = affine_map(exact.gradient, jnp.zeros(problem.dim))
        curvatures, basis = np.linalg.eigh(hessian)
        require(curvatures[0] > 0, f"the curvatures must be positive: the smallest is {curvatures[0]:.3g}")
        minimizer = np.linalg.solve(hessian, -shift)
        excess = float(target) - float(exact.loss(jnp.asarray(minimizer)))
        noise = np.diag(basis.T @ np.asarray(exact.noise_covariance(jnp.asarray(minimizer))) @ basis)
    require(excess > 0, f"target must be above the smallest loss, {float(target) - excess:.6g}: got {target:g}")
    return _Modes(curvatures, noise, (basis.T @ (point - minimizer)) ** 2, excess)


def _best_rate(optimizer, law, modes: _Modes, averaged: int, max_steps: int, tuned: bool) -> tuple[float, float]:
    """The learning rate, of the tuned ones the fastest, and its steps to the target."""
    if not tuned:
        return optimizer.learning_rate, _steps(optimizer, law, modes, averaged, max_steps)
    limit = largest_stable_learning_rate(optimizer, law, float(modes.curvatures[-1]))
    best, best_steps = limit, np.inf
    rates = limit * np.geomspace(1e-3, 0.99, 24)
    for _ in range(2):  # the second scan is between the neighbours of the best of the first
        for rate in rates:
            new = dataclasses.replace(optimizer, learning_rate=float(rate))
            steps = _steps(new, law, modes, averaged, int(min(max_steps, best_steps)))
            if steps < best_steps:
                best, best_steps = float(rate), steps
        rates = best * np.geomspace(0.75, 4 / 3, 13)
        rates = rates[rates < limit]
    return best, best_steps


def _steps(optimizer, law, modes: _Modes, averaged: int, max_steps: int) -> float:
    """The first step at which the expected loss is at most the target; ∞ if none is."""
    rules = affine_modes(optimizer, modes.curvatures.tolist())
    parts = [
        _squared_moments(stale_moments(rule, law), float(noise) / averaged) for rule, noise in zip(rules, modes.noise)
    ]
    step = np.array([matrix for matrix, _, _ in parts])  # (mode, moment, moment)
    watched = 0.5 * modes.curvatures[:, None] * np.array([squared for _, squared, _ in parts])
    now = np.array([start(x2) for (_, _, start), x2 in zip(parts, modes.squared_start)])
    rows = [watched]
    for _ in range(BLOCK - 1):
        rows.append(np.einsum("im,imn->in", rows[-1], step))
    losses, jump = np.array(rows), np.linalg.matrix_power(step, BLOCK)
    for done in range(0, max_steps + 1, BLOCK):
        reached = np.flatnonzero(np.einsum("kin,in->k", losses, now) <= modes.excess)
        if len(reached):
            steps = done + int(reached[0])
            return float(steps) if steps <= max_steps else np.inf
        now = np.einsum("imn,in->im", jump, now)
        if not np.isfinite(now).all():
            break
    return np.inf


def _squared_moments(closure: StaleMoments, noise: float):
    """(T, o, start) with (E y yᵀ, E q², 1) one step later by T, E x² = o · (…), and its start from x₀²."""
    (f,), _, (n,), (g,) = closure.matrices(np.array([1]))
    size = len(f)
    upper = np.triu_indices(size)
    count = len(upper[0])
    (q, _), (o, _) = closure.read, closure.rule.observe

    def advanced(z):
        y, squared, one = unpacked(z[:count], size), z[count : count + 1].reshape(1, 1), z[-1]
        spread = squared - q @ y @ q.T
        y = f @ y @ f.T + n @ spread @ n.T + one * noise * g @ g.T
        squared = closure.squared_read(squared, np.zeros(size), y)
        return np.concatenate([y[upper], squared.ravel(), [one]])

    step = np.array([advanced(e) for e in np.eye(count + 2)]).T
    observe = np.concatenate([o[0], np.zeros(size - o.shape[1])])
    squared = [observe @ unpacked(e, size) @ observe for e in np.eye(count)]
    mean, _, read = closure.start(np.ones(1))
    unit = np.concatenate([np.outer(mean, mean)[upper], read.ravel(), [0.0]])
    constant = np.concatenate([np.zeros(count + 1), [1.0]])
    return step, np.array([*squared, 0.0, 0.0]), lambda x2: x2 * unit + constant
