"""Staleness as momentum of the mean (Mitliagkas, Zhang, Hadjis, Ré 2016, read; theory: asynchrony 2.1).

With Δ_k = x_k − x_{k−1} and independent delays of any law q, plain SGD obeys (Theorem 2)

    E Δ_{k+1} = E Δ_k − η q_0 E∇L(x_k) + η Σ_l (q_l − q_{l+1}) E∇L(x_{k−l−1}),

which for geometric delays is heavy ball with momentum μ_S and a gradient multiplied by 1 − μ_S (Theorem 3); M equal
exponential workers have μ_S = 1 − 1/M (Theorem 5). With explicit momentum μ_L beside it the two filters stand in
cascade (Theorem 6; factorised: derived), B the back-shift:

    (1 − μ_S B)(1 − μ_L B) E Δ_{k+1} = −(1−μ_S) η E∇L(x_k).

There is no single exact total momentum: the poles are μ_S and μ_L, and the low-frequency gain η/(1−μ_L) is that of the
explicit momentum alone. On a quadratic the mean shrinks by γ a step (Theorem 7), the largest root in modulus of

    r³ − z r² + (μ_S+μ_L+μ_Sμ_L) r − μ_Sμ_L,      z = 1 + μ_S + μ_L − (1−μ_S) ηh,

over the curvatures h. All of this is about expectations: γ < 1 does not bound the variance (`mean_square_rate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from itograd.asynchrony.staleness import TOLERANCE, Staleness
from itograd.validation import require, require_number


def implicit_momentum(staleness: Staleness) -> float:
    """μ_S of a law with geometric delays: 1 − 1/M for M equal exponential workers.

    Raises ValueError for other laws, which act as no single momentum: see `memory_kernel`.

    >>> from itograd.asynchrony import WorkerQueue
    >>> implicit_momentum(WorkerQueue(8))
    0.875
    """
    ratio = staleness.geometric_ratio
    if ratio is not None:
        return float(ratio)
    if staleness.mean == 0:
        return 0.0
    raise ValueError(
        f"{staleness!r} acts as no single momentum: only geometric delays do, P(τ=l) = (1−μ) μ^l. Its exact memory of "
        "past gradients is memory_kernel(law)"
    )


class MemoryKernel(NamedTuple):
    """Theorem 2: the weights of −η ∇L(x_k) and of η ∇L(x_{k−1}), η ∇L(x_{k−2}), … in E Δ_{k+1} − E Δ_k."""

    current: float
    past: np.ndarray


def memory_kernel(staleness: Staleness, tolerance: float = TOLERANCE) -> MemoryKernel:
    """q_0, and q_l − q_{l+1} for l = 0, 1, …, of any law of delays: what the mean of SGD remembers.

    Exact for independent delays, and for a queue where its mean read has the marginal law as weights (equal
    exponential workers). `past` sums to `current`: the memory shifts gradients in time and adds none.

    >>> from itograd.asynchrony import Fixed
    >>> kernel = memory_kernel(Fixed(2))
    >>> kernel.current, kernel.past.tolist()
    (0.0, [0.0, -1.0, 1.0])
    """
    q = staleness.probabilities(tolerance)
    return MemoryKernel(float(q[0]), q - np.append(q[1:], 0.0))


@dataclass(frozen=True)
class MomentumCascade:
    """Implicit and explicit momentum in one mean dynamics (Theorem 6), with its rate (Theorem 7).

    >>> MomentumCascade(implicit_momentum=0.5, explicit_momentum=-0.22, learning_rate=0.7822).rate([1.0, 5.0]).round(4)
    np.float64(0.6696)
    """

    implicit_momentum: float
    explicit_momentum: float
    learning_rate: float

    def __post_init__(self):
        require(0 <= self.implicit_momentum < 1, f"implicit_momentum must be in [0, 1): got {self.implicit_momentum:g}")
        require_number("explicit_momentum", self.explicit_momentum, minimum=-1, maximum=1, exclusive=True)
        require_number("learning_rate", self.learning_rate, minimum=0, exclusive=True)

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """(a, b, c) of E Δ_{k+1} = a E Δ_k − b E Δ_{k−1} − c E∇L(x_k)."""
        implicit, explicit = self.implicit_momentum, self.explicit_momentum
        return implicit + explicit, implicit * explicit, (1 - implicit) * self.learning_rate

    def rate(self, curvature) -> float:
        """γ: the slowest factor a step of E x over the curvatures. The two extreme ones decide (theory 2.6)."""
        total, product, gain = self.coefficients
        curvatures = np.atleast_1d(np.asarray(curvature, float))
        companion = np.zeros((len(curvatures), 3, 3))
        companion[:, 0, 0] = 1 + total - gain * curvatures
        companion[:, 0, 1], companion[:, 0, 2] = -(total + product), product
        companion[:, 1, 0] = companion[:, 2, 1] = 1
        return np.abs(np.linalg.eigvals(companion)).max()
