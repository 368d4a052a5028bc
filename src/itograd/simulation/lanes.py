"""Evaluation of a program for many paths at once: the path is the last axis of every array.

A value is one of three things:

    uniform   the same for all paths: an array of its own shape
    Lanes     an array (shape…, paths)
    Scalars   a small vector or matrix taken apart: one array (paths,), or a number, for each of its elements

A small system written with `A @ x`, `jnp.stack` or a sum over a short axis becomes straight-line arithmetic of
components in this way, as if it had been written so by hand. A primitive without a rule is mapped over the paths by
its own batching rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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


def depends_on_path(value) -> bool:
    """Whether a value differs between paths."""
    return isinstance(value, Lanes | Scalars)


@dataclass(frozen=True)
class Form:
    """The form in which values are kept: arrays of at most `most_scalars` elements are taken apart (none where it is 0)."""

    paths: int
    most_scalars: int

    def spread(self, element):
        """One element for all paths, (paths,)."""
        return element if jnp.ndim(element) == 1 else lax.broadcast(jnp.asarray(element), (self.paths,))

    def lanes(self, value, shape=None) -> jax.Array:
        """Any value as an array (shape…, paths)."""
        if isinstance(value, Lanes):
            return value.array
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
        array = value.array if isinstance(value, Lanes) else value
        shape = array.shape[:-1] if isinstance(value, Lanes) else np.shape(array)
        elements = np.empty(shape, object)
        for index in np.ndindex(*shape):
            elements[index] = array[index]
        return elements

    def is_small(self, atom) -> bool:
        """Whether a value of the atom's shape is taken apart."""
        return int(np.prod(shape_of(atom))) <= self.most_scalars

    def value(self, array: jax.Array, variable: Variable):
        """An array (shape…, paths) as the value of a variable, in the form that its size asks for."""
        lanes = Lanes(array)
        return Scalars(self.scalars(lanes)) if self.is_small(variable) else lanes
