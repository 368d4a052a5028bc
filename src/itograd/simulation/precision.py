"""Float64 inside a block, without touching the process's own JAX configuration (the context is thread-local)."""

from __future__ import annotations

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

    Step sizes and matrices then enter a compiled step as arguments: a ladder of learning rates compiles once.
    """

    def cast(leaf):
        if isinstance(leaf, float | np.floating):
            return jnp.asarray(leaf, dtype)
        if isinstance(leaf, np.ndarray | jax.Array):
            return jnp.asarray(leaf, dtype if jnp.issubdtype(leaf.dtype, jnp.inexact) else None)
        return leaf

    return jax.tree.map(cast, tree)
