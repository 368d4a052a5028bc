"""Several ensembles in one folder of stores, so that an analysis that was interrupted goes on where it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def kept(store: str | os.PathLike | None, name: str) -> dict[str, Any]:
    """The options of `simulate` that keep the ensemble `name` in the folder `store`, begun or gone on with.

    What is in it must be the same run (docs/results.md); `simulate` refuses another one, and names what differs.
    """
    if store is None:
        return {}
    folder = Path(store)
    folder.mkdir(exist_ok=True)
    place = folder / f"{name}.zarr"
    return {"store": place, "resume": place.is_dir()}
