"""Rules that answer staleness by changing the stale gradient before the optimiser sees it (theory: asynchrony 4).

With g the gradient that was read τ writes ago at x̂, and x the newest point:

    staleness-aware     g / max(1, τ)  or  g / (1 + τ)                    Zhang, Gupta, Lian, Liu 2016 (recalled)
    MindTheStep         C^{−τ} g                                          Bäckström et al. 2019 (derived)
    delay-adaptive      g M / max(M, τ+1)                                 Mishchenko et al. 2022 (read)
    dropping            g where τ <= bound, else 0
    DC-ASGD             g + λ g ⊙ g ⊙ (x − x̂)                             Zheng et al. 2017 (read: MXNet)
    gap-aware           g / (1 + |x − x̂| / (η √E g²)), elementwise        Barkai, Hakimi, Schuster 2020 (read: code)

A factor on g is a factor on the step for SGD and momentum without decay. Adaptive methods divide a constant factor
out again, and keep only what it changes from step to step; decay is not scaled.

Every rule leaves a fresh gradient (τ = 0, x̂ = x) as it is.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from itograd.asynchrony.staleness import Read, Staleness
from itograd.simulation.precision import double
from itograd.validation import require, require_count, require_number

Vector = Float[Array, " d"]
Memory = Any


class Compensation(eqx.Module):
    """A rule that changes a stale gradient; it must leave a fresh one as it is. It may keep a memory of its own."""

    def start(self, point: Vector) -> Memory:
        """The memory before step 0; by default none."""
        return None

    @abstractmethod
    def compensate(self, gradient: Vector, read: Read, point: Vector, memory: Memory) -> tuple[Vector, Memory]:
        """What the optimiser is given for a gradient taken at `read.point` when the newest point is `point`."""


class StepFactor(Compensation):
    """A rule that multiplies the gradient by a function of the delay."""

    @abstractmethod
    def factor(self, delay: Array) -> Array:
        """The factor at a delay, as a float."""

    def mean_factor(self, staleness: Staleness) -> float:
        """E factor(τ), by which the mean step is shortened.

        >>> from itograd.asynchrony import WorkerQueue
        >>> round(StalenessAware().mean_factor(WorkerQueue(10)), 4)
        0.3303
        """
        q = staleness.probabilities(1e-15)
        with double():
            return float(q @ np.asarray(self.factor(jnp.arange(len(q), dtype=float))))

    def compensate(self, gradient, read, point, memory):
        return self.factor(jnp.asarray(read.delay, gradient.dtype)) * gradient, memory


class StalenessAware(StepFactor):
    """The rate over the delay: 1/max(1, τ), or 1/(1+τ) where `plus_one`.

    With geometric delays the mean factor is (1−μ)(1 − ln(1−μ)), or −(1−μ) ln(1−μ)/μ.
    """

    plus_one: bool = eqx.field(static=True, default=False)

    def factor(self, delay):
        return 1 / (1 + delay) if self.plus_one else 1 / jnp.maximum(1, delay)


class MindTheStep(StepFactor):
    """C^{−τ}: it turns the momentum μ of geometric delays into μ/C, at the step (1−μ) η (derived, theory 4).

    E Δ_{k+1} = (μ/C) E Δ_k − (1−μ) η E ∇L(x_k). C > μ is needed for that; E C^{−2τ} is finite for C > √μ alone, so that
    below this the variance of the steps has no bound.
    """

    base: float

    def __check_init__(self):
        require_number("base", self.base, minimum=0, exclusive=True)

    def factor(self, delay):
        return self.base**-delay

    def implicit_momentum(self, staleness: Staleness) -> float:
        """μ/C of a law with geometric delays; ValueError for any other, and where C <= μ.

        >>> from itograd.asynchrony import Geometric
        >>> MindTheStep(1.75).implicit_momentum(Geometric(mean=7))
        0.5
        """
        ratio = staleness.geometric_ratio
        if ratio is None:
            raise ValueError(f"MindTheStep has one momentum for geometric delays alone: got {staleness}")
        require(self.base > ratio, f"MindTheStep needs base > μ={ratio:g}, else its mean is unstable: got {self.base}")
        return ratio / self.base


class DelayAdaptive(StepFactor):
    """M/max(M, τ+1) for M workers: delays beyond a round of all workers are paid for in proportion."""

    workers: int = eqx.field(static=True)

    def __check_init__(self):
        require_count("workers", self.workers)

    def factor(self, delay):
        return self.workers / jnp.maximum(self.workers, delay + 1)


class Dropping(StepFactor):
    """Gradients older than `bound` are thrown away. Their step counts: SGD stands still, momentum and decay go on."""

    bound: int = eqx.field(static=True)

    def __check_init__(self):
        require_count("bound", self.bound, minimum=0)

    def factor(self, delay):
        return jnp.where(delay <= self.bound, 1.0, 0.0)


class CurvatureCompensation(Compensation):
    """g + c ⊙ (x − x̂): the gradient carried from x̂ to x by an estimate c of the Hessian's diagonal."""

    @abstractmethod
    def curvature(self, gradient: Vector, memory: Memory) -> tuple[Vector, Memory]:
        """c."""

    def compensate(self, gradient, read, point, memory):
        curvature, memory = self.curvature(gradient, memory)
        return gradient + curvature * (point - read.point), memory


class DelayCompensated(CurvatureCompensation):
    """DC-ASGD: c = λ g², with λ = `strength`."""

    strength: float = 0.04

    def __check_init__(self):
        require_number("strength", self.strength, minimum=0)

    def curvature(self, gradient, memory):
        return self.strength * gradient**2, memory


class AdaptiveDelayCompensated(CurvatureCompensation):
    """DC-ASGD with c = λ g² / √(v + ε), v ← m v + (1−m) g² from v = 0. (Recalled, not read; theory 4.)"""

    strength: float = 2.0
    memory: float = 0.95
    eps: float = 1e-7

    def __check_init__(self):
        require_number("strength", self.strength, minimum=0)
        require_number("memory", self.memory, minimum=0)
        require(self.memory < 1, f"memory must be in [0, 1): got {self.memory:g}")
        require_number("eps", self.eps, minimum=0, exclusive=True)

    def start(self, point):
        return 0 * point

    def curvature(self, gradient, memory):
        v = self.memory * memory + (1 - self.memory) * gradient**2
        return self.strength * gradient**2 / jnp.sqrt(v + self.eps), v


class GapAware(Compensation):
    """g / (1 + G), where G counts by how many typical steps each coordinate has moved since the read.

    G = |x − x̂| / (η √v̂), v̂ the moving average of g² with its bias corrected, this gradient included; η is the largest
    `learning_rate` of the run. Old gradients are not punished where the parameters barely moved.
    """

    learning_rate: float
    memory: float = 0.999

    def __check_init__(self):
        require_number("learning_rate", self.learning_rate, minimum=0, exclusive=True)
        require_number("memory", self.memory, minimum=0)
        require(self.memory < 1, f"memory must be in [0, 1): got {self.memory:g}")

    def start(self, point):
        return 0 * point, jnp.zeros((), jnp.result_type(float))

    def compensate(self, gradient, read, point, memory):
        v, weight = memory
        v = self.memory * v + (1 - self.memory) * gradient**2
        weight = self.memory * weight + (1 - self.memory)  # 1 − m^k
        typical = self.learning_rate * jnp.sqrt(v / weight)
        gap = jnp.abs(point - read.point)
        gap = jnp.where(gap > 0, gap / jnp.where(typical > 0, typical, 1.0), 0.0)
        return gradient / (1 + gap), (v, weight)
