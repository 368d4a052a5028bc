"""Pieces of an ensemble: tiles, or whole groups of sixteen, in the order in which their moments are merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from itograd.simulation.engine import Tile
from itograd.simulation.statistics import TILES_PER_GROUP, Moments

_FIELDS = ("count", "centre", "m2", "m3", "m4")


@dataclass(frozen=True)
class Piece:
    """One tile, or the sixteen tiles of a group with their moments merged."""

    first: int  # the number of its first tile
    tiles: int  # 1 or TILES_PER_GROUP
    paths: int
    moments: Moments
    values: np.ndarray | None = None  # (s, p, n) of its first p paths, where asked for

    @classmethod
    def of(cls, tile: Tile) -> Piece:
        """A tile as a piece."""
        return cls(tile.number, 1, tile.paths, tile.moments, tile.values)

    @classmethod
    def group(cls, tiles: Sequence[Piece]) -> Piece:
        """The sixteen tiles of a group as one piece."""
        return cls(
            tiles[0].first,
            len(tiles),
            sum(tile.paths for tile in tiles),
            Moments.merged([tile.moments for tile in tiles]),
            joined(tiles),
        )

    @property
    def end(self) -> int:
        """The number of the tile after its last."""
        return self.first + self.tiles

    @property
    def nbytes(self) -> int:
        """The memory it holds."""
        held = [getattr(self.moments, name) for name in (*_FIELDS, "comoment")] + [self.values]
        return sum(array.nbytes for array in held if array is not None)

    @property
    def ends_group(self) -> bool:
        """Whether all groups up to its last tile are whole."""
        return self.end % TILES_PER_GROUP == 0


def joined(pieces: Sequence[Piece]) -> np.ndarray | None:
    """The values of pieces that follow one another (s, p, n); None where they have none."""
    values = [piece.values for piece in pieces if piece.values is not None]
    return np.concatenate(values, axis=1) if values else None


def packed(pieces: Sequence[Piece]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Pieces that follow one another, as a few arrays and attributes.

    `moments` (pieces, s, 1 + 4n [+ n²]) holds the count, the centre, the sums of powers and the co-moments, side
    by side, and `values` (s, p, n) the values of all pieces.
    """
    arrays = {"moments": np.stack([_table(piece.moments) for piece in pieces])}
    values = joined(pieces)
    if values is not None:
        arrays["values"] = values
    kept = [0 if piece.values is None else piece.values.shape[1] for piece in pieces]
    return arrays, {
        "observables": pieces[0].moments.centre.shape[1],
        "tiles": [piece.tiles for piece in pieces],
        "paths": [piece.paths for piece in pieces],
        "kept": kept,
    }


def unpacked(first: int, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> list[Piece]:
    """The pieces that `packed` packed; `first` is the first tile."""
    n, starts = attributes["observables"], np.cumsum([0, *attributes["kept"]])
    found = []
    for number, (tiles, paths, kept) in enumerate(zip(attributes["tiles"], attributes["paths"], attributes["kept"])):
        values = arrays["values"][:, starts[number] : starts[number] + kept] if kept else None
        found.append(Piece(first, tiles, paths, _moments(arrays["moments"][number], n), values))
        first += tiles
    return found


def _table(moments: Moments) -> np.ndarray:
    columns = [getattr(moments, name) for name in _FIELDS]
    if moments.comoment is not None:
        columns.append(moments.comoment.reshape(len(moments.count), -1))
    return np.concatenate(columns, axis=1)


def _moments(table: np.ndarray, n: int) -> Moments:
    count, centre, m2, m3, m4, rest = np.split(table, [1, 1 + n, 1 + 2 * n, 1 + 3 * n, 1 + 4 * n], axis=1)
    return Moments(count, centre, m2, m3, m4, rest.reshape(len(table), n, n) if rest.size else None)
