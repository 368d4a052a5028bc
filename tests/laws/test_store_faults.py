"""Faults: whatever happens to a disk or a process, a run goes on to the same bytes, and nothing wrong is used."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import stored_runs
from stored_runs import MANY_STEPS, TILE, content, run

import itograd as ig

pytest.importorskip("zarr")

# Faults of the disk.


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    held = bytearray(file.read_bytes())
    held[len(held) // 2] ^= 1
    file.write_bytes(held)


DAMAGES = [
    (damage, file)
    for damage in (truncate, flip, Path.unlink)
    for file in ("moments/c/0/0/0", "values/c/0/0/0", "values/zarr.json", "zarr.json")
    if (damage, file) != (flip, "values/zarr.json")  # most of its bits mean nothing
]


@pytest.mark.filterwarnings("ignore:Object at .* is not recognized")  # zarr's own
@pytest.mark.parametrize(("damage", "file"), DAMAGES)
def test_a_damaged_block_is_never_used(place, engine, every_group, undisturbed, damage, file):
    engine.interrupts(37, place)
    damage(place / "blocks" / "0000000016-0000000032" / file)
    with pytest.warns(UserWarning, match="blocks/0000000016-0000000032 .* is damaged, and will be made again"):
        again = run(store=place, resume=True)
    assert content(again) == undisturbed
    assert engine.numbers == [*range(16, 32), *range(37, 54)]
    engine.stops_at(None)
    shutil.rmtree(place / "result")
    assert content(run(store=place, resume=True)) == undisturbed
    assert engine.numbers == [53]


@pytest.mark.filterwarnings("ignore:Object at .* is not recognized")
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
@pytest.mark.parametrize("file", ["mean/c/0/0", "mean/zarr.json", "zarr.json"])
def test_a_damaged_result_is_made_again(place, engine, undisturbed, damage, file):
    run(store=place)
    damage(place / "result" / file)
    with pytest.raises(ValueError, match=r"the result in .* is damaged .* with resume=True makes it again"):
        ig.load(place)
    engine.stops_at(None)
    with pytest.warns(UserWarning, match="result of the store .* is damaged"):
        again = run(store=place, resume=True)
    assert content(again) == undisturbed == content(ig.load(place))
    assert engine.numbers == [53]


def test_a_damaged_description_is_refused(place):
    run(store=place, paths=TILE)
    truncate(place / "zarr.json")
    for call in (lambda: run(store=place, paths=TILE, resume=True), lambda: ig.load(place)):
        with pytest.raises(ValueError, match=r"is no store of itograd, or its zarr.json is damaged"):
            call()


def test_a_full_disk_loses_no_block(place, monkeypatch, every_group, undisturbed):
    fsync, count = os.fsync, 0

    def full(handle):
        nonlocal count
        count += 1
        if count > 60:
            raise OSError(28, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device. \d{5} paths are safe in .* resume=True"):
            run(store=place)
    assert not list(place.glob(".unfinished*"))
    assert content(run(store=place, resume=True)) == undisturbed


def test_a_disk_that_is_really_full(tmp_path, every_group, undisturbed):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        with pytest.raises(OSError, match=r"No space left on device. \d+ paths are safe in"):
            run(store=disk / "runs.zarr")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert content(run(store=disk / "runs.zarr", resume=True)) == undisturbed
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Processes that are killed.


def kill(place, paths, moment):
    """Kill a run a moment after it has written something new; whether it was still running."""
    before = time.time_ns()
    process = subprocess.Popen([sys.executable, stored_runs.__file__, "run", str(place), str(paths)], cwd=place.parent)
    blocks = place / "blocks"
    while process.poll() is None and not (blocks.exists() and blocks.stat().st_mtime_ns > before):
        time.sleep(0.005)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def kill_often(place, paths, moments):
    killed = sum(kill(place, paths, moment) for moment in moments)
    assert killed > len(moments) / 2
    again = run(store=place, resume=True, paths=paths, **MANY_STEPS)
    assert content(again) == content(run(paths=paths, **MANY_STEPS)) == content(ig.load(place))


@pytest.mark.filterwarnings("error:.* is damaged")
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(place):
    kill_often(place, 240 * TILE + 5, np.random.default_rng(1).uniform(0, 0.1, 3))


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.* is damaged")
def test_twenty_kills_of_one_run(place):
    kill_often(place, 1000 * TILE + 5, np.random.default_rng(2).uniform(0, 0.05, 20))


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.* is damaged")
def test_twenty_runs_killed_once(tmp_path):
    paths = 240 * TILE + 5
    expected = content(run(paths=paths, **MANY_STEPS))
    for number, moment in enumerate(np.random.default_rng(3).uniform(0, 0.5, 20)):
        place = tmp_path / f"{number}.zarr"
        kill(place, paths, moment)
        assert content(run(store=place, resume=True, paths=paths, **MANY_STEPS)) == expected


# Two processes.


def test_two_processes_do_not_share_a_store(place):
    run(store=place, paths=TILE)
    holder = subprocess.Popen(
        [sys.executable, stored_runs.__file__, "hold", str(place), "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=place.parent,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match=f"is in use by process {holder.pid} on .*: wait for it"):
            run(store=place, resume=True)
    finally:
        holder.kill()
        holder.wait()
    run(store=place, resume=True)


# Memory.

ROOT = Path(__file__).parents[2]
_MANY_PATHS = """
import itograd as ig
from benchmarks.memory import own_peak
problem = ig.problems.Quadratic([[1.0, 0.2], [0.2, 0.5]], [[1.0, 0.3], [0.3, 0.5]])
ig.simulate(ig.SGD(0.1), problem, x0=[1.0, 1.5], steps=100, save_every=10, paths=10**7, store=STORE, progress=False)
print(own_peak())
"""


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_memory_does_not_grow_with_the_number_of_paths(place, stored):
    script = _MANY_PATHS.replace("STORE", repr(str(place)) if stored else "None")
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 2 * 2**30  # 10⁹ steps of paths
