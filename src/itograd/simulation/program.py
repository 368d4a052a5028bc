"""A traced function of one path as a flat list of equations, ready to be evaluated for many paths at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

# Equations that only call another jaxpr: where it stands among their parameters.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


class Variable:
    """A value of the program; its shape and type are those it has on one path."""

    __slots__ = ("dtype", "shape")

    def __init__(self, aval):
        self.shape, self.dtype = tuple(aval.shape), aval.dtype

    @property
    def size(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclass(frozen=True, eq=False)
class Constant:
    """A value known while tracing: a literal, or an array that the function closes over."""

    value: Any


Atom = Variable | Constant


def shape_of(atom: Atom) -> tuple[int, ...]:
    """The shape of a value on one path."""
    return tuple(np.shape(atom.value)) if isinstance(atom, Constant) else atom.shape


def as_variable(atom: Atom) -> Variable:
    """An atom's shape and type."""
    return Variable(jax.typeof(atom.value)) if isinstance(atom, Constant) else atom


@dataclass(frozen=True, eq=False)
class Equation:
    """outputs = primitive(inputs; parameters)."""

    primitive: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Variable, ...]
    parameters: dict


@dataclass(frozen=True)
class Program:
    """A function as straight-line code, without equations that nothing uses."""

    inputs: tuple[Variable, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]


def trace(function: Callable, *arguments) -> tuple[Program, Any]:
    """The program of a function of pytrees of shapes (or arrays), and the structure of its result."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    inputs = [Variable(v.aval) for v in closed.jaxpr.invars]
    equations: list[Equation] = []
    outputs = _inline(closed.jaxpr, closed.consts, inputs, equations)
    equations, outputs = without_wrapping(equations, outputs)
    return Program(tuple(inputs), _needed(equations, outputs), tuple(outputs)), jax.tree.structure(shape)


def _inline(jaxpr, constants, arguments, equations: list[Equation]) -> list[Atom]:
    atoms: dict = dict(zip(jaxpr.constvars, map(Constant, constants))) | dict(zip(jaxpr.invars, arguments))

    def read(v) -> Atom:
        return Constant(v.val) if isinstance(v, Literal) else atoms[v]

    for equation in jaxpr.eqns:
        inputs = [read(v) for v in equation.invars]
        name = equation.primitive.name
        if name in _CALLS:
            inner = equation.params[_CALLS[name]]
            body, constants = (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())
            outputs = _inline(body, constants, inputs, equations)
        else:
            made = [Variable(v.aval) for v in equation.outvars]
            equations.append(Equation(equation.primitive, tuple(inputs), tuple(made), equation.params))
            outputs = list[Atom](made)
        atoms.update(zip(equation.outvars, outputs))
    return [read(v) for v in jaxpr.outvars]


def _needed(equations: list[Equation], outputs) -> tuple[Equation, ...]:
    used = {v for v in outputs if isinstance(v, Variable)}
    kept = []
    for equation in reversed(equations):
        if any(v in used for v in equation.outputs):
            kept.append(equation)
            used.update(v for v in equation.inputs if isinstance(v, Variable))
    return tuple(reversed(kept))


def without_wrapping(equations: list[Equation], outputs: list[Atom]) -> tuple[list[Equation], list[Atom]]:
    """The equations without the test i < 0 that `array[i]` makes, where i is known not to be negative.

    Known is what a draw of an index or of a delay gives, a number masked by a positive literal, and what only moves or
    converts these.
    """
    natural: set[Variable] = set()
    false: set[Variable] = set()
    instead: dict[Variable, Atom] = {}

    def now(atom: Atom) -> Atom:
        return instead.get(atom, atom) if isinstance(atom, Variable) else atom

    kept = []
    for e in equations:
        inputs, name = tuple(map(now, e.inputs)), e.primitive.name
        if name == "select_n" and inputs[0] in false:
            instead[e.outputs[0]] = inputs[1]
            continue
        kept.append(Equation(e.primitive, inputs, e.outputs, e.parameters))
        if _is_natural(name, inputs, e.parameters, natural):
            natural.update(e.outputs)
        elif name == "lt" and inputs[0] in natural and _is_literal(inputs[1], lambda value: value == 0):
            false.update(e.outputs)
    return kept, [now(a) for a in outputs]


def _is_natural(name: str, inputs, parameters: dict, natural: set) -> bool:
    if name == "draw":
        return parameters["kind"] in ("bits", "index", "geometric")
    if name == "and":
        return any(a in natural or _is_literal(a, lambda value: 0 <= value < 2**31) for a in inputs)
    if name == "convert_element_type" and parameters["new_dtype"].itemsize < 4:  # 200 as int8 is negative
        return False
    moves = ("squeeze", "reshape", "broadcast_in_dim", "slice", "convert_element_type", "transpose", "copy")
    return name in moves and inputs[0] in natural


def _is_literal(atom: Atom, holds: Callable) -> bool:
    return (
        isinstance(atom, Constant)
        and np.ndim(atom.value) == 0
        and not isinstance(atom.value, jax.Array)
        and holds(atom.value)
    )
