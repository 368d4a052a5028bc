"""Runs with everything that a result may hold, for the tests of stores; as a program, a process to be killed."""

import hashlib
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import itograd as ig
from itograd.simulation import durable, store
from itograd.simulation.engine import Ensemble

Q = ig.problems.Quadratic(np.diag(np.linspace(0.5, 1.0, 20)), np.diag(np.linspace(2.0, 1.0, 20)), "skewed")
SGD = ig.SGD(0.1)
X0 = np.linspace(0.0, 1.5, 20)
TILE = Ensemble(SGD.chain(Q), {"x0": lambda x: x[0]}, X0, np.array([1]), 0).tile
PATHS = 53 * TILE + 7  # three groups, five tiles and a part of one


def run(model=SGD, problem=Q, **changes):
    """A run with everything that a result may hold."""
    options = {"x0": X0, "observables": ["x0", "x1"], "steps": 3, "paths": PATHS, "seed": 4, "progress": False}
    options |= {"quantiles": [0.1, 0.5], "covariance": True, "keep_paths": 3}
    return ig.simulate(model, problem, **(options | changes))


def content(dataset):
    """All bytes of a result."""
    digest = hashlib.sha256(json.dumps([dataset.attrs, dict(dataset.sizes), list(dataset.variables)]).encode())
    for name in dataset.variables:
        digest.update(f"{name} {dataset[name].dims} {dataset[name].dtype.str}".encode())
        digest.update(dataset[name].values.tobytes())
    return digest.hexdigest()


MANY_STEPS = {"steps": 30}


def child(what, place, paths):
    if what == "hold":
        durable.Lock(place / ".lock", "the store").acquire()
        print("held", flush=True)
        time.sleep(60)
    store._FIRST_WAIT = store._SHARE_OF_WORK = 0.0
    warnings.filterwarnings("error", message=".* is damaged")  # a kill leaves nothing torn behind
    run(store=place, resume=place.exists(), paths=paths, **MANY_STEPS)


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
