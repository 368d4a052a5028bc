"""Streaming moments: means, central moments and covariances of groups of paths, merged in one fixed order.

Merging follows Pébay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order
statistical moments" (2008); everything here is float64. The order is fixed: tiles one by one, sixteen at a time, so
that neither threads nor interruptions can move a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    @classmethod
    def from_sums(cls, count, shift, unit, powers, products=None) -> Moments:
        """The moments of a tile from sums (s, n, 4) of the powers of d = (value − shift)/unit, and of d dᵀ."""
        paths = count[:, None]
        n = np.maximum(paths, 1)
        s1, s2, s3, s4 = np.moveaxis(powers, -1, 0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = s1 / n
            m2 = np.maximum(s2 - mean * s1, 0.0) * unit**2
            m3 = (s3 - 3 * mean * s2 + 2 * mean**2 * s1) * unit**3
            m4 = np.maximum(s4 - 4 * mean * s3 + 6 * mean**2 * s2 - 3 * mean**3 * s1, 0.0) * unit**4
            comoment = None
            if products is not None:
                comoment = products - s1[:, :, None] * s1[:, None, :] / n[:, None]
                comoment = comoment * (unit[:, :, None] * unit[:, None, :])
        return cls(paths, np.where(paths > 0, shift + mean * unit, 0.0), m2, m3, m4, comoment)

    @classmethod
    def merged(cls, groups: Sequence[Moments]) -> Moments:
        """The moments of all groups together: sums of central powers about the common mean."""
        n, c, m2, m3, m4 = (
            np.stack([getattr(g, name) for g in groups]) for name in ("count", "centre", "m2", "m3", "m4")
        )
        total = n.sum(axis=0)
        comoment = None
        with np.errstate(over="ignore", invalid="ignore"):  # powers of numbers near the largest: they become inf
            centre = (n * c).sum(axis=0) / np.maximum(total, 1)
            shift = np.where(n > 0, c - centre, 0.0)
            square = shift**2
            if groups[0].comoment is not None:
                comoment = np.stack([g.comoment for g in groups]).sum(axis=0)
                comoment = comoment + np.einsum("gsk,gsi,gsj->sij", n, shift, shift)
            powers = (
                (m2 + n * square).sum(axis=0),
                (m3 + 3 * shift * m2 + n * square * shift).sum(axis=0),
                (m4 + 4 * shift * m3 + 6 * square * m2 + n * square**2).sum(axis=0),
            )
        return cls(total, centre, *powers, comoment)

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


TILES_PER_GROUP = 16


class Merged:
    """The moments of a stream of tiles: sixteen make a group, and groups are merged one after another."""

    def __init__(self):
        self._groups: Moments | None = None
        self._tiles: list[Moments] = []

    def add(self, tile: Moments) -> None:
        """Add the moments of the next tile."""
        self._tiles.append(tile)
        if len(self._tiles) == TILES_PER_GROUP:
            self.add_group(Moments.merged(self._tiles))
            self._tiles = []

    def add_group(self, group: Moments) -> None:
        """Add the merged moments of the next sixteen tiles."""
        self._groups = group if self._groups is None else Moments.merged([self._groups, group])

    @property
    def total(self) -> Moments:
        """The moments of all tiles so far."""
        rest = [] if self._groups is None else [self._groups]
        if self._tiles:
            rest.append(Moments.merged(self._tiles))
        return Moments.merged(rest)
