"""Results: an `xarray.Dataset` with its recipe, written to and read from netCDF."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from itograd.validation import require


def save(dataset: xr.Dataset, path: str | os.PathLike) -> Path:
    """Write a result as netCDF, at once or not at all: a file that was there stays whole until the new one is.

    Raises OSError, naming the folder, where it cannot be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise OSError(f"cannot write {target}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK):
        raise OSError(f"cannot write {target}: the folder {target.parent} is not writable")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        dataset.to_netcdf(partial, engine="h5netcdf")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def load(path: str | os.PathLike) -> xr.Dataset:
    """Read a result of `save` into memory."""
    require(Path(path).is_file(), f"no result file at {path}")
    return xr.load_dataset(path, engine="h5netcdf")


def fingerprint(recipe: Any) -> str:
    """A digest of a pytree: its structure, every number in it in full, and the names of its functions.

    Two results with one fingerprint, seed and versions are the same run; what a function closes over is not seen.

    >>> fingerprint({"a": 1.0}) == fingerprint({"a": np.float64(1.0)}) != fingerprint({"a": 1.5})
    True
    """
    leaves, structure = jax.tree.flatten(recipe)
    digest = hashlib.sha256()
    for leaf in leaves:
        if isinstance(leaf, np.ndarray | np.generic | jax.Array | float | int):
            array = np.asarray(leaf)
            digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        else:
            digest.update(getattr(leaf, "__qualname__", repr(leaf)).encode())
    digest.update(_without_addresses(str(structure)).encode())
    return digest.hexdigest()[:16]


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)
