"""Where the draws of a traced step are made: for a window of steps, for a chunk, or within the step.

A draw at the step's own number with the path's own key is the rule, and its numbers can be made in bulk:

    for a window   few bits a step, whose words serve many steps; and Threefry's numbers where several arrays depend
                   on them, for XLA on a CPU computes a draw once for each array that uses it
    for a chunk    the numbers of the compiled source, one call for the steps that are written out
    in the step    Threefry's numbers where the state is one pair of numbers: they never leave the registers

Any other draw is made within the step, and one whose step or key differs between paths by Threefry.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from itograd.simulation import threefry
from itograd.simulation.draws import draw_p
from itograd.simulation.evaluation import read
from itograd.simulation.lanes import Form, Lanes, Scalars, depends_on_path
from itograd.simulation.noise import TileNoise
from itograd.simulation.program import Constant, Equation, Program, Variable

_WINDOW = 32
_WINDOW_BYTES = 128 * 1024


@dataclass(frozen=True, eq=False)
class Bulk:
    """A draw whose numbers are made in bulk; `ratio` is the value of its parameter, if it has one."""

    equation: Equation
    ratio: tuple

    @property
    def law(self) -> dict:
        return self.equation.parameters

    @property
    def served(self) -> int:
        """The number of neighbouring steps that share words."""
        return threefry.steps_served(self.law["kind"], self.law["count"], self.law["n"])

    def stock(self, noise: TileNoise, first, steps: int) -> jax.Array:
        """The words or numbers of the steps first … first+steps−1, for whole groups of steps that share."""
        rows = (steps + self.served - 2) // self.served + 1
        group = first.astype(jnp.uint32) // np.uint32(self.served)
        if self.law["kind"] == "bits":
            return noise.words(group, rows, lane=self.law["lane"])
        return noise.pairs(group, rows, self.ratio, **self.law)

    def taken(self, form: Form, stock: jax.Array, first, step):
        """The value of the draw at a step, from the stock."""
        served, number = np.uint32(self.served), step.astype(jnp.uint32)
        row = number // served - first.astype(jnp.uint32) // served
        found = lax.dynamic_index_in_dim(stock, row, keepdims=False, allow_negative_indices=False)
        variable = self.equation.outputs[0]
        if self.law["kind"] == "bits":
            return Scalars.of([threefry.shared_bits(found, number, self.law["n"])])
        parts = threefry.unpaired(found, variable.dtype)
        if self.law["count"] == 1:
            return Scalars.of([jnp.where(number % served == 0, parts[0][0], parts[1][0])])
        if form.is_small(variable):
            return Scalars.of([x for part in parts for x in part][: variable.size])
        return Lanes(jnp.concatenate(parts)[: variable.size])


def draws_in_bulk(step: Program, known: dict) -> list[Bulk]:
    """The draws of a step at its own number, with the path's own key and parameters `known` before any step."""
    own = [e for e in step.equations if e.primitive is draw_p and e.inputs[:3] == step.inputs[-4:-1]]
    return [
        Bulk(e, tuple(read(a, known) for a in e.inputs[3:]))
        for e in own
        if all(isinstance(a, Constant) or a in known for a in e.inputs[3:])
    ]


class Drawing:
    """The draws of a step for a tile of paths, where the path is the last axis."""

    def __init__(self, step: Program, known: dict, form: Form, noise: TileNoise, chunk: int, in_step: bool):
        self.form, self.noise, self.chunk = form, noise, chunk
        self._key = step.inputs[-4:-2]
        bulk, threefry_ahead = draws_in_bulk(step, known), noise.source == "jax" and not in_step
        self._window = [b for b in bulk if b.law["kind"] == "bits" or threefry_ahead]
        self._chunk = [b for b in bulk if b not in self._window and noise.source == "compiled"]
        self.window = self._window_length()

    def _window_length(self) -> int:
        """The steps of a window: 32, or as many as leave its numbers in the cache; 0 where nothing is drawn so."""
        if not self._window:
            return 0
        numbers = sum(b.law["count"] / b.served for b in self._window)
        steps = _WINDOW
        while steps > 2 * self.chunk and 4 * self.form.paths * numbers * steps > _WINDOW_BYTES:
            steps //= 2
        return steps

    def for_window(self, first) -> list[jax.Array]:
        """What is drawn for the steps of the window that begins at `first`."""
        return [bulk.stock(self.noise, first, self.window) for bulk in self._window]

    def for_chunk(self, first) -> list[jax.Array]:
        """What is drawn for the steps of the chunk that begins at `first`, (steps, count, paths) each."""
        return [self.noise.block(first, self.chunk, bulk.ratio, **bulk.law) for bulk in self._chunk]

    def at(self, step, position: int, window_start, window: list, chunk: list) -> dict:
        """The values of the draws in bulk at a step, by equation; `position` is its place in the chunk."""
        values = {b.equation: b.taken(self.form, stock, window_start, step) for b, stock in zip(self._window, window)}
        for bulk, numbers in zip(self._chunk, chunk):
            values[bulk.equation] = self.form.value(numbers[position], bulk.equation.outputs[0])
        return values

    def in_place_of(self, drawn: dict):
        """The function that replaces draws while a step is evaluated."""

        def replaced(equation: Equation, inputs: list):
            if equation.primitive is not draw_p:
                return None
            if equation in drawn:
                return [drawn[equation]]
            if equation.inputs[:2] != self._key or any(map(depends_on_path, inputs[2:])):
                return None
            return [self._drawn(equation, inputs[2], inputs[3:])]

        return replaced

    def _drawn(self, equation: Equation, step, ratio):
        if self.form.is_small(equation.outputs[0]):
            return Scalars.of(self.noise.elements(step, ratio, **equation.parameters))
        return Lanes(self.noise.draw(step, ratio, **equation.parameters))


def key_values(noise: TileNoise, inputs: tuple[Variable, ...]) -> dict:
    """The values of the two words of the paths' keys."""
    return {variable: Scalars.of([key], ()) for variable, key in zip(inputs, noise.keys)}
