"""Stores: a run that is stopped in any way goes on to the same bytes, and nothing wrong is taken from the disk."""

import itertools
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from stored_runs import PATHS, SGD, TILE, X0, Q, content, run

import itograd as ig
from itograd.simulation import store
from itograd.simulation.engine import Ensemble
from itograd.simulation.identity import digest

pytest.importorskip("zarr")


@pytest.mark.parametrize("changes", [{}, {"dtype": "float64"}, {"quantiles": (), "covariance": False}])
def test_a_stored_run_has_the_bytes_of_one_that_is_not(place, changes):
    assert content(run(store=place, **changes)) == content(run(**changes)) == content(ig.load(place))


def test_a_finished_run_returns_at_once(place, engine, undisturbed):
    run(store=place)
    engine.stops_at(0)
    assert content(run(store=place, resume=True)) == undisturbed


def test_an_interrupted_run_goes_on_where_it_was(place, engine, every_group, undisturbed):
    message = engine.interrupts(37, place)
    assert message == f"{37 * TILE} paths are safe in {place}: the same call with resume=True goes on from there"
    with pytest.raises(ValueError, match="is not finished"):
        ig.load(place)
    assert content(run(store=place, resume=True)) == undisturbed == content(ig.load(place))
    assert engine.numbers == list(range(37, 54))


def test_tiles_of_a_slow_group_are_kept_one_by_one(place, engine, monkeypatch, undisturbed):
    monkeypatch.setattr(store, "_LONGEST_WAIT", 0.0)
    engine.interrupts(22, place)
    assert "0000000020-0000000021" in os.listdir(place / "blocks")
    assert content(run(store=place, resume=True)) == undisturbed
    assert engine.numbers == list(range(22, 54))


@pytest.mark.parametrize(("seconds", "blocks"), [(0.001, 1), (0.01, 8), (0.1, 15), (1.0, 27)])
def test_the_time_between_blocks(place, monkeypatch, seconds, blocks):
    """Fifteen groups, whose tiles take so many seconds each: the longest wait is 10 s, even within a group."""
    ticks = itertools.count()
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: seconds * next(ticks)))
    run(store=place, paths=240 * TILE, steps=1)
    assert len(os.listdir(place / "blocks")) == blocks


def test_large_blocks_do_not_wait(place, monkeypatch):
    monkeypatch.setattr(store, "_FIRST_WAIT", 1e9)
    monkeypatch.setattr(store, "_LONGEST_WAIT", 1e9)
    monkeypatch.setattr(store, "_LARGEST_WAITING", 1000)
    run(store=place)
    assert len(os.listdir(place / "blocks")) > 50


def test_a_run_may_grow_and_shrink(place, engine, every_group):
    for paths, new in ((20 * TILE + 9, 21), (PATHS, 34), (40 * TILE + 5, 9), (PATHS, 1)):
        engine.stops_at(None)
        assert content(run(store=place, paths=paths, resume=place.exists())) == content(ig.load(place))
        assert len(engine.numbers) == new
        assert content(ig.load(place)) == content(run(paths=paths))


def test_the_step_size_of_an_equation_is_kept(place, engine, monkeypatch):
    sde = ig.modified_equation(SGD, Q)
    changes = {"steps": None, "save_at": [0.5, 1.0], "paths": 20 * TILE, "scheme": ig.simulation.EulerMaruyama()}
    whole = run(sde, None, **changes)
    assert len(json.loads(whole.attrs["refinement"])) > 0
    engine.interrupts(17, place, sde, None, **changes)
    with monkeypatch.context() as patch:
        patch.setattr("itograd.simulation.ensemble.choose_step", pytest.fail)
        assert content(run(sde, None, store=place, resume=True, **changes)) == content(whole)
    assert engine.numbers == [17, 18, 19]
    with pytest.raises(ValueError, match=r"step_size_chosen_for is .*, and .* is asked for; give dt"):
        run(sde, None, store=place, resume=True, **(changes | {"paths": 30 * TILE}))


# Another run.


def scaled(factor):
    return {"y": lambda x: factor * x[0]}


class Doubled(ig.SGD):
    def update(self, state, k, gradient):
        return super().update(state, k, 2 * gradient)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (ig.SGD(0.2), {}, r'model is "SGD\(learning_rate=0.1\)", and "SGD\(learning_rate=0.2\)" is asked for'),
        (SGD, {"problem": ig.problems.Quadratic(Q.hessian + 1e-12, np.eye(20), "skewed")}, "numbers_of_the_model is"),
        (Doubled(0.1), {}, "model is"),
        (SGD, {"seed": 5}, "its seed is 4, and 5 is asked for; ask for the same run, or give another folder"),
        (SGD, {"dtype": "float64"}, 'dtype is "float32", and "float64" is asked for'),
        (SGD, {"steps": 4}, r"save_points is \[0, 1, 2, 3\], and \[0, 1, 2, 3, 4\]"),
        (SGD, {"x0": X0 + 0.5}, r'x0 is "20 numbers from 0 to 1.5 .*, and "20 numbers from 0.5 to 2 '),
        (SGD, {"x0": lambda draws: draws.normal((20,))}, "x0 is"),
        (SGD, {"observables": ["x1", "x0"]}, r'observables is \["x0", "x1"\], and \["x1", "x0"\]'),
        (SGD, {"quantiles": [0.1]}, "quantiles is"),
        (SGD, {"covariance": False}, "covariance is true, and false"),
        (SGD, {"keep_paths": 4}, "keep_paths is 3, and 4"),
    ],
)
def test_a_store_of_another_run_is_refused(place, model, changes, message):
    run(store=place, paths=TILE)
    with pytest.raises(ValueError, match=message):
        run(model, store=place, paths=TILE, resume=True, **changes)
    assert content(run(store=place, paths=TILE, resume=True)) == content(run(paths=TILE))


def test_functions_count_by_what_they_are_made_of(place):
    run(store=place, paths=TILE, observables=scaled(2.0))
    run(store=place, paths=TILE, observables=scaled(2.0), resume=True)
    with pytest.raises(ValueError, match="the code of its functions, or what they use from outside, is another"):
        run(store=place, paths=TILE, observables=scaled(3.0), resume=True)
    with pytest.raises(ValueError, match="the code of its functions"):
        run(store=place, paths=TILE, observables={"y": lambda x: 2.0 * x[1]}, resume=True)


weights = np.array([1.0, 2.0])


def weighted(x):
    return x @ weights


def test_a_digest_sees_globals_methods_and_wrapped_functions(monkeypatch):
    import jax

    before = digest(weighted), digest(jax.jit(weighted)), digest(lambda x: weighted(x))
    monkeypatch.setattr(sys.modules[__name__], "weights", np.array([1.0, 3.0]))
    after = digest(weighted), digest(jax.jit(weighted)), digest(lambda x: weighted(x))
    assert all(old != new for old, new in zip(before, after))
    old = digest(Doubled(0.1))
    monkeypatch.setattr(Doubled, "update", lambda self, state, k, gradient: state)
    assert digest(Doubled(0.1)) != old
    assert digest(jnp.sin) != digest(jnp.cos)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"has format 2, and this version of itograd reads up to 1: it was written by itograd 9.9"),
        ({}, r'itograd_version is "9.9", and "[0-9.]+" is asked for; go on with the version that began it'),
    ],
)
def test_a_store_of_another_version_is_refused(place, change, message):
    run(store=place, paths=TILE)
    description = json.loads((place / "zarr.json").read_text())
    description["attributes"]["itograd"]["run"]["itograd_version"] = "9.9"
    description["attributes"]["itograd"] |= change
    (place / "zarr.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message):
        run(store=place, paths=TILE, resume=True)
    if change:
        with pytest.raises(ValueError, match=message):
            ig.load(place)


def test_a_store_of_another_engine_is_refused(place, monkeypatch):
    run(store=place, paths=TILE)
    shutil.rmtree(place / "result")
    monkeypatch.setattr(Ensemble, "provenance", lambda ensemble: {"tile": 77})
    with pytest.raises(
        ValueError, match=r'engine is {.*"tile": .*}, and {"tile": 77} is asked for; go on with the eng'
    ):
        run(store=place, paths=TILE, resume=True)


# Places.


def test_a_store_is_begun_once_and_gone_on_with_by_resume(place, tmp_path):
    with pytest.raises(ValueError, match="give store=PATH"):
        run(resume=True)
    with pytest.raises(ValueError, match="there is no store at"):
        run(store=place, paths=TILE, resume=True)
    run(store=place, paths=TILE)
    with pytest.raises(ValueError, match="holds a run: go on with it by resume=True"):
        run(store=place, paths=TILE)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary.txt").write_text("dear")
    for resume in (False, True):
        with pytest.raises(OSError, match="holds files that are no store"):
            run(store=tmp_path / "other", paths=TILE, resume=resume)
    with pytest.raises(OSError, match="is no folder"):
        run(store=tmp_path / "other" / "diary.txt", paths=TILE)
    with pytest.raises(OSError, match="does not exist"):
        run(store=tmp_path / "nowhere" / "runs.zarr", paths=TILE)
    with pytest.raises(ValueError, match="is no store of itograd"):
        ig.load(tmp_path / "other")


def test_a_refused_run_leaves_no_folder(place):
    with pytest.raises(ValueError, match="must return a scalar"):
        run(store=place, observables={"both": lambda x: x})
    assert not place.exists()


def test_a_run_that_was_killed_before_its_first_block_may_be_resumed(place):
    place.mkdir()
    (place / ".lock").touch()
    (place / ".unfinished-0").mkdir()
    run(store=place, paths=TILE, resume=True)
    assert sorted(entry.name for entry in place.iterdir()) == [".lock", "blocks", "engine", "result", "zarr.json"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write in")
def test_a_place_that_cannot_be_written_is_found_before_the_run(engine):
    engine.stops_at(0)
    with pytest.raises(OSError, match=r"cannot write in /proc/runs\.zarr"):
        run(store="/proc/runs.zarr")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for the superuser")
def test_a_read_only_store_is_found_before_the_run(place, engine):
    run(store=place, paths=TILE)
    place.chmod(0o500)
    (place / ".lock").chmod(0o400)
    engine.stops_at(0)
    with pytest.raises(OSError, match="cannot write in"):
        run(store=place, resume=True)
    place.chmod(0o700)


def test_others_may_open_the_result(place):
    found = run(store=place, paths=TILE)
    opened = xr.open_zarr(place, group="result", consolidated=False)
    np.testing.assert_array_equal(opened["mean"].values, found["mean"].values)
