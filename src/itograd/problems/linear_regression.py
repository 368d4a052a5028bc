"""Least squares over data: gradient noise that depends on x, and moments that still close."""

from __future__ import annotations

import numpy as np

from itograd.problems.finite_sum import FiniteSum
from itograd.validation import require, require_number


class LinearRegression(FiniteSum):
    """L(x) = (1/N) Σ_i (a_i·x − b_i)²/2, with a_i the rows of `features` (N, d) and b_i the `targets` (N,).

    One example's gradient a_i (a_i·x − b_i) is affine in x, so ∇L is affine and Σ(x) is quadratic: with
    replacement the moments of linear optimisers close (theory 3.2). `sampling` and `l2` are those of
    `FiniteSum`.

    >>> problem = LinearRegression([[1.0, 0.0], [1.0, 1.0]], targets=[1.0, 3.0], batch_size=4)
    >>> problem.noise_covariance(problem.x0).tolist()
    [[0.25, 0.375], [0.375, 0.5625]]
    """

    def __init__(self, features, targets, batch_size: int = 1, *, sampling: str = "with_replacement", l2: float = 0.0):
        features, targets = np.asarray(features, float), np.asarray(targets, float)
        require(features.ndim == 2, f"features must have shape (N, d): got {features.shape}")
        require(
            targets.shape == features.shape[:1],
            f"targets must have shape ({len(features)},), like the rows of features: got {targets.shape}",
        )
        super().__init__(
            _squared_error,
            {"features": features, "targets": targets},
            params=np.zeros(features.shape[1]),
            batch_size=batch_size,
            sampling=sampling,
            l2=l2,
        )

    @classmethod
    def one_dimensional(
        cls, curvatures, offsets, batch_size: int = 1, *, sampling: str = "with_replacement"
    ) -> LinearRegression:
        """The problem on the line with N equally likely gradients h_i x − ξ_i (theory 3.2).

        `curvatures` h_i ≥ 0 and `offsets` ξ_i have one shape (N,). As least squares they are
        a_i = √h_i and b_i = ξ_i/√h_i, so that an offset without curvature (h_i = 0, ξ_i ≠ 0) is refused.

        >>> line = LinearRegression.one_dimensional(curvatures=[1.0, 4.0, 4.0], offsets=[0.0, 2.0, -2.0])
        >>> float(line.gradient(np.array([2.0]))[0])  # mean curvature 3, mean offset 0
        6.0
        """
        h, xi = np.asarray(curvatures, float), np.asarray(offsets, float)
        require(
            h.ndim == 1 and h.shape == xi.shape,
            f"curvatures and offsets must have one shape (N,): got {h.shape} and {xi.shape}",
        )
        for curvature, offset in zip(h, xi):
            require_number("a curvature", curvature, minimum=0)
            require(curvature > 0 or offset == 0, f"an offset needs a curvature: got offset {offset}")
        root = np.sqrt(h)
        return cls(
            root[:, None], np.divide(xi, root, out=np.zeros_like(xi), where=root > 0), batch_size, sampling=sampling
        )

    @property
    def is_quadratic(self):
        return True


def _squared_error(x, example):
    return (example["features"] @ x - example["targets"]) ** 2 / 2
