"""The engine: runs a chain for many paths, in tiles of a fixed size, on every core.

A tile is one compiled call. Its size, like the way in which the chain is compiled, follows from the chain alone
(`routes.py`); the last tile is filled up with paths that are left out of its sums. So the bytes of a path depend on
the chain, the seed and the number of the path (and on what `Ensemble.provenance` lists), and on neither the number of
paths nor of threads, nor on the save points.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import equinox as eqx
import jax
import numpy as np

from itograd.simulation.chain import Chain
from itograd.simulation.interrupt import wait_for
from itograd.simulation.noise import noise_source
from itograd.simulation.power_sums import PowerSums, totals, unpacked
from itograd.simulation.precision import as_traced, precision
from itograd.simulation.routes import Route
from itograd.simulation.statistics import Moments
from itograd.simulation.threefry import seed_words
from itograd.simulation.tile import Outline, outline, run_tile
from itograd.validation import require

_AHEAD = 4  # tiles in work or waiting to be fetched, for each thread


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
    noise: str | None = None  # the source of random numbers; by default the compiled one where it is there

    @cached_property
    def _recipe(self) -> tuple[Any, tuple]:
        """The chain, the observables and the start: arrays to be traced, and the rest, which is compiled in."""
        # As a tuple: mapping over a pytree sorts the keys of a dict, and would exchange the observables.
        with precision(self.dtype):
            parts = as_traced((self.chain, tuple(self.observables.values()), self.x0), self.dtype)
            dynamic, static = eqx.partition(parts, eqx.is_array)
        leaves, structure = jax.tree.flatten(static)
        return dynamic, (structure, tuple(leaves))

    @cached_property
    def _outline(self) -> Outline:
        dynamic, recipe = self._recipe
        arrays, structure = jax.tree.flatten(dynamic)
        return outline(recipe, structure, tuple((a.shape, a.dtype) for a in arrays), self.dtype)

    @property
    def route(self) -> Route:
        """How the chain is compiled."""
        return self._outline.route

    @property
    def tile(self) -> int:
        """The number of paths in one compiled call."""
        return self.route.tile

    def provenance(self) -> dict[str, str | int]:
        """What the bytes of the paths depend on, beside the recipe and the versions."""
        return {
            "noise": self._source,
            "route": self.route.name,
            "tile": self.tile,
            "unroll": self.route.chunk,
            "processor": _processor(),
        }

    @cached_property
    def _source(self) -> str:
        return noise_source(self.noise)

    def check(self) -> None:
        """Trace the start, one step and every observable; raise where a shape or a type does not fit."""
        found = self._outline
        require(
            found.state == found.after,
            f"a step must return the state it was given: it got {found.state} and returned {found.after}",
        )
        for name, (shape, _) in zip(self.observables, found.observed):
            require(shape == (), f"observable {name!r} must return a scalar: got shape {shape}")

    def values(self, paths: int, *, threads: int | None = None) -> np.ndarray:
        """The observables of all paths at the save points (s, p, n); NaN where a path is lost."""
        found = [tile.values for tile in self.tiles(paths, threads=threads, whole=paths)]
        return np.concatenate(found, axis=1)  # type: ignore[arg-type]

    def tiles(
        self,
        paths: int,
        *,
        threads: int | None = None,
        whole: int = 0,
        covariance: bool = False,
        first: int = 0,
        may_be_lost: bool = False,
    ) -> Iterator[Tile]:
        """The tiles of `paths` paths in order, from tile number `first`; the first `whole` paths with their values.

        Raises ValueError before any tile is run where no path of the first one survives its first step, unless all
        `may_be_lost`.
        """
        require(paths <= 2**32, f"at most 2^32 paths have random words of their own: got {paths}")
        count = -(-paths // self.tile)
        if first >= count:
            return
        dynamic, recipe = self._recipe
        seed, steps = seed_words(self.seed), self.save_steps.astype(np.int32)

        def run(number: int, targets=steps) -> Tile:
            start = number * self.tile
            filled, kept = min(self.tile, paths - start), min(self.tile, whole - start)
            call = partial(_run_tile, self.route, self._source, (kept > 0, covariance), recipe)
            with precision(self.dtype):
                sums, packed, values = jax.device_get(call(dynamic, seed, np.uint32(number), np.int32(filled), targets))
            if values is not None:
                values = _alive_only(np.moveaxis(values, 1, 2)[:, :kept])
            moments = _moments(sums, packed)
            return Tile(number, filled, moments, filled - moments.count[:, 0].astype(np.int64), values)

        threads = min(threads or available_cores(), count - first)
        pool = ThreadPoolExecutor(threads)
        try:
            # Compiles, and makes one step; like all else in the pool, while the main thread waits for interrupts.
            trial = wait_for(pool.submit(run, first, np.ones_like(steps)))
            require(
                may_be_lost or trial.lost[0] < trial.paths,
                f"no path is finite after the first step: {_nonfinite(self.observables)}; check x0, the step and the "
                "observables for NaN and overflow",
            )
            ahead = {n: pool.submit(run, n) for n in range(first, min(count, first + _AHEAD * threads))}
            for number in range(first, count):
                found = wait_for(ahead.pop(number))
                following = number + _AHEAD * threads
                if following < count:
                    ahead[following] = pool.submit(run, following)
                yield found
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def final_points(chain: Chain, x0, steps: int, *, paths: int = 1, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """The points x (paths, d) where the first paths of a chain stand after `steps` steps."""
    ensemble = Ensemble(
        chain, {"x": _identity}, x0 if callable(x0) else np.asarray(x0, float), np.array([steps]), seed, dtype
    )
    return ensemble.values(paths)[0]


def _nonfinite(observables) -> str:
    names = ", ".join(map(repr, observables))
    return f"at least one of the observables {names} is NaN or infinite on each of them"


def _identity(x):
    return x


def _moments(sums: PowerSums | None, packed: np.ndarray | None) -> Moments:
    """The moments of a tile: from the sums in C where they are there, which have no covariances."""
    in_c = None if packed is None else Moments.from_sums(*unpacked(packed))
    in_jax = None if sums is None else Moments.from_sums(*totals(sums))
    if in_c is None or in_jax is None:
        return in_jax or in_c  # type: ignore[return-value]
    return replace(in_c, comoment=in_jax.comoment)


def _alive_only(values: np.ndarray) -> np.ndarray:
    """Values (s, p, n) with NaN from the save point on at which a path is lost."""
    alive = np.logical_and.accumulate(np.isfinite(values).all(axis=2), axis=0)
    return np.where(alive[..., None], values, np.nan)


def _run_tile(route: Route, *arguments):
    """`run_tile`, compiled for the route."""
    return _compiled_for(route.name)(route, *arguments)


@cache
def _compiled_for(route_name: str):
    return jax.jit(run_tile, static_argnums=(0, 1, 2, 3), compiler_options=_compiler_options(route_name))


def _compiler_options(route_name: str) -> dict | None:
    """Options for XLA on a CPU; elsewhere none."""
    if jax.default_backend() != "cpu":
        return None
    # XLA's own splitting of small operations over threads costs more than it gives: tiles are what is run in parallel.
    options: dict[str, Any] = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}
    if "avx512f" in _instructions():
        options["xla_cpu_prefer_vector_width"] = 512
    if route_name == "rows" and _is_known(_PRODUCTS_ALONE):
        options |= _PRODUCTS_ALONE
    return options


# XLA gives products to a library, and newer ones what stands around them too, which takes half as long again.
_PRODUCTS_ALONE = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def _is_known(options: dict) -> bool:
    """Whether this XLA has the options."""
    try:
        jax.jit(_identity, compiler_options=options).lower(np.float32(0)).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@cache
def _instructions() -> frozenset[str]:
    """The instruction sets of the processor, where the system tells them."""
    try:
        with open("/proc/cpuinfo") as lines:
            return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
    except OSError:
        return frozenset()


def _processor() -> str:
    """The class of machines on which rounding is the same: the architecture, and on x86 whether it fuses products."""
    fused = {"avx2", "fma"} <= _instructions()
    return platform.machine() + (" with fused products" if fused else "")
