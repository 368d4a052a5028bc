"""Finite sums over data: any differentiable loss of one example, any pytree of parameters and of data.

    L(x) = (1/N) Σ_i l_i(x),      noisy_gradient(x) = (1/B) Σ_{i in batch} ∇l_i(x)

The covariance of the noisy gradient is Σ = f S/B, with S = (1/N) Σ_i (∇l_i − ∇L)(∇l_i − ∇L)ᵀ and f = 1 with
replacement, (N−B)/(N−1) without. Its root needs no d×d matrix (theory 1.1): with z in R^N of independent
standard components and z̄ its mean,

    R(x) z = √f Σ_i (z_i − z̄) ∇l_i(x) / √(N B)

has covariance Σ exactly, and is one weighted backward pass. So is ∇L + c R z, with 1/N added to the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from itograd.problems.layout import Layout
from itograd.problems.problem import Problem
from itograd.problems.sampling import SAMPLINGS, batch_indices, covariance_factor
from itograd.simulation.draws import Draws
from itograd.simulation.precision import plus_times, portable
from itograd.validation import require, require_choice, require_count, require_number

# Σ is formed as a matrix up to this dimension (32 MB in float64). Where only a sum over the examples'
# gradients is wanted, so many numbers of them are made at a time.
MAX_MATRIX_DIM = 2000
_CHUNK = 2**21


class FiniteSum(Problem):
    """L(x) = (1/N) Σ_i (loss(params, example_i) + (l2/2)|x|²), with batches of B examples.

    `loss(params, example)` returns a scalar. `data` is a pytree of arrays with a common leading axis of N
    examples; an example is the same pytree without that axis. `params` is a template: a pytree of
    floating-point arrays that gives the shapes and the starting point `x0`. Inside, x in R^d is its leaves
    one after the other, and `problem.params(x)` gives the pytree back. `l2` is coupled weight decay.
    `observables` are scalar functions of params, by name.

    `sampling` is "with_replacement" (what the SDEs assume; B may exceed N), "without_replacement" or
    "reshuffling": see `itograd.problems.sampling`. NumPy arrays that the loss itself takes from outside are
    copied when the problem is made (`itograd.simulation.precision.portable`).

    Raises TypeError or ValueError, naming the leaf, where data or params are not as said, where the loss does
    not return a real scalar, or where a batch without replacement is larger than the data set.

    >>> line = FiniteSum(lambda w, point: (w["slope"] * point[0] - point[1]) ** 2, batch_size=1,
    ...                  params={"slope": np.array(1.0)}, data=(np.array([1.0, 2.0]), np.array([1.0, 3.0])))
    >>> line.dim, line.dataset_size, float(line.loss(line.x0))
    (1, 2, 0.5)
    """

    data: PyTree
    start: np.ndarray
    l2: float
    batch_size: int = eqx.field(static=True)
    example_loss: Callable = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)
    scheme: str = eqx.field(static=True)
    user_observables: tuple[tuple[str, Callable], ...] = eqx.field(static=True)

    def __init__(
        self,
        loss: Callable,
        data: PyTree,
        *,
        params: PyTree,
        batch_size: int = 1,
        sampling: str = "with_replacement",
        l2: float = 0.0,
        observables: Mapping[str, Callable] | None = None,
    ):
        require_number("l2", l2, minimum=0)
        self.data = _checked_data(data)
        self.layout, self.start = _checked_params(params)
        self.l2, self.scheme = float(l2), sampling
        _check_batch(batch_size, sampling, self.dataset_size)
        self.batch_size = int(batch_size)
        self.example_loss = portable(loss)
        self.user_observables = tuple((name, portable(function)) for name, function in (observables or {}).items())
        x = jax.ShapeDtypeStruct(self.start.shape, jnp.result_type(float))
        template = jax.eval_shape(self.layout.unflatten, x)
        example = jax.eval_shape(partial(_examples, self.data), 0)
        _check_function("loss", loss, "scalar per example", template, example)
        for name, function in self.user_observables:
            _check_function(f"observable {name!r}", function, "scalar", template)

    @property
    def dim(self):
        return self.layout.dim

    @property
    def noise_dim(self):
        return self.dataset_size

    @property
    def dataset_size(self):
        return jax.tree.leaves(self.data)[0].shape[0]

    @property
    def sampling(self):
        return self.scheme

    @property
    def decay(self):
        return self.l2

    @property
    def x0(self):
        return self.start

    def params(self, x: Float[Array, " d"]) -> PyTree:
        """The parameters of a point x, as the pytree that the loss takes."""
        return self.layout.unflatten(x)

    def loss(self, x):
        return jnp.mean(self._losses(x, self.data)) + self.l2 / 2 * jnp.sum(x**2)

    def gradient(self, x):
        return plus_times(self._weighted_gradient(x, 1 / self.dataset_size, self.data), self.l2, x)

    def noisy_gradient(self, x, draws: Draws):
        index = batch_indices(draws, self.sampling, self.dataset_size, self.batch_size)
        return plus_times(self._weighted_gradient(x, 1 / self.batch_size, _examples(self.data, index)), self.l2, x)

    def noise_root(self, x, z):
        return self._weighted_gradient(x, self._noise_weights(z), self.data)

    def perturbed_gradient(self, x, z, scale):
        weights = 1 / self.dataset_size + scale * self._noise_weights(z)
        return plus_times(self._weighted_gradient(x, weights, self.data), self.l2, x)

    def per_example_gradients(self, x: Float[Array, " d"]) -> Float[Array, "N d"]:
        """∇l_i(x), one row an example; their mean is `gradient(x)`. Forms N·d numbers."""
        return plus_times(self._gradients(x, self.data), self.l2, x)

    def noise_covariance(self, x):
        require(
            self.dim <= MAX_MATRIX_DIM,
            f"a noise covariance is formed for at most {MAX_MATRIX_DIM} parameters: this problem has "
            f"{self.dim}; use noise_root, noise, noise_variances or noise_trace, which need no d×d matrix",
        )
        return self._covariance_weight * self._sum_over_deviations(x, lambda e: e.T @ e)

    def noise_variances(self, x):
        return self._covariance_weight * self._sum_over_deviations(x, lambda e: jnp.sum(e**2, axis=0))

    def noise_trace(self, x):
        return self._covariance_weight * self._sum_over_deviations(x, lambda e: jnp.sum(e**2))

    def observables(self):
        def of_x(function):
            return lambda x: function(self.params(x))

        return {name: of_x(function) for name, function in self.user_observables}

    def with_batch_size(self, batch_size):
        _check_batch(batch_size, self.sampling, self.dataset_size)
        return super().with_batch_size(batch_size)

    @property
    def _covariance_weight(self):
        """f/(N B), the weight of one example's deviation in Σ."""
        factor = covariance_factor(self.sampling, self.dataset_size, self.batch_size)
        return factor / (self.dataset_size * self.batch_size)

    def _noise_weights(self, z):
        return self._covariance_weight**0.5 * (z - jnp.mean(z))

    def _losses(self, x, examples):
        """The losses of several examples, without l2; overridden where the loss takes a whole batch."""
        return jax.vmap(self.example_loss, (None, 0))(self.params(x), examples)

    def _weighted_gradient(self, x, weights, examples):
        """Σ_i w_i ∇l_i(x), without l2, by one backward pass."""
        return jax.grad(lambda x: jnp.sum(weights * self._losses(x, examples)))(x)

    def _gradients(self, x, examples):
        """∇l_i(x) one by one, without l2: (examples, d)."""

        def of_one(example):
            return jax.grad(lambda x: self.example_loss(self.params(x), example))(x)

        return jax.vmap(of_one)(examples)

    def _sum_over_deviations(self, x, term):
        """Σ over chunks of examples of term(E), with the rows ∇l_i − ∇L of a chunk in E; holds one chunk."""
        n = self.dataset_size
        rows = max(1, min(n, _CHUNK // self.dim))
        mean = self._weighted_gradient(x, 1 / n, self.data)

        def of_chunk(chunk):
            index = chunk * rows + jnp.arange(rows)
            gradients = self._gradients(x, _examples(self.data, jnp.minimum(index, n - 1)))
            return term(jnp.where((index < n)[:, None], gradients - mean, 0))

        return jax.lax.fori_loop(1, -(-n // rows), lambda chunk, total: total + of_chunk(chunk), of_chunk(0))


def _examples(data, index):
    """The example at an index, or those at an array of them; all indices lie inside."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf).at[index].get(mode="promise_in_bounds", wrap_negative_indices=False), data
    )


def _named_leaves(name, tree):
    """(name, leaf) of each leaf of a pytree."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [(name + jax.tree_util.keystr(path), leaf) for path, leaf in paths]


def _checked_data(data):
    """The pytree as NumPy arrays: float64, int32 or bool, so that both precisions see the same numbers."""
    leaves = [(name, np.asarray(leaf)) for name, leaf in _named_leaves("data", data)]
    require(leaves, "data must hold at least one array: got an empty pytree")
    kinds = {"f": float, "i": np.int32, "u": np.int32, "b": bool}
    for name, leaf in leaves:
        if leaf.dtype.kind not in kinds:
            raise TypeError(f"{name} must be an array of real numbers or booleans: got dtype {leaf.dtype}")
        require(
            leaf.ndim > 0,
            f"{name} must have a leading axis of examples: got a scalar "
            "(lists are pytrees of scalars: make them arrays)",
        )
        require(leaf.size > 0, f"{name} must not be empty: got shape {leaf.shape}")
        require(
            np.isfinite(leaf).all(),
            f"{name} must be finite: {np.sum(~np.isfinite(leaf))} of its {leaf.size} numbers are NaN or infinite",
        )
        require(
            leaf.dtype.kind not in "iu" or -(2**31) <= leaf.min() <= leaf.max() < 2**31,
            f"{name} must fit 32-bit integers: got {leaf.min()} to {leaf.max()}",
        )
    first, size = leaves[0][0], len(leaves[0][1])
    for name, leaf in leaves:
        require(
            len(leaf) == size,
            f"the arrays of data must share their leading axis: {first} has {size} examples, {name} has {len(leaf)}",
        )
    converted = [leaf.astype(kinds[leaf.dtype.kind]) for _, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(data), converted)


def _checked_params(params):
    """The layout and the vector, in float64, of a template of parameters."""
    leaves = _named_leaves("params", params)
    require(leaves, "params must hold at least one array: got an empty pytree")
    for name, leaf in leaves:
        if not jnp.issubdtype(np.asarray(leaf).dtype, jnp.floating):
            got = f"dtype {leaf.dtype}" if hasattr(leaf, "dtype") else repr(leaf)
            raise TypeError(f"{name} must be an array of floating-point numbers: got {got}")
        require(np.size(leaf) > 0, f"{name} must not be empty: got shape {np.shape(leaf)}")
        require(np.isfinite(np.asarray(leaf, float)).all(), f"{name} must be finite: got NaN or infinity")
    return Layout.of(params), np.concatenate([np.ravel(np.asarray(leaf, float)) for _, leaf in leaves])


def _check_function(name, function, wanted, *arguments):
    """Raise unless `function` can be a static part of a problem and returns one real scalar."""
    if not callable(function):
        raise TypeError(f"{name} must be a function: got {function!r}")
    try:
        hash(function)
    except TypeError as error:
        raise TypeError(f"{name} must be hashable: got {function!r}; put its arrays into data") from error
    result = jax.tree.leaves(jax.eval_shape(function, *arguments))
    got = f"shape {result[0].shape}" if len(result) == 1 else f"{len(result)} arrays"
    require(len(result) == 1 and result[0].shape == (), f"{name} must return a {wanted}: got {got}")
    require(
        jnp.issubdtype(result[0].dtype, jnp.floating),
        f"{name} must return a floating-point number: got {result[0].dtype}",
    )


def _check_batch(batch_size, sampling, dataset_size):
    require_choice("sampling", sampling, SAMPLINGS)
    require_count("batch_size", batch_size)
    require(
        sampling == "with_replacement" or batch_size <= dataset_size,
        f"batch_size must be at most the {dataset_size} examples under {sampling!r}: got {batch_size}",
    )
