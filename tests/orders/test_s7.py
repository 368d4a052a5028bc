"""S7: SGD on digits leaves its SDE as η grows at fixed η/B, by the table's amounts (theory 7.1, amendment 13)."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import itograd as ig
from itograd.simulation import EulerMaruyama

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks import s7

PATHS = 1152
REFERENCE, REFERENCE_ERROR = 478.5, 0.1
NORM = {"norm": lambda x: x @ x}


def final(result):
    return float(result["mean"].values[-1, 0]), float(result["mean_standard_error"].values[-1, 0])


@pytest.mark.slow
def test_s7_the_whole_table():
    """Every deviation is the table's, and SVAG brings the large step back."""
    reference = s7.squared_norm(1, 0.25, 1, PATHS, seed=0)
    assert abs(reference[0] - REFERENCE) < 4.5 * np.hypot(reference[1], REFERENCE_ERROR)
    found = s7.deviations(reference, PATHS)
    apart = s7.standard_errors_from_the_table(found)
    print(found, np.round(apart, 1))
    assert np.abs(apart).max() < 4.5
    for (value, error), (smaller, its_error) in pairwise(found[256, 64.0]):
        assert value - smaller > 4.5 * np.hypot(error, its_error)


@pytest.mark.slow
def test_s7_the_sde_is_the_limit_of_svag():
    """The SDE at η/B = 1/4, by two schemes, agrees with SVAG at a = 8.

    The table is relative to SGD at (1, .25), which is not the SDE: the third cumulant of its noise lifts |W|² by about
    T(η/B)²κ₃, the same for every (B, η) of the line. SVAG removes it, and the reference lies above both.
    """
    sde = ig.modified_equation(ig.SGD(16.0), ig.problems.digits(preset="S7", batch_size=64))
    heun = final(ig.simulate(sde, save_at=[640.0], paths=512, seed=9, observables=NORM, progress=False))
    euler = final(
        ig.simulate(
            sde, save_at=[640.0], paths=512, seed=8, observables=NORM, scheme=EulerMaruyama(), dt=0.25, progress=False
        )
    )
    one = ig.problems.digits(preset="S7", batch_size=1)
    amplified = ig.simulate(
        ig.SGD(0.25 / 8), one.amplified(8), save_at=[640.0], paths=1152, seed=10, observables=NORM, progress=False
    )
    svag = final(amplified)
    for name, (value, error) in {"Heun": heun, "Euler": euler, "SVAG(8)": svag}.items():
        print(f"{name}: {value:.2f} ± {error:.2f}, SGD at (1, .25): {REFERENCE} ± {REFERENCE_ERROR}")
    for value, error in (heun, euler):
        # Euler at dt = .25 is off by about 1.4/16, SGD's own deviation at that rate.
        assert abs(value - svag[0]) < 4.5 * np.hypot(np.hypot(error, svag[1]), 0.1)
        assert value < REFERENCE + 4.5 * np.hypot(np.hypot(error, REFERENCE_ERROR), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "rate", "decision"), [(16, 4.0, "trust"), (64, 16.0, None), (256, 64.0, "do not trust")]
)
def test_s7_verdicts(batch_size, rate, decision):
    problem = ig.problems.digits(preset="S7", batch_size=batch_size)
    result = ig.verdict(
        ig.SGD(rate), problem, steps=round(640 / rate), save_every=max(1, round(16 / rate)), paths=256, progress=False
    )
    print(result)
    if decision is not None:
        assert result.decision == decision
    else:  # small but significant
        assert any("a significant deviation: squared_norm" in reason for reason in result.remarks)
        final_share = result.errors["total"]["weak_error"].values[-1, 1] / 478
        assert 0.005 < final_share < 0.02
