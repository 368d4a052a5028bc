"""scikit-learn's handwritten digits (1797 images of 8×8 pixels, ten classes) as a finite sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from itograd.problems.finite_sum import FiniteSum
from itograd.validation import require, require_choice, require_count, require_number

CLASSES = 10
TRAINING_EXAMPLES = 1400
S7_DECAY = 1e-3


def digits(
    model: str = "softmax",
    batch_size: int = 32,
    *,
    preset: str | None = None,
    hidden: int = 32,
    sampling: str = "with_replacement",
    l2: float = 0.0,
    label_noise: float = 0.0,
    seed: int = 0,
) -> FiniteSum:
    """Classification of scikit-learn's digits by cross-entropy; observable: "accuracy", on the training set.

        L(x) = (1/1400) Σ_i (log Σ_c exp(z_ic) − z_i,label(i)) + (l2/2)|x|²,      z_i = logits(x, a_i) in R^10

    Features a_i: each pixel centred and divided by (its standard deviation + 1e-3), both over all 1797
    images; a bias column of ones appended; all 65 columns divided by 8. Training set: the images
    `numpy.random.default_rng(0).permutation(1797)[:1400]`. No other example is used.

    `model`: "softmax", weights W (10, 65) from W = 0, logits W a (d = 650); or "mlp", weights V (hidden, 65)
    and W (10, hidden), logits W tanh(V a), without further biases (d = 75 hidden); from V ~ N(0, 1) and
    W ~ N(0, 1/hidden), drawn in this order from `numpy.random.default_rng(seed)`.

    `label_noise` p: the labels of round(1400 p) training images are redrawn uniformly over all ten classes,
    by `rng = numpy.random.default_rng(1)`, images `rng.permutation(1400)[:round(1400 p)]`, labels
    `rng.integers(10)`. `l2` is coupled weight decay on all weights, the bias too.

    `preset="S7"` is the experiment of theory amendment 13: softmax, l2 = 1e-3, with replacement. Any other
    value of what a preset fixes raises ValueError.

    >>> digits(preset="S7", batch_size=16).dim
    650
    """
    require_choice("model", model, ("softmax", "mlp"))
    require_count("hidden", hidden)
    require_count("seed", seed, minimum=0)
    require_number("label_noise", label_noise, minimum=0, maximum=1)
    require_choice("preset", preset, (None, "S7"))
    if preset == "S7":
        fixed = {"model": "softmax", "l2": S7_DECAY, "label_noise": 0.0, "sampling": "with_replacement"}
        given = {"model": model, "l2": l2 or S7_DECAY, "label_noise": label_noise, "sampling": sampling}
        for name, value in fixed.items():
            require(given[name] == value, f"preset 'S7' fixes {name}={value!r}: got {given[name]!r}")
        l2 = S7_DECAY
    features, labels = _training_set(label_noise)
    kind: type[Classification] = SoftmaxRegression if model == "softmax" else Classification
    logits, params = _softmax(features) if model == "softmax" else _mlp(features, hidden, seed)
    return kind(
        logits, features, np.eye(CLASSES)[labels], params=params, batch_size=batch_size, sampling=sampling, l2=l2
    )


@dataclass(frozen=True)
class CrossEntropy:
    """log Σ_c exp(z_c) − z_label with z = logits(params, features), of one example or of each of a batch.

    Classes come first, so that sums over them run across a batch; mapping per-example code over the batch
    gives the opposite order, which is slower.
    """

    logits: Callable

    def __call__(self, params, example):
        features, labels = example  # (65,), (10,) or (B, 65), (B, 10)
        z = self.logits(params, features.T)  # (10,) or (10, B)
        top = jax.lax.stop_gradient(jnp.max(z, 0))
        return jnp.log(jnp.sum(jnp.exp(z - top), 0)) + top - jnp.sum(z * labels.T, 0)


class Classification(FiniteSum):
    """Cross-entropy of a model over data; observable: "accuracy".

    `logits(params, features)` maps features (p,) to (classes,) and (p, B) to (classes, B). `features` are
    (N, p), `labels` one-hot (N, classes); the other arguments are those of `FiniteSum`.
    """

    logits: Callable = eqx.field(static=True)

    def __init__(self, logits: Callable, features, labels, **arguments):
        self.logits = logits
        super().__init__(CrossEntropy(logits), (features, labels), **arguments)

    def _losses(self, x, examples):
        return self.example_loss(self.params(x), examples)

    def accuracy(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """The share of the training examples whose largest logit is their label's."""
        features, labels = self.data
        guess = jnp.argmax(self.logits(self.params(x), jnp.asarray(features).T), 0)
        return jnp.mean((guess == jnp.argmax(jnp.asarray(labels), 1)).astype(float))

    def observables(self):
        return {"accuracy": self.accuracy, **super().observables()}


class SoftmaxRegression(Classification):
    """Classification with logits W a, W (classes, p) the only parameters."""

    def noise_variances(self, x):
        """diag Σ(x) by two products of matrices.

        One example's gradient is the outer product (p_i − y_i) a_iᵀ, with p_i the softmax of its logits, so that the
        mean square of its entry (c, j) is (1/N) Σ_i (p_ic − y_ic)² a_ij²: no example's gradient is formed.
        """
        features, labels = map(jnp.asarray, self.data)  # (N, p), (N, classes)
        residuals = jax.nn.softmax(features @ self.params(x).T, axis=1) - labels
        squares = (residuals**2).T @ features**2 - (residuals.T @ features) ** 2 / self.dataset_size
        return self._covariance_weight * jnp.maximum(squares, 0).ravel()  # not below 0 by rounding


def _training_set(label_noise):
    """Features (1400, 65) and labels (1400,)."""
    from sklearn.datasets import load_digits  # not needed, and slow to import, for any other problem

    pixels, labels = load_digits(return_X_y=True)
    standardised = (pixels - pixels.mean(0)) / (pixels.std(0) + 1e-3)
    features = np.column_stack([standardised, np.ones(len(pixels))]) / 8
    chosen = np.random.default_rng(0).permutation(len(pixels))[:TRAINING_EXAMPLES]
    features, labels = features[chosen], labels[chosen]
    rng = np.random.default_rng(1)
    redrawn = rng.permutation(TRAINING_EXAMPLES)[: round(TRAINING_EXAMPLES * label_noise)]
    labels[redrawn] = rng.integers(CLASSES, size=len(redrawn))
    return features, labels


def _softmax(features):
    return _softmax_logits, np.zeros((CLASSES, features.shape[1]))


def _mlp(features, hidden, seed):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(hidden, features.shape[1]))
    return _mlp_logits, (first, rng.normal(size=(CLASSES, hidden)) / hidden**0.5)


def _softmax_logits(weights, features):
    return weights @ features


def _mlp_logits(weights, features):
    first, second = weights
    return second @ jnp.tanh(first @ features)
