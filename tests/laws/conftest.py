"""Fixtures of the tests of stores."""

import pytest
from stored_runs import content, run

from itograd.simulation import store
from itograd.simulation.engine import Ensemble


@pytest.fixture(scope="module")
def undisturbed():
    return content(run())


@pytest.fixture
def place(tmp_path):
    return tmp_path / "runs.zarr"


@pytest.fixture
def every_group(monkeypatch):
    """A block for each group."""
    monkeypatch.setattr(store, "_FIRST_WAIT", 0.0)
    monkeypatch.setattr(store, "_SHARE_OF_WORK", 0.0)


class Engine:
    """The engine, with the numbers of the tiles that it ran, and a fault before one of them."""

    def __init__(self, monkeypatch):
        self.numbers, self.fault_at, self.fault = [], None, KeyboardInterrupt
        tiles = Ensemble.tiles

        def watched(ensemble, *arguments, **options):
            for tile in tiles(ensemble, *arguments, **options):
                if tile.number == self.fault_at:
                    raise self.fault
                self.numbers.append(tile.number)
                yield tile

        monkeypatch.setattr(Ensemble, "tiles", watched)

    def stops_at(self, number, fault=KeyboardInterrupt):
        self.numbers, self.fault_at, self.fault = [], number, fault

    def interrupts(self, number, place, *recipe, **changes):
        """Interrupt a stored run before a tile; what the interrupt says."""
        self.stops_at(number)
        with pytest.raises(KeyboardInterrupt) as interrupt:
            run(*recipe, store=place, **changes)
        self.stops_at(None)
        return str(interrupt.value)


@pytest.fixture
def engine(monkeypatch):
    return Engine(monkeypatch)
