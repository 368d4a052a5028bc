"""The table of predicted against measured speeds in docs/batch-size.md."""

import sys
from pathlib import Path

import numpy as np
import pytest

import itograd as ig
from itograd.simulation.precision import double

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks import scaling  # noqa: E402


@pytest.mark.parametrize("name", scaling.OPTIMIZERS)
@pytest.mark.parametrize("factor", scaling.FACTORS)
def test_the_prediction_for_the_square_root_rule_is_that_of_the_regime(name, factor):
    rule, problem = scaling.OPTIMIZERS[name], ig.problems.digits(batch_size=2)
    with double():
        gradient, variances = np.asarray(problem.gradient(problem.x0)), np.asarray(problem.noise_variances(problem.x0))
    found = ig.regime(rule, problem, problem.x0)

    def predicted(title):
        changed = scaling.RULES[title](rule, factor)
        return scaling.predicted_speed(rule, changed, gradient**2, variances, factor)

    assert predicted("square root") == pytest.approx(found.speed(factor).value, rel=1e-4)
    assert predicted("linear rate") == pytest.approx(factor**0.5 * predicted("square root"))
    assert predicted("unchanged") < predicted("square root")


def test_the_table_goes_between_the_markers_of_the_page(tmp_path):
    page = ROOT / "docs" / "batch-size.md"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text())
    row = {"regime": "noise", "optimizer": "Adam", "factor": 4, "rule": "square root", "said": "holds"}
    text = scaling.as_markdown([{**row, "predicted": 0.99, "measured": 1.01, "error": 0.02}], paths=8)
    scaling.write_between(copy, scaling.BEGIN, scaling.END, text)
    assert "| noise | Adam | 4 | square root | holds | 0.990 | 1.010 ± 0.020 |" in copy.read_text()
    before, after = (t.split(scaling.BEGIN)[0] + t.split(scaling.END)[1] for t in (page.read_text(), copy.read_text()))
    assert before == after
