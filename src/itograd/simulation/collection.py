"""The collection of an ensemble: its pieces, from the store and then from the engine, merged as they come."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from itograd.simulation.accuracy import MINIMUM_PATHS, Target
from itograd.simulation.engine import Ensemble
from itograd.simulation.pieces import Piece
from itograd.simulation.progress import Progress
from itograd.simulation.statistics import Merged, Moments
from itograd.simulation.store import Nowhere, Store

QUANTILE_PATHS = 65_536


@dataclass(frozen=True)
class Plan:
    """What is to be collected."""

    paths: int  # with a target the most that may be run
    quantiles: tuple[float, ...] = ()
    covariance: bool = False
    keep_paths: int = 0
    target: Target | None = None

    @property
    def whole(self) -> int:
        """How many paths are kept with their values."""
        return max(self.keep_paths, min(self.paths, QUANTILE_PATHS) if self.quantiles else 0)

    @property
    def settings(self) -> dict[str, Any]:
        """What the bytes of each path's share in the result depend on: all but the number of paths."""
        return {"quantiles": self.quantiles, "covariance": self.covariance, "keep_paths": self.keep_paths}

    def is_that_of(self, result: xr.Dataset) -> bool:
        """Whether a result of the same run has what is to be collected."""
        return self.target is None and "target_reached" not in result.attrs and result.attrs["paths"] == self.paths


@dataclass(frozen=True)
class Collected:
    """What was found: the moments over all paths, and the values (s, p, n) of the first ones."""

    paths: int
    moments: Moments
    values: np.ndarray | None


def collect(ensemble: Ensemble, plan: Plan, store: Store | Nowhere, threads=None, progress=None) -> Collected:
    """Run the paths of a plan that the store does not hold yet, up to the target where there is one.

    Raises KeyboardInterrupt, with the store complete and the way to go on in its message, on an interrupt.
    """
    merged, kept, done = Merged(), [], 0
    least = max(MINIMUM_PATHS, plan.keep_paths)
    try:
        with Progress(plan.paths, progress) as bar, closing(_pieces(ensemble, plan, store, threads)) as pieces:
            for piece in pieces:
                merged.add(piece.moments) if piece.tiles == 1 else merged.add_group(piece.moments)
                if piece.values is not None:
                    kept.append(piece.values)
                done += piece.paths
                bar.advance(piece.paths)
                if plan.target and piece.ends_group and done >= least:
                    ratio = plan.target.ratio(merged.total)
                    bar.describe(f"paths (s.e. {ratio:.3g} × target)")
                    if ratio <= 1:
                        break
        store.flush()
    except KeyboardInterrupt:
        store.flush()
        if store.way_on:
            raise KeyboardInterrupt(store.way_on) from None
        raise
    return Collected(done, merged.total, np.concatenate(kept, axis=1) if kept else None)


def _pieces(ensemble: Ensemble, plan: Plan, store: Store | Nowhere, threads) -> Generator[Piece, None, None]:
    """All pieces in order: those that the store holds, and those of the engine, which the store is given."""
    count = -(-plan.paths // ensemble.tile)
    position = 0
    while position < count:
        held = [piece for piece in store.pieces_at(position) if piece.end * ensemble.tile <= plan.paths]
        if held:
            yield from held
            position = held[-1].end
            continue
        end = min(store.next_start(position), count)
        tiles = ensemble.tiles(
            min(end * ensemble.tile, plan.paths),
            threads=threads,
            whole=plan.whole,
            covariance=plan.covariance,
            first=position,
        )
        with closing(tiles):  # type: ignore[type-var]
            for tile in tiles:
                piece = Piece.of(tile)
                if piece.paths == ensemble.tile:
                    store.add(piece)
                yield piece
        position = end
