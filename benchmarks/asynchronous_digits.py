"""Which explicit momentum is best when M workers train a small network: measured, and predicted from its curvature.

Digits, a tanh layer of 8 units, batches of 64, heavy ball with the delays of M exponential workers; L_0 is the loss
at the start. A setting's score is the mean number of steps until the loss of the whole training set is TARGET, over
paths with the same start; a setting of which one path does not get there is out. For each momentum the learning rate is
searched on a grid of ratio 2^¼, and the best momentum on a grid of spacing 0.2. Between grid points the logarithm of
the score is a parabola, of the best point and its two neighbours. All settings of one M see the same batches and
delays, so that they are compared in pairs: errors are those of a bootstrap over paths, which makes the two choices anew
each time. What the parabola misses between grid points is not in them.

The predictions know nothing of these runs. Gradient descent with a small rate goes from the start to TARGET in a time
T:

    h_max    the largest eigenvalue of the Hessian on this way
    h_min    ln(L_0/TARGET)/(2T): a parabola of this curvature, with minimum zero, descends in the same time

and Q = h_max/h_min gives, for one mode of each kind (derived; the network is no quadratic),

    mean           ((√Q−1)/(√Q+1))² − (1−1/M): heavy ball's best momentum less the implicit one, first order
    mean square    the optimum of `itograd.asynchrony.tune`, with ln(L_0/TARGET)/(−2 ln rate) steps
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

import itograd as ig
from itograd.asynchrony import Asynchronous, WorkerQueue, implicit_momentum, tune

TARGET = 0.2
HIDDEN, BATCH_SIZE = 8, 64
MOMENTA = tuple(i / 5 for i in range(-4, 5))
RATIO = 2**0.25  # of neighbouring learning rates
FIRST_RATE = 8.0  # η/(1−μ) where the search starts
DESCENT_RATE, CURVATURE_EVERY = 0.5, 20  # of the gradient descent that the curvatures are measured on
RESAMPLES = 1000


def network():
    """The problem of every run."""
    return ig.problems.digits(model="mlp", hidden=HIDDEN, batch_size=BATCH_SIZE)


class Curvatures(NamedTuple):
    """h_min and h_max of the head of this file, and ln(L_0/TARGET)."""

    smallest: float
    largest: float
    log_fall: float

    @property
    def best_momentum(self) -> float:
        """((√Q−1)/(√Q+1))², heavy ball's without delay or noise."""
        root = math.sqrt(self.largest / self.smallest)
        return ((root - 1) / (root + 1)) ** 2


class Best(NamedTuple):
    """The best setting of one M, each number with its standard error: momentum, rate, steps; and steps at μ = 0."""

    momentum: tuple[float, float]
    rate: tuple[float, float]
    steps: tuple[float, float]
    steps_without: tuple[float, float]


class Search:
    """The steps to TARGET of M workers over the grid. `scores[μ][j]`, (paths,), is that of η/(1−μ) = RATIO^j."""

    def __init__(self, workers: int, paths: int, momenta=MOMENTA, first_rate: float = FIRST_RATE):
        self.workers, self.paths, self.momenta = workers, paths, tuple(momenta)
        self.limit = 120 + 8 * workers  # steps; three times what the best settings need for one worker
        self.problem = network()
        self.scores: dict[float, dict[int, np.ndarray]] = {}
        start = round(math.log(first_rate, RATIO))
        for momentum in sorted(self.momenta, key=abs):
            start = self._search(momentum, start)

    def _search(self, momentum: float, j: int) -> int:
        """Walk downhill on the grid of rates; the best j."""
        row = self.scores[momentum] = {}

        def score(j):
            if j not in row:
                row[j] = self.steps_to_target(momentum, RATIO**j)
            return row[j].mean()

        while not math.isfinite(score(j)) and len(row) < 30:
            j -= 2
        while (best := min((j - 1, j, j + 1), key=score)) != j:
            j = best
        return j

    def steps_to_target(self, momentum: float, effective_rate: float) -> np.ndarray:
        """Of each path; infinite where it does not get there."""
        model = Asynchronous(ig.Momentum(effective_rate * (1 - momentum), momentum), WorkerQueue(self.workers))
        saved = np.unique(np.geomspace(self.limit / 16, self.limit, 24).round())
        how = {"save_at": saved * model.time_per_step, "paths": self.paths, "keep_paths": self.paths}
        run = ig.simulate(model, self.problem, observables=["loss"], progress=False, **how)
        return np.array([crossing(saved, losses) for losses in run["path_values"].values[:, :, 0]])

    @cached_property
    def profiles(self) -> tuple[np.ndarray, np.ndarray]:
        """ln of the best score and of the best η/(1−μ) at each momentum, (resamples, momenta); first of all paths."""
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(self.paths, np.full(self.paths, 1 / self.paths), size=RESAMPLES)
        weights = np.vstack([np.ones(self.paths), drawn]) / self.paths
        found = [[], []]
        for momentum in self.momenta:
            row = {j: steps for j, steps in sorted(self.scores[momentum].items()) if np.isfinite(steps).all()}
            scores = np.log(weights @ np.transpose(list(row.values()))) if row else np.full((len(weights), 1), np.inf)
            j, least = lowest(np.array(list(row) or [0], float), scores)
            for kept, value in zip(found, (least, j * math.log(RATIO))):
                kept.append(value)
        return np.transpose(found[0]), np.transpose(found[1])

    def best(self) -> Best:
        """The best setting, with bootstrap errors."""
        scores, rates = self.profiles
        grid = np.array(self.momenta)
        momentum, least = lowest(grid, scores)
        effective = np.array([np.interp(mu, grid, row) for mu, row in zip(momentum, rates)])
        rate, without = np.exp(effective) * (1 - momentum), np.exp(scores[:, self.momenta.index(0.0)])
        return Best(*((float(x[0]), float(x[1:].std(ddof=1))) for x in (momentum, rate, np.exp(least), without)))

    def profile(self) -> tuple[np.ndarray, np.ndarray]:
        """The best score at each momentum, and its standard error."""
        scores = np.exp(self.profiles[0])
        with np.errstate(invalid="ignore"):
            return scores[0], scores[1:].std(axis=0, ddof=1)


def crossing(steps: np.ndarray, losses: np.ndarray) -> float:
    """The step at which the loss first is TARGET, its logarithm a straight line between save points."""
    below = np.flatnonzero(losses <= TARGET)
    if not below.size:
        return math.inf
    after = below[0]
    if after == 0:
        return float(steps[0])
    before, at = np.log(losses[after - 1] / TARGET), np.log(losses[after] / TARGET)
    return float(steps[after - 1] + (steps[after] - steps[after - 1]) * before / (before - at))


def lowest(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each row over the grid x is least, and its value, by the parabola of the least point and its neighbours."""
    place, value = np.empty(len(rows)), np.empty(len(rows))
    for i, (row, at) in enumerate(zip(rows, rows.argmin(axis=1))):
        place[i], value[i] = x[at], row[at]
        around = slice(at - 1, at + 2)
        if 0 < at < len(x) - 1 and np.isfinite(row[around]).all():
            a, b, c = np.polyfit(x[around] - x[at], row[around], 2)
            if a > 0:
                place[i], value[i] = x[at] - b / (2 * a), c - b**2 / (4 * a)
    return place, value


def curvatures() -> Curvatures:
    """The curvatures on gradient descent's way to TARGET."""
    problem = network()
    loss, gradient = jax.jit(lambda x: problem.loss(x)), jax.jit(jax.grad(problem.loss))
    product = jax.jit(lambda x, v: jax.jvp(jax.grad(problem.loss), (x,), (v,))[1])
    x = jnp.asarray(problem.x0, jnp.float32)
    first, steps, largest = float(loss(x)), 0, 0.0
    while float(loss(x)) > TARGET:
        if steps % CURVATURE_EVERY == 0:
            hessian = LinearOperator(
                (problem.dim,) * 2, lambda v, x=x: np.asarray(product(x, jnp.asarray(v, x.dtype))), dtype=np.float32
            )
            v0 = np.random.default_rng(0).normal(size=problem.dim)
            largest = max(largest, float(eigsh(hessian, 1, which="LA", v0=v0, tol=1e-3)[0][0]))
        x, steps = x - DESCENT_RATE * gradient(x), steps + 1
    log_fall = math.log(first / TARGET)
    return Curvatures(log_fall / (2 * steps * DESCENT_RATE), largest, log_fall)


class Predicted(NamedTuple):
    """For M workers: the first-order momentum, and the mean-square optimum with its steps."""

    mean_momentum: float
    momentum: float
    rate: float
    steps: float


def predicted(workers: int, found: Curvatures) -> Predicted:
    """The predictions of the head of this file."""
    queue = WorkerQueue(workers)
    tuned = tune(queue, found.smallest, found.largest)
    steps = found.log_fall / (-2 * math.log(tuned.rate))
    first_order = found.best_momentum - implicit_momentum(queue)
    return Predicted(first_order, tuned.momentum, tuned.learning_rate, steps)
