"""Stability under staleness, in the mean and in the mean square (theory: asynchrony 1.8, 2.3; the loop gain: derived).

On one eigen-direction h x²/2 the state y of `moments.py` follows

    E y' = F E y,      Cov y' = F C Fᵀ + V N Nᵀ + v E q² G Gᵀ,      v the variance of the gradient's curvature,

where V, the spread of the reads, and E q² are linear in C and feed it again. So

    stable in the mean            iff   ρ(F) < 1;
    stable in the mean square     iff   ρ(F) < 1 and the loop (V, E q²) → C → (V, E q²) has a spectral radius below 1;
    mean-square rate              √λ a step, where the loop has gain 1 at growth λ (F → F/√λ, N Nᵀ → N Nᵀ/λ).

All maps are positive, so that the criteria are exact. With κ = ηh and ρ = 1 + v/h², SGD has the closed forms

    mean, geometric of either kind      κ < 2(1+μ)/(1−μ)
    independent geometric               2ρμκ² + [ρ(1−μ²) − 2μ(1−μ)] κ < 2(1−μ²)
    M exponential workers               ρMκ² + (ρ−2) κ < 2
    fixed delay, ρ = 1                  κ < 2 sin(π/(2(2τ+1)))

In the mean staleness looks stabilising, since the limit grows with M. In the mean square it costs about √(2/M), and a
fixed delay of the same mean π/(2M): random staleness is more stable than fixed, and far less than the mean says.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from itograd.analysis.affine_rule import affine_modes
from itograd.asynchrony.moments import RingReads, StaleMoments, stale_moments
from itograd.asynchrony.ring_gain import SHORTEST, ring_loop_gain
from itograd.asynchrony.staleness import Fixed, Staleness
from itograd.asynchrony.worker_queue import WorkerQueue
from itograd.optimizers.optimizer import Optimizer
from itograd.optimizers.sgd import SGD
from itograd.simulation.schedule import Schedule
from itograd.validation import require, require_choice, require_number

SENSES = ("mean_square", "mean")


def mean_rate(optimizer: Optimizer, staleness: Staleness, curvature) -> np.ndarray:
    """The factor by which E x shrinks a step, in the long run, on each curvature: the spectral radius of F.

    For momentum under geometric staleness this is the rate of Theorem 7 of Mitliagkas et al. (2016), read. Below 1 it
    says that the expectation converges, and nothing of its variance: see `mean_square_rate`.

    >>> from itograd.asynchrony import WorkerQueue
    >>> mean_rate(SGD(0.025), WorkerQueue(10), 1.0).round(6).item()  # without staleness: 0.975
    0.96
    """
    return _on_each(optimizer, staleness, curvature, lambda mode, h: mode.radius)


def mean_square_rate(
    optimizer: Optimizer, staleness: Staleness, curvature, relative_curvature_variance: float = 0.0
) -> np.ndarray:
    """The factor by which √E x² shrinks a step, in the long run and without additive noise, on each curvature.

    `relative_curvature_variance` is v/h² = Var(a)/(B h²) of a random curvature a. Never below `mean_rate`.

    >>> from itograd.asynchrony import WorkerQueue
    >>> mean_square_rate(SGD(0.3), WorkerQueue(32), [0.5, 1.0]).round(3).tolist()
    [0.993, 1.002]
    """
    require_number("relative_curvature_variance", relative_curvature_variance, minimum=0)

    def rate(mode, h):
        return mode.mean_square_radius(relative_curvature_variance * h**2)

    return _on_each(optimizer, staleness, curvature, rate)


def is_stable(
    optimizer: Optimizer,
    staleness: Staleness,
    curvature: float,
    sense: str = "mean_square",
    relative_curvature_variance: float = 0.0,
) -> bool:
    """Whether the optimiser is stable on the curvature, in the sense "mean_square" or "mean"."""
    require_choice("sense", sense, SENSES)
    (mode,) = _modes(optimizer, staleness, [float(curvature)])
    if mode.radius >= 1:
        return False
    return sense == "mean" or mode.loop_gain(1.0, relative_curvature_variance * curvature**2) < 1


def largest_stable_learning_rate(
    optimizer: Optimizer,
    staleness: Staleness,
    curvature: float,
    sense: str = "mean_square",
    relative_curvature_variance: float = 0.0,
) -> float:
    """The learning rate up to which `optimizer`, its other hyperparameters kept, is stable on the curvature.

    By the closed forms of the head of this file for plain SGD, else by bisection on the exact criterion, to 1e-12.
    `sense` is "mean_square" (what a run needs) or "mean"; `relative_curvature_variance` is Var(a)/(B h²), 0 for
    additive noise. The optimiser's own learning rate plays no part.

    Raises ValueError for a curvature that is not positive, a law or optimiser whose moments do not close, or schedules.

    >>> from itograd.asynchrony import WorkerQueue
    >>> round(largest_stable_learning_rate(SGD(1.0), WorkerQueue(10), 1.0), 12)
    0.5
    >>> round(largest_stable_learning_rate(SGD(1.0), WorkerQueue(10), 1.0, sense="mean"), 12)
    38.0
    """
    require_choice("sense", sense, SENSES)
    require_number("curvature", curvature, minimum=0, exclusive=True)
    require_number("relative_curvature_variance", relative_curvature_variance, minimum=0)
    require(hasattr(optimizer, "learning_rate"), f"{type(optimizer).__name__} has no learning rate of its own")
    if type(optimizer) is SGD and optimizer.weight_decay == 0:
        limit = _closed_form(staleness, sense, 1 + relative_curvature_variance)
        if limit is not None:
            return limit / curvature

    def stable(rate):
        new = dataclasses.replace(optimizer, learning_rate=rate)  # type: ignore[call-arg]
        return is_stable(new, staleness, curvature, sense, relative_curvature_variance)

    low = high = 1.0 / curvature
    while not stable(low):
        low, high = low / 2, low
        require(low * curvature > 1e-12, f"no stable learning rate was found for {optimizer!r}")
    while high == low or stable(high):
        low, high = high, 1.25 * high
    while high - low > 1e-12 * high:
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low


def _closed_form(staleness: Staleness, sense: str, rho: float) -> float | None:
    """κ at the limit for plain SGD, None where there is no closed form."""
    if isinstance(staleness, Fixed):
        return 2 * math.sin(math.pi / (2 * (2 * staleness.delay + 1))) if sense == "mean" or rho == 1 else None
    mu = staleness.geometric_ratio
    if mu is None:
        return None
    if sense == "mean":
        return 2 * (1 + mu) / (1 - mu)
    if isinstance(staleness, WorkerQueue):
        return _positive_root(rho * staleness.workers, rho - 2, 2.0)
    if staleness.is_independent:
        return _positive_root(2 * rho * mu, rho * (1 - mu**2) - 2 * mu * (1 - mu), 2 * (1 - mu**2))
    return None


def _positive_root(a: float, b: float, c: float) -> float:
    """The positive root of a κ² + b κ = c, for a ≥ 0 and c > 0."""
    root = math.sqrt(b * b + 4 * a * c)
    return 2 * c / (b + root) if b >= 0 else (root - b) / (2 * a)


def _on_each(optimizer, staleness, curvature, function) -> np.ndarray:
    curvatures = np.asarray(curvature, float)
    require((curvatures > 0).all(), f"curvatures must be positive: got {np.min(curvatures):g}")
    flat = curvatures.ravel().tolist()
    values = [function(mode, h) for mode, h in zip(_modes(optimizer, staleness, flat), flat)]
    return np.reshape(values, curvatures.shape)


@dataclasses.dataclass(frozen=True)
class _Mode:
    """F, N and G on one eigen-direction, and the closure that they belong to."""

    closure: StaleMoments
    f: np.ndarray
    n: np.ndarray
    g: np.ndarray

    @cached_property
    def radius(self) -> float:
        return float(np.abs(np.linalg.eigvals(self.f)).max())

    def loop_gain(self, growth: float, curvature_variance: float) -> float:
        """The spectral radius of (V, v E q²) → C → (V, v E q²) at a growth λ > ρ(F)² of C."""
        if isinstance(self.closure, RingReads) and self.closure.has_spread and len(self.closure.weights) > SHORTEST:
            rule, weights = self.closure.rule, self.closure.weights
            gain = ring_loop_gain(rule, weights, growth, self.radius, curvature_variance)
            if gain is not None:
                return gain

        def spread(c):
            return self.closure.spread(c, growth).item()

        def sampled(c):
            return curvature_variance * self.closure.read_covariance(c, growth).item()

        loops = []  # where each part of the noise enters, and what it is of C
        if self.closure.has_spread:
            loops.append((self.n, spread))
        if curvature_variance > 0:
            loops.append((self.g, sampled))
        try:
            fed = [_lyapunov(self.f / math.sqrt(growth), b @ b.T / growth) for b, _ in loops]
        except np.linalg.LinAlgError:  # λ is ρ(F)² to rounding: at a double root of F
            return math.inf
        gains = np.array([[part(c) for c in fed] for _, part in loops])
        if len(loops) < 2:  # the size alone: next to a double root of F a huge gain may come with either sign
            return abs(float(gains.item())) if loops else 0.0
        return float(np.abs(np.linalg.eigvals(gains)).max())

    def mean_square_radius(self, curvature_variance: float) -> float:
        """√λ with gain 1 at λ; 1/gain rises from 0 at the floor, below which nothing decays."""
        floor = max(self.radius**2, self.closure.memory)

        def excess(growth):
            gain = self.loop_gain(growth, curvature_variance)
            return 1 / gain - 1 if gain > 0 else math.inf

        low, high = floor * (1 + 1e-10) + 1e-14, 1.05 * floor + 1e-9
        if excess(low) > 0:
            return math.sqrt(floor)
        while excess(high) < 0:
            low, high = high, 1.5 * high
        return math.sqrt(brentq(excess, low, high, xtol=1e-14, rtol=1e-12))


def _modes(optimizer: Optimizer, staleness: Staleness, curvatures: list[float]) -> list[_Mode]:
    schedules = [f.name for f in dataclasses.fields(optimizer) if isinstance(getattr(optimizer, f.name), Schedule)]
    require(not schedules, f"stability is that of constant hyperparameters: {', '.join(schedules)} has a schedule")
    modes = []
    for rule in affine_modes(optimizer, curvatures):
        closure = stale_moments(rule, staleness)
        (f,), _, (n,), (g,) = closure.matrices(np.array([1]))
        modes.append(_Mode(closure, f, n, g))
    return modes


def _lyapunov(f, q):
    """C = F C Fᵀ + Q = Σ F^j Q F^{jᵀ}: directly where the state is small, else by doubling the number of terms."""
    size = len(f)
    if size <= 8:
        product = (f[:, None, :, None] * f[None, :, None, :]).reshape(size * size, size * size)
        return np.linalg.solve(np.eye(size * size) - product, q.ravel()).reshape(size, size)
    while True:
        more = f @ q @ f.T
        if not np.abs(more).max() > 1e-16 * np.abs(q).max():
            return q
        q, f = q + more, f @ f
