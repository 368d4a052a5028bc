"""Arrays in a recipe: a number, nested lists of numbers, or the name of a file beside the recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationInfo


def read_numbers(value: Any, info: ValidationInfo) -> np.ndarray:
    """A number, nested lists of numbers, or the name of a file with them, as an array."""
    if isinstance(value, str):
        array = _from_file(Path((info.context or {}).get("folder", ".")) / value)
    else:
        _require_numbers(value)
        try:
            array = np.asarray(value, float)
        except ValueError as error:
            raise ValueError("must have rows of one length") from error
    if not np.isfinite(array).all():
        lost = int(np.sum(~np.isfinite(array)))
        raise ValueError(f"must be finite: NaN or infinite are {lost} of its {array.size} numbers")
    return array


def _require_numbers(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _require_numbers(item)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must hold numbers only: got {value!r}")


def _from_file(path: Path) -> np.ndarray:
    readers: dict[str, Callable] = {
        ".npy": lambda: np.load(path, allow_pickle=False),
        ".csv": lambda: np.loadtxt(path, delimiter=",", dtype=float),
        ".txt": lambda: np.loadtxt(path, dtype=float),
    }
    if path.suffix not in readers:
        raise ValueError(f"must be numbers or the name of a file that ends in {', '.join(readers)}: got {str(path)!r}")
    if not path.is_file():
        raise ValueError(f"names a file that does not exist: {path}")
    try:
        return np.asarray(readers[path.suffix](), float)
    except OSError as error:
        raise ValueError(f"cannot be read from {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"cannot be read from {path}: {' '.join(str(error).split())}") from error
