"""Results: an `xarray.Dataset` with its recipe, written to and read from netCDF, or a zarr group within a store."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from itograd.simulation.durable import Damaged, checksum, readable
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
    """Read a result of `save`, or that of a finished store of `simulate`, into memory.

    Raises ValueError where there is none, or where it is damaged.
    """
    if Path(path).is_dir():
        from itograd.simulation.store import load_result  # needs zarr, which not every user has

        return load_result(Path(path))
    require(Path(path).is_file(), f"no result file at {path}")
    return xr.load_dataset(path, engine="h5netcdf")


def write_result(dataset: xr.Dataset, folder: Path) -> None:
    """Write a dataset as a zarr group with its checksum."""
    texts = {name: (found.dims, found.values.astype(object)) for name, found in _texts(dataset).items()}
    sealed = dataset.assign_coords(texts).assign_attrs(checksum=_checksum_of(dataset), order=list(dataset.variables))
    sealed.to_zarr(folder, mode="w", zarr_format=3, consolidated=False)


def read_result(folder: Path) -> xr.Dataset:
    """The dataset of such a group; raises Damaged where it is not the one that was written."""

    def read() -> xr.Dataset:
        with xr.open_zarr(folder, consolidated=False) as opened:
            return opened.load().drop_encoding()

    found = readable(read)
    seal, order = found.attrs.pop("checksum", None), found.attrs.pop("order", [])
    if set(order) != set(found.variables):
        raise Damaged(f"{folder} has not all of its variables")
    variables = {name: (found[name].dims, _native(found[name].values)) for name in order}
    coordinates = {name: variables.pop(name) for name in order if name in found.coords}
    dataset = xr.Dataset(variables, coordinates, found.attrs)
    if seal != _checksum_of(dataset):
        raise Damaged(f"the checksum of {folder} does not agree")
    return dataset


def _native(values: np.ndarray) -> np.ndarray:
    """Numbers in the machine's byte order, and texts of fixed width, as a dataset has them before it is written."""
    if values.dtype.kind in "iufb":
        return values.astype(values.dtype.type)
    return np.array(values.tolist(), dtype=str)


def _texts(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    return {str(name): found for name, found in dataset.coords.items() if found.dtype.kind not in "iufb"}


def _checksum_of(dataset: xr.Dataset) -> str:
    arrays = {str(name): found.values for name, found in dataset.variables.items()}
    dims = {str(name): list(found.dims) for name, found in dataset.variables.items()}
    return checksum(arrays, {"dims": dims, "attrs": dataset.attrs})


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
    digest.update(without_addresses(str(structure)).encode())
    return digest.hexdigest()[:16]


def without_addresses(text: str) -> str:
    """A text in which no object shows where it lay in memory."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", text)
