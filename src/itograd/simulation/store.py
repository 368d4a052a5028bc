"""Stores: a folder that keeps the finished work of a run, so that a killed run goes on where it was.

    PATH/zarr.json            a zarr group; its attributes hold the format and the identity of the run
    PATH/discretisation/      the step size of an equation and how it was found, where it was chosen
    PATH/engine/              how the engine computes
    PATH/blocks/FIRST-END/    the pieces (tiles or groups of sixteen) of the tiles FIRST, …, END−1
    PATH/result/              the dataset of the last finished call, for `itograd.load` or `xarray.open_zarr`
    PATH/.lock                held by the process that writes

Every folder appears whole, by one rename, with a checksum. A block holds the moments of each of its pieces, so where
blocks begin and end is free: one is written a moment after its groups are ready, soon at first, then ever more rarely.
The pieces are merged in the same order with and without a store, and so the results have the same bytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from itograd.simulation.durable import (
    Damaged,
    Lock,
    appear,
    force_folder,
    read_group,
    readable,
    sweep,
    write_group,
    zarr,
)
from itograd.simulation.identity import require_same
from itograd.simulation.pieces import Piece, packed, unpacked
from itograd.simulation.refinement import Discretisation
from itograd.simulation.result import read_result, write_result
from itograd.simulation.statistics import TILES_PER_GROUP
from itograd.validation import require

FORMAT = 1
_FIRST_WAIT, _SHARE_OF_WORK, _LONGEST_WAIT = 0.3, 1 / 30, 10.0  # seconds between blocks: within them, a share
_LARGEST_WAITING = 64 * 2**20  # bytes
_BLOCK = re.compile(r"(\d+)-(\d+)")


class Nowhere:
    """The store of a run that is not stored."""

    way_on = ""

    def __enter__(self) -> Nowhere:
        return self

    def __exit__(self, *_) -> None:
        return None

    def result(self) -> None:
        return None

    def discretisation(self, find: Callable[[], Discretisation]) -> Discretisation:
        return find()

    def require_engine(self, engine: Mapping[str, Any]) -> None:
        return None

    def pieces_at(self, first: int) -> list[Piece]:
        return []

    def next_start(self, after: int) -> int:
        return np.iinfo(np.int64).max

    def add(self, piece: Piece) -> None:
        return None

    def flush(self) -> None:
        return None

    def finish(self, dataset: xr.Dataset) -> None:
        return None


class Store:
    """The store at a path, open for one process; a context, and nothing is written before the first result in it."""

    def __init__(self, path: str | os.PathLike, identity: Mapping[str, Any], resume: bool):
        self.path = Path(os.path.abspath(path))
        self._identity, self._resume = dict(identity), resume
        self._staging = self.path / ".unfinished"
        self._lock = Lock(self.path / ".lock", f"the store {self.path}")
        self._begun = self._made_folder = False
        self._blocks: dict[int, int] = {}  # first tile -> end
        self._tile = 0
        self._waiting: list[Piece] = []
        self._waiting_bytes = 0
        self._opened = self._written = time.monotonic()

    def __enter__(self) -> Store:
        zarr()
        try:
            self._require_place()
            self._made_folder = not self.path.is_dir()
            self.path.mkdir(exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            if error.errno is None:  # words of our own
                raise
            raise OSError(f"store: cannot write in {self.path}: {error.strerror}; choose another folder") from error
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        unused = self._made_folder and not self._begun
        self._lock.release(remove=unused)
        if unused:
            with suppress(OSError):
                self.path.rmdir()

    def _require_place(self) -> None:
        if not self.path.parent.is_dir():
            raise OSError(f"store: cannot write {self.path}: the folder {self.path.parent} does not exist")
        if self.path.exists() and not self.path.is_dir():
            raise OSError(f"store: {self.path} is there, and is no folder: give another name")
        there = self.path.is_dir()
        has_run = (self.path / "zarr.json").exists()
        foreign = there and not has_run and any(not entry.name.startswith(".") for entry in self.path.iterdir())
        if foreign:
            raise OSError(f"store: {self.path} holds files that are no store: give an empty or a new folder")
        require(
            there or not self._resume,
            f"resume=True: there is no store at {self.path}; leave resume out to begin one",
        )

    def _open(self) -> None:
        if not (self.path / "zarr.json").exists():
            return
        require(
            self._resume, f"the store {self.path} holds a run: go on with it by resume=True, or give another folder"
        )
        self._begun = True
        found = read_description(self.path)
        require_same(found["run"], self._identity, self.path)
        sweep(self._staging)
        for entry in (self.path / "blocks").glob("*"):
            if match := _BLOCK.fullmatch(entry.name):
                self._blocks[int(match[1])] = int(match[2])

    def _begin(self) -> None:
        """Write what the store is of, with its first content."""
        if self._begun:
            return
        fresh = self._staging.with_name(f"{self._staging.name}-description")
        try:
            about = {"format": FORMAT, "run": self._identity}
            zarr().create_group(str(fresh), attributes={"itograd": about}, zarr_format=3, overwrite=True)
            file = fresh / "zarr.json"
            with open(file, "r+b") as handle:
                os.fsync(handle.fileno())
            file.replace(self.path / "zarr.json")
            force_folder(self.path)
            force_folder(self.path.parent)
        finally:
            sweep(self._staging)
        self._begun = True

    # What is settled before the first path.

    def discretisation(self, find: Callable[[], Discretisation]) -> Discretisation:
        """The step size that the store holds, or the one that `find` finds, which it then holds."""
        held = self._read("discretisation")
        if held:
            arrays, attributes = held
            error, spread = arrays.get("error"), arrays.get("error_standard_error")
            return Discretisation(attributes["dt"], error, spread, json.loads(attributes["history"]))
        found = find()
        errors = {"error": found.error, "error_standard_error": found.error_standard_error}
        arrays = {name: array for name, array in errors.items() if array is not None}
        self._write("discretisation", arrays, {"dt": found.dt, "history": json.dumps(found.history)})
        return found

    def require_engine(self, engine: Mapping[str, Any]) -> None:
        """Raise ValueError unless the store is of the same engine."""
        self._tile = int(engine["tile"])
        held = self._read("engine")
        if held:
            require_same({"engine": held[1]}, {"engine": dict(engine)}, self.path)
        else:
            self._write("engine", {}, dict(engine))

    # Blocks.

    @property
    def safe_paths(self) -> int:
        """How many paths the store holds."""
        return sum(end - first for first, end in self._blocks.items()) * self._tile

    @property
    def way_on(self) -> str:
        """How many paths are safe, and how to go on."""
        return f"{self.safe_paths} paths are safe in {self.path}: the same call with resume=True goes on from there"

    def pieces_at(self, first: int) -> list[Piece]:
        """The pieces of the block that begins with this tile; none where there is no such block, or a damaged one."""
        if first not in self._blocks:
            return []
        name = f"blocks/{_block_name(first, self._blocks[first])}"
        held = self._read(name)
        if held is None:
            del self._blocks[first]
            return []
        return unpacked(first, *held)

    def next_start(self, after: int) -> int:
        """Where the first block after this tile begins; a number beyond all tiles where there is none."""
        return min((first for first in self._blocks if first > after), default=np.iinfo(np.int64).max)

    def add(self, piece: Piece) -> None:
        """Keep the next piece; it is written with others, after a while, or by `flush`."""
        if self._holds(piece):
            return
        if self._waiting and self._waiting[-1].end != piece.first:
            self.flush()
        self._waiting.append(piece)
        self._waiting_bytes += piece.nbytes
        if piece.ends_group and len(self._waiting) >= TILES_PER_GROUP:
            last = self._waiting[-TILES_PER_GROUP:]
            if all(piece.tiles == 1 for piece in last):
                group = Piece.group(last)
                self._waiting[-TILES_PER_GROUP:] = [group]
                self._waiting_bytes += group.nbytes - sum(piece.nbytes for piece in last)
        now = time.monotonic()
        wait = min(max(_FIRST_WAIT, (now - self._opened) * _SHARE_OF_WORK), _LONGEST_WAIT)
        ready = now - self._written > (wait if piece.ends_group else _LONGEST_WAIT)
        if ready or self._waiting_bytes > _LARGEST_WAITING:
            self.flush()

    def _holds(self, piece: Piece) -> bool:
        if piece.first >= max(self._blocks.values(), default=0):
            return False
        return any(first <= piece.first and piece.end <= end for first, end in self._blocks.items())

    def flush(self) -> None:
        """Write the pieces that wait, as one block."""
        if not self._waiting:
            return
        first, end = self._waiting[0].first, self._waiting[-1].end
        self._write(f"blocks/{_block_name(first, end)}", *packed(self._waiting))
        self._blocks[first] = end
        self._waiting, self._waiting_bytes = [], 0
        self._written = time.monotonic()

    # The result.

    def result(self) -> xr.Dataset | None:
        """The dataset of the last finished call."""
        return self._held("result", read_result)

    def finish(self, dataset: xr.Dataset) -> None:
        """Keep the dataset of this call, instead of that of an earlier one."""
        self._safely(lambda: appear(self.path / "result", lambda folder: write_result(dataset, folder), self._staging))

    # Reading and writing.

    def _read(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        return self._held(name, read_group)

    def _held(self, name: str, read: Callable[[Path], Any]) -> Any:
        """What a part of the store holds; a damaged part is removed, with a warning, to be made again."""
        place = self.path / name
        if not place.exists():
            return None
        try:
            return read(place)
        except Damaged as error:
            warnings.warn(
                f"{name} of the store {self.path} is damaged, and will be made again ({error}): does the disk fail?",
                stacklevel=2,
            )
            shutil.rmtree(place) if place.is_dir() else place.unlink()
            return None

    def _write(self, name: str, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
        self._safely(lambda: write_group(self.path / name, arrays, attributes, self._staging))

    def _safely(self, write: Callable[[], None]) -> None:
        try:
            self._begin()
            write()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(f"store: cannot write in {self.path}: {reason}. {self.way_on}") from error


def read_description(path: Path) -> dict[str, Any]:
    """The format and the identity of a store; raises ValueError where it is none that this version can read."""
    try:
        about = readable(lambda: dict(zarr().open_group(str(path), mode="r", zarr_format=3).attrs)["itograd"])
        newer = int(about["format"]) > FORMAT
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no store of itograd, or its zarr.json is damaged ({error})") from error
    require(
        not newer,
        f"the store {path} has format {about['format']}, and this version of itograd reads up to {FORMAT}: "
        f"it was written by itograd {about.get('run', {}).get('itograd_version')}; upgrade, or give another folder",
    )
    return about


def load_result(path: Path) -> xr.Dataset:
    """The dataset of the last finished call on a store."""
    read_description(path)
    require(
        (path / "result").is_dir(), f"the run in {path} is not finished: its call to simulate goes on with resume=True"
    )
    try:
        return read_result(path / "result")
    except Damaged as error:
        raise ValueError(
            f"the result in {path} is damaged ({error}): its call to simulate with resume=True makes it again"
        ) from error


def _block_name(first: int, end: int) -> str:
    return f"{first:010d}-{end:010d}"
