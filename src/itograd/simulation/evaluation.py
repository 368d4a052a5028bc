"""Evaluation of traced equations for many paths at once; see `lanes.py` for the forms of a value."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from itograd.simulation.lane_rules import LANE_RULES
from itograd.simulation.lanes import Form, Scalars, depends_on_path
from itograd.simulation.program import Constant, Equation, Program, Variable
from itograd.simulation.scalar_rules import SCALAR_RULES


def evaluate(form: Form, equation: Equation, inputs: list) -> list:
    """The outputs of one equation."""
    primitive = equation.primitive
    if not any(map(depends_on_path, inputs)):
        found = primitive.bind(*inputs, **equation.parameters)
        return list(found) if primitive.multiple_results else [found]
    apart = form.is_small(equation.outputs[0]) and all(
        form.is_small(v) for v, x in zip(equation.inputs, inputs) if depends_on_path(x)
    )
    if apart and primitive.name in SCALAR_RULES:
        elements = SCALAR_RULES[primitive.name](form, equation, inputs)
        if elements is not None:
            return [Scalars(elements)]
    if primitive.name in LANE_RULES:
        found = LANE_RULES[primitive.name](form, equation, inputs)
        if found is not None:
            return [found if depends_on_path(found) else form.value(found, equation.outputs[0])]
    return mapped(form, equation, inputs)


def mapped(form: Form, equation: Equation, inputs: list) -> list:
    """An equation by the batching rule of its primitive."""
    primitive = equation.primitive
    values = [form.lanes(x) if depends_on_path(x) else x for x in inputs]
    axes = [-1 if depends_on_path(x) else None for x in inputs]
    found = jax.vmap(partial(primitive.bind, **equation.parameters), in_axes=axes, out_axes=-1)(*values)
    found = found if primitive.multiple_results else [found]
    return [form.value(array, v) for array, v in zip(found, equation.outputs)]


def read(atom, values: dict):
    """The value of an atom."""
    return atom.value if isinstance(atom, Constant) else values[atom]


def run(form: Form, program: Program, values: dict, replaced=None) -> list:
    """The outputs of a program whose inputs (and what is known already) stand in `values`.

    `replaced(equation, inputs)` may give the outputs of an equation in place of the rules, or None.
    """
    values = dict(values)
    for equation in program.equations:
        if equation.outputs[0] in values:
            continue
        inputs = [read(a, values) for a in equation.inputs]
        outputs = replaced(equation, inputs) if replaced is not None else None
        outputs = evaluate(form, equation, inputs) if outputs is None else outputs
        values.update(zip(equation.outputs, outputs))
    return [read(a, values) for a in program.outputs]


def take_apart(form: Form, program: Program, known: dict) -> None:
    """Take small arrays that are the same for all paths apart, here and now, outside of loops."""
    values = [a.value for e in program.equations for a in e.inputs if isinstance(a, Constant)] + list(known.values())
    for value in values:
        if np.size(value) <= form.most_scalars:
            form.scalars(value)


def invariants(program: Program, varying: set[Variable]) -> dict:
    """The values that depend on none of the inputs in `varying`: evaluated once, outside every loop."""
    known: dict = {}
    moving = set(varying)
    for equation in program.equations:
        if any(v in moving for v in equation.inputs):
            moving.update(equation.outputs)
            continue
        inputs = [read(a, known) for a in equation.inputs]
        found = equation.primitive.bind(*inputs, **equation.parameters)
        found = found if equation.primitive.multiple_results else [found]
        known.update(zip(equation.outputs, found))
    return known
