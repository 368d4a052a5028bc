"""The engine: runs a chain for many paths and returns the observables at the save points.

Paths are run in tiles of a fixed size, which depends on the dimension alone; the last tile is filled up with paths
that are then dropped. Every compiled call has one shape, so the bytes of a path depend on the chain, the seed and the
number of the path, and on neither the number of paths nor of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from itograd.simulation.chain import Chain
from itograd.simulation.draws import INITIAL, Draws, path_key, seed_words
from itograd.simulation.interrupt import wait_for
from itograd.simulation.precision import as_traced, precision
from itograd.simulation.statistics import Moments
from itograd.validation import require

_TILE_BY_DIMENSION = ((8, 1024), (64, 256), (2048, 32))
_TILE_BEYOND = 8


def tile_size(dim: int) -> int:
    """The number of paths in one compiled call, by the dimension of the problem."""
    return next((tile for limit, tile in _TILE_BY_DIMENSION if dim <= limit), _TILE_BEYOND)


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Tile:
    """What the engine found in one tile of paths; a path that is not finite at a save point is lost from there on."""

    number: int
    paths: int
    moments: Moments  # over the paths that are not lost
    lost: np.ndarray  # (s,) how many are
    values: np.ndarray | None = None  # (s, p, n) of the first p paths, where asked for; NaN where lost


@dataclass(frozen=True)
class Ensemble:
    """A chain to run: observables (a dict of functions of x), where it starts, when it saves, seed and precision."""

    chain: Chain
    observables: dict[str, Callable]
    x0: np.ndarray | Callable
    save_steps: np.ndarray  # (s,) step numbers, increasing
    seed: int
    dtype: str = "float32"

    def _traced(self):
        # As a tuple: mapping over a pytree sorts the keys of a dict, and would exchange the observables.
        return as_traced((self.chain, tuple(self.observables.values()), self.x0), self.dtype)

    @property
    def tile(self) -> int:
        """The number of paths in one compiled call."""
        return tile_size(self.chain.problem.dim)

    def check(self) -> None:
        """Trace one step and every observable; raise where a shape or a type does not fit."""
        with precision(self.dtype):
            chain, observables, x0 = self._traced()
            draws = Draws(path_key(tuple(seed_words(self.seed)), 0), 0)
            start = eqx.filter_eval_shape(lambda: chain.start(_initial(x0, draws)))
            after = eqx.filter_eval_shape(lambda s: chain.step(s, 0, draws), start)
            require(
                _shapes(start) == _shapes(after),
                f"a step must return the state it was given: it got {_shapes(start)} and returned {_shapes(after)}",
            )
            for name, observable in zip(self.observables, observables):
                shape = eqx.filter_eval_shape(lambda s, f=observable: jnp.asarray(f(chain.observe(s))), start).shape
                require(shape == (), f"observable {name!r} must return a scalar: got shape {shape}")

    def values(self, paths: int, *, threads: int | None = None) -> np.ndarray:
        """The observables of all paths at the save points (s, p, n); NaN where a path is lost."""
        found = [tile.values for tile in self.tiles(paths, threads=threads, whole=paths)]
        return np.concatenate(found, axis=1)  # type: ignore[arg-type]

    def tiles(
        self, paths: int, *, threads: int | None = None, whole: int = 0, covariance: bool = False, first: int = 0
    ) -> Iterator[Tile]:
        """The tiles of `paths` paths in order, from tile number `first`; the first `whole` paths with their values."""
        count = -(-paths // self.tile)
        if first >= count:
            return
        with precision(self.dtype):
            dynamic, static = eqx.partition(self._traced(), eqx.is_array)
        leaves, structure = jax.tree.flatten(static)
        call = partial(_run_tile, (structure, tuple(leaves), self.tile), dynamic, seed_words(self.seed))
        steps = self.save_steps.astype(np.int32)

        def run(number: int, targets=steps) -> Tile:
            start = number * self.tile
            with precision(self.dtype):
                values = np.asarray(call(np.uint32(start), targets))[:, : min(self.tile, paths - start)]
            alive = np.logical_and.accumulate(np.isfinite(values).all(axis=2), axis=0)
            kept = np.where(alive[..., None], values, np.nan)[:, : whole - start] if whole > start else None
            moments = Moments.of(values, alive, covariance)
            return Tile(number, values.shape[1], moments, (~alive).sum(axis=1), kept)

        pool = ThreadPoolExecutor(min(threads or available_cores(), count - first))
        try:
            # Compiles, and makes no step; like all else in the pool, while the main thread waits for interrupts.
            wait_for(pool.submit(run, first, np.zeros_like(steps)))
            ahead = {number: pool.submit(run, number) for number in range(first, count)}
            for number in range(first, count):
                yield wait_for(ahead.pop(number))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def final_points(chain: Chain, x0, steps: int, *, paths: int = 1, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """The points x (paths, d) where the first paths of a chain stand after `steps` steps."""
    ensemble = Ensemble(
        chain, {"x": _identity}, x0 if callable(x0) else np.asarray(x0, float), np.array([steps]), seed, dtype
    )
    return ensemble.values(paths)[0]


def _identity(x):
    return x


def _initial(x0, draws: Draws):
    return jnp.asarray(x0(draws.of(INITIAL)), float) if callable(x0) else x0


def _shapes(tree) -> list[tuple]:
    return [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(tree)]


def _tile_values(recipe: tuple, dynamic: Any, seed, first, targets):
    """The observables (s, tile, n) of paths first, …, first+tile−1 at the steps `targets`."""
    structure, leaves, tile = recipe
    chain, observables, x0 = eqx.combine(dynamic, jax.tree.unflatten(structure, leaves))
    keys = path_key((seed[0], seed[1]), first + jnp.arange(tile, dtype=jnp.uint32))

    def start(key):
        return chain.start(_initial(x0, Draws(key, 0)))

    def observe(state):
        x = chain.observe(state)
        return jnp.concatenate([jnp.ravel(jnp.asarray(f(x), float)) for f in observables])

    def step(k, states):
        return jax.vmap(lambda state, key: chain.step(state, k, Draws(key, k)))(states, keys)

    def to_next_save(carry, target):
        states, k = carry
        states = lax.fori_loop(k, target, step, states)
        return (states, target), jax.vmap(observe)(states)

    return lax.scan(to_next_save, (jax.vmap(start)(keys), jnp.int32(0)), targets)[1]


# XLA's own splitting of small operations over threads costs more than it gives: tiles are what is run in parallel.
_CPU_OPTIONS = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}
_run_tile = jax.jit(
    _tile_values, static_argnums=0, compiler_options=_CPU_OPTIONS if jax.default_backend() == "cpu" else None
)
