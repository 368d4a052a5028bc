"""Results: an `xarray.Dataset` with its recipe, written to and read from netCDF."""

from __future__ import annotations

import os
from pathlib import Path

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
