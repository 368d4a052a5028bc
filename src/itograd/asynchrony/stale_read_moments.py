"""The moments of the stale reads: of the mean read m_k and of the reads q_k (theory: asynchrony 1.2, 1.8)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from itograd.analysis.moments import recursion_of, start_point, states_at
from itograd.asynchrony.asynchronous import Asynchronous
from itograd.asynchrony.moments import StaleMoments
from itograd.problems.problem import Problem
from itograd.simulation.save_points import save_grid
from itograd.validation import require


def read_moments(
    optimizer: Asynchronous,
    problem: Problem,
    *,
    x0=None,
    steps: int | None = None,
    save_every: int | None = None,
    save_at=None,
) -> xr.Dataset:
    """The exact first and second moments of the point x and of the reads of an asynchronous optimiser.

    With q_k the point that the gradient of step k was taken at, and m_k = E[q_k | past] the mean read:

        point E x,  mean_read E m        (time, coordinate)
        point_point E x xᵀ,  point_mean_read E x mᵀ,  mean_read_mean_read E m mᵀ,  read_read E q qᵀ
                                         (time, coordinate, coordinate_2)

    Assumes and raises as `itograd.moments` does, and ValueError where there is no delay at all.

    >>> import itograd as ig
    >>> asgd = ig.asynchrony.Asynchronous(ig.SGD(0.05), ig.asynchrony.WorkerQueue(10))
    >>> exact = read_moments(asgd, ig.problems.Quadratic(2.0, 4.0), x0=[1.0], steps=2)
    >>> float(exact["point_mean_read"][-1, 0, 0].round(12))
    0.780742
    """
    if not isinstance(optimizer, Asynchronous):
        raise TypeError(f"read_moments are those of an Asynchronous optimiser: got {optimizer!r}")
    recursion, _ = recursion_of(optimizer, problem)
    require(isinstance(recursion, StaleMoments), "without delay every read is the point itself: use itograd.moments")
    assert isinstance(recursion, StaleMoments)
    grid = save_grid(float(optimizer.time_per_step), steps, save_every, save_at)
    rows = [_at(recursion, state) for state in states_at(recursion, start_point(problem, x0), grid)]
    vectors, pair = ("point", "mean_read"), ("coordinate", "coordinate_2")
    variables = {
        name: (("time", *(pair[:1] if name in vectors else pair)), np.array([row[name] for row in rows]))
        for name in rows[0]
    }
    names = [f"x{i}" for i in range(problem.dim)]
    coordinates = {"time": grid * float(optimizer.time_per_step), "step": ("time", grid)}
    return xr.Dataset(
        variables,
        coordinates | {"coordinate": names, "coordinate_2": names},
        {"model": repr(optimizer), "problem": repr(problem), "exact": "true"},
    )


def _at(recursion: StaleMoments, state) -> dict[str, np.ndarray]:
    mean, covariance, squared = state
    (q, r), n = recursion.read, recursion.state_size
    o, shift = recursion.rule.observe
    observe = np.hstack([o, np.zeros((len(o), len(mean) - n))])
    x, m = observe @ mean + shift, q @ mean + r
    return {
        "point": x,
        "mean_read": m,
        "point_point": observe @ covariance @ observe.T + np.outer(x, x),
        "point_mean_read": observe @ covariance @ q.T + np.outer(x, m),
        "mean_read_mean_read": q @ covariance @ q.T + np.outer(m, m),
        "read_read": squared,
    }
