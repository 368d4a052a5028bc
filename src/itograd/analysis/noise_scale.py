"""The gradient noise scale (McCandlish, Kaplan, Amodei et al. 2018, arXiv 1812.06162; theory 1.4, 5.6).

    G = |∇L|²,     N = tr Σ,     B_simple = tr S / |∇L|² = B N / G     (batches of B drawn with replacement)

G and N are measured without bias, at a frozen point or from logged norms. B_simple is a ratio of means,
never a mean of ratios, and its interval is Fieller's, which has no upper end where G cannot be told from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float
from scipy import stats

from itograd.problems.problem import Amplified, GaussianNoise, Problem
from itograd.problems.sampling import covariance_factor
from itograd.simulation.draws import Draws
from itograd.simulation.interrupt import safe_point
from itograd.simulation.precision import as_traced, double
from itograd.simulation.threefry import path_key, seed_words
from itograd.validation import require, require_count, require_number

MIN_REPLICATES = 8
_MAX_GROUPS = 32
_CHUNK = 2**22  # numbers in the examples' gradients that are held at once


@dataclass(frozen=True)
class NoiseScale:
    """G = |∇L|², N = tr Σ of a batch of `batch_size`, and B_simple in examples, with their intervals.

    An upper end `inf` of `simple_interval` says that G was not told from 0: the interval is then a lower
    bound, or, from 0, nothing at all. `samples` is the number of batches, or of logged steps, behind the
    estimates.
    """

    squared_gradient: float
    squared_gradient_standard_error: float
    squared_gradient_interval: tuple[float, float]
    noise_trace: float
    noise_trace_standard_error: float
    noise_trace_interval: tuple[float, float]
    simple: float
    simple_interval: tuple[float, float]
    batch_size: int
    samples: int
    confidence: float

    def __str__(self) -> str:
        def line(name, value, interval, error=None, note=""):
            spread = "" if error is None else f" ± {error:.2g}"
            low, high = interval
            return f"{name} = {value:.4g}{spread}   ({self.confidence:.0%}: {low:.4g} … {high:.4g}){note}"

        bounded = math.isfinite(self.simple_interval[1])
        return "\n".join(
            [
                line(
                    "|∇L|²   ",
                    self.squared_gradient,
                    self.squared_gradient_interval,
                    self.squared_gradient_standard_error,
                ),
                line(
                    "tr Σ    ",
                    self.noise_trace,
                    self.noise_trace_interval,
                    self.noise_trace_standard_error,
                    note=f"   at batch size {self.batch_size}",
                ),
                line(
                    "B_simple",
                    self.simple,
                    self.simple_interval,
                    note="" if bounded else "   no upper bound: |∇L|² is not told from 0",
                ),
            ]
        )


def noise_scale(
    problem: Problem, x: Float[ArrayLike, " d"], *, batches: int = 256, seed: int = 0, confidence: float = 0.95
) -> NoiseScale:
    """Measure |∇L|², tr Σ and B_simple at a point x from n batch gradients g_1 … g_n.

        q = mean |g_i|²,   p = |mean g_i|²,     G = (n p − q)/(n − 1),   N = q − G,   B_simple = B N / (f G)

    G and N are unbiased for every n. f is the covariance factor of the sampling: 1 with replacement, else
    (D−B)/(D−1) for D examples, so that B_simple is tr S/|∇L|² in either case. Standard errors are the
    jackknife's over up to 32 groups of batches, which does not err towards zero in expectation (Efron and
    Stein 1981); the intervals are Student's and Fieller's. They hold where the noise spreads over several
    directions; with noise in one direction only and n G/N below 20 those of 95 % cover G in 80 to 90 % of
    the cases.

    Raises ValueError for fewer than 8 batches, for a point that is not finite or of another dimension,
    where a gradient is not finite, and for an amplified problem (measure the original).

    >>> from itograd.problems.quadratic import Quadratic
    >>> problem = Quadratic(np.eye(20), noise_covariance=np.eye(20), batch_size=4)
    >>> print(noise_scale(problem, np.full(20, 0.5), batches=1000))  # exactly: 5, 5 and 4
    |∇L|²    = 5.093 ± 0.084   (95%: 4.922 … 5.263)
    tr Σ     = 5.008 ± 0.057   (95%: 4.891 … 5.126)   at batch size 4
    B_simple = 3.934   (95%: 3.76 … 4.118)

    Source: McCandlish et al. 2018, appendix A; theory 1.4.
    """
    point = require_point(problem, x)
    require_count("batches", batches, minimum=MIN_REPLICATES)
    _require_confidence(confidence)
    factor = _sampling_factor(problem)
    groups = min(_MAX_GROUPS, batches)
    sums, squares = np.zeros((groups, problem.dim)), np.zeros(groups)  # Σ g and Σ |g|² of group i mod groups
    for first, gradients in batch_gradients(problem, point, batches, seed):
        group = (first + np.arange(len(gradients))) % groups
        np.add.at(sums, group, gradients)
        np.add.at(squares, group, (gradients**2).sum(axis=1))
    counts = np.bincount(np.arange(batches) % groups)

    total, square = sums.sum(axis=0), squares.sum()
    without = np.array([_unbiased(total - sums[r], square - squares[r], batches - counts[r]) for r in range(groups)])
    deviations = without - without.mean(axis=0)
    covariance = (groups - 1) / groups * deviations.T @ deviations
    return _scale(
        _unbiased(total, square, batches),
        covariance,
        groups,
        problem.batch_size,
        problem.batch_size / factor,
        batches,
        confidence,
    )


def noise_scale_from_norms(
    small_squared_norms: Float[ArrayLike, " n"],
    big_squared_norms: Float[ArrayLike, " n"],
    small_batch: int,
    big_batch: int,
    *,
    confidence: float = 0.95,
    batch_means: int = 16,
) -> NoiseScale:
    """|∇L|², tr Σ and B_simple from logged squared norms of gradients at two batch sizes b < B, step by step.

        |∇L|² = mean (B |g_B|² − b |g_b|²)/(B − b),     tr S = mean (|g_b|² − |g_B|²)/(1/b − 1/B)

    Each is unbiased, also where the small batches are parts of the big ones (a worker's gradient and their
    mean); examples are drawn with replacement, or from many more than B. The steps may depend on each
    other: standard errors come from `batch_means` means over stretches of the series, each of which should
    be much longer than the correlation between steps. Along a training run the result is the mean over the
    logged steps.

    `noise_trace` is tr S / b, at the smaller batch.

    Raises ValueError for batch sizes that are not b < B, for norms that are negative, not finite or of
    different lengths, and for fewer steps than `batch_means` (at least 8).

    >>> rng = np.random.default_rng(0)
    >>> g = 0.4 + rng.normal(size=(1000, 8, 50))  # 8 workers with one example each: |∇L|² = 8, tr S = 50
    >>> small, big = (g**2).sum(axis=2).mean(axis=1), (g.mean(axis=1) ** 2).sum(axis=1)
    >>> round(noise_scale_from_norms(small, big, small_batch=1, big_batch=8).simple, 2)  # 6.25
    6.2

    Source: McCandlish et al. 2018, appendix A.1; theory 5.6.
    """
    require_count("small_batch", small_batch)
    require_count("big_batch", big_batch)
    require(small_batch < big_batch, f"small_batch must be below big_batch: got {small_batch} and {big_batch}")
    _require_confidence(confidence)
    require_count("batch_means", batch_means, minimum=MIN_REPLICATES)
    small = _norms("small_squared_norms", small_squared_norms)
    big = _norms("big_squared_norms", big_squared_norms)
    require(
        len(small) == len(big),
        f"small_squared_norms and big_squared_norms must be of one length: got {len(small)} and {len(big)}",
    )
    require(len(small) >= batch_means, f"batch_means={batch_means} needs at least as many steps: got {len(small)}")
    squared_gradient = (big_batch * big - small_batch * small) / (big_batch - small_batch)
    trace = (small - big) / (1 - small_batch / big_batch)  # tr S / b
    series = np.stack([squared_gradient, trace], axis=1)
    means = np.array([stretch.mean(axis=0) for stretch in np.array_split(series, batch_means)])
    covariance = np.cov(means.T) / batch_means
    return _scale(series.mean(axis=0), covariance, batch_means, small_batch, small_batch, len(small), confidence)


def batch_gradients(problem: Problem, point: np.ndarray, batches: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Gradients of independent batches at a point, in float64: batch i is drawn as path i at step 0.

    Yields (number of the first batch, gradients of shape (batches in the chunk, d)).
    """
    chunk = min(batches, 256, max(1, _CHUNK // (problem.dim * problem.batch_size)))
    with double():
        exact, at = as_traced((problem, point), "float64")
    for first in range(0, batches, chunk):
        safe_point()
        with double():  # not around the loop: the caller's code runs between two chunks
            paths = jnp.asarray(first + np.arange(chunk), jnp.uint32)
            gradients = np.asarray(_gradients(exact, at, seed_words(seed), paths))[: batches - first]
        require(np.isfinite(gradients).all(), "the gradient of a batch at x is not finite")
        yield first, gradients


@eqx.filter_jit
def _gradients(problem, x, seed, paths):
    def of_path(path):
        return problem.noisy_gradient(x, Draws(path_key((seed[0], seed[1]), path), 0))

    return jax.vmap(of_path)(paths)


def require_point(problem: Problem, x) -> np.ndarray:
    """The point as a float64 vector, after the checks."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem: got {type(problem).__name__}")
    point = np.asarray(x, float)
    require(point.shape == (problem.dim,), f"x must have shape ({problem.dim},): got {point.shape}")
    require(np.isfinite(point).all(), "x must be finite: it holds NaN or infinity")
    return point


def fieller_interval(
    numerator: float, denominator: float, covariance: Float[np.ndarray, "2 2"], quantile: float
) -> tuple[float, float]:
    """The interval of a ratio ρ = ν/δ of two means that are not negative, from normal estimates of them.

        {ρ ≥ 0 : (n − ρ d)² ≤ t² (V_nn − 2ρ V_nd + ρ² V_dd)} = {ρ ≥ 0 : a ρ² − 2 b ρ + c ≤ 0},
        a = d² − t² V_dd,     b = n d − t² V_nd,     c = n² − t² V_nn

    a > 0: d is told from 0, and the set is an interval. a ≤ 0: it has no upper end, and starts from 0 where
    n is not told from 0 either (a set of two pieces is filled up). A negative estimate of a mean that is
    not negative counts as 0, which only widens the set. `covariance` is that of (n, d), `quantile` is t.

    >>> fieller_interval(6.0, 3.0, np.diag([0.0, 1.0]), quantile=2.0)
    (1.2, 6.0)
    >>> fieller_interval(6.0, 1.0, np.diag([0.0, 1.0]), quantile=2.0)
    (2.0, inf)

    Source: Fieller, "Some problems in interval estimation", J. R. Stat. Soc. B 16 (1954).
    """
    n, d = max(numerator, 0.0), max(denominator, 0.0)
    (v_nn, v_nd), (_, v_dd) = quantile**2 * np.asarray(covariance)
    a, b, c = d**2 - v_dd, n * d - v_nd, n**2 - v_nn
    root = b + math.sqrt(max(b**2 - a * c, 0.0))  # the two zeros are root/a and c/root, without cancellation
    low = 0.0 if c <= 0 else c / root if root > 0 else math.inf
    high = math.inf if a <= 0 else max(root / a, low)
    return float(low), float(high)


def _unbiased(total, squares, n) -> tuple[float, float]:
    """(G, N) from Σ g and Σ |g|² of n batches."""
    q, p = squares / n, (total @ total) / n**2
    return (n * p - q) / (n - 1), n * (q - p) / (n - 1)


def _scale(estimate, covariance, replicates, batch_size, examples, samples, confidence) -> NoiseScale:
    """The result from (G, N), its covariance and the degrees of freedom; B_simple = examples · N/G."""
    g, n = map(float, estimate)
    quantile = float(stats.t.ppf((1 + confidence) / 2, replicates - 1))
    g_error, n_error = map(float, np.sqrt(np.diag(covariance)))
    ratio = fieller_interval(n, g, covariance[::-1, ::-1], quantile)
    simple = examples * max(n, 0.0) / g if g > 0 else math.inf if n > 0 else math.nan

    def interval(value, error):
        return max(0.0, value - quantile * error), max(0.0, value + quantile * error)

    return NoiseScale(
        g,
        g_error,
        interval(g, g_error),
        n,
        n_error,
        interval(n, n_error),
        simple,
        (examples * ratio[0], examples * ratio[1]),
        int(batch_size),
        int(samples),
        confidence,
    )


def _sampling_factor(problem: Problem) -> float:
    """f in Σ = f S/B."""
    require(
        not isinstance(problem, Amplified),
        "the noise scale of an amplified problem is its original's: give problem.original",
    )
    source = problem.original if isinstance(problem, GaussianNoise) else problem
    if source.dataset_size is None:
        return 1.0
    factor = covariance_factor(source.sampling, source.dataset_size, source.batch_size)
    require(
        factor > 0,
        f"a batch of all {source.dataset_size} examples has no noise: give a problem with a smaller batch_size",
    )
    return factor


def _norms(name, values) -> np.ndarray:
    norms = np.asarray(values, float)
    require(norms.ndim == 1, f"{name} must be a list of numbers, one a step: got shape {norms.shape}")
    require(np.isfinite(norms).all(), f"{name} must be finite: {(~np.isfinite(norms)).sum()} of {len(norms)} are not")
    require((norms >= 0).all(), f"{name} must be squared norms: the smallest is {norms.min(initial=0.0):g}")
    return norms


def _require_confidence(confidence):
    require_number("confidence", confidence, minimum=0, maximum=1, exclusive=True)
