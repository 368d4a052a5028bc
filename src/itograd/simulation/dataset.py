"""The dataset of an ensemble: its statistics, coordinates and recipe, from what was collected."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import xarray as xr

from itograd import __version__
from itograd.simulation.collection import Collected, Plan
from itograd.simulation.engine import Ensemble
from itograd.simulation.refinement import Discretisation
from itograd.simulation.result import fingerprint


def as_dataset(
    ensemble: Ensemble, collected: Collected, plan: Plan, discretisation: Discretisation | None
) -> xr.Dataset:
    """The result of `simulate`, as described there."""
    chain, moments, values = ensemble.chain, collected.moments, collected.values
    names = list(ensemble.observables)
    table = ("time", "observable")
    variables: dict[str, Any] = {
        "mean": (table, moments.mean),
        "mean_standard_error": (table, moments.mean_standard_error),
        "variance": (table, moments.variance),
        "variance_standard_error": (table, moments.variance_standard_error),
        "diverged": ("time", (collected.paths - moments.count[:, 0]).astype(np.int64)),
    }
    coordinates: dict[str, Any] = {
        "time": float(chain.start_time) + ensemble.save_steps * float(chain.time_per_step),
        "step": ("time", ensemble.save_steps),
        "observable": names,
    }
    attributes = {
        "model": repr(getattr(chain, "optimizer", getattr(chain, "equation", chain))),
        "problem": repr(chain.problem),
        "fingerprint": fingerprint(chain),
        "seed": str(ensemble.seed),
        "paths": collected.paths,
        "dtype": ensemble.dtype,
        **ensemble.provenance(),
        "time_per_step": float(chain.time_per_step),
        "itograd_version": __version__,
        "jax_version": jax.__version__,
        "numpy_version": np.__version__,
    }
    if moments.covariance is not None:
        variables["covariance"] = ((*table, "observable_2"), moments.covariance)
        coordinates["observable_2"] = names
    if plan.quantiles:
        assert values is not None
        variables["quantile"] = (("level", *table), np.nanquantile(values, plan.quantiles, axis=1))
        coordinates["level"] = list(plan.quantiles)
        attributes["quantile_paths"] = values.shape[1]
    if plan.keep_paths:
        assert values is not None
        variables["path_values"] = (("path", *table), np.moveaxis(values[:, : plan.keep_paths], 1, 0))
        coordinates["path"] = np.arange(plan.keep_paths)
    if discretisation is not None:
        attributes |= {
            "scheme": type(chain.scheme).__name__,  # type: ignore[attr-defined]
            "dt": discretisation.dt,
            "refinement": json.dumps(discretisation.history),
        }
        if discretisation.error is not None:
            variables["discretisation_error"] = (table, discretisation.error)
            variables["discretisation_error_standard_error"] = (table, discretisation.error_standard_error)
    return xr.Dataset(variables, coordinates, attributes)
