"""itograd on every workload, through the public `simulate`."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

import itograd as ig
from benchmarks.itograd_models import adaptive_chain, asynchronous_sgd, langevin, linear_sde
from benchmarks.left_out import LeftOut
from benchmarks.workloads import (
    ETA,
    Adaptive,
    LeastSquares,
    LinearEquation,
    Moments,
    Run,
    SoftmaxDigits,
    Underdamped,
    Workload,
)
from itograd.simulation import EulerMaruyama
from itograd.simulation.noise import noise_source


def runner(workload: Workload, threads: int, noise: str, dtype: str = "float32") -> Run:
    """A function from a seed to moments. Raises `LeftOut` where the noise cannot be had."""
    try:
        noise_source(noise)
    except ValueError as error:
        raise LeftOut(str(error)) from error
    model, arguments = _model(workload)
    clock = workload.learning_rate if isinstance(workload, SoftmaxDigits) else ETA
    save_at = clock * workload.save_every * np.arange(1, workload.saves + 1)

    def run(seed: int) -> Moments:
        runs = ig.simulate(
            model,
            x0=workload.x0,
            save_at=save_at,
            paths=workload.paths,
            seed=seed,
            observables=list(workload.observables),
            dtype=dtype,
            noise=noise,
            threads=threads,
            progress=False,
            **arguments,
        )
        return Moments(runs["mean"].values, runs["variance"].values, workload.paths)

    return run


@singledispatch
def _model(workload) -> tuple[Any, dict[str, Any]]:
    """What `simulate` is given first, and the arguments that go with it."""
    raise TypeError(f"no model for {workload!r}")


@_model.register
def _(w: LeastSquares):
    if w.max_delay:
        return asynchronous_sgd(w), {}
    return ig.SGD(ETA), {"problem": ig.problems.LinearRegression(w.features, w.targets, batch_size=1)}


@_model.register
def _(w: LinearEquation):
    return linear_sde(w), {"scheme": EulerMaruyama(w.increment), "dt": ETA}


@_model.register
def _(w: Underdamped):
    return langevin(w), {"scheme": EulerMaruyama(), "dt": ETA}


@_model.register
def _(w: Adaptive):
    return adaptive_chain(w), {}


@_model.register
def _(w: SoftmaxDigits):
    return ig.SGD(w.learning_rate), {"problem": ig.problems.digits(batch_size=w.batch_size)}
