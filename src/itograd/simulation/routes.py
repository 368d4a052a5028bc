"""How a chain is compiled: the route, the number of paths in a tile and how many steps are written out.

    "scalars"  at most 8 numbers of state (beside rings of past values): small arrays are taken apart
    "lanes"    arrays (shape…, paths): elementwise loops over paths, a constant matrix as one matrix product
    "runs"     arrays (paths, shape…) by JAX's own batching: products of arrays that both differ between paths, as in
               the training of a model on batches of its own
    "rows"     the same where a constant matrix meets matrices of the state, as in the SDE of a model whose noise is
               that of all its examples: paths and rows of the state together are the rows of one matrix product

The rule looks at the traced step alone, never at the clock, and its outcome is stored with every result: bytes
depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from itograd.simulation.program import Program, Variable, shape_of

MOST_SCALARS = 8  # numbers of state on the scalar route
MOST_TAKEN_APART = 16  # elements of an array on the scalar route
LARGE_PRODUCT = 1024  # elements of the product of a constant matrix with a matrix of the state
MOST_WRITTEN_OUT = 4  # numbers of state up to which four steps are written out
LONGEST_WRITTEN_OUT = 64  # equations of a step that is; longer ones gain little, and take long to compile
CHUNK = 4


@dataclass(frozen=True)
class Route:
    """The route, the paths of a tile and the steps of a chunk."""

    name: str
    tile: int
    chunk: int = 1

    @property
    def path_first(self) -> bool:
        """Whether the path is the first axis of every array, and not the last."""
        return self.name in ("runs", "rows")

    @property
    def most_scalars(self) -> int:
        """Arrays of at most so many elements are taken apart."""
        return MOST_TAKEN_APART if self.name == "scalars" else 1


def choose_route(step: Program, state: tuple[Variable, ...]) -> Route:
    """The route of a step with this state."""
    size = sum(v.size for v in state)
    products = _matrix_products(step, state)
    if any(both for both, _ in products):
        return Route("runs", _tile(size, _RUNS))
    largest = max((result for _, result in products), default=0)
    if largest > LARGE_PRODUCT:
        return Route("rows", _tile(largest, _ROWS))
    small = [v for v in state if v.size <= MOST_TAKEN_APART]
    rings = [v for v in state if v.size > MOST_TAKEN_APART]
    count = sum(v.size for v in small)
    if 0 < count <= MOST_SCALARS and all(v.shape[1:] in {w.shape for w in small} for v in rings):
        few = count <= MOST_WRITTEN_OUT and all(np.issubdtype(v.dtype, np.floating) for v in small)
        written_out = CHUNK if few and _is_short(step) and not rings else 1
        return Route("scalars", _SCALARS if not rings else _RINGS, written_out)
    return Route("lanes", _tile(size, _LANES))


def _is_short(step: Program) -> bool:
    """Whether steps are worth writing out: few equations, and numbers drawn for several of them that fit the cache."""
    drawn = sum(e.parameters["count"] for e in step.equations if e.primitive.name == "draw")
    return len(step.equations) <= LONGEST_WRITTEN_OUT and drawn <= MOST_TAKEN_APART


def row_updates(step: Program, state: tuple[Variable, ...]) -> set[Variable]:
    """The leaves of the state of which a step changes a part in place, as a ring of past values."""
    after = dict(zip(step.outputs, state))
    changed = [e for e in step.equations if e.primitive.name == "dynamic_update_slice"]
    return {e.inputs[0] for e in changed if e.inputs[0] is after.get(e.outputs[0])}


# By the numbers of state of a path: tiles whose state and noise stay in a core's own cache.
_SCALARS, _RINGS = 8192, 4096
_LANES = ((16, 2048), (64, 1024), (256, 1024), (1024, 128), (4096, 32))
_RUNS = ((64, 256), (2048, 32))
_ROWS = ((4096, 64), (16_384, 16))  # by the largest product


def _tile(size: int, table) -> int:
    return next((tile for limit, tile in table if size <= limit), 8)


def _matrix_products(step: Program, state) -> list[tuple[bool, int]]:
    """The products that make a matrix of what differs between paths: whether both factors do, and the result's size.

    Both must have more than a few numbers; a matrix that is the same for all paths times a vector is none of them.
    """
    varying = {*state, *step.inputs[len(state) : len(state) + 2]}
    found = []
    for equation in step.equations:
        if not any(v in varying for v in equation.inputs):
            continue
        varying.update(equation.outputs)
        if equation.primitive.name != "dot_general":
            continue
        shapes = [shape_of(a) for a in equation.inputs]
        both = all(v in varying for v in equation.inputs)
        of_paths = [shape for v, shape in zip(equation.inputs, shapes) if v in varying]
        if max(map(len, of_paths)) > 1 and max(int(np.prod(s)) for s in of_paths) > MOST_TAKEN_APART:
            found.append((both, equation.outputs[0].size))
    return found
