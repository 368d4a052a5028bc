"""The rows of a verdict beside its weak errors: the SDE's own step, lost paths, sampling, noise and signal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from scipy import stats

from itograd.analysis.assumption import FAILS, HOLDS, OPEN, Assumption
from itograd.analysis.bands import observable_scale, own_error
from itograd.analysis.noise_shape import noise_skewness, reshuffling_share
from itograd.analysis.regime import Regime, regime
from itograd.optimizers.adaptive import AdaptiveMethod
from itograd.optimizers.optimizer import Optimizer
from itograd.simulation.schedule import base

# Reshuffling may suppress so much of tr Σ before its runs are another process than the SDE's (theory, amendment 8).
RESHUFFLING_LIMIT = 0.05
# A batch noise this skewed along the gradient shifts means at the order of the step (theory 2.1a); informative.
SKEWNESS_LIMIT = 0.5


def discretisation_row(error, flow, tolerance) -> Assumption:
    """How far the SDE's own step may have moved its means: it must be small beside the tolerance."""
    d, sd = own_error(error)
    share = np.broadcast_to((d + 2 * np.asarray(sd)) / observable_scale(flow), error["weak_error"].shape)
    worst, limit = float(np.nanmax(share)), tolerance / 2
    return Assumption(
        "discretisation of the SDE",
        float(np.nanmax(np.asarray(d) / observable_scale(flow))),
        (0.0, worst),
        limit,
        "of its scale",
        "open if the error with two standard errors exceeds half the tolerance",
        HOLDS if worst <= limit else OPEN,
        remedy="give the SDE a finer step or a better scheme",
    )


def divergence_row(runs, flow) -> Assumption:
    """The paths that were lost: none may be."""
    lost = int(runs["diverged"].values[-1])
    also = int(flow["diverged"].values[-1])
    paths = int(runs.attrs["paths"])
    interval = stats.binomtest(lost, paths).proportion_ci(0.95, method="exact")
    return Assumption(
        "diverged paths",
        lost / paths,
        (interval.low, interval.high),
        0.0,
        "of the optimiser's paths",
        f"fails if any path is lost ({lost} of the optimiser, {also} of the SDE); Clopper–Pearson interval",
        HOLDS if lost + also == 0 else FAILS,
    )


def sampling_rows(optimizer, problem, point, seed):
    """The share of the noise that reshuffling takes away at the point; nothing where no data are drawn from."""
    if problem.dataset_size is None:
        return
    reshuffled = problem.sampling == "reshuffling"
    if isinstance(optimizer, AdaptiveMethod):  # a rate of its own for every coordinate: no share is known
        if not reshuffled:
            return
        share, error = np.nan, np.nan
    else:
        rate = effective_learning_rate(optimizer)
        share, error = _measured(point, lambda x: reshuffling_share(problem, x, learning_rate=rate, seed=seed))
    low, high = np.clip([share - 2 * error, share + 2 * error], 0.0, 1.0).tolist()
    outcome = HOLDS if high <= RESHUFFLING_LIMIT else FAILS if low > RESHUFFLING_LIMIT else OPEN
    yield Assumption(
        "noise that reshuffling suppresses" if reshuffled else "noise lost if one reshuffled",
        share,
        (low, high),
        RESHUFFLING_LIMIT,
        "of tr Σ",
        "share of tr Σ in directions with η λ N/B < 20, at the end of a run; two standard errors; "
        "decides only where batches are reshuffled",
        outcome,
        reshuffled,
        remedy="sample with replacement",
    )


def skewness_row(problem, point, seed, confidence):
    """The skewness of a batch's noise along the gradient at the point."""
    skewness, error = _measured(point, lambda x: noise_skewness(problem, x, batches=2048, seed=seed))
    half = float(stats.norm.ppf((1 + confidence) / 2) * error)
    low, high = skewness - half, skewness + half
    small = max(abs(low), abs(high)) <= SKEWNESS_LIMIT
    large = low > SKEWNESS_LIMIT or high < -SKEWNESS_LIMIT
    return Assumption(
        "skewness of the noise",
        skewness,
        (low, high),
        SKEWNESS_LIMIT,
        "along the gradient",
        f"measured at the end of a run; {confidence:.0%} interval; explains, and does not decide",
        HOLDS if small else FAILS if large else OPEN,
        decisive=False,
    )


def regimes_at(optimizer, problem, points: Mapping[str, np.ndarray | None], tolerance: float) -> dict[str, Regime]:
    """What the second moment of an adaptive method sees, by place; of other methods nothing."""
    found = {}
    if isinstance(optimizer, AdaptiveMethod):
        for place, point in points.items():
            if point is not None:
                try:
                    found[place] = regime(optimizer, problem, point, tolerance=tolerance)
                except ValueError:  # neither signal nor noise at the point
                    continue
    return found


def regime_rows(regimes: Mapping[str, Regime]) -> Iterator[Assumption]:
    """The signal in the second moment, place by place, and how well it averages, which is the same everywhere."""
    averaging = None
    for place, found in regimes.items():
        signal, averaging, _ = found.assumptions()
        yield dataclasses.replace(signal, name=f"{signal.name}, at the {place}", decisive=False)
    if averaging:
        yield dataclasses.replace(averaging, decisive=False)


def regime_remarks(regimes: Mapping[str, Regime]) -> Iterator[str]:
    """Where the signal dominates, and what that leaves of the scaling rule: said before a scaled recipe is run."""
    for place, found in regimes.items():
        signal, *_ = found.assumptions()
        if signal.outcome == FAILS:
            (middle,) = (r2 for level, r2 in zip(found.levels, found.weighted_squared_signal) if level == 0.5)
            yield (
                f"at the {place} the second moment holds signal, which the SDE leaves out: r² = {middle.value:.3g} in "
                "the median coordinate, by share of the descent; the square-root rule keeps the speed within "
                f"{found.tolerance:.0%} only up to κ = {found.largest_batch_factor.value:.3g}"
            )


def _measured(point, measure) -> tuple[float, float]:
    """Value and standard error of a measurement at a point; NaN where there is no such point, or nothing to measure."""
    if point is None:
        return np.nan, np.nan
    try:
        found = measure(point)
    except ValueError:  # no noise, or no gradient, at the point
        return np.nan, np.nan
    return found.value, found.standard_error


def effective_learning_rate(optimizer: Optimizer) -> float:
    """The rate at which a step moves along a constant gradient: η, or η/(1−μ) with momentum."""
    momentum = getattr(optimizer, "momentum", 0.0)
    return float(base(getattr(optimizer, "learning_rate", optimizer.time_per_step)) / (1 - base(momentum)))
