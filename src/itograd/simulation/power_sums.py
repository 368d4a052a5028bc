"""Sums of powers of the observables over the paths of a tile, at one save point.

Sums are halving trees of a fixed shape, about a shift near the mean and in units near the spread, both of a few paths:
one pass, all lanes of the processor, no cancellation worth speaking of and no overflow of a fourth power. Trees are
kept shallow, for they are compiled as straight-line code: eight paths at each save point, eight of these sums for all
save points at once, and what is left is added up in float64 on the host.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_BRANCHES = 8
_SAMPLE = 16
_MOST_APART = 8  # observables that are summed one by one; more are summed as one array


class PowerSums(NamedTuple):
    """Σ 1 over the paths that are alive, and of d = (value − shift)/scale: Σd + i Σd², Σd³ + i Σd⁴, Σ d dᵀ."""

    number: jax.Array  # (partial,)
    shift: jax.Array  # (n,)
    scale: jax.Array  # (n,)
    first: jax.Array  # (n, partial), complex
    second: jax.Array  # (n, partial), complex
    products: jax.Array | None  # (n, n)


def alive_sums(values: list[jax.Array], alive: jax.Array, covariances: bool) -> tuple[jax.Array, list[PowerSums]]:
    """Which paths are alive: those that were, and whose observables (m, paths) are all finite; and sums over them.

    The sums are kept apart by observable, so that each is one loop over the paths; `together` joins them.
    """
    for value in values:
        alive = alive & jnp.isfinite(value).all(axis=0)
    if covariances or sum(len(value) for value in values) > _MOST_APART:
        values = [jnp.concatenate(values)]
    return alive, [_sums(value, alive, covariances) for value in values]


def _sums(value: jax.Array, alive: jax.Array, covariances: bool) -> PowerSums:
    living = alive[:_SAMPLE]
    sample = jnp.where(living, value[:, :_SAMPLE], 0)
    shift = _folded(sample, 1)[:, 0] / jnp.maximum(living.sum(), 1)
    spread = jnp.where(living, jnp.abs(sample - shift[:, None]), 0).max(axis=1)
    scale = jnp.where((spread > 0) & jnp.isfinite(spread), spread, 1)
    d = jnp.where(alive, (value - shift[:, None]) * (1 / scale)[:, None], 0)
    square = d * d
    first, second = lax.complex(d, square), lax.complex(square * d, square * square)
    products = jnp.matmul(d, d.T, precision="highest") if covariances else None
    return PowerSums(_partial(alive.astype(d.dtype)), shift, scale, _partial(first), _partial(second), products)


def together(sums: list[PowerSums]) -> PowerSums:
    """The sums of all observables at all save points (a leading axis), with fewer partial sums left to add up."""
    shift, scale, first, second = (jnp.concatenate(found, axis=1) for found in zip(*(s[1:5] for s in sums)))
    return PowerSums(_partial(sums[0].number), shift, scale, _partial(first), _partial(second), sums[0].products)


def _partial(x: jax.Array) -> jax.Array:
    return _folded(x, max(x.shape[-1] // _BRANCHES, 1))


def _folded(x: jax.Array, width: int) -> jax.Array:
    """Sums of x (…, paths) over paths that are `width` apart, by halving; the number of paths is a power of two."""
    while x.shape[-1] > width:
        half = x.shape[-1] // 2
        x = x[..., :half] + x[..., half:]
    return x


def totals(sums: PowerSums) -> tuple:
    """Count (s,), shift and scale (s, n), sums of powers 1 to 4 (s, n, 4) and products, in float64, on the host."""
    with np.errstate(over="ignore", invalid="ignore"):
        first, second = (np.asarray(x, complex).sum(axis=-1) for x in (sums.first, sums.second))
    powers = np.stack([first.real, first.imag, second.real, second.imag], axis=-1)
    count = np.rint(np.asarray(sums.number, float).sum(axis=-1))
    return count, np.asarray(sums.shift, float), np.asarray(sums.scale, float), powers, sums.products


def unpacked(sums: np.ndarray) -> tuple:
    """The same, without products, from those of the compiled source: float64 numbers as pairs of words (s, n, 7, 2)."""
    found = np.ascontiguousarray(sums).view(np.float64)[..., 0]
    return found[:, 0, 0], found[..., 1], found[..., 2], found[..., 3:]
