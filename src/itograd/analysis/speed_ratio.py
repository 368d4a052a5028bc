"""The speed of an adaptive rule in SDE time: what the signal in its second moment, and averaging too little, take away.

Per coordinate, with ∇F the gradient with its coupled decay and Σ the covariance of the batch gradient (theory 2.7,
amendment 7; what concerns ε and the averaging: derived),

    r² = (∂F)²/Σ_ii,      v settles at Σ_ii + (∂F)²

The SDE leaves the signal out of v. For a batch κ times larger, scaled by the square-root rule, r² becomes κ r²; with
the rates and ε of the base rule (ε_r inside the root, ε outside) a coordinate moves per SDE time by −∂F/P(κ),

    P(κ) = √(Σ_ii + κ (∂F)² + ε_r) + ε,      κ = 0: the SDE,      κ = 1: the base rule

    s(κ) = P(1)/P(κ),                                        √((1+r²)/(1+κr²)) for ε = ε_r = 0
    κ_max = ([P(1)/(1−δ) − ε]² − Σ_ii − ε_r)/(∂F)²,          ((1+r²)/(1−δ)² − 1)/r²; there s = 1 − δ

The rate that keeps the speed is η √κ √((1+κr²)/(1+r²)), of local exponent ½ + ½ κr²/(1+κr²) in κ: ½ where noise
dominates, ¾ at κ = 1/r², and from there on it is the linear rule's 1.

v averages 1/(1−b₂) steps only. To first order in 1−b₂, for Gaussian noise and little signal, the mean step of m/√v
(b₁ = 0 for RMSprop) is that of the settled v times 1 + a,

    a = q − (1−b₁)(1−b₂)/(1−b₁b₂),      q = (3/4) (1−b₂)/(1+b₂)

(the second term of a times b₁ for the old denominator), with q from the convexity of 1/√v and the rest from the
gradients that m and v share. The two may cancel in the mean: q has to be small by itself. An excess kurtosis k/B of the
batch noise adds (3/8)(k/B)(1−b₂)/(1+b₂) to q, which the scaling keeps: what changes with κ is as for Gaussian noise.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import ArrayLike


def denominator(squared_gradient, noise_variance, batch_factor, eps=0.0):
    """P(κ) = √(Σ_ii + κ (∂F)²) + ε, in the units of the base rule; ε_r belongs to `noise_variance`."""
    return np.sqrt(noise_variance + batch_factor * squared_gradient) + eps


def speed_ratio(squared_signal: ArrayLike, batch_factor: float, eps: ArrayLike = 0.0):
    """The speed, in SDE time, of a coordinate after scaling by the square-root rule, over that before.

        s(κ) = (√(1+r²) + e)/(√(1+κr²) + e),      e = ε/√Σ_ii

    `squared_signal` is r² (infinity: no noise), `eps` is e. The limits are 1 for r → 0 and 1/√κ for r → ∞.

    >>> float(speed_ratio(1.0, batch_factor=7))
    0.5

    Source: theory, amendment 7; ε: derived.
    """
    r2, e = np.broadcast_arrays(np.asarray(squared_signal, float), eps)
    finite = np.isfinite(r2)
    bounded = np.where(finite, r2, 1.0)
    ratio = denominator(bounded, 1.0, 1.0, e) / denominator(bounded, 1.0, batch_factor, e)
    return np.where(finite, ratio, batch_factor**-0.5)


def largest_batch_factor(squared_signal: ArrayLike, tolerance: float, eps: ArrayLike = 0.0):
    """κ_max: the batch factor at which the speed of a coordinate has fallen to 1 − δ; infinite for r = 0.

        κ_max = ([(√(1+r²) + e)/(1−δ) − e]² − 1)/r²,      e = ε/√Σ_ii

    >>> round(float(largest_batch_factor(0.01, tolerance=0.05)), 2)
    11.91

    Source: theory, amendment 7; ε: derived.
    """
    r2, e = np.broadcast_arrays(np.asarray(squared_signal, float), eps)
    inner = np.where((r2 > 0) & np.isfinite(r2), r2, 1.0)
    found = ((denominator(inner, 1.0, 1.0, e) / (1 - tolerance) - e) ** 2 - 1) / inner
    return np.where(r2 == 0, np.inf, np.where(np.isinf(r2), (1 - tolerance) ** -2, found))


def averaging_bias(b1: float, b2: float, denominator: str = "new") -> float:
    """a: the relative change of the mean step because v averages few steps; see the head of this file.

    First order in 1 − b₂, Gaussian noise, little signal. b₁ = 0 is RMSprop.

    >>> round(averaging_bias(0.0, 0.99), 5)
    -0.00623

    Source: derived.
    """
    shared = (1 - b1) * (1 - b2) / (1 - b1 * b2)
    return convexity_bias(b2) - (b1 * shared if denominator == "old" else shared)


def convexity_bias(b2: float) -> float:
    """q: the relative excess of the mean of 1/√v, v averaging the squares of Gaussian noise; first order in 1 − b₂.

    >>> round(convexity_bias(0.99), 5)
    0.00377

    Source: derived.
    """
    return 0.75 * (1 - b2) / (1 + b2)
