"""Adaptive accuracy: as many whole groups of paths as a standard error needs, and no others."""

import json
import re

import numpy as np
import pytest

import itograd as ig
from itograd.simulation import accuracy
from itograd.simulation.engine import Ensemble
from itograd.simulation.progress import Progress
from itograd.simulation.statistics import TILES_PER_GROUP

Q = ig.problems.Quadratic(np.diag(np.linspace(0.5, 1.0, 20)), np.diag(np.linspace(2.0, 1.0, 20)), "skewed")
SGD = ig.SGD(0.1)
X0 = np.linspace(0.0, 1.5, 20)
GROUP = TILES_PER_GROUP * Ensemble(SGD.chain(Q), {"x0": lambda x: x[0]}, X0, np.array([1]), 0).tile


def run(model=SGD, problem=Q, **changes):
    options = {"x0": X0, "observables": ["x0", "x1"], "steps": 10, "save_every": 5, "seed": 4, "progress": False}
    return ig.simulate(model, problem, **(options | changes))


def largest(runs, names=("x0", "x1")):
    return runs["mean_standard_error"].sel(observable=list(names)).values.max()


def test_paths_are_added_until_the_target_is_met_and_no_longer():
    first, second, third = (largest(run(paths=n * GROUP)) for n in (1, 2, 3))
    assert first > second > third
    runs = run(target_standard_error=third)
    assert runs.attrs["paths"] == 3 * GROUP
    assert runs.attrs["target_reached"] == 1
    assert runs.attrs["largest_ratio_to_target"] == 1
    assert json.loads(runs.attrs["target_standard_error"]) == third
    assert run(target_standard_error=np.nextafter(second, 0)).attrs["paths"] == 3 * GROUP


def test_the_bytes_are_those_of_a_plain_run_of_as_many_paths():
    further = {"quantiles": [0.5], "keep_paths": 7, "covariance": True}
    runs = run(target_standard_error=largest(run(paths=2 * GROUP)), **further)
    plain = run(paths=2 * GROUP, **further)
    assert runs.equals(plain)
    assert plain.attrs.items() <= runs.attrs.items()


def test_a_target_may_name_its_observables():
    one = largest(run(paths=2 * GROUP), ["x1"])
    assert one < largest(run(paths=2 * GROUP))
    assert run(target_standard_error={"x1": one}).attrs["paths"] == 2 * GROUP
    assert run(target_standard_error={"x1": one, "x0": 1.0}).attrs["paths"] == 2 * GROUP
    assert run(target_standard_error=one).attrs["paths"] > 2 * GROUP


def test_a_budget_that_ends_first_is_told_with_the_paths_that_are_needed():
    wanted = largest(run(paths=GROUP)) / 10
    with pytest.warns(UserWarning, match=r"not reached within max_paths=5000: the largest standard error is 1\d\.\d"):
        runs = run(target_standard_error=wanted, max_paths=5000)
    assert runs.equals(run(paths=5000))
    assert runs.attrs["target_reached"] == 0
    assert runs.attrs["paths_needed"] == pytest.approx(100 * GROUP, rel=0.1)
    assert runs.attrs["largest_ratio_to_target"] == pytest.approx(largest(runs) / wanted)


def test_there_is_a_least_number_of_paths(monkeypatch):
    assert run(target_standard_error=10.0).attrs["paths"] == GROUP
    kept = run(target_standard_error=10.0, keep_paths=GROUP + 1)
    assert kept.attrs["paths"] == 2 * GROUP
    assert kept.sizes["path"] == GROUP + 1
    monkeypatch.setattr("itograd.simulation.collection.MINIMUM_PATHS", GROUP + 1)
    assert run(target_standard_error=10.0).attrs["paths"] == 2 * GROUP


def test_an_observable_without_a_standard_error_meets_no_target():
    unstable = ig.problems.DoubleWell(noise_std=40.0)
    with pytest.warns(UserWarning, match="has fewer than two paths that did not diverge"):
        runs = run(
            ig.SGD(0.5), unstable, x0=[1.0], observables=None, target_standard_error=1e9, steps=100, max_paths=2 * GROUP
        )
    assert runs.attrs["paths"] == 2 * GROUP
    assert "paths_needed" not in runs.attrs


def test_the_step_size_of_an_equation_is_fine_enough_for_the_target_and_no_finer():
    sde = ig.modified_equation(SGD, Q)
    changes = {"steps": None, "save_every": None, "save_at": [0.5, 1.0], "scheme": ig.simulation.EulerMaruyama()}
    runs = run(sde, None, target_standard_error=0.01, max_paths=8 * GROUP, **changes)
    assert runs.attrs["target_reached"] == 1
    assert runs.attrs["paths"] < 8 * GROUP
    assert np.abs(runs["discretisation_error"]).max() <= 0.01 / 3
    assert runs.attrs["dt"] > run(sde, None, paths=8 * GROUP, **changes).attrs["dt"]


def test_targets_and_stores_work_together(tmp_path, monkeypatch):
    place = tmp_path / "runs.zarr"
    targets = [largest(run(paths=n * GROUP)) for n in (3, 2)]
    whole = [run(target_standard_error=target) for target in targets]
    tiles, numbers = Ensemble.tiles, []

    def watched(ensemble, *arguments, **options):
        for tile in tiles(ensemble, *arguments, **options):
            if tile.number == 40 and not numbers.count(39) > 1:
                numbers.append(39)
                raise KeyboardInterrupt
            numbers.append(tile.number)
            yield tile

    monkeypatch.setattr(Ensemble, "tiles", watched)
    with pytest.raises(KeyboardInterrupt, match="are safe in"):
        run(target_standard_error=targets[0], store=place)
    numbers[:] = [39, 39]
    assert run(target_standard_error=targets[0], store=place, resume=True).identical(whole[0])
    assert numbers == [39, 39, *range(40, 48)]
    for target, expected in zip([*targets, targets[0]], [*whole, whole[0]]):
        assert run(target_standard_error=target, store=place, resume=True).identical(expected)
        assert ig.load(place).identical(expected)
    assert len(numbers) == 10
    assert run(paths=2 * GROUP, store=place, resume=True).identical(run(paths=2 * GROUP))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_standard_error": 0.0}, "target_standard_error must be a finite number"),
        ({"target_standard_error": "small"}, "target_standard_error must be a number"),
        ({"target_standard_error": {"x2": 0.1}}, r"must name observables, \['x0', 'x1'\]: got \['x2'\]"),
        ({"target_standard_error": {}}, "must name observables, .*: got none"),
        ({"target_standard_error": {"x1": -1.0}}, r"target_standard_error\['x1'\] must be"),
        ({"target_standard_error": 0.1, "paths": 100}, "either paths or target_standard_error"),
        ({"target_standard_error": 0.1, "max_paths": 1}, "max_paths must be at least 2"),
        ({"paths": 100, "max_paths": 1000}, "max_paths is the budget of target_standard_error"),
        ({"target_standard_error": 0.1, "max_paths": 50, "keep_paths": 60}, "keep_paths must be at most"),
    ],
)
def test_bad_targets_are_refused(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        run(**change)


@pytest.mark.slow
def test_the_bias_of_stopping_is_as_documented():
    """Wald's identity: stopping at s²/n <= τ² leaves the mean the bias −γσ/N."""
    rng = np.random.default_rng(0)
    least, step, wanted = 64, 16, 400
    found = []
    for _ in range(100):
        x = rng.exponential(size=(1000, 1600))  # γ = 2, σ = 1
        n = np.arange(1, x.shape[1] + 1)
        mean = x.cumsum(1) / n
        spread = np.maximum((x**2).cumsum(1) / n - mean**2, 0) * n / np.maximum(n - 1, 1)
        met = (spread / n <= 1 / wanted) & (n >= least) & (n % step == 0)
        assert met.any(axis=1).all()
        found.append(mean[np.arange(len(x)), met.argmax(1)] - 1)
    bias, noise = np.mean(found), np.std(found) / np.sqrt(np.size(found))
    assert noise < 0.05 * 2 / wanted
    assert bias == pytest.approx(-2 / wanted, rel=0.25)


def test_progress_tells_the_ratio(monkeypatch):
    told = []
    monkeypatch.setattr(Progress, "describe", lambda bar, what: told.append(what))
    run(target_standard_error=largest(run(paths=2 * GROUP)), progress=True)
    assert len(told) == 2
    assert re.fullmatch(r"paths \(s\.e\. 1\.4\d? × target\)", told[0])
    assert told[1] == "paths (s.e. 1 × target)"


def test_the_least_number_of_paths_is_thousands():
    assert accuracy.MINIMUM_PATHS >= 1000
