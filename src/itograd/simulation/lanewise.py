"""Steps of all paths of a tile with the path as the last axis.

Loops are nested as

    windows ⊃ chunks ⊃ the steps of a chunk, written out

for the sake of the random numbers (`drawing.py`). Chunks begin at multiples of their length and are made whole: a save
point inside one is seen by a chunk whose later steps are masked, and the run goes on from the beginning of the chunk.
So every chunk is made by the same code wherever the save points are, and the bytes depend on none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from itograd.simulation.drawing import Drawing, key_values
from itograd.simulation.evaluation import invariants, run, take_apart
from itograd.simulation.lanes import Form, Lanes, Ring, Scalars
from itograd.simulation.noise import TileNoise
from itograd.simulation.routes import Route, row_updates
from itograd.simulation.traced import Traced


class Lanewise:
    """The routes "scalars" and "lanes": the path is the last axis."""

    def __init__(self, traced: Traced, route: Route, noise: TileNoise):
        self.traced, self.chunk = traced, route.chunk
        self.form = Form(route.tile, route.most_scalars)
        self._known = invariants(traced.step, set(traced.step.inputs))
        take_apart(self.form, traced.step, self._known)
        self._keys = key_values(noise, traced.step.inputs[-4:-2])
        self._rings = {v for v in row_updates(traced.step, traced.state) if v.shape[1:] == (2,) and _in_pairs(v)}
        one_pair = route.name == "scalars" and sum(v.size for v in traced.state) <= 2
        self.drawing = Drawing(traced.step, self._known, self.form, noise, route.chunk, in_step=one_pair)

    def begin(self) -> list:
        """The state at step 0."""
        values = dict(zip(self.traced.start.inputs, self._keys.values()))
        return self._packed(run(self.form, self.traced.start, values))

    def _packed(self, values: list) -> list[jax.Array]:
        """The state as arrays: numbers that were taken apart travel as pairs, each a complex number."""
        floats: list[jax.Array] = []
        others: list[jax.Array] = []
        for variable, value in zip(self.traced.state, values):
            if self.form.is_small(variable):
                elements = [self.form.spread(e).astype(variable.dtype) for e in self.form.scalars(value).ravel()]
                (floats if _in_pairs(variable) else others).extend(elements)
            elif variable in self._rings:
                others.append(self._ring(value).array)
            else:
                others.append(self.form.lanes(value))
        pairs = [lax.complex(a, b) for a, b in zip(floats[::2], floats[1::2])]
        return pairs + floats[len(floats) // 2 * 2 :] + others

    def _ring(self, value) -> Ring:
        if isinstance(value, Ring):
            return value
        array = self.form.lanes(value)
        return Ring(lax.complex(array[:, 0], array[:, 1]))

    def _unpacked(self, arrays: list) -> list:
        small = [v for v in self.traced.state if self.form.is_small(v)]
        count = sum(v.size for v in small if _in_pairs(v))
        floats = [part for pair in arrays[: count // 2] for part in (pair.real, pair.imag)]
        rest = list(arrays[count // 2 :])
        if count % 2:
            floats.append(rest.pop(0))
        values: list = []
        for variable in self.traced.state:
            if not self.form.is_small(variable):
                values.append((Ring if variable in self._rings else Lanes)(rest.pop(0)))
                continue
            source = floats if _in_pairs(variable) else rest
            values.append(Scalars.of([source.pop(0) for _ in range(variable.size)], variable.shape))
        return values

    def _chunk_of_steps(self, carry: list, first, end, window_start, window: list) -> list:
        """The state after the chunk from step `first` on; without its steps from `end` on, where there is an `end`."""
        chunk, form = self.drawing.for_chunk(first), self.form.within()
        program = self.traced.step
        for position in range(self.chunk):
            at = first + position
            drawn = self.drawing.at(at, position, window_start, window, chunk)
            values = dict(zip(program.inputs, [*self._unpacked(carry), *self._keys.values()]))
            values |= dict(zip(program.inputs[-2:], (at.astype(jnp.uint32), at))) | self._known
            after = self._packed(run(form, program, values, self.drawing.in_place_of(drawn)))
            carry = after if end is None else [lax.select_n(at < end, a, b) for a, b in zip(carry, after)]
        return carry

    def advance(self, carry: list, k, end) -> list:
        """The state at step `end` from the state at step k; both begin a chunk."""
        window = self.drawing.window

        def chunks(carry, first, last, stock):
            def one_chunk(i, carry):
                return self._chunk_of_steps(carry, first + i * self.chunk, None, first, stock)

            return lax.fori_loop(0, (last - first) // self.chunk, one_chunk, carry)

        def one_window(i, carry):
            first = k + i * window
            return chunks(carry, first, jnp.minimum(first + window, end), self.drawing.for_window(first))

        if not window:
            return chunks(carry, k, end, [])
        return lax.fori_loop(0, (end - k + window - 1) // window, one_window, carry)

    def within_chunk(self, carry: list, k, end) -> list:
        """The state at step `end` of the chunk that begins at step k, from the state there."""
        if self.chunk == 1:
            return carry

        def masked(carry):
            window = self.drawing.for_window(k) if self.drawing.window else []
            return self._chunk_of_steps(carry, k, end, k, window)

        return lax.cond(end > k, masked, lambda carry: carry, carry)

    def observed(self, carry: list) -> list[jax.Array]:
        """The observables, (m, paths) for one that has m components."""
        values = dict(zip(self.traced.observe.inputs, self._unpacked(carry)))
        found = run(self.form, self.traced.observe, values)
        return [self.form.lanes(v).reshape(-1, self.form.paths) for v in found]


def _in_pairs(variable) -> bool:
    return variable.dtype == jnp.result_type(float)
