"""A ring of past values, for chains whose gradients are stale."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax


def ring(x, length: int):
    """The ring (length, …) of a chain that has stood at x for ever.

    >>> ring(jnp.zeros(2), 64).shape
    (64, 2)
    """
    return jnp.broadcast_to(x, (length, *jnp.shape(x)))


def remember(values, k, x):
    """The ring after step number k has put the value x into it; it forgets the value of step k − length."""
    return lax.dynamic_update_index_in_dim(values, x, jnp.asarray(k) % values.shape[0], 0)


def recall(values, k, delay):
    """The value that was put in at step k − delay, 0 <= delay < length."""
    return lax.dynamic_index_in_dim(values, (jnp.asarray(k) - delay) % values.shape[0], 0, keepdims=False)
