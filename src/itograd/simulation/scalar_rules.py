"""Primitives on small arrays that are taken apart: each rule gives the elements of the result.

Only the rules for elements compute; all others move elements about, which costs nothing in compiled code.
"""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp
import numpy as np
from jax import lax

from itograd.simulation.lanes import Form, Scalars, depends_on_path
from itograd.simulation.linear_forms import combined, is_number
from itograd.simulation.program import Equation, as_variable, shape_of

ELEMENTWISE = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "bitcast_convert_type",
        "cbrt",
        "ceil",
        "clamp",
        "convert_element_type",
        "copy",
        "copy_p",
        "cos",
        "cosh",
        "div",
        "eq",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "integer_pow",
        "is_finite",
        "le",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "population_count",
        "pow",
        "reduce_precision",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "sub",
        "tan",
        "tanh",
        "xor",
    ]
)


_LINEAR = frozenset(("add", "add_any", "sub", "mul", "div", "neg"))


def apply(form: Form, equation: Equation, elements: list):
    """One elementwise equation on one element of each operand."""
    return apply_primitive(form, equation.primitive, elements, equation.parameters)


def apply_primitive(form: Form, primitive, elements: list, parameters: dict):
    """One elementwise primitive on one element of each operand."""
    name = primitive.name
    if name in ("add", "add_any"):  # zeros come from the padding that a derivative of x[i] makes
        if is_number(elements[0], 0):
            return elements[1]
        if is_number(elements[1], 0):
            return elements[0]
    if name in _LINEAR and jnp.issubdtype(_dtype(elements), jnp.floating):
        found = combined(name, elements, form.spread, form.product)
        if found is not None:
            return found
    if any(form.differs(e) for e in elements):
        elements = [form.spread(e) for e in elements]
    return primitive.bind(*elements, **parameters)


def _dtype(elements):
    return next((e.dtype for e in elements if hasattr(e, "dtype")), jnp.result_type(float))


def _broadcast(arrays: list[np.ndarray]) -> list[np.ndarray]:
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return [np.broadcast_to(a, shape) for a in arrays]


def _map(function, *arrays: np.ndarray) -> np.ndarray:
    arrays = tuple(_broadcast(list(arrays)))
    result = np.empty(arrays[0].shape, object)
    for index in np.ndindex(*result.shape):
        result[index] = function(*(a[index] for a in arrays))
    return result


def _elementwise(form: Form, equation: Equation, inputs: list) -> np.ndarray:
    arrays = [form.scalars(x) for x in inputs]
    return _map(lambda *e: apply(form, equation, list(e)), *arrays)


def _moved(move):
    """A rule that moves elements about: `move(elements, parameters)`."""
    return lambda form, equation, inputs: move(form.scalars(inputs[0]), equation.parameters)


def _broadcast_in_dim(x, p):
    shape = [1] * len(p["shape"])
    for axis, length in zip(p["broadcast_dimensions"], x.shape):
        shape[axis] = length
    return np.broadcast_to(x.reshape(shape), p["shape"])


def _slice(x, p):
    strides = p["strides"] or (1,) * x.ndim
    return x[tuple(slice(a, b, s) for a, b, s in zip(p["start_indices"], p["limit_indices"], strides))]


def _concatenate(form, equation, inputs):
    return np.concatenate([form.scalars(x) for x in inputs], axis=equation.parameters["dimension"])


def _stack(form, equation, inputs):
    return np.stack([form.scalars(x) for x in inputs], axis=equation.parameters["axis"])


def _pad(form, equation, inputs):
    x, (fill,) = form.scalars(inputs[0]), form.scalars(inputs[1]).ravel()
    configuration = equation.parameters["padding_config"]
    if any(low < 0 or high < 0 for low, high, _ in configuration):
        return None
    result = np.full(equation.outputs[0].shape, None, object)
    for index in np.ndindex(*result.shape):
        result[index] = fill
    places = tuple(slice(low, low + n + (n - 1) * g, g + 1) for n, (low, _, g) in zip(x.shape, configuration))
    if x.size:
        result[places] = x
    return result


def _reduction(primitive, identity=None):
    def rule(form, equation, inputs):
        x, axes = form.scalars(inputs[0]), equation.parameters["axes"]
        kept = [i for i in range(x.ndim) if i not in axes]
        rows = x.transpose(*kept, *axes).reshape(*(x.shape[i] for i in kept), -1)
        if rows.shape[-1] == 0:
            return None
        combine = functools.partial(_pairwise, form, primitive)
        result = np.empty(rows.shape[:-1], object)
        for index in np.ndindex(*result.shape):
            result[index] = functools.reduce(combine, rows[index])
        return result

    return rule


def _pairwise(form, primitive, a, b):
    return apply_primitive(form, primitive, [a, b], {})


def _dot_general(form, equation, inputs):
    ((left, right), (left_batch, _)) = equation.parameters["dimension_numbers"]
    if left_batch:
        return None
    if any(v.dtype != equation.outputs[0].dtype for v in map(as_variable, equation.inputs)):
        return None
    a, b = (_map(form.closed, form.scalars(x)) for x in inputs)
    a = a.transpose(*(i for i in range(a.ndim) if i not in left), *left)
    b = b.transpose(*(i for i in range(b.ndim) if i not in right), *right)
    depth = int(np.prod(a.shape[a.ndim - len(left) :], dtype=int))
    if depth == 0:
        return None
    free = a.shape[: a.ndim - len(left)] + b.shape[: b.ndim - len(right)]
    result = np.empty((a.size // depth, b.size // depth), object)
    rows, columns = a.reshape(-1, depth), b.reshape(-1, depth)
    for i, j in itertools.product(range(len(rows)), range(len(columns))):
        products = [apply_primitive(form, lax.mul_p, [x, y], {}) for x, y in zip(rows[i], columns[j])]
        result[i, j] = functools.reduce(functools.partial(_pairwise, form, lax.add_p), products)
    return result.reshape(free)


def _select_n(form, equation, inputs):
    which, *cases = (form.scalars(x) for x in inputs)
    return _map(lambda *e: apply(form, equation, list(e)), which, *cases)


def takes_rows(equation: Equation) -> bool:
    """Whether a gather is `table[index]` along the first axis."""
    numbers, sizes = equation.parameters["dimension_numbers"], equation.parameters["slice_sizes"]
    table, indices = map(shape_of, equation.inputs)
    batch, rank = len(indices) - 1, len(table)
    return (
        numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and not numbers.operand_batching_dims
        and numbers.offset_dims == tuple(range(batch, batch + rank - 1))
        and tuple(sizes) == (1, *table[1:])
        and equation.parameters["mode"] != lax.GatherScatterMode.FILL_OR_DROP
    )


def _taken(form, equation, inputs):
    """Rows of a table, the same for all paths, at indices that differ."""
    table, indices = inputs
    if depends_on_path(table) or not takes_rows(equation):
        return None
    index = form.scalars(indices)[..., 0]
    result = np.empty((*index.shape, *np.shape(table)[1:]), object)
    for place in np.ndindex(*index.shape):
        for rest in np.ndindex(*np.shape(table)[1:]):
            result[place + rest] = look_up(table[(slice(None), *rest)], form.spread(index[place]))
    return result


MOST_SELECTED = 8


def look_up(column, index):
    """column[index] for every path, the index clamped; a short table by comparison, which stays in registers."""
    if column.shape[0] > MOST_SELECTED:
        return gathered(column, index)
    return _chosen([lax.broadcast(value, index.shape) for value in column], index)


def gathered(line, index):
    """line[index] for every path, the index clamped."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))
    mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS  # XLA clamps all the same
    return lax.gather(line, index[:, None], numbers, slice_sizes=(1,), mode=mode)


def _chosen(values, index):
    found = values[0]
    for row, value in enumerate(values[1:], start=1):
        found = lax.select(index >= row, value, found)
    return found


def _dynamic_slice(form, equation, inputs):
    table, *start = inputs
    sizes, shape = equation.parameters["slice_sizes"], shape_of(equation.inputs[0])
    row_only = sizes[0] == 1 and tuple(sizes[1:]) == tuple(shape[1:])
    if not row_only or any(map(depends_on_path, start[1:])):
        return None
    index = form.spread(form.scalars(start[0])[()])
    result = np.empty(sizes, object)
    for rest in np.ndindex(*shape[1:]):
        place = (slice(None), *rest)
        if isinstance(table, Scalars):
            result[(0, *rest)] = _chosen([form.spread(e) for e in table.elements[place]], index)
        else:
            result[(0, *rest)] = look_up(jnp.asarray(table)[place], index)
    return result


SCALAR_RULES = dict.fromkeys(ELEMENTWISE, _elementwise) | {
    "broadcast_in_dim": _moved(_broadcast_in_dim),
    "reshape": _moved(lambda x, p: x.reshape(p["new_sizes"])),
    "squeeze": _moved(lambda x, p: np.squeeze(x, p["dimensions"])),
    "expand_dims": _moved(lambda x, p: np.expand_dims(x, p["dimensions"])),
    "transpose": _moved(lambda x, p: x.transpose(p["permutation"])),
    "rev": _moved(lambda x, p: np.flip(x, p["dimensions"])),
    "slice": _moved(_slice),
    "concatenate": _concatenate,
    "stack": _stack,
    "pad": _pad,
    "reduce_sum": _reduction(lax.add_p),
    "reduce_max": _reduction(lax.max_p),
    "reduce_min": _reduction(lax.min_p),
    "reduce_prod": _reduction(lax.mul_p),
    "reduce_and": _reduction(lax.and_p),
    "reduce_or": _reduction(lax.or_p),
    "dot_general": _dot_general,
    "select_n": _select_n,
    "gather": _taken,
    "dynamic_slice": _dynamic_slice,
}
