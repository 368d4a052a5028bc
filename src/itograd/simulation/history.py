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
    place = _place(k, values.shape[0])
    return lax.dynamic_update_index_in_dim(values, x, place, 0, allow_negative_indices=False)


def recall(values, k, delay):
    """The value that was put in at step k − delay, 0 <= delay < length."""
    place = _place(jnp.asarray(k) - delay, values.shape[0])
    return lax.dynamic_index_in_dim(values, place, 0, keepdims=False, allow_negative_indices=False)


def _place(k, length: int):
    return jnp.asarray(k) & (length - 1) if length & (length - 1) == 0 else jnp.asarray(k) % length
