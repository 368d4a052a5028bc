"""One tile of paths in one compiled call: from the start through every save point to sums over its paths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from itograd.simulation import compiled
from itograd.simulation.lanewise import Lanewise
from itograd.simulation.noise import TileNoise
from itograd.simulation.power_sums import alive_sums, together
from itograd.simulation.precision import precision
from itograd.simulation.routes import Route, choose_route
from itograd.simulation.runwise import Runwise
from itograd.simulation.traced import Traced


@dataclass(frozen=True)
class Outline:
    """What a chain is before it is run: its route, and shapes and types of the state, before and after a step."""

    route: Route
    state: list[tuple]
    after: list[tuple]
    observed: list[tuple]


@lru_cache(maxsize=256)
def outline(recipe: tuple, structure, arrays: tuple, dtype: str) -> Outline:
    """The outline of a recipe whose arrays have these shapes and types; a ladder of learning rates has one."""
    found = []

    def look(dynamic):
        traced = traced_recipe(recipe, dynamic)
        route = choose_route(traced.step, traced.state)
        shapes = ([(v.shape, str(v.dtype)) for v in vs] for vs in (traced.state, traced.after, traced.observed))
        found.append(Outline(route, *shapes))
        return 0

    with precision(dtype):
        jax.eval_shape(look, jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*array) for array in arrays]))
    return found[0]


def traced_recipe(recipe: tuple, dynamic: Any) -> Traced:
    """The functions of a recipe, traced."""
    structure, leaves = recipe
    return Traced.of(*eqx.combine(dynamic, jax.tree.unflatten(structure, leaves)))


def run_tile(
    route: Route, source: str, keeps: tuple[bool, bool], recipe: tuple, dynamic: Any, seed, number, filled, targets
):
    """Tile `number` at the steps `targets`: power sums over its first `filled` paths, and what is to be kept.

    Static: the route, the noise source, `keeps` = (values of the paths, covariances) and the recipe, whose arrays are
    in `dynamic`. Returns (PowerSums with a leading axis of save points, values (s, n, paths) or None).
    """
    noise = TileNoise(source, seed, number, route.tile)
    steps = (Runwise if route.path_first else Lanewise)(traced_recipe(recipe, dynamic), route, noise)
    values, covariances = keeps
    in_c = source == "compiled"

    def to_next_save(carry, target):
        state, k, alive = carry
        begins = target // route.chunk * route.chunk
        state = steps.advance(state, k, begins)
        found = steps.observed(steps.within_chunk(state, begins, target))
        still, sums = alive_sums(found, alive, covariances) if covariances or not in_c else (alive, None)
        if in_c:
            still, packed = compiled.power_sums(jnp.concatenate(found), alive)
        return (state, begins, still), (sums, packed if in_c else None, jnp.concatenate(found) if values else None)

    alive = jnp.arange(route.tile, dtype=np.int32) < filled
    # XLA takes a loop of one turn apart, and rounds in another way than within a loop: a lone save point is seen twice.
    saves, targets = len(targets), jnp.resize(targets, (max(len(targets), 2),))
    found = lax.scan(to_next_save, (steps.begin(), jnp.int32(0), alive), targets)[1]
    sums, packed, kept = jax.tree.map(lambda x: x[:saves], found)
    return None if sums is None else together(sums), packed, kept
