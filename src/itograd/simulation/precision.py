"""Float32 and float64 side by side, without touching the process's own JAX configuration.

The precision is a context, and thread-local. Two things make a user's objects fit both: `as_traced` for the numbers of
a pytree, `portable` for the arrays that a function takes from outside its body.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = ("float32", "float64")


def precision(dtype: str) -> AbstractContextManager:
    """A context in which JAX computes in `dtype`, "float32" or "float64"."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}: got {dtype!r}")
    return jax.enable_x64(dtype == "float64")


def double() -> AbstractContextManager:
    """The context of exact calculations: float64."""
    return precision("float64")


def as_traced(tree, dtype: str):
    """The tree with every float (Python's or an array) as an array of `dtype`, to be traced rather than baked in.

    Step sizes and matrices then enter a compiled step as arguments: a ladder of learning rates compiles once. Zeros
    stay what they are, so that what is switched off costs nothing (`plus_times`).
    """

    def cast(leaf):
        if is_off(leaf):
            return leaf
        if isinstance(leaf, float | np.floating):
            return jnp.asarray(leaf, dtype)
        if isinstance(leaf, np.ndarray | jax.Array):
            return jnp.asarray(leaf, dtype if jnp.issubdtype(leaf.dtype, jnp.inexact) else None)
        return leaf

    return jax.tree.map(cast, tree)


def is_off(coefficient) -> bool:
    """Whether a coefficient is the number 0 itself, not a traced one."""
    return isinstance(coefficient, float) and coefficient == 0


def plus_times(value, coefficient, x):
    """value + coefficient·x, which is `value` where the coefficient is switched off."""
    return value if is_off(coefficient) else value + coefficient * x


def portable(function: Callable) -> Callable:
    """The function, fit to be traced in both precisions even if it uses NumPy arrays from outside its body.

    jax converts such an array to its precision of the moment and remembers the result by the identity of the array, so
    that a loss once traced in float32 fails in float64 (jax 0.10.2). Here each precision has copies of its own. Arrays
    that are reached through other objects, or through functions that the function calls, are not seen.

    >>> weights = np.array([1.0, 2.0])
    >>> portable(lambda x: x @ weights)(jnp.ones(2)).item()
    3.0
    """
    if not inspect.isfunction(function):
        return function
    variables = inspect.getclosurevars(function)
    outside = {**variables.globals, **variables.nonlocals}
    arrays = {name: value for name, value in outside.items() if isinstance(value, np.ndarray)}
    return _Portable(function, arrays) if arrays else function


class _Portable:
    """A function with copies, one a precision, of the arrays that it takes from outside."""

    def __init__(self, function: types.FunctionType, arrays: dict[str, np.ndarray]):
        self.function = function
        self._versions = {dtype: _with_copies(function, arrays) for dtype in DTYPES}
        self.__name__, self.__qualname__ = function.__name__, function.__qualname__

    def __call__(self, *arguments):
        return self._versions[str(jnp.result_type(float))](*arguments)

    def __eq__(self, other):
        return isinstance(other, _Portable) and self.function == other.function

    def __hash__(self):
        return hash(self.function)


def _with_copies(function: types.FunctionType, arrays: dict[str, np.ndarray]) -> types.FunctionType:
    copies = {name: value.copy() for name, value in arrays.items()}
    cells = tuple(
        types.CellType(copies[name]) if name in copies else cell
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ())
    )
    copy = types.FunctionType(
        function.__code__, {**function.__globals__, **copies}, function.__name__, function.__defaults__, cells
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
