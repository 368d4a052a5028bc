"""Steps of all paths of a tile with the path as the first axis, by JAX's own batching."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from itograd.simulation.drawing import Bulk, draws_in_bulk
from itograd.simulation.evaluation import invariants, run
from itograd.simulation.lanes import Form
from itograd.simulation.noise import TileNoise
from itograd.simulation.routes import Route
from itograd.simulation.traced import Traced

_MANY = 64  # numbers of Threefry that are drawn once for all their uses


class Runwise:
    """The routes "runs" and "rows": arrays (paths, …)."""

    def __init__(self, traced: Traced, route: Route, noise: TileNoise):
        self.traced, self.noise = traced, noise
        self._form = Form(route.tile, 0)
        self._known = invariants(traced.step, set(traced.step.inputs))
        self._ahead = [b for b in draws_in_bulk(traced.step, self._known) if self._is_ahead(b.law)]

    def _is_ahead(self, law: dict) -> bool:
        """Whether a draw is made before the step; the others are made within it, by Threefry."""
        return law["kind"] != "bits" and (self.noise.source == "compiled" or law["count"] >= _MANY)

    def _numbers(self, bulk: Bulk, k) -> jax.Array:
        """The numbers of a draw, (paths, count): a path's own together."""
        if self.noise.source == "compiled":
            return self.noise.block(k, 1, bulk.ratio, **bulk.law).reshape(self._form.paths, -1)
        return self.noise.by_path(k, bulk.ratio, **bulk.law)

    def begin(self) -> list[jax.Array]:
        """The state at step 0."""
        program = self.traced.start
        return jax.vmap(lambda *key: run(self._form, program, dict(zip(program.inputs, key))))(*self.noise.keys)

    def advance(self, carry: list, k, end) -> list:
        """The state at step `end` from the state at step k."""
        return lax.fori_loop(k, end, self._step, carry)

    def within_chunk(self, carry: list, k, end) -> list:
        """The state at step `end`, which is k: steps are made one by one."""
        return carry

    def _step(self, k, carry: list) -> list:
        program = self.traced.step
        drawn = [self._numbers(bulk, k) for bulk in self._ahead]

        def of_one_path(state, key, drawn):
            values = dict(zip(program.inputs, [*state, *key, k.astype(jnp.uint32), k])) | self._known
            given = {bulk.equation: [numbers] for bulk, numbers in zip(self._ahead, drawn)}
            return run(self._form, program, values, lambda equation, _: given.get(equation))

        return jax.vmap(of_one_path)(carry, self.noise.keys, drawn)

    def observed(self, carry: list) -> list[jax.Array]:
        """The observables, (m, paths) for one that has m components."""
        program = self.traced.observe
        found = jax.vmap(lambda state: run(self._form, program, dict(zip(program.inputs, state))))(carry)
        return [value.reshape(self._form.paths, -1).T for value in found]
