"""Primitives on arrays (shape…, paths): each rule gives the result in the same layout, or None where it cannot.

JAX's own batching rules move the mapped axis to the front or leave products transposed; these keep it last, so that
every elementwise loop runs over neighbouring paths and a constant matrix times the states is one matrix product.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax import lax

from itograd.simulation.lanes import Form, Ring, Scalars, depends_on_path
from itograd.simulation.program import Equation, shape_of
from itograd.simulation.scalar_rules import ELEMENTWISE, gathered, takes_rows


def _elementwise(form: Form, equation: Equation, inputs: list):
    shape = (*equation.outputs[0].shape, form.paths)
    operands = []
    for value in inputs:
        array = form.lanes(value) if depends_on_path(value) else jnp.asarray(value)[..., None]
        missing = len(shape) - array.ndim
        array = array.reshape(*(1,) * missing, *array.shape)
        operands.append(jnp.broadcast_to(array, shape))
    return equation.primitive.bind(*operands, **equation.parameters)


def _div(form, equation, inputs):
    """A division by what is the same for all paths is a multiplication: one reciprocal serves them all."""
    x, divisor = inputs
    if depends_on_path(divisor) or not jnp.issubdtype(equation.outputs[0].dtype, jnp.floating):
        return _elementwise(form, equation, inputs)
    return _elementwise(form, replace(equation, primitive=lax.mul_p), [x, 1 / jnp.asarray(divisor)])


def _array_rule(rule):
    """A rule of one operand: `rule(array, parameters, paths)`."""
    return lambda form, equation, inputs: rule(form.lanes(inputs[0]), equation.parameters, form.paths)


def _broadcast_in_dim(x, p, paths):
    axes = (*p["broadcast_dimensions"], len(p["shape"]))
    return lax.broadcast_in_dim(x, (*p["shape"], paths), axes)


def _slice(x, p, paths):
    strides = p["strides"] or (1,) * (x.ndim - 1)
    return lax.slice(x, (*p["start_indices"], 0), (*p["limit_indices"], paths), (*strides, 1))


def _concatenate(form, equation, inputs):
    return lax.concatenate([form.lanes(x) for x in inputs], equation.parameters["dimension"])


def _stack(form, equation, inputs):
    return jnp.stack([form.lanes(x) for x in inputs], axis=equation.parameters["axis"])


def _pad(form, equation, inputs):
    if depends_on_path(inputs[1]):
        return None
    return lax.pad(form.lanes(inputs[0]), inputs[1], (*equation.parameters["padding_config"], (0, 0, 0)))


def _same_axes(form, equation, inputs):
    return equation.primitive.bind(form.lanes(inputs[0]), **equation.parameters)


def _dot_general(form, equation, inputs):
    ((left, right), (left_batch, _)) = equation.parameters["dimension_numbers"]
    a, b = inputs
    if left_batch:
        return None
    options = {k: equation.parameters[k] for k in ("precision", "preferred_element_type")}
    if depends_on_path(a) and depends_on_path(b):
        if equation.outputs[0].shape != () or len(left) != 1:
            return None
        return (form.lanes(a) * form.lanes(b)).sum(axis=0)
    if depends_on_path(b):
        return lax.dot_general(a, form.lanes(b), ((left, right), ((), ())), **options)
    product = lax.dot_general(b, form.lanes(a), ((right, left), ((), ())), **options)  # (free b, free a, paths)
    free = np.ndim(b) - len(right)
    order = (*range(free, product.ndim - 1), *range(free), product.ndim - 1)
    return product.transpose(order)


def _dynamic_slice(form, equation, inputs):
    table, *start = inputs
    sizes, shape = equation.parameters["slice_sizes"], shape_of(equation.inputs[0])
    if not any(map(depends_on_path, start)):
        return lax.dynamic_slice(form.lanes(table), _from_first_path(start), (*sizes, form.paths))
    row_only = sizes[0] == 1 and tuple(sizes[1:]) == tuple(shape[1:])
    if not row_only or any(map(depends_on_path, start[1:])):
        return None
    index = form.lanes(start[0])
    if not depends_on_path(table):
        return _rows(table, index[None])
    elements = Scalars.of(recalled(form, table, index), sizes)
    return elements if form.is_small(equation.outputs[0]) else form.lanes(elements)


def _from_first_path(start) -> tuple:
    """Starting indices with that of the paths: indices must be of one type."""
    return (*start, jnp.zeros((), jnp.result_type(start[0])))


def recalled(form: Form, table, index) -> list:
    """The elements of table[index], each (paths,), where table (n, rest…, paths) and index (paths,) differ by path."""
    array = table.array if isinstance(table, Ring) else form.lanes(table)
    n, width = array.shape[0], array[0, ..., 0].size
    line, lane = array.reshape(-1), jnp.arange(form.paths, dtype=jnp.int32)
    row = jnp.clip(index.astype(jnp.int32), 0, n - 1) * (width * form.paths) + lane
    found = [gathered(line, row + j * form.paths) for j in range(width)]
    return [found[0].real, found[0].imag] if isinstance(table, Ring) else found


def _gather(form, equation, inputs):
    table, indices = inputs
    if depends_on_path(table) or not takes_rows(equation):
        return None
    return _rows(table, form.lanes(indices)[..., 0, :])


def _rows(table, index):
    """Rows of a table that is the same for all paths: (batch…, rest…, paths) from indices (batch…, paths)."""
    found = jnp.asarray(table).at[index].get(mode="clip")  # (batch…, paths, rest…)
    return jnp.moveaxis(found, index.ndim - 1, -1)


def _dynamic_update_slice(form, equation, inputs):
    operand, update, *start = inputs
    if any(map(depends_on_path, start)):
        return None
    if isinstance(operand, Ring) and shape_of(equation.inputs[1]) == (1, 2):
        row = lax.complex(*(form.spread(e) for e in form.scalars(update).ravel()))[None]
        return Ring(lax.dynamic_update_slice(operand.array, row, _from_first_path(start[:1])))
    return lax.dynamic_update_slice(form.lanes(operand), form.lanes(update), _from_first_path(start))


LANE_RULES = (
    dict.fromkeys(ELEMENTWISE, _elementwise)
    | {
        "div": _div,
        "broadcast_in_dim": _array_rule(_broadcast_in_dim),
        "reshape": _array_rule(lambda x, p, paths: x.reshape(*p["new_sizes"], paths)),
        "squeeze": _array_rule(lambda x, p, _: lax.squeeze(x, p["dimensions"])),
        "expand_dims": _array_rule(lambda x, p, _: lax.expand_dims(x, p["dimensions"])),
        "transpose": _array_rule(lambda x, p, _: x.transpose(*p["permutation"], x.ndim - 1)),
        "rev": _array_rule(lambda x, p, _: lax.rev(x, p["dimensions"])),
        "slice": _array_rule(_slice),
        "concatenate": _concatenate,
        "stack": _stack,
        "pad": _pad,
        "dot_general": _dot_general,
        "gather": _gather,
        "dynamic_slice": _dynamic_slice,
        "dynamic_update_slice": _dynamic_update_slice,
    }
    | dict.fromkeys(
        [
            "reduce_sum",
            "reduce_max",
            "reduce_min",
            "reduce_prod",
            "reduce_and",
            "reduce_or",
            "argmax",
            "argmin",
            "cumsum",
            "cumprod",
            "cummax",
            "cummin",
        ],
        _same_axes,
    )
)
