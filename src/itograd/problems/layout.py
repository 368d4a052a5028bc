"""A pytree of parameters as one vector x in R^d, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from itograd.validation import require


@dataclass(frozen=True)
class Layout:
    """Where each leaf of a pytree of arrays lies in one vector. It knows shapes only: any precision passes.

    >>> layout = Layout.of({"bias": np.zeros(2), "weight": np.ones((3, 2))})
    >>> layout.dim
    8
    """

    structure: jax.tree_util.PyTreeDef
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tree: Any) -> Layout:
        """The layout of a pytree of arrays."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple(np.shape(leaf) for leaf in leaves))

    @property
    def dim(self) -> int:
        """The length d of the vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, tree: Any) -> Float[Array, " d"]:
        """The vector of a pytree, leaf after leaf in the order of `jax.tree.leaves`."""
        leaves, structure = jax.tree.flatten(tree)
        require(structure == self.structure, f"the pytree must be {self.structure}: got {structure}")
        shapes = tuple(np.shape(leaf) for leaf in leaves)
        require(shapes == self.shapes, f"the leaves must have shapes {self.shapes}: got {shapes}")
        return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])

    def unflatten(self, x: Float[Array, " d"]) -> Any:
        """The pytree of a vector."""
        require(np.shape(x) == (self.dim,), f"x must have shape ({self.dim},): got {np.shape(x)}")
        leaves, first = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            leaves.append(x[first : first + size].reshape(shape))
            first += size
        return jax.tree.unflatten(self.structure, leaves)
