"""The sources of random numbers for a tile of paths.

    "compiled"  a C library, called through jax.ffi: words are values of (seed, tile, step, lane, path in the tile)
    "jax"       Threefry in plain integer operations: words are values of (seed, path, step, lane)

Draws at another step than the path's own are Threefry's where the path comes first (`routes.py`), as are all that
differ between paths. Both sources give the same laws and other numbers. Which one served is stored with every result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from itograd.simulation import compiled, threefry
from itograd.simulation.draws import DTYPES
from itograd.validation import require, require_choice

SOURCES = ("compiled", "jax")


def noise_source(wanted: str | None = None) -> str:
    """The source of random numbers in use: the one asked for, else the compiled one where it is there.

    >>> noise_source("jax")
    'jax'
    """
    if wanted is None:
        return "compiled" if jax.default_backend() == "cpu" and compiled.available() else "jax"
    require_choice("noise", wanted, SOURCES)
    if wanted == "compiled":
        require(
            jax.default_backend() == "cpu" and compiled.available(),
            f'noise="compiled" is not to be had here: {compiled.reason()}; leave it out, or give noise="jax"',
        )
    return wanted


@dataclass(frozen=True)
class TileNoise:
    """The random numbers of one tile of paths."""

    source: str
    seed: jax.Array  # (2,) uint32
    tile: jax.Array  # its number, uint32
    paths: int  # in a tile

    @cached_property
    def keys(self) -> tuple:
        """The Threefry keys of the paths, two arrays (paths,)."""
        first = self.tile * np.uint32(self.paths)
        return threefry.path_key((self.seed[0], self.seed[1]), first + jnp.arange(self.paths, dtype=jnp.uint32))

    def draw(self, step, ratio=(), *, kind: str, lane: int, count: int, n: int) -> jax.Array:
        """The numbers of one draw at one step, (count, paths)."""
        if self.source == "compiled" and kind == "bits":
            group = jnp.uint32(step) // np.uint32(threefry.steps_served(kind, count, n))
            return threefry.shared_bits(self.words(group, 1, lane=lane), jnp.uint32(step), n)
        if self.source == "compiled":
            return self.block(step, 1, ratio, kind=kind, lane=lane, count=count, n=n)[0]
        return threefry.draw(kind, self.keys, jnp.uint32(step), *ratio, lane=lane, count=count, n=n)

    def block(self, step, steps: int, ratio=(), *, kind: str, lane: int, count: int, n: int) -> jax.Array:
        """The numbers of one draw of the compiled source at the steps step, step+1, …: (steps, count, paths)."""
        parameter = {"index": n, "geometric": (*ratio, n)}.get(kind)
        size = {"lane": lane, "steps": steps, "rows": count, "paths": self.paths, "tile_size": self.paths}
        return compiled.draw(kind, self.seed, self.tile, jnp.uint32(step), parameter=parameter, **size)

    def pairs(self, step, steps: int, ratio=(), *, kind: str, lane: int, count: int, n: int) -> jax.Array:
        """The lanes of one draw of Threefry at the steps step, step+1, …: (steps, ⌈count/2⌉, paths), complex64."""
        keys = self.keys
        at = jnp.uint32(step) + jnp.arange(steps, dtype=jnp.uint32)
        return jax.vmap(lambda s: threefry.pairs(kind, keys, s, *ratio, lane=lane, count=count, n=n))(at)

    def by_path(self, step, ratio=(), *, kind: str, lane: int, count: int, n: int) -> jax.Array:
        """The numbers of one draw of Threefry at one step, (paths, count), computed once however often they are used.

        XLA on a CPU merges a computation into each of its uses; a loop, here over groups of paths, it leaves alone.
        """
        groups = min(4, self.paths)
        keys = tuple(key.reshape(groups, -1) for key in self.keys)

        def of_path(key0, key1):
            law = {"lane": lane, "count": count, "n": n}
            return threefry.pairs(kind, (key0, key1), jnp.uint32(step), *ratio, **law)

        pairs = jax.lax.map(lambda key: jax.vmap(of_path)(*key), keys).reshape(self.paths, -1)
        return jnp.concatenate(threefry.unpaired(pairs, np.dtype(DTYPES[kind])), axis=1)[:, :count]

    def elements(self, step, ratio=(), *, kind: str, lane: int, count: int, n: int) -> list[jax.Array]:
        """The numbers of one draw at one step, each (paths,)."""
        step = jnp.asarray(step, jnp.uint32)
        if self.source == "jax":
            return threefry.elements(kind, self.keys, step, *ratio, lane=lane, count=count, n=n)
        return list(self.draw(step, ratio, kind=kind, lane=lane, count=count, n=n))

    def words(self, first, steps: int, *, lane: int) -> jax.Array:
        """One word at each of the steps first, first+1 …: (steps, paths)."""
        if self.source == "compiled":
            return self.block(first, steps, kind="words", lane=lane, count=1, n=0)[:, 0]
        return threefry.unpaired(self.pairs(first, steps, kind="words", lane=lane, count=1, n=0)[:, 0], jnp.uint32)[0]
