"""The neighbours' rules against staleness, side by side in one table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from itograd.asynchrony.asynchronous import Asynchronous
from itograd.asynchrony.compensation import Compensation, StepFactor
from itograd.asynchrony.staleness import Staleness
from itograd.optimizers.optimizer import Optimizer
from itograd.problems.problem import Problem
from itograd.simulation.ensemble import simulate
from itograd.validation import require

FRESH, STALE = "fresh gradients", "no rule"


def compare_rules(
    optimizer: Optimizer,
    staleness: Staleness,
    problem: Problem,
    rules: Mapping[str, Compensation],
    *,
    steps: int,
    target_loss: float | None = None,
    **options,
) -> xr.Dataset:
    """The losses of `optimizer` with stale gradients under each of the `rules`, without any, and with fresh gradients.

    All runs have the seed of `options` (those of `simulate`). With `noise="jax"` they see the same batches and delays,
    so that the errors of two rows are correlated, and a difference is known better than the two errors say.

    Returns a Dataset over `rule` and `step` (the clock of a stale optimiser is another than that of a fresh one):

        loss, loss_standard_error    over the paths that are finite at each save point
        diverged                     the paths that are not finite at the end
        mean_factor                  E factor(τ) of the rules that scale the step and where the law has a closed form
        steps_to_target              where the mean loss first reaches `target_loss`, between save points by a straight
                                     line; NaN where it never does; with its standard error, the loss's over the slope

    Raises ValueError where a rule has a name that the table needs, and what `simulate` raises.

    >>> import itograd as ig
    >>> from itograd.asynchrony import Geometric, StalenessAware
    >>> q, rules = ig.problems.Quadratic(1.0, 1.0), {"rate over delay": StalenessAware()}
    >>> table = compare_rules(ig.SGD(0.1), Geometric(mean=3), q, rules, steps=20, paths=64, x0=[1.0], progress=False)
    >>> table.rule.values.tolist()
    ['fresh gradients', 'no rule', 'rate over delay']
    """
    taken = sorted({FRESH, STALE} & set(rules))
    require(not taken, f"rules may not be named {taken}: the table has rows of these names")
    wrong = [name for name, rule in rules.items() if not isinstance(rule, Compensation)]
    require(not wrong, f"rules must be Compensations by name: {wrong} are none")
    models = {FRESH: optimizer, STALE: Asynchronous(optimizer, staleness)}
    models |= {name: Asynchronous(optimizer, staleness, rule) for name, rule in rules.items()}
    runs = [simulate(m, problem, steps=steps, observables=["loss"], **options) for m in models.values()]
    table = xr.concat([_losses(run) for run in runs], dim="rule").assign_coords(rule=list(models))
    table["mean_factor"] = "rule", [1.0, 1.0, *(_mean_factor(rule, staleness) for rule in rules.values())]
    if target_loss is not None:
        reached = np.array([_steps_to(target_loss, table.sel(rule=name)) for name in models])
        table["steps_to_target"] = "rule", reached[:, 0]
        table["steps_to_target_standard_error"] = "rule", reached[:, 1]
        table.attrs["target_loss"] = target_loss
    return table


def _losses(run: xr.Dataset) -> xr.Dataset:
    run = run.isel(observable=0, drop=True).swap_dims(time="step").drop_vars("time")
    return xr.Dataset(
        {
            "loss": run["mean"],
            "loss_standard_error": run["mean_standard_error"],
            "diverged": run["diverged"].isel(step=-1, drop=True),
        }
    )


def _mean_factor(rule: Compensation, staleness: Staleness) -> float:
    if not isinstance(rule, StepFactor):
        return np.nan
    try:
        return rule.mean_factor(staleness)
    except ValueError:  # the law has no closed form
        return np.nan


def _steps_to(target: float, row: xr.Dataset) -> tuple[float, float]:
    """The step at which the mean loss first reaches the target, and its standard error."""
    loss, error, step = (row[name].values for name in ("loss", "loss_standard_error", "step"))
    reached = np.flatnonzero(loss <= target)
    if not reached.size:
        return np.nan, np.nan
    after = reached[0]
    if after == 0:
        return float(step[0]), 0.0
    slope = (loss[after] - loss[after - 1]) / (step[after] - step[after - 1])
    return float(step[after] + (target - loss[after]) / slope), float(error[after] / -slope)
