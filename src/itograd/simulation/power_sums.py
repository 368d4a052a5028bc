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
from jax import lax

_BRANCHES = 8
_SAMPLE = 16
_MOST_APART = 8  # observables that are summed one by one; more are summed as one array


class PowerSums(NamedTuple):
    """Σ 1 over the paths that are alive, and of d = (value − shift)/scale: Σd + i Σd², Σd³ + i Σd⁴, Σ d dᵀ."""

    count: jax.Array  # ()
    shift: jax.Array  # (n,)
    scale: jax.Array  # (n,)
    first: jax.Array  # (n, partial), complex
    second: jax.Array  # (n, partial), complex
    products: jax.Array | None  # (n, n)


def alive_sums(values: list[jax.Array], alive: jax.Array, covariances: bool) -> tuple[jax.Array, PowerSums]:
    """Which paths are alive: those that were, and whose observables (m, paths) are all finite; and sums over them."""
    for value in values:
        alive = alive & jnp.isfinite(value).all(axis=0)
    if sum(len(value) for value in values) > _MOST_APART:
        values = [jnp.concatenate(values)]
    parts = [_sums(value, alive) for value in values]
    shift, scale, first, second, deviations = (jnp.concatenate(found) for found in zip(*parts))
    products = jnp.matmul(deviations, deviations.T, precision="highest") if covariances else None
    return alive, PowerSums(alive.sum(dtype=jnp.int32), shift, scale, first, second, products)


def _sums(value: jax.Array, alive: jax.Array) -> tuple[jax.Array, ...]:
    sample = value[:, :_SAMPLE]
    shift = _folded(jnp.where(jnp.isfinite(sample), sample, 0), 1)[:, 0] / sample.shape[1]
    spread = jnp.abs(sample - shift[:, None]).max(axis=1)
    scale = jnp.where((spread > 0) & jnp.isfinite(spread), spread, 1)
    d = jnp.where(alive, (value - shift[:, None]) * (1 / scale)[:, None], 0)
    square = d * d
    first, second = lax.complex(d, square), lax.complex(square * d, square * square)
    width = max(value.shape[1] // _BRANCHES, 1)
    return shift, scale, _folded(first, width), _folded(second, width), d


def smaller(sums: PowerSums) -> PowerSums:
    """The same sums, with fewer partial sums left to add up."""
    width = max(sums.first.shape[-1] // _BRANCHES, 1)
    return sums._replace(first=_folded(sums.first, width), second=_folded(sums.second, width))


def _folded(x: jax.Array, width: int) -> jax.Array:
    """Sums of x (…, paths) over paths that are `width` apart, by halving; the number of paths is a power of two."""
    while x.shape[-1] > width:
        half = x.shape[-1] // 2
        x = x[..., :half] + x[..., half:]
    return x
