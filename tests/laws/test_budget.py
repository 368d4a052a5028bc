"""A budget of seconds: how many paths it buys, what they can tell, and that the number alone repeats the run."""

import numpy as np
import pytest
import xarray as xr

import itograd as ig
from itograd.analysis.bands import bounds, paths_needed, resolvable
from itograd.analysis.budget import LEAST, MOST, within


class Machine:
    """A clock, and runs that take `cost(paths)` seconds of it; the first also compiles."""

    def __init__(self, cost, compilation=0.0):
        self.now, self.cost, self.compilation, self.ran = 0.0, cost, compilation, []

    def run(self, paths):
        self.now += self.cost(paths) + (0.0 if self.ran else self.compilation)
        self.ran.append(paths)
        return paths


COSTS = {
    "linear": lambda n: 0.01 * n,
    "with an overhead": lambda n: 0.3 + 0.002 * n,
    "whole tiles": lambda n: 0.4 * -(-n // 1024),
    "a finer step of the SDE": lambda n: 0.002 * n**1.5,
}


@pytest.mark.parametrize("seconds", [10.0, 60.0, 600.0])
@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_a_budget_is_used_and_kept(cost, seconds):
    machine = Machine(cost, compilation=2.0)
    found, budget = within(seconds, machine.run, clock=lambda: machine.now)
    assert found == budget.paths == machine.ran[-1]
    assert [paths for paths, _ in budget.trials] == machine.ran[:-1]
    assert 0.45 * seconds < machine.now <= seconds


def test_what_was_spent_before_counts():
    machine = Machine(COSTS["linear"])
    _, budget = within(100.0, machine.run, spent=60.0, clock=lambda: machine.now)
    assert budget.paths < within(100.0, (other := Machine(COSTS["linear"])).run, clock=lambda: other.now)[1].paths
    assert machine.now <= 40.0


@pytest.mark.parametrize("spent", [0.0, 5.0])
def test_the_least_is_run_once_where_there_is_no_time_for_more(spent):
    machine = Machine(lambda n: 3.0)
    found, budget = within(2.0, machine.run, spent=spent, clock=lambda: machine.now)
    assert (found, machine.ran, budget.paths) == (LEAST, [LEAST], LEAST)


def test_no_more_paths_than_a_machine_holds():
    machine = Machine(lambda n: 1e-9 * n)
    assert within(1e6, machine.run, clock=lambda: machine.now)[0] == MOST


def error_of(deviation, standard_error, own=0.0):
    table = ("time", "observable")
    shape = np.shape(deviation)
    named = {
        "weak_error": deviation,
        "standard_error": standard_error,
        "discretisation_error": np.full(shape, own),
        "discretisation_error_standard_error": np.zeros(shape),
    }
    coordinates = {"time": np.arange(1.0, 1 + shape[0]), "observable": [f"x{i}" for i in range(shape[1])]}
    return xr.Dataset({name: (table, np.asarray(values)) for name, values in named.items()}, coordinates)


@pytest.mark.parametrize("deviation", [[[0.01, 0.02], [0.03, -0.04]], [[0.01, 0.02], [0.03, -0.08]]])
def test_the_paths_that_are_needed_decide_and_fewer_do_not(deviation):
    """Within the tolerance all bands are, or beyond it the largest is, at N paths and not at 0.98 N."""
    scale, tolerance = np.ones(2), 0.05
    spread = np.array([[0.5, 0.4], [0.6, 0.7]])
    needed = paths_needed(error_of(deviation, spread / 10, own=0.002), scale, tolerance, 0.95, 100)

    def decided(paths):
        _, low, high = bounds(error_of(deviation, spread / np.sqrt(paths), own=0.002), scale, 0.95)
        return (high <= tolerance).all() or (low > tolerance).any()

    assert decided(needed)
    assert not decided(0.98 * needed)


def test_no_number_of_paths_mends_the_step_of_the_sde():
    error = error_of([[0.03]], [[0.001]], own=0.03)
    assert paths_needed(error, np.ones(1), 0.05, 0.95, 100) is None
    assert resolvable(error, np.ones(1), 0.95) == pytest.approx(0.03 + 1.96 * 0.001, rel=1e-3)


def test_a_verdict_within_a_budget_is_that_of_its_number_of_paths():
    recipe = {"x0": [3.0], "steps": 20, "progress": False, "tolerance": 0.001}
    found = ig.verdict(ig.SGD(0.01), ig.problems.Quadratic(1.0, 1.0), budget=1.0, **recipe)
    assert found.budget.paths == found.paths >= LEAST
    again = ig.verdict(ig.SGD(0.01), ig.problems.Quadratic(1.0, 1.0), paths=found.paths, **recipe)
    for name in ("runs", "flow", "gaussian"):
        np.testing.assert_array_equal(getattr(found, name)["mean"], getattr(again, name)["mean"])
    assert found.assumptions == again.assumptions
    assert (found.resolvable, found.paths_needed) == (again.resolvable, again.paths_needed)
    assert f"{found.paths} paths were chosen for 1 seconds" in str(found)
    assert found.decision == "cannot tell"
    assert found.paths_needed > found.paths
    assert "would decide" in str(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.0}, "budget must be a finite number in"),
        ({"budget": -3.0}, "budget must be a finite number in"),
        ({"budget": float("nan")}, "budget must be a finite number in"),
        ({"budget": float("inf")}, "budget must be a finite number in"),
        ({"budget": 3.0, "paths": 100}, "either paths or a budget"),
    ],
)
def test_bad_budgets_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ig.verdict(ig.SGD(0.01), ig.problems.Quadratic(1.0, 1.0), steps=3, **options)
