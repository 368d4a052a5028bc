"""The promise on bytes: what a path does hangs on neither the number of paths, nor threads, nor the save grid."""

import hashlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_chains import SOURCES, StepOf, chain_of, ensemble, on_sources

import itograd as ig
from itograd.simulation.engine import Ensemble

STEPS = 14
GRID = np.arange(STEPS + 1)
GRIDS = {"every seventh": [0, 7, 14], "the last": [14], "irregular": [1, 5, 6, 13, 14]}
MANY = 3000  # products that are fused otherwise show in few paths

EVERYWHERE = pytest.mark.parametrize(
    ("name", "noise", "dtype"),
    [
        case
        for name, dtype in (
            ("one dimension", "float32"),
            ("two-point", "float64"),
            ("underdamped", "float32"),
            ("stale", "float32"),
            ("nine", "float64"),
            ("mlp", "float32"),
            ("softmax sde", "float32"),
            ("coupled", "float32"),
        )
        for case in on_sources(name, dtype, fast=("one dimension", "mlp"))
    ],
)


def run(name, noise, dtype, grid=GRID):
    return ensemble(chain_of(name), np.asarray(grid), noise=noise, dtype=dtype)


def moments(tiles):
    return [(t.number, t.paths, t.lost, *vars(t.moments).values()) for t in tiles]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@EVERYWHERE
def test_paths_are_the_same_for_any_number_of_paths_and_threads(name, noise, dtype):
    whole = run(name, noise, dtype)
    many = 3 * whole.tile + 5
    values = whole.values(many, threads=2)
    assert values.shape == (STEPS + 1, many, 3)
    assert values.dtype == dtype
    assert len(np.unique(values[-1, :, 2])) > many // 2
    for paths, threads in ((10, 1), (min(300, many), 2), (many, 1)):
        np.testing.assert_array_equal(whole.values(paths, threads=threads), values[:, :paths])
    last = list(whole.tiles(many, whole=many, first=2))
    assert [tile.number for tile in last] == [2, 3]
    np.testing.assert_array_equal(np.concatenate([t.values for t in last], axis=1), values[:, 2 * whole.tile :])


@EVERYWHERE
def test_paths_are_the_same_for_any_save_grid(name, noise, dtype):
    values = run(name, noise, dtype).values(MANY)
    for which, grid in GRIDS.items():
        np.testing.assert_array_equal(run(name, noise, dtype, grid).values(MANY), values[grid], which)


@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize(
    ("name", "noise"),
    [case for name in ("one dimension", "nine", "mlp") for case in on_sources(name, fast=("one dimension",))],
)
def test_statistics_are_the_same_for_any_threads_and_resumption(name, noise, covariance):
    grid = [0, 7, 14]
    many = 3 * run(name, noise, "float32").tile + 5
    one = moments(run(name, noise, "float32", grid).tiles(many, threads=1, covariance=covariance))
    two = moments(run(name, noise, "float32", grid).tiles(many, threads=2, covariance=covariance))
    assert_same(two, one)
    assert_same(moments(run(name, noise, "float32", grid).tiles(many, first=1, covariance=covariance)), one[1:])
    fewer = moments(run(name, noise, "float32", grid).tiles(many // 2, covariance=covariance))
    assert_same(fewer[:-1], one[: len(fewer) - 1])


@pytest.mark.parametrize("noise", SOURCES[-1:])
def test_statistics_are_those_of_the_values(noise):
    for name in ("two-point", "nine"):
        e = run(name, noise, "float64", [14])
        many = e.tile + 100
        values = e.values(many).astype(float)
        for tile in e.tiles(many):
            part = values[0, tile.number * e.tile :][: tile.paths]
            np.testing.assert_allclose(tile.moments.mean[0], part.mean(axis=0), rtol=1e-11, atol=1e-12)
            np.testing.assert_allclose(tile.moments.variance[0], part.var(axis=0, ddof=1), rtol=1e-10)


def test_what_bytes_depend_on_is_stored():
    for noise in SOURCES:
        e = run("two-point", noise, "float32")
        how = e.provenance()
        assert (how["noise"], how["route"], how["tile"], how["unroll"]) == (noise, "scalars", e.tile, 4)
        found = ig.simulate(
            ig.SGD(0.1), ig.problems.DoubleWell(), steps=2, paths=5, noise=noise, dtype="float64", progress=False
        )
        own = Ensemble(ig.SGD(0.1).chain(ig.problems.DoubleWell()), {"x": lambda x: x[0]}, np.ones(1), np.array([2]), 0)
        expected = {**own.provenance(), "noise": noise, "dtype": "float64", "jax_version": jax.__version__}
        assert {name: found.attrs[name] for name in expected} == expected


def typed(expected):
    """A step that asserts its types while it is traced."""

    def step(x, k, draws):
        drawn = [draws.normal((2,)), draws.uniform((2,)), draws.two_point((2,)), draws.three_point((2,))]
        assert {str(v.dtype) for v in (x, *drawn)} == {expected}
        assert str(draws.index(5).dtype) == "int32"
        return x - 0.1 * x + 0.1 * sum(drawn) + jnp.zeros(2) * np.float64(2.0)

    return StepOf(step)


@pytest.mark.parametrize(("dtype", "wide"), [("float32", True), ("float64", False)])
def test_the_precision_is_the_runs_own_whatever_that_of_the_process(dtype, wide):
    def values():
        return ensemble(typed(dtype), [5], noise=SOURCES[-1], dtype=dtype, x0=np.ones(2)).values(20)

    narrow = values()
    with jax.enable_x64(wide):
        before = jnp.ones(1).dtype
        found = values()
        assert jnp.ones(1).dtype == before
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, narrow)


PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
jax.config.update("jax_enable_x64", True)
from test_engine_bytes import SOURCES, digest
for name in ("two-point", "mlp"):
    for noise in SOURCES:
        print(digest(name, noise))
assert jax.config.jax_enable_x64
"""


def digest(name, noise):
    values = ensemble(chain_of(name), [9], noise=noise).values(40)
    assert values.dtype == "float32"
    return f"{name} {noise} {hashlib.sha256(values.tobytes()).hexdigest()}"


def test_another_process_with_one_core_or_with_x64_has_the_same_bytes():
    done = subprocess.run([sys.executable, "-c", PROGRAM, os.path.dirname(__file__)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [digest(name, noise) for name in ("two-point", "mlp") for noise in SOURCES]


# What does not fit is found before the run is under way.


def bad(step=None, observables=None, x0=None, start=None):
    chain = StepOf(step or (lambda x, k, draws: x), start)
    run = ensemble(chain, [1, 50], x0=np.ones(2) if x0 is None else x0, observables=observables)
    run.check()
    run.values(10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": lambda x, k, d: x[:1]}, r"a step must return the state .*\(2,\).*returned.*\(1,\)"),
        ({"step": lambda x, k, d: x.astype(jnp.float16)}, r"a step must return the state .*float32.*float16"),
        ({"step": lambda x, k, d: (x * 0).astype(int)}, r"a step must return the state .*float32.*int32"),
        ({"step": lambda x, k, d: (x, x)}, "a step must return the state"),
        ({"step": lambda x, k, d: x * jnp.nan}, "no path is finite after the first step"),
        ({"step": lambda x, k, d: jnp.log(-x)}, "no path is finite after the first step"),
        ({"step": lambda x, k, d: x / 0.0}, "no path is finite after the first step"),
        ({"x0": lambda draws: draws.normal((2,)) * jnp.nan}, "no path is finite after the first step"),
        ({"observables": {"whole": lambda x: x}}, "'whole' must return a scalar"),
        ({"observables": {"fine": lambda x: x[0], "log": lambda x: jnp.log(-x[0])}}, "'log'"),
    ],
)
def test_what_does_not_fit_is_found_before_the_run(arguments, message, monkeypatch):
    from itograd.simulation import engine

    calls = []
    monkeypatch.setattr(engine, "_run_tile", _counted(engine._run_tile, calls))
    with pytest.raises((ValueError, TypeError), match=message):
        bad(**arguments)
    assert len(calls) <= 1


def _counted(function, calls):
    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counted
