"""Streaming moments: means, central moments and covariances of groups of paths, merged in one fixed order.

Merging follows Pébay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order
statistical moments" (2008); everything here is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Moments:
    """Moments at every save point: count (s, 1), and centre and sums of 2nd, 3rd, 4th central powers (s, n)."""

    count: Float[np.ndarray, "s 1"]
    centre: Float[np.ndarray, "s n"]  # the mean; 0 where there is no path
    m2: Float[np.ndarray, "s n"]
    m3: Float[np.ndarray, "s n"]
    m4: Float[np.ndarray, "s n"]
    comoment: Float[np.ndarray, "s n n"] | None = None

    @classmethod
    def of(cls, values: Float[np.ndarray, "s p n"], valid: np.ndarray, covariance: bool = False) -> Moments:
        """The moments of p paths at s save points, over the paths marked in `valid` (s, p)."""
        weight = valid[..., None].astype(float)
        values = np.where(valid[..., None], values, 0.0).astype(float)
        count = weight.sum(axis=1)
        centre = values.sum(axis=1) / np.maximum(count, 1)
        centred = (values - centre[:, None]) * weight
        square = centred**2
        comoment = np.einsum("spi,spj->sij", centred, centred) if covariance else None
        return cls(count, centre, square.sum(1), (square * centred).sum(1), (square**2).sum(1), comoment)

    def merge(self, other: Moments) -> Moments:
        """The moments of both groups together."""
        a, b = self.count, other.count
        n = np.maximum(a + b, 1)
        delta = other.centre - self.centre
        shift = delta / n
        centre = self.centre + b * shift
        cross = a * b * delta * shift
        m2 = self.m2 + other.m2 + cross
        m3 = self.m3 + other.m3 + cross * shift * (a - b) + 3 * shift * (a * other.m2 - b * self.m2)
        m4 = (
            self.m4
            + other.m4
            + cross * shift**2 * (a * a - a * b + b * b)
            + 6 * shift**2 * (a * a * other.m2 + b * b * self.m2)
            + 4 * shift * (a * other.m3 - b * self.m3)
        )
        comoment = None
        if self.comoment is not None and other.comoment is not None:
            outer = delta[:, :, None] * delta[:, None, :]
            comoment = self.comoment + other.comoment + (a * b / n)[:, :, None] * outer
        return Moments(a + b, centre, m2, m3, m4, comoment)

    @property
    def mean(self) -> np.ndarray:
        """The mean (s, n); NaN where there is no path."""
        return np.where(self.count > 0, self.centre, np.nan)

    @property
    def variance(self) -> np.ndarray:
        """The unbiased variance (s, n); NaN below two paths."""
        return self._over(self.m2, self.count - 1)

    @property
    def mean_standard_error(self) -> np.ndarray:
        """√(variance/count)."""
        return np.sqrt(self._over(self.variance, self.count))

    @property
    def variance_standard_error(self) -> np.ndarray:
        """√((μ₄ − (n−3)/(n−1) σ⁴)/n), with the sample's own fourth moment."""
        n = self.count
        fourth = self._over(self.m4, n)
        spread = fourth - self._over((n - 3) * self.variance**2, n - 1)
        return np.sqrt(np.maximum(self._over(spread, n), 0.0))

    @property
    def covariance(self) -> np.ndarray | None:
        """The unbiased covariance matrix (s, n, n)."""
        if self.comoment is None:
            return None
        return self._over(self.comoment, (self.count - 1)[:, :, None])

    @staticmethod
    def _over(numerator, denominator):
        safe = np.where(denominator > 0, denominator, 1.0)
        return np.where(denominator > 0, numerator / safe, np.nan)
