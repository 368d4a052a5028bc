"""Affine dynamics in float64: the matrices of a linear map, and the exact law of a linear SDE over one step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm

from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.precision import as_traced, double


def affine_map(function: Callable, template) -> tuple[np.ndarray, np.ndarray]:
    """(A, c) of a function u -> A u + c between pytrees, in float64. `template` is a pytree like its argument."""
    with double():
        flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), float), template))

        def flattened(u):
            return ravel_pytree(function(unravel(u)))[0]

        return np.asarray(jax.jacfwd(flattened)(flat)), np.asarray(flattened(flat))


def linear_parts(equation: ModifiedEquation, t: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A, c, B) of dY = (A Y + c) dt + B dW at time t; the caller has checked that the equation is of this form."""
    with double():
        exact = as_traced(equation, "float64")
        template = exact.start(jnp.zeros(exact.problem.dim))
        a, c = affine_map(lambda y: exact.drift(t, y), template)
        zero = jax.tree.map(jnp.zeros_like, template)
        b, _ = affine_map(lambda z: exact.diffusion(t, zero, z), jnp.zeros(exact.noise_dim))
    return a, c, b


def one_step_law(a: np.ndarray, c: np.ndarray, b: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Φ, φ, L) with Y(t+dt) = Φ Y(t) + φ + L z in law, z standard normal (Van Loan, IEEE TAC 23, 1978)."""
    n = len(a)
    q = b @ b.T
    block = expm(np.block([[-a, q], [np.zeros((n, n)), a.T]]) * dt)
    transition = block[n:, n:].T
    covariance = transition @ block[:n, n:]
    drift = expm(np.block([[a, c[:, None]], [np.zeros((1, n + 1))]]) * dt)
    return transition, drift[:n, n], matrix_root(covariance)


def matrix_root(covariance: np.ndarray) -> np.ndarray:
    """L with L Lᵀ equal to a symmetric positive semidefinite matrix, by its eigenvectors."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return vectors * np.sqrt(np.clip(values, 0.0, None))
