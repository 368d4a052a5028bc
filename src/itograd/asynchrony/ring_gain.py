"""The loop gain of independent delays in the frequency domain (derived), for rings too long for a Lyapunov equation.

On h x²/2 let p_k be the point, q(z) = Σ q_l z^{−l}, and P(z) what an impulse of noise in the gradient read makes of the
points, z p-transform of s_{k+1} = A s_k + B h (q(z) R s_k + u_k):

    P(z) = R (z − A − B h q(z) R)⁻¹ B h.

At a growth λ of Cov y the spread V = Σ q_l E p²_{k−l} − E m² and the curvature noise v E q² feed themselves by

    gain(λ) = mean over ω of [ρ Σ q_l λ^{−l} − |q(z)|²] |P(z)|²,      z = √λ e^{iω},   ρ = 1 + v/h²   (Parseval).

The integrand is periodic and analytic, so that the mean over N equal steps errs by (ρ(F)/√λ)^N.
"""

from __future__ import annotations

import math

import numpy as np

from itograd.analysis.affine_rule import AffineRule

SHORTEST = 8  # rings up to here are quicker by a Lyapunov equation
MOST_FREQUENCIES = 1 << 16


def ring_loop_gain(
    rule: AffineRule, weights: np.ndarray, growth: float, radius: float, curvature_variance: float
) -> float | None:
    """gain(λ) for a rule on one eigen-direction and delays of law `weights`; None where N would be too large.

    `radius` is ρ(F); `growth` λ must exceed its square.
    """
    decay = math.log(growth) / 2 - math.log(max(radius, 1e-12))
    count = max(4 * len(weights), math.ceil(36 / decay) if decay > 0 else 1 << 62)
    if count > MOST_FREQUENCIES:
        return None
    count = 1 << (count - 1).bit_length()
    (a,), (b,), _ = rule.update(np.array([1]))
    r, h = rule.read[0], rule.gradient[0].item()
    scale = math.sqrt(growth)
    decayed = weights * scale ** -np.arange(len(weights), dtype=float)
    q = np.fft.rfft(decayed, count)
    z = scale * np.exp(2j * np.pi * np.arange(len(q)) / count)
    resolvent = z[:, None, None] * np.eye(len(a)) - a - h * q[:, None, None] * (b @ r)
    p = np.linalg.solve(resolvent, np.broadcast_to(h * b, (len(q), *b.shape)))
    squared = np.abs((r @ p)[:, 0, 0]) ** 2
    rho = 1 + curvature_variance / h**2
    integrand = (rho * (weights @ growth ** -np.arange(len(weights), dtype=float)) - np.abs(q) ** 2) * squared
    return float((2 * integrand.sum() - integrand[0] - integrand[-1]) / count)
