"""The regime of an adaptive rule: what its second moment sees, and how far its batch may grow on that account.

    r_i² = (∂_iF)²/Σ_ii

The speed s_i(κ) of a coordinate, its largest batch factor and the averaging (q, a) are those of `speed_ratio.py`. All
coordinates together: the drift −∇F/P lowers F at the rate D, so a coordinate has the weight of its share of D(1), and

    D(κ) = Σ_i (∂_iF)²/P_i(κ),      s(κ) = D(κ)/D(1),      D(1)/D(0): the base rule against its SDE

(derived). These are necessary conditions. Whether the larger steps still follow the curvature is not seen here:
`verdict` runs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import ArrayLike, Float
from scipy import optimize

from itograd.analysis.assumption import FAILS, HOLDS, OPEN, Assumption
from itograd.analysis.noise_scale import MIN_REPLICATES, require_point
from itograd.analysis.noise_shape import Measured
from itograd.analysis.signal_moments import SignalMoments, grouped, signal_and_noise
from itograd.analysis.speed_ratio import averaging_bias, convexity_bias, denominator
from itograd.optimizers.adaptive import AdaptiveMethod
from itograd.optimizers.optimizer import Optimizer
from itograd.optimizers.scaling_rules import BETA_FORMS, DecayRate
from itograd.problems.problem import Problem
from itograd.problems.sampling import covariance_factor
from itograd.validation import require, require_choice, require_number

QUANTILES = (0.1, 0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Trust:
    """Whether the square-root rule may be trusted for a batch factor: "holds", "fails" or "open", and why."""

    batch_factor: float
    outcome: str
    reason: str
    assumptions: tuple[Assumption, ...]

    def __str__(self) -> str:
        return f"κ = {self.batch_factor:g}: {self.outcome}; {self.reason}"


@dataclass(frozen=True)
class Regime:
    """The signal r² that the second moment of an adaptive rule sees, and what it means for larger batches.

    Quantiles are at `levels`: of r² over the coordinates, of r² and of κ_max by share of the descent. `still`
    coordinates, with neither signal nor noise, are left out of all of them; in the `noiseless` ones r² is infinite.
    `speeds` belong to `batch_factors`. At one point all numbers are exact, with standard error 0; over `points` of
    independent paths they are functions of the means of (∂F)² and Σ_ii, with standard errors from a jackknife over
    the paths.
    """

    batch_size: int
    points: int
    dim: int
    noiseless: int
    still: int
    tolerance: float
    levels: tuple[float, ...]
    squared_signal: tuple[Measured, ...]
    weighted_squared_signal: tuple[Measured, ...]
    weighted_largest_batch_factor: tuple[Measured, ...]
    largest_batch_factor: Measured  # where s(κ) of the whole descent is 1 − δ
    linear_from: Measured  # 1/r² of the weighted median coordinate
    sde_speed: Measured  # D(1)/D(0)
    batch_factors: tuple[float, ...]
    speeds: tuple[Measured, ...]
    optimizer: AdaptiveMethod = field(repr=False, compare=False)
    problem: Problem = field(repr=False, compare=False)
    moments: SignalMoments = field(repr=False, compare=False)  # of the coordinates that are not still
    indices: np.ndarray = field(repr=False, compare=False)  # theirs

    def by_coordinate(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        """r² and κ_max of every coordinate; NaN for the still ones."""
        g, n = self.moments.squared_gradient, self.moments.noise_variance
        found = np.full((2, self.dim), np.nan)
        found[:, self.indices] = _ratio(g, n), _bound(self.optimizer, g, n, self.tolerance)
        return found[0], found[1]

    @property
    def noise_to_signal(self) -> tuple[float, ...]:
        """1/r² at `levels`, by share of the descent."""
        return tuple(math.inf if r2.value == 0 else 1 / r2.value for r2 in self.weighted_squared_signal)

    def speed(self, batch_factor: float) -> Measured:
        """s(κ) = D(κ)/D(1)."""
        require_number("batch_factor", batch_factor, minimum=0, exclusive=True)
        return _measured_speed(self.moments, self.optimizer, batch_factor, 1.0)

    def averaging(self, batch_factor: float, betas: str = "memory") -> tuple[float, float]:
        """(q, a) after the scaling less those before."""
        require_number("batch_factor", batch_factor, minimum=0, exclusive=True)
        before = self.optimizer.decay_rates
        after = {name: DecayRate(betas).moved(name, b, batch_factor) for name, b in before.items()}
        (q, a), (its_q, its_a) = _biases(self.optimizer, after), _biases(self.optimizer, before)
        return q - its_q, a - its_a

    def assumptions(self, batch_factor: float | None = None, betas: str = "memory") -> tuple[Assumption, ...]:
        """The rows of a table: low signal, enough averaging, and what both do to the mean step.

        Without a batch factor: of the base rule against its SDE. With one: of the scaled rule against the base rule.
        """
        if batch_factor is None:
            speed, (q, a) = self.sde_speed, _biases(self.optimizer, self.optimizer.decay_rates)
        else:
            speed, (q, a) = self.speed(batch_factor), self.averaging(batch_factor, betas)
        together = Measured(speed.value * (1 + a), speed.standard_error * abs(1 + a))
        rows = (
            _row("signal in the second moment, |s − 1|", speed, self.tolerance),
            _row("averaging of the second moment, |q|", Measured(1 + q, 0.0), self.tolerance),
            _row("mean step, |s (1 + a) − 1|", together, self.tolerance),
        )
        return rows if batch_factor is None else (*rows, *_sampling_rows(self.problem, batch_factor, self.tolerance))

    def may_scale(self, batch_factor: float, betas: str = "memory") -> Trust:
        """Whether the square-root rule may be trusted for a batch κ times larger, before the run is made.

        It fails where a row of `assumptions` does, and with betas="linear" where κ(1−b) reaches 1.
        """
        require_number("batch_factor", batch_factor, minimum=0, exclusive=True)
        require_choice("betas", betas, BETA_FORMS)
        try:
            rows = self.assumptions(batch_factor, betas)
        except ValueError as illegal:  # the linear form does not exist
            return Trust(float(batch_factor), FAILS, str(illegal), ())
        worst = next((row for wanted in (FAILS, OPEN) for row in rows if row.outcome == wanted), None)
        if worst is None:
            worst = max(rows, key=lambda row: row.measured)
            reason = f"largest deviation, {worst.name}: {worst.measured:.3g}, within {worst.limit:.3g}"
            return Trust(float(batch_factor), HOLDS, reason, rows)
        reason = f"{worst.name}: {worst.measured:.3g}, needed at most {worst.limit:.3g} {worst.unit}"
        if worst is rows[0]:
            reason += f" (κ_max = {self.largest_batch_factor.value:.3g})"
        return Trust(float(batch_factor), worst.outcome, reason, rows)

    def __str__(self) -> str:
        where = "exact at one point" if self.points == 1 else f"means over {self.points} points"
        apart = f"{self.noiseless} without noise, {self.still} still and left out"
        rows = [
            f"{level:>9.0%}  {_shown(plain):>20}  {_shown(weighted):>20}  {_shown(bound):>20}"
            for level, plain, weighted, bound in zip(
                self.levels, self.squared_signal, self.weighted_squared_signal, self.weighted_largest_batch_factor
            )
        ]
        return "\n".join(
            [
                f"r² = (∂F)²/Σ at batch size {self.batch_size}, {where}; {self.dim} coordinates: {apart}",
                f"{'quantile':>9}  {'r², coordinates':>20}  {'r², by descent':>20}  {'κ_max, by descent':>20}",
                *rows,
                *(f"speed at κ = {kappa:g}: {_shown(speed)}" for kappa, speed in zip(self.batch_factors, self.speeds)),
                f"square-root rule within {self.tolerance:.0%} up to κ = {_shown(self.largest_batch_factor)}; "
                f"linear rule from κ ≈ {_shown(self.linear_from)}",
            ]
        )


def regime(
    optimizer: Optimizer,
    problem: Problem,
    x: Float[ArrayLike, " d"] | Float[ArrayLike, "n d"],
    *,
    tolerance: float = 0.05,
    quantiles: Sequence[float] = QUANTILES,
    batch_factors: Sequence[float] = (),
) -> Regime:
    """Measure the signal r² that the second moment of RMSprop, Adam or AdamW sees at x, and what it allows.

        r² = (∂F)²/Σ_ii,      s(κ) = √((1+r²)/(1+κr²)),      κ_max = ((1+r²)/(1−δ)² − 1)/r²,      linear from κ = 1/r²

    and their generalisation to ε (`speed_ratio.py`) and to all coordinates (the head of this file).

    Args:
        x: a point, shape (d,): all numbers are exact there. Or points of n independent paths, shape (n, d), n >= 8:
            then (∂F)² and Σ_ii are means over them, and every number has a standard error.
        tolerance: δ, the relative loss of speed that is accepted.
        quantiles: the levels of the distributions, in [0, 1].
        batch_factors: the κ whose speed is tabulated; `Regime.speed` gives any other.

    Assumes a second moment that has settled, and batches whose Σ falls as 1/κ, drawn with replacement.

    Raises TypeError for an optimiser without a second moment, and ValueError for points that are not finite or of
    another shape, for 2 to 7 of them, and where neither signal nor noise is found in any coordinate.

    >>> import itograd as ig
    >>> found = regime(ig.Adam(0.01), ig.problems.Quadratic(1.0, 4.0), [0.2], batch_factors=(16,))
    >>> float(round(found.squared_signal[1].value, 3)), found.may_scale(4).outcome, found.may_scale(100).outcome
    (0.01, 'holds', 'fails')

    Source: theory 2.7, amendment 7.
    """
    if not isinstance(optimizer, AdaptiveMethod):
        raise TypeError(
            "the regime of signal and noise is that of RMSprop, Adam and AdamW, which divide by a second moment: got "
            f"{type(optimizer).__name__}; the linear rule of SGD and momentum has another bound, see noise_scale and "
            "analysis.equilibrium"
        )
    require_number("tolerance", tolerance, minimum=0, maximum=1, exclusive=True)
    for level in quantiles:
        require_number("a level of quantiles", level, minimum=0, maximum=1)
    for factor in batch_factors:
        require_number("a batch factor", factor, minimum=0, exclusive=True)
    points = _points(problem, x)
    squared_gradients, noise_variances = signal_and_noise(optimizer, problem, points)
    moves = (squared_gradients + noise_variances).any(axis=0)
    require(moves.any(), "there is neither a gradient nor noise at x, in any coordinate: there is no regime")
    moments = grouped(squared_gradients[:, moves], noise_variances[:, moves])

    def weighted(function):
        return moments.measured_each(lambda g, n: _quantile(function(g, n), _weights(optimizer, g, n), quantiles))

    def bound(g, n):
        return _bound(optimizer, g, n, tolerance)

    return Regime(
        batch_size=problem.batch_size,
        points=len(points),
        dim=problem.dim,
        noiseless=int((moments.noise_variance == 0).sum()),
        still=int((~moves).sum()),
        tolerance=float(tolerance),
        levels=tuple(map(float, quantiles)),
        squared_signal=moments.measured_each(lambda g, n: _quantile(_ratio(g, n), np.ones_like(g), quantiles)),
        weighted_squared_signal=weighted(_ratio),
        weighted_largest_batch_factor=weighted(bound),
        largest_batch_factor=moments.measured(lambda g, n: _common_bound(optimizer, g, n, tolerance)),
        linear_from=moments.measured(
            lambda g, n: _ratio(1.0, _quantile(_ratio(g, n), _weights(optimizer, g, n), (0.5,))[0])
        ),
        sde_speed=_measured_speed(moments, optimizer, 1.0, 0.0),
        batch_factors=tuple(map(float, batch_factors)),
        speeds=tuple(_measured_speed(moments, optimizer, factor, 1.0) for factor in batch_factors),
        optimizer=optimizer,
        problem=problem,
        moments=moments,
        indices=np.flatnonzero(moves),
    )


def _points(problem: Problem, x) -> np.ndarray:
    """The points (n, d) in float64, after the checks."""
    points = np.asarray(x, float)
    if points.ndim != 2:
        return require_point(problem, points)[None]
    for point in points:
        require_point(problem, point)
    n = len(points)
    require(n == 1 or n >= MIN_REPLICATES, f"x must be one point or at least {MIN_REPLICATES} of them: got {n}")
    return points


def _denominator(optimizer, g, n, batch_factor):
    """P(κ), with ε and ε_r."""
    return denominator(g, n + optimizer.eps_root, batch_factor, optimizer.eps)


def _descent(optimizer, g, n, batch_factor):
    """The coordinates' shares of D(κ): (∂F)²/P(κ); 0 where there is no gradient."""
    below = _denominator(optimizer, g, n, batch_factor)
    with np.errstate(divide="ignore"):
        return np.divide(g, below, out=np.zeros_like(g), where=g > 0)


def _weights(optimizer, g, n):
    """Shares of the descent; all alike at a point where there is none."""
    found = _descent(optimizer, g, n, 1.0)
    return found if found.any() else np.ones_like(g)


def _speed(optimizer, g, n, batch_factor, reference):
    """D(κ)/D(reference); 1 at a point where there is no descent."""
    if not g.any():
        return 1.0
    return _descent(optimizer, g, n, batch_factor).sum() / _descent(optimizer, g, n, reference).sum()


def _measured_speed(moments: SignalMoments, optimizer, batch_factor, reference) -> Measured:
    return moments.measured(lambda g, n: _speed(optimizer, g, n, batch_factor, reference))


def _ratio(g, n):
    """g/n, infinite where n = 0."""
    with np.errstate(divide="ignore"):
        return np.divide(g, n)


def _bound(optimizer, g, n, tolerance):
    """κ_max of every coordinate."""
    inside = (_denominator(optimizer, g, n, 1.0) / (1 - tolerance) - optimizer.eps) ** 2 - n - optimizer.eps_root
    return _ratio(inside, g)


def _common_bound(optimizer, g, n, tolerance):
    """κ_max of the descent: where D(κ) = (1 − δ) D(1). It lies between those of the coordinates."""
    bounds = _bound(optimizer, g, n, tolerance)
    bounds = bounds[np.isfinite(bounds)]
    if not bounds.size:
        return math.inf

    def excess(logarithm):
        return _speed(optimizer, g, n, math.exp(logarithm), 1.0) - (1 - tolerance)

    low, high = np.log(bounds.min()), np.log(bounds.max())
    return math.exp(low if excess(low) <= 0 else high if excess(high) >= 0 else optimize.brentq(excess, low, high))


def _quantile(values, weights, levels):
    """The smallest values below or at which the weight is the level's share; infinite values are allowed."""
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    place = np.searchsorted(share, np.asarray(levels) - 1e-12)
    return values[order[np.minimum(place, len(order) - 1)]]


def _biases(optimizer: AdaptiveMethod, decay_rates: dict[str, float]) -> tuple[float, float]:
    """(q, a)."""
    *first, second = decay_rates.values()
    return convexity_bias(second), averaging_bias(first[0] if first else 0.0, second, optimizer.denominator)


def _row(name: str, ratio: Measured, limit: float) -> Assumption:
    """The row of a ratio that should be 1."""
    value = abs(ratio.value - 1)
    low, high = max(value - 2 * ratio.standard_error, 0.0), value + 2 * ratio.standard_error
    return Assumption(
        name,
        value,
        (low, high),
        limit,
        "of the speed",
        "holds if value and two standard errors lie within the limit",
        HOLDS if high <= limit else FAILS if low > limit else OPEN,
        remedy="measure at more points",
    )


def _sampling_rows(problem: Problem, batch_factor: float, limit: float):
    """Without replacement κ Σ(κB) = Σ(B) (N−κB)/(N−B), and not Σ(B)."""
    if problem.dataset_size is None or problem.sampling == "with_replacement":
        return
    sizes = problem.batch_size, round(batch_factor * problem.batch_size)
    before, after = (covariance_factor(problem.sampling, problem.dataset_size, size) for size in sizes)
    kept = max(after, 0.0) / before if before > 0 else math.nan
    yield _row("noise of an example, its standard deviation kept", Measured(kept**0.5, 0.0), limit)


def _shown(measured: Measured) -> str:
    return f"{measured.value:.3g}" if measured.standard_error == 0 else str(measured)
