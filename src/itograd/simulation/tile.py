"""One tile of paths in one compiled call: from the start through every save point to sums over its paths."""

from __future__ import annotations

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
from itograd.simulation.routes import Route
from itograd.simulation.runwise import Runwise
from itograd.simulation.traced import Traced


def run_tile(
    route: Route, source: str, keeps: tuple[bool, bool], recipe: tuple, dynamic: Any, seed, number, filled, targets
):
    """Tile `number` at the steps `targets`: power sums over its first `filled` paths, and what is to be kept.

    Static: the route, the noise source, `keeps` = (values of the paths, covariances) and the recipe, whose arrays are
    in `dynamic`. Returns (PowerSums with a leading axis of save points, values (s, n, paths) or None).
    """
    structure, leaves = recipe
    chain, observables, x0 = eqx.combine(dynamic, jax.tree.unflatten(structure, leaves))
    noise = TileNoise(source, seed, number, route.tile)
    steps = (Runwise if route.name == "runs" else Lanewise)(Traced.of(chain, observables, x0), route, noise)
    values, covariances = keeps
    in_c = source == "compiled"

    def to_next_save(carry, target):
        state, k, alive = carry
        state = steps.advance(state, k, target)
        found = steps.observed(state)
        still, sums = alive_sums(found, alive, covariances) if covariances or not in_c else (alive, None)
        if in_c:
            still, packed = compiled.power_sums(jnp.concatenate(found), alive)
        return (state, target, still), (sums, packed if in_c else None, jnp.concatenate(found) if values else None)

    alive = jnp.arange(route.tile, dtype=np.int32) < filled
    sums, packed, kept = lax.scan(to_next_save, (steps.begin(), jnp.int32(0), alive), targets)[1]
    return None if sums is None else together(sums), packed, kept
