"""Exact moments on quadratics where gradients are stale (theory: asynchrony 1.2, 1.8, 2.3; derived there and here).

An affine optimiser (`analysis/affine_rule.py`) reads p_k = R s_k + r and is given the gradient at a stale read q_k:

    s_{k+1} = A s_k + B (H q_k + h + ξ_k) + c,      E ξ = 0,      Cov(ξ | q) = Σ(q).

Let y be the state s and what the law of delays remembers, and m_k = E[q_k | past] = Q y_k + r. With q_k = m_k + u_k,

    y' = F y + f + N u + G ξ,      E y' = F E y + f,      Cov y' = F C Fᵀ + N V Nᵀ + G E[Σ(q)] Gᵀ,

where V = E Cov(u | past) = Cov q − Cov m is the spread of the reads. Three laws close this way:

    independent, geometric     y = (s, m):  m' = μ m + (1−μ) p',   S' = μ S + (1−μ) E p'p'ᵀ,   S = E q qᵀ,   N = G H
    M exponential workers      the same with μ = 1 − 1/M, but the read leaves the pool:   m' has −u/M more, in N
    independent, any q_l       y = (s_k, p_{k−1}, …, p_{k−L+1}):   m = Σ q_l p_{k−l},   S = Σ q_l E p_{k−l} p_{k−l}ᵀ

In a queue of other service laws, or of unequal workers, what is read depends on which worker reads: refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import solve_discrete_lyapunov

from itograd.analysis.affine_rule import (
    AffineRule,
    expected_quadratic,
    moment_recursion,
    require_below,
    unpacked,
)
from itograd.asynchrony.asynchronous import AsynchronousChain
from itograd.asynchrony.staleness import Staleness
from itograd.asynchrony.worker_queue import WorkerQueue
from itograd.validation import require

MAX_UNKNOWNS = 1000  # of the stationary equations: the independent entries of V and of Cov q
MAX_STATE = 2000


def stale_moments(rule: AffineRule, staleness: Staleness) -> StaleMoments:
    """The recursion of an affine rule under a law of staleness; ValueError, with the reason, where none closes."""
    if staleness.mean == 0:
        return RingReads(rule, np.ones(1))
    ratio = staleness.geometric_ratio
    if isinstance(staleness, WorkerQueue) and ratio is not None:
        return AverageReads(rule, ratio, consumed=1 / staleness.workers)
    if not staleness.is_independent:
        raise ValueError(
            f"the moments of {staleness!r} do not close: its delays depend on each other, and not as those of equal "
            "exponential workers do. Simulate it, or take its delays as independent: Pmf(law.probabilities())"
        )
    return RingReads(rule, staleness.probabilities(1e-15)) if ratio is None else AverageReads(rule, ratio)


@moment_recursion.register(AsynchronousChain)
def _(chain, rule):
    return stale_moments(rule, chain.optimizer.staleness)


@dataclass(frozen=True)
class StaleMoments(ABC):
    """The recursion of the head of this file. Its state is E y, Cov y and S = E q qᵀ."""

    rule: AffineRule

    @property
    @abstractmethod
    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(Q, r): the mean read m = Q y + r."""

    @abstractmethod
    def matrices(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(F, f, N, G) at every step."""

    @abstractmethod
    def start(self, x0):
        """The state at step 0, where every read is that of x0."""

    @abstractmethod
    def squared_read(self, before, mean, covariance):
        """S at the mean and covariance of now, and S of one step before."""

    @abstractmethod
    def read_covariance(self, covariance, growth=1.0):
        """Cov q where Cov y has been growing by the factor `growth` a step, for ever."""

    @property
    def has_spread(self) -> bool:
        """Whether reads differ from their mean at all: V ≠ 0."""
        return True

    @property
    def memory(self) -> float:
        """The factor by which S forgets a step, where it is not part of Cov y."""
        return 0.0

    @abstractmethod
    def spread(self, covariance, growth=1.0):
        """V = Cov q − Cov m, in the same case."""

    def advance(self, state, steps):
        mean, covariance, squared = state
        q, shift = self.read
        for f, c, n, g in zip(*self.matrices(steps)):
            m = q @ mean + shift
            read = squared - np.outer(m, m)
            noise = expected_quadratic(self.rule.noise, m, read, self.rule.additive)
            v = read - q @ covariance @ q.T
            covariance = f @ covariance @ f.T + n @ v @ n.T + g @ noise @ g.T
            mean = f @ mean + c
            squared = self.squared_read(squared, mean, covariance)
        return mean, covariance, squared

    def mean_and_covariance(self, state):
        n = self.state_size
        return state[0][:n], state[1][:n, :n]

    @property
    def state_size(self) -> int:
        """The number of components of the optimiser's state s."""
        return self.rule.read[0].shape[1]

    @property
    def dim(self) -> int:
        return self.rule.read[0].shape[0]

    def stationary(self):
        """Cov s. V and Cov q feed Cov y, and come from it: a linear system in their entries alone."""
        (f,), (c,), (n,), (g,) = self.matrices(np.array([1]))
        require_below(np.abs(np.linalg.eigvals(f)).max(), 1.0, "the spectral radius of the mean's map")
        q, shift = self.read
        mean = np.linalg.solve(np.eye(len(f)) - f, c)
        m, d = q @ mean + shift, self.dim
        upper = np.triu_indices(d)
        size = len(upper[0])
        unknowns = size if self.rule.additive else 2 * size  # Cov q acts through Σ(q) alone
        require(
            unknowns <= MAX_UNKNOWNS and len(f) <= MAX_STATE,
            f"the stationary covariance with stale gradients is limited to {MAX_UNKNOWNS} unknowns and a state of "
            f"{MAX_STATE} dimensions: got {unknowns} and {len(f)}; simulate it instead",
        )

        def covariance_of(feedback):
            v, read = unpacked(feedback[:size], d), np.zeros((d, d))
            if not self.rule.additive:
                read = unpacked(feedback[size:], d)
            noise = expected_quadratic(self.rule.noise, m, read, self.rule.additive)
            return solve_discrete_lyapunov(f, n @ v @ n.T + g @ noise @ g.T)

        def fed_back(feedback):
            covariance = covariance_of(feedback)
            parts = [self.spread(covariance)[upper], self.read_covariance(covariance)[upper]]
            return np.concatenate(parts)[:unknowns]

        constant = fed_back(np.zeros(unknowns))
        loop = np.array([fed_back(e) - constant for e in np.eye(unknowns)]).T
        require_below(np.abs(np.linalg.eigvals(loop)).max(), 1.0, "the gain of the mean square's loop")
        feedback = np.linalg.solve(np.eye(unknowns) - loop, constant)
        s = self.state_size
        return covariance_of(feedback)[:s, :s]


@dataclass(frozen=True)
class AverageReads(StaleMoments):
    """Geometric delays: m and S are exponential averages. `consumed` is 1/M where a read leaves the pool, else 0."""

    ratio: float
    consumed: float = 0.0

    @property
    def memory(self):
        return self.ratio

    @property
    def read(self):
        d, n = self.dim, self.state_size
        return np.hstack([np.zeros((d, n)), np.eye(d)]), np.zeros(d)

    def matrices(self, steps):
        a, b, c = self.rule.update(steps)
        (r, r0), (h, h0) = self.rule.read, self.rule.gradient
        new = 1 - self.ratio
        d, n, count = self.dim, self.state_size, len(a)
        forced = b @ h
        kept = np.broadcast_to(self.ratio * np.eye(d), (count, d, d))
        f = np.block([[a, forced], [new * r @ a, kept + new * r @ forced]])
        shift = c + b @ h0
        g = np.concatenate([b, new * r @ b], axis=1)
        leaves = np.vstack([np.zeros((n, d)), self.consumed * np.eye(d)])
        return f, np.concatenate([shift, new * (shift @ r.T + r0)], axis=1), g @ h - leaves, g

    def start(self, x0):
        mean = self.rule.start(x0)
        r, r0 = self.rule.read
        point = r @ mean + r0
        size = len(mean) + len(point)
        return np.concatenate([mean, point]), np.zeros((size, size)), np.outer(point, point)

    def squared_read(self, before, mean, covariance):
        n, (r, r0) = self.state_size, self.rule.read
        point = r @ mean[:n] + r0
        return self.ratio * before + (1 - self.ratio) * (self._point_covariance(covariance) + np.outer(point, point))

    def read_covariance(self, covariance, growth=1.0):
        return (1 - self.ratio) / (1 - self.ratio / growth) * self._point_covariance(covariance)

    def spread(self, covariance, growth=1.0):
        n = self.state_size
        return self.read_covariance(covariance, growth) - covariance[n:, n:]

    def _point_covariance(self, covariance):
        n, r = self.state_size, self.rule.read[0]
        return r @ covariance[:n, :n] @ r.T


@dataclass(frozen=True)
class RingReads(StaleMoments):
    """Independent delays with P(τ = l) = `weights[l]`: the last L−1 points stand beside the state."""

    weights: np.ndarray

    @property
    def has_spread(self):
        return int(np.count_nonzero(self.weights)) > 1

    @cached_property
    def _points(self):
        """P, L × d × (n + (L−1)d): the points p_{k−l} = P_l y + r, newest first."""
        d, n, length = self.dim, self.state_size, len(self.weights)
        points = np.zeros((length, d, n + (length - 1) * d))
        points[0, :, :n] = self.rule.read[0]
        for l in range(1, length):
            points[l, :, n + (l - 1) * d : n + l * d] = np.eye(d)
        return points

    @cached_property
    def _constants(self):
        """The constants of the points: r for the newest, 0 for those that are part of y."""
        constants = np.zeros((len(self.weights), self.dim))
        constants[0] = self.rule.read[1]
        return constants

    @cached_property
    def read(self):
        return np.tensordot(self.weights, self._points, axes=1), self.weights @ self._constants

    def matrices(self, steps):
        a, b, c = self.rule.update(steps)
        h, h0 = self.rule.gradient
        d, n, count = self.dim, self.state_size, len(a)
        q, q0 = self.read
        size = q.shape[1]
        f, shift, g = np.zeros((count, size, size)), np.zeros((count, size)), np.zeros((count, size, d))
        f[:, :n] = b @ h @ q
        f[:, :n, :n] += a
        shift[:, :n], g[:, :n] = c + b @ (h @ q0 + h0), b
        older = self._points[:-1].reshape(-1, size)  # p_{k−1} of the next step is p_k of this one
        f[:, n:], shift[:, n:] = older, self._constants[:-1].reshape(-1)
        return f, shift, g @ h, g

    def start(self, x0):
        mean = self.rule.start(x0)
        r, r0 = self.rule.read
        point = r @ mean + r0
        y = np.concatenate([mean, np.tile(point, len(self.weights) - 1)])
        return y, np.zeros((len(y), len(y))), np.outer(point, point)

    def squared_read(self, before, mean, covariance):
        points = self._points @ mean + self._constants
        return self.read_covariance(covariance) + (self.weights * points.T) @ points

    def read_covariance(self, covariance, growth=1.0):
        return self._weighted(self._points, covariance)

    def spread(self, covariance, growth=1.0):
        return self._weighted(self._points - self.read[0], covariance)  # exactly 0 for a fixed delay

    def _weighted(self, rows, covariance):
        """Σ_l q_l P_l C P_lᵀ."""
        drawn = self.weights > 0
        rows = rows[drawn]
        return np.einsum("lin,ljn,l->ij", rows @ covariance, rows, self.weights[drawn])
