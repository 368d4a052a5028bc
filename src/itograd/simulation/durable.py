"""Groups of arrays on disk that appear whole or not at all, and that know when they are damaged; locks.

A group is written beside its place, forced to the disk with its folders, and moved there by one rename. It carries the
checksum of its arrays and attributes: what was cut or changed afterwards is found when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from itograd.validation import require

try:
    import fcntl
except ImportError:  # not a system of the Unix family
    fcntl = None  # type: ignore[assignment]

_CHECKSUM = "checksum"


class Damaged(Exception):
    """What is on the disk is not what was written."""


def zarr() -> Any:
    """The package zarr, which only stores need."""
    try:
        import zarr as package
    except ImportError as error:
        raise ImportError("a store needs the package zarr: pip install 'itograd[zarr]'") from error
    return package


def checksum(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> str:
    """A digest of the bytes of all arrays and of the attributes."""
    digest = hashlib.sha256(json.dumps(attributes, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_group(place: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any], staging: Path) -> None:
    """Write arrays and attributes as a zarr group, at once or not at all."""
    sealed = {**attributes, _CHECKSUM: checksum(arrays, attributes)}

    def write(folder: Path) -> None:
        group = zarr().create_group(str(folder), attributes=sealed, zarr_format=3)
        for name, array in arrays.items():
            group.create_array(name, data=array, chunks=array.shape, compressors=None)

    appear(place, write, staging)


def read_group(place: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and attributes of a group; raises Damaged where they are not those that were written."""

    def read() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        group = zarr().open_group(str(place), mode="r", zarr_format=3)
        return {name: array[...] for name, array in group.arrays()}, dict(group.attrs)

    arrays, attributes = readable(read)
    seal = attributes.pop(_CHECKSUM, None)
    if seal != checksum(arrays, attributes):
        raise Damaged(f"the checksum of {place} does not agree")
    return arrays, attributes


def readable(read: Callable[[], Any]) -> Any:
    """The result of a function that reads; Damaged where it fails for another reason than the system's."""
    try:
        return read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(str(error)) from error
    except (OSError, ImportError):
        raise
    except Exception as error:  # whatever a torn file makes of a decoder
        raise Damaged(str(error)) from error


def appear(place: Path, write: Callable[[Path], None], staging: Path) -> None:
    """Let a folder that `write` fills appear in its place by one rename, instead of one that may be there."""
    fresh = _unused(staging)
    try:
        write(fresh)
        _force(fresh)
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            place.rename(_unused(staging))
        fresh.rename(place)
        force_folder(place.parent)
        force_folder(place.parent.parent)
    finally:
        sweep(staging)


def sweep(staging: Path) -> None:
    """Remove what is left of unfinished writes."""
    for left in staging.parent.glob(f"{staging.name}*"):
        shutil.rmtree(left, ignore_errors=True)


def _unused(staging: Path) -> Path:
    number = 0  # an interrupted writer may still be at work in an older folder
    while (found := staging.with_name(f"{staging.name}-{number}")).exists():
        number += 1
    return found


def _force(folder: Path) -> None:
    for at, _, names in os.walk(folder, topdown=False):
        for name in names:
            _force_path(Path(at, name), os.O_RDWR)
        force_folder(Path(at))


def force_folder(folder: Path) -> None:
    """Force the entries of a folder to the disk."""
    with suppress(PermissionError):  # systems that know no handles of folders
        _force_path(folder, os.O_RDONLY)


def _force_path(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Lock:
    """A file that one process at a time may hold; the system frees it when that process ends, however it does."""

    def __init__(self, file: Path, what: str):
        self._file, self._what = file, what
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise OSError that names the process which holds it."""
        require(fcntl is not None, f"{self._what} needs file locks, which this system does not have")
        while True:
            handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.read(handle, 100).decode(errors="replace").strip() or "another process"
                os.close(handle)
                raise OSError(f"{self._what} is in use by {holder}: wait for it, or give another folder") from error
            except OSError as error:
                os.close(handle)
                raise OSError(f"{self._what} is on a disk without file locks ({error.strerror})") from error
            if self._file.exists() and os.path.samestat(os.fstat(handle), self._file.stat()):
                break
            os.close(handle)  # its last holder has removed the file meanwhile
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        self._handle = handle

    def release(self, *, remove: bool = False) -> None:
        """Free the lock, and remove its file where it is of no more use."""
        if self._handle is not None:
            if remove:
                self._file.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None
