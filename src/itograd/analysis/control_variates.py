"""Means corrected by controls whose own means are known exactly.

Where `moments` knows the mean m and the covariance C of a chain y, the controls c = (y_i, y_i y_j) have the exact means
(m_i, C_ij + m_i m_j), and for any matrix β

    E φ = E[φ(x) − β (c − E c)].

x is the chain of interest: y itself where moments close, else a chain beside y on the same noise, with y the chain on
the quadratic model of the loss about a point, its noise frozen there. The nearer φ(x) is to a polynomial of degree two
in y, the less is left to chance; how much is measured (`variance_ratio`), never assumed.

β = Cov(φ, c) Cov(c)⁻¹ has to be estimated. From the same paths it would bias the mean at order 1/n. The paths are
therefore split in two halves, each corrected with the β of the other: given the other half the correction has mean
zero, so the estimate has no bias for any n, and the variance of the corrected values is estimated without bias too:

    mean = ½ Σ_h (φ̄_h − β_h' (c̄_h − E c)),      s.e.² = ¼ Σ_h Var_h(φ − β_h' c)/n_h      (h' the other half)

Source: control variates as in Glasserman, Monte Carlo Methods in Financial Engineering (2004), 4.1; the split is the
splitting of Avramidis and Wilson, Operations Research Letters 14 (1993).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from itograd.analysis.moments import moments
from itograd.optimizers.optimizer import Optimizer
from itograd.problems.problem import Problem
from itograd.simulation.chain import Chain
from itograd.simulation.coupled import CoupledChain
from itograd.simulation.engine import Ensemble
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.observables import chosen_observables
from itograd.simulation.precision import DTYPES, as_traced, double
from itograd.simulation.progress import Progress
from itograd.simulation.refinement import common_step
from itograd.simulation.save_points import save_grid, save_times
from itograd.simulation.schemes import DiscretisedEquation, ExactAffine, HeunDrift, Scheme
from itograd.simulation.statistics import Merged, Moments
from itograd.validation import require, require_choice, require_count, require_number

MAX_CONTROLS = 100
PATHS_PER_CONTROL = 20  # in each half: a β that is known too badly adds variance
SMALLEST_EIGENVALUE = 1e-10  # of the controls' correlation matrix: directions below carry no information


def control_variates(
    model: Optimizer | ModifiedEquation,
    problem: Problem | None = None,
    *,
    x0: Any = None,
    steps: int | None = None,
    save_every: int | None = None,
    save_at: Sequence[float] | np.ndarray | xr.DataArray | None = None,
    linearised_at: Sequence[float] | np.ndarray | None = None,
    degree: int = 2,
    paths: int = 2000,
    seed: int = 0,
    observables: Mapping[str, Callable] | Sequence[str] | None = None,
    dtype: str = "float64",
    scheme: Scheme | None = None,
    dt: float | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """E φ(x) of an optimiser or of its SDE, corrected by controls with exact means; see the head of this file.

    Args:
        model, problem, x0, steps, save_every, save_at, observables, threads, progress: as in `simulate`; x0 a point.
        linearised_at: where the loss is replaced by its quadratic model, for the controls of a problem on which
            moments do not close: a minimum, say. The nearer the paths stay to it, the better.
        degree: of the controls in y, 1 or 2.
        paths: of both halves together, at least 40 for each control.
        seed: of the first half; the second has the same one with its highest bit flipped.
        dtype: float64, because what rounding does to a mean is not corrected and may be all that is left.
        scheme, dt: of an SDE on a problem that is not quadratic; `dt` is then needed, and Gaussian increments
            (default `HeunDrift`). What the scheme does to the mean is not corrected. Where moments close the SDE is
            simulated by its exact law.

    Returns:
        A Dataset with `mean` and `mean_standard_error`, fit for `weak_error`, `plain_mean` and
        `plain_standard_error` of the same paths without controls, `variance_ratio` = (plain/corrected standard
        error)², and `diverged`. Where a path has diverged the controls' means no longer hold: there the mean is NaN.

    Raises ValueError, with the reason, where the controls' moments do not close.

    >>> import itograd as ig
    >>> problem, cosine = ig.problems.Quadratic(1.0, 1.0), {"cos": lambda x: jnp.cos(x[0])}
    >>> found = control_variates(ig.SGD(0.1), problem, x0=[1.0], save_at=[1.0], observables=cosine)
    >>> bool(found["variance_ratio"][-1, 0] > 10)
    True
    """
    require_count("paths", paths, minimum=4)
    require_choice("degree", degree, (1, 2))
    require_choice("dtype", dtype, DTYPES)
    if isinstance(model, ModifiedEquation):
        require(problem is None, "a modified equation carries its problem: leave the argument `problem` out")
        problem = model.problem
    elif not isinstance(model, Optimizer) or not isinstance(problem, Problem):
        raise TypeError(
            f"control_variates need an optimiser with a problem, or a modified equation: got {model!r} and "
            f"problem={problem!r}"
        )
    require(not callable(x0), "exact moments need a fixed starting point: give x0 as an array of shape (d,)")
    require(
        linearised_at is not None or problem.is_quadratic,
        f"no moments are known for {type(problem).__name__}, which is not quadratic: give linearised_at, the point "
        "about which its quadratic model is to be the control",
    )
    require(
        linearised_at is not None or (scheme is None and dt is None),
        "where moments close the SDE is simulated by its exact law: leave scheme and dt out",
    )
    point = np.asarray(problem.x0 if x0 is None else x0, float)
    controlling = problem if linearised_at is None else Linearised(problem, linearised_at)
    grid: dict[str, Any] = {"steps": steps, "save_every": save_every, "save_at": save_at}
    if isinstance(model, ModifiedEquation):
        control = model if controlling is problem else eqx.tree_at(lambda e: e.problem, model, controlling)
        exact = moments(control, x0=point, **grid)
        chain, numbers = _equation_chain(model, control, save_times(save_at), scheme, dt)
    else:
        require(scheme is None and dt is None, "scheme and dt belong to a modified equation, not to an optimiser")
        exact = moments(model, controlling, x0=point, **grid)
        members = [model.chain(p) for p in ([problem] if controlling is problem else [problem, controlling])]
        chain = CoupledChain(*members, sharing="words")  # the same noise, whatever its law
        numbers = save_grid(float(model.time_per_step), **grid)
    chosen = chosen_observables(problem, observables)
    controls, means = _controls(exact, problem.dim, degree)
    least = 2 * PATHS_PER_CONTROL * len(controls)
    require(paths >= least, f"{len(controls)} controls need at least {least} paths: got {paths}; or take degree=1")
    functions = {str(i): f for i, f in enumerate([_First(f) for f in chosen.values()] + controls)}
    halves: list[Moments] = []
    lost = np.zeros(len(numbers), np.int64)
    with Progress(paths, progress) as bar:
        for half_seed, count in ((seed, paths // 2), (seed ^ (1 << 63), paths - paths // 2)):
            ensemble = Ensemble(chain, functions, point, numbers, half_seed, dtype)
            if not halves:
                ensemble.check()
            merged = Merged()
            for tile in ensemble.tiles(count, threads=threads, covariance=True):
                merged.add(tile.moments)
                lost += tile.lost
                bar.advance(tile.paths)
            halves.append(merged.total)
    times = numbers * float(chain.time_per_step)
    attributes = {
        "model": repr(model),
        "problem": repr(problem),
        "linearised_at": "" if linearised_at is None else str(np.asarray(linearised_at, float).tolist()),
        "degree": degree,
        "seed": str(seed),
        "paths": paths,
        "dtype": dtype,
    }
    return _dataset(_corrected(halves, means, len(chosen)), lost, times, numbers, list(chosen), attributes)


class Linearised(Problem):
    """The quadratic model of a problem about a point c, with the noise of the problem at c.

        ∇L(x) → ∇L(c) + ∇²L(c) (x − c),      ξ(x) → ξ(c)

    On the same draws its gradient noise is that of the original at c, whatever its law. The d×d Hessian is formed:
    for small problems.
    """

    original: Problem
    point: np.ndarray
    slope: np.ndarray  # ∇L(c)
    hessian: np.ndarray

    def __init__(self, original: Problem, point):
        self.original, self.point = original, np.asarray(point, float)
        d = original.dim
        require(
            self.point.shape == (d,) and np.isfinite(self.point).all(),
            f"linearised_at must be a finite point of shape ({d},): got {point!r}",
        )
        with double():
            exact = as_traced(original, "float64")
            self.slope = np.asarray(exact.gradient(jnp.asarray(self.point)))
            self.hessian = np.asarray(jax.jacfwd(exact.gradient)(jnp.asarray(self.point)))
        require(
            np.isfinite(self.slope).all() and np.isfinite(self.hessian).all(),
            f"the loss has no quadratic model at linearised_at={self.point.tolist()}: its derivatives are not finite",
        )

    @property
    def dim(self):
        return self.original.dim

    @property
    def batch_size(self):
        return self.original.batch_size

    @property
    def noise_dim(self):
        return self.original.noise_dim

    @property
    def is_quadratic(self):
        return True

    @property
    def has_additive_noise(self):
        return True

    @property
    def sampling(self):
        return self.original.sampling

    @property
    def dataset_size(self):
        return self.original.dataset_size

    def loss(self, x):
        away = x - self.point
        return self.original.loss(jnp.asarray(self.point)) + away @ (self.slope + 0.5 * self.hessian @ away)

    def gradient(self, x):
        return jnp.asarray(self.slope) + jnp.asarray(self.hessian) @ (x - self.point)

    def noisy_gradient(self, x, draws):
        centre = jnp.asarray(self.point)
        return self.gradient(x) + self.original.noisy_gradient(centre, draws) - self.original.gradient(centre)

    def noise_root(self, x, z):
        return self.original.noise_root(jnp.asarray(self.point), z)

    def noise_covariance(self, x):
        return self.original.noise_covariance(jnp.asarray(self.point))


class _First(eqx.Module):
    """φ of the chain of interest, which comes first."""

    function: Callable

    def __call__(self, points):
        return self.function(points[0])


class _Monomial(eqx.Module):
    """The product of some components of y, which comes last."""

    indices: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, points):
        value = points[-1][self.indices[0]]
        for i in self.indices[1:]:
            value = value * points[-1][i]
        return value


def _controls(exact: xr.Dataset, dim: int, degree: int) -> tuple[list[Callable], np.ndarray]:
    """The controls (q) and their exact means (s, q)."""
    m, c = exact["mean"].values, exact["covariance"].values
    upper = [(i, j) for i in range(dim) for j in range(i, dim)] if degree == 2 else []
    q = dim + len(upper)
    require(
        q <= MAX_CONTROLS,
        f"degree={degree} in {dim} dimensions has {q} controls, and at most {MAX_CONTROLS} are taken"
        + ("; take degree=1" if degree == 2 else ""),
    )
    means = [m[:, i] for i in range(dim)] + [c[:, i, j] + m[:, i] * m[:, j] for i, j in upper]
    return [_Monomial(indices) for indices in [*((i,) for i in range(dim)), *upper]], np.stack(means, axis=1)


def _equation_chain(equation, control, times, scheme, dt) -> tuple[Chain, np.ndarray]:
    """The SDE, alone where its own moments are known, else beside its control on one Brownian path."""
    if equation is control:
        step = common_step(times)
        ExactAffine().check(equation)  # any other scheme has another mean than the SDE
        return CoupledChain(DiscretisedEquation(equation, ExactAffine(), step), sharing="words"), _numbers(times, step)
    require(dt is not None, "an SDE whose moments are not known needs its step size `dt`")
    require_number("dt", dt, minimum=0, exclusive=True)
    ExactAffine().check(control)
    fine = DiscretisedEquation(equation, HeunDrift() if scheme is None else scheme, dt)
    return CoupledChain(fine, DiscretisedEquation(control, ExactAffine(), dt)), _numbers(times, dt)


def _numbers(times, step) -> np.ndarray:
    numbers = np.rint(times / step)
    off = np.abs(times / step - numbers) > 1e-6 * np.maximum(1.0, numbers)
    require(not off.any(), f"save_at must be multiples of dt, {step:g}: got {times[off][:1]}")
    return numbers.astype(np.int64)


def _corrected(halves: list[Moments], means: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """The corrected and the plain means of the first `count` observables, (s, n), with their variances."""
    covariances = [np.asarray(half.covariance) for half in halves]
    betas = [_beta(covariance, count) for covariance in covariances]
    mean, variance, plain = (np.zeros((len(means), count)) for _ in range(3))
    for half, covariance, beta in zip(halves, covariances, betas[::-1]):
        off = half.mean[:, count:] - means  # (s, q)
        mean = mean + (half.mean[:, :count] - np.einsum("snq,sq->sn", beta, off)) / 2
        own, cross, of_controls = (
            covariance[:, :count, :count],
            covariance[:, :count, count:],
            covariance[:, count:, count:],
        )
        spread = np.einsum("snn->sn", own) - 2 * np.einsum("snq,snq->sn", beta, cross)
        spread = spread + np.einsum("snq,sqr,snr->sn", beta, of_controls, beta)
        variance = variance + np.maximum(spread, 0.0) / half.count / 4
        plain = plain + half.mean_standard_error[:, :count] ** 2 / 4
    return {
        "mean": mean,
        "mean_standard_error": np.sqrt(variance),
        "plain_mean": (halves[0].mean[:, :count] + halves[1].mean[:, :count]) / 2,
        "plain_standard_error": np.sqrt(plain),
    }


def _beta(covariance: np.ndarray, count: int) -> np.ndarray:
    """Cov(φ, c) Cov(c)⁻¹ (s, n, q) by least squares; directions in which the controls do not vary get none."""
    if not np.isfinite(covariance).all():
        covariance = np.nan_to_num(covariance)
    scale = np.sqrt(np.einsum("sqq->sq", covariance[:, count:, count:]))
    inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1.0), 0.0)
    correlation = covariance[:, count:, count:] * inverse[:, :, None] * inverse[:, None, :]
    solved = np.linalg.pinv(correlation, rcond=SMALLEST_EIGENVALUE, hermitian=True)
    return (covariance[:, :count, count:] * inverse[:, None, :]) @ solved * inverse[:, None, :]


def _dataset(found: dict, lost, times, numbers, names, attributes) -> xr.Dataset:
    table = ("time", "observable")
    if lost.any():
        warnings.warn(
            f"{lost[-1]} paths diverged: the controls' means hold over all paths, so there is no corrected mean from "
            f"time {times[np.flatnonzero(lost)[0]]:g} on",
            stacklevel=3,
        )
        for name in ("mean", "mean_standard_error"):
            found[name] = np.where(lost[:, None] > 0, np.nan, found[name])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (found["plain_standard_error"] / found["mean_standard_error"]) ** 2
    variables: dict[str, Any] = {name: (table, values) for name, values in found.items()}
    variables |= {"variance_ratio": (table, ratio), "diverged": ("time", lost)}
    coordinates = {"time": times, "step": ("time", numbers), "observable": names}
    return xr.Dataset(variables, coordinates, attributes)
