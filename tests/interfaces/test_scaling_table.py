"""The table of predicted against measured speeds in docs/batch-size.md."""

import sys
from pathlib import Path

import numpy as np
import pytest

import itograd as ig
from itograd.optimizers.scaling_rules import RULES
from itograd.simulation.precision import double

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks import scaling  # noqa: E402


@pytest.fixture(scope="module")
def place():
    problem = ig.problems.digits(batch_size=2)
    with double():
        gradient, variances = np.asarray(problem.gradient(problem.x0)), np.asarray(problem.noise_variances(problem.x0))
    return scaling.Place(problem.x0, gradient, variances)


def predicted(name, rule, place, factor):
    base = scaling.OPTIMIZERS[name]
    return scaling.predicted_fall(ig.scale(base, factor, rule), place, factor) / scaling.predicted_fall(base, place, 1)


@pytest.mark.parametrize("name", ["RMSprop", "Adam", "AdamW"])
def test_the_prediction_for_the_own_rule_is_that_of_the_regime(name, place):
    problem = ig.problems.digits(batch_size=2)
    found = ig.regime(scaling.OPTIMIZERS[name], problem, problem.x0)
    for factor in scaling.FACTORS:
        own = predicted(name, None, place, factor)
        assert own == pytest.approx(found.speed(factor).value, rel=1e-4)
        assert predicted(name, "linear", place, factor) == pytest.approx(factor**0.5 * own)
        assert predicted(name, "keep_rate", place, factor) < own


@pytest.mark.parametrize(("name", "momentum", "point"), [("Momentum", 0.9, "x"), ("Nesterov", 0.9, "y")])
def test_the_fall_of_a_method_with_momentum_is_exact(name, momentum, point, place):
    """Of the rule itself on a linear F, by hand: Q ← μQ + 1, x ← x − ηQ; y ← y − η(1 + μQ)."""
    rule, n = scaling.OPTIMIZERS[name], scaling.STEPS // 4
    q = fall = 0.0
    for _ in range(n):
        q = momentum * q + 1
        fall += rule.learning_rate * (q if point == "x" else 1 + momentum * q)
    assert scaling.predicted_fall(rule, place, 4) == pytest.approx(fall * (place.gradient**2).sum())


def test_every_rule_that_has_a_meaning_is_there_once():
    rules = {name: list(scaling.rules_of(rule).values()) for name, rule in scaling.OPTIMIZERS.items()}
    assert rules["SGD"] == rules["Momentum"] == rules["Nesterov"] == [None, "square_root", "keep_rate"]
    rivals = [name for name in RULES if name != "square_root"]
    assert rules["RMSprop"] == rules["Adam"] == rules["AdamW"] == [None, *rivals]


def test_the_table_goes_between_the_markers_of_the_page(tmp_path):
    page = ROOT / "docs" / "batch-size.md"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text())
    row = {"regime": "noise", "optimizer": "Adam", "factor": 4, "rule": scaling.OWN, "said": "holds"}
    text = scaling.as_markdown([{**row, "predicted": 0.99, "measured": 1.01, "error": 0.02}], paths=8)
    scaling.write_between(copy, scaling.BEGIN, scaling.END, text)
    assert "| optimiser | rule | noise, κ = 4 |" in copy.read_text()
    assert "| Adam | its own | 0.9900: 1.010 ± 0.020 |" in copy.read_text()
    assert "| Adam | its own | holds |" in copy.read_text()
    before, after = (t.split(scaling.BEGIN)[0] + t.split(scaling.END)[1] for t in (page.read_text(), copy.read_text()))
    assert before == after
