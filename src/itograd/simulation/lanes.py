"""Evaluation of a program for many paths at once: the path is the last axis of every array.

A value is one of four things:

    uniform   the same for all paths: an array of its own shape
    Lanes     an array (shape…, paths)
    Scalars   a small vector or matrix taken apart: one array (paths,), or a number, for each of its elements
    Ring      past values of a pair of numbers, which are written and read one row at a time

A small system written with `A @ x`, `jnp.stack` or a sum over a short axis becomes straight-line arithmetic of
components in this way, as if it had been written so by hand. A primitive without a rule is mapped over the paths by
its own batching rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from itograd.simulation.linear_forms import LinearForm
from itograd.simulation.program import Variable, shape_of


@dataclass(frozen=True)
class Lanes:
    """An array (shape…, paths)."""

    array: jax.Array


@dataclass(frozen=True)
class Scalars:
    """The elements of a small array, in an object array of its shape; each is (paths,) or a number."""

    elements: np.ndarray

    @classmethod
    def of(cls, elements: Sequence, shape: tuple[int, ...] | None = None) -> Scalars:
        """The value with these elements, by default a vector."""
        box = np.empty(len(elements), object)
        for place, element in enumerate(elements):
            box[place] = element
        return cls(box if shape is None else box.reshape(shape))


@dataclass(frozen=True)
class Ring:
    """Pairs of past values (length, 2) as complex numbers, an array (length, paths)."""

    array: jax.Array


def depends_on_path(value) -> bool:
    """Whether a value differs between paths."""
    return isinstance(value, Lanes | Scalars | Ring)


@dataclass(frozen=True)
class Form:
    """The form in which values are kept: arrays of at most `most_scalars` elements are taken apart."""

    paths: int
    most_scalars: int
    _elements: dict = field(default_factory=dict)  # of arrays that are the same for all paths, by identity
    _products: dict = field(default_factory=dict)

    def within(self) -> Form:
        """The same form for the body of a loop: it knows what is known outside, and forgets what it learns."""
        return Form(self.paths, self.most_scalars, dict(self._elements), dict(self._products))

    def product(self, a, b):
        """The product of two factors that are the same for all paths, formed once."""
        key = (id(a), id(b))
        if key not in self._products:
            self._products[key] = (a * b, a, b)  # with the factors, which must outlive their identity
        return self._products[key][0]

    def spread(self, element):
        """One element for all paths, (paths,)."""
        if isinstance(element, LinearForm):
            return element.value(self.spread)
        return element if jnp.ndim(element) == 1 else lax.broadcast(jnp.asarray(element), (self.paths,))

    def differs(self, element) -> bool:
        """Whether an element differs between paths."""
        return isinstance(element, LinearForm) or jnp.ndim(element) == 1

    def closed(self, element):
        """An element as a factor of several products: a form of many terms is summed first."""
        many = isinstance(element, LinearForm) and (element.wholes or len(element.terms) > 1)
        return self.spread(element) if many else element

    def lanes(self, value, shape=None) -> jax.Array:
        """Any value as an array (shape…, paths)."""
        if isinstance(value, Lanes):
            return value.array
        if isinstance(value, Ring):
            return jnp.stack([value.array.real, value.array.imag], axis=1)
        if isinstance(value, Scalars):
            elements = [self.spread(e) for e in value.elements.ravel()]
            stacked = elements[0][None] if len(elements) == 1 else jnp.stack(elements)
            return stacked.reshape(*value.elements.shape, self.paths)
        value = jnp.asarray(value)
        return lax.broadcast_in_dim(value, (*value.shape, self.paths), tuple(range(value.ndim)))

    def scalars(self, value) -> np.ndarray:
        """Any small value as an object array of elements."""
        if isinstance(value, Scalars):
            return value.elements
        if isinstance(value, Lanes):
            return _taken_apart(value.array, value.array.shape[:-1])
        if id(value) not in self._elements:
            self._elements[id(value)] = (_taken_apart(value, np.shape(value)), value)
        return self._elements[id(value)][0]

    def is_small(self, atom) -> bool:
        """Whether a value of the atom's shape is taken apart."""
        return 0 < int(np.prod(shape_of(atom))) <= self.most_scalars

    def value(self, array: jax.Array, variable: Variable):
        """An array (shape…, paths) as the value of a variable, in the form that its size asks for."""
        lanes = Lanes(array)
        return Scalars(self.scalars(lanes)) if self.is_small(variable) else lanes


def _taken_apart(array, shape: tuple[int, ...]) -> np.ndarray:
    elements = np.empty(shape, object)
    for index in np.ndindex(*shape):
        elements[index] = array[index] if shape else array
    return elements
