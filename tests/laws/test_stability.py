"""Stability under staleness: the tables of theory 1.8 and 2.3, closed forms against the general criterion."""

import dataclasses

import numpy as np
import pytest

import itograd as ig
from itograd.asynchrony import (
    Asynchronous,
    Fixed,
    Geometric,
    Pmf,
    WorkerQueue,
    largest_stable_learning_rate,
    mean_rate,
    mean_square_rate,
    stability,
    stability_margin,
)

#        M: independent geometric, exponential queue, fixed delay M−1, mean (theory 1.8)
TABLE = {
    1: (2, 2, 2, 2),
    2: (1.10610723, 1.28077641, 1.0, 6),
    4: (0.74321337, 0.84307033, 0.44504187, 14),
    8: (0.51310414, 0.56639111, 0.20905693, 30),
    10: (0.45669891, 0.5, 0.16515869, 38),
    16: (0.35835749, 0.38618177, 0.10129834, 62),
    32: (0.25175617, 0.26611281, 0.04986138, 126),
    100: (0.14175278, 0.14650972, 0.01578673, 398),
}


@pytest.mark.parametrize("workers", TABLE)
def test_the_table_of_limits(workers):
    laws = Geometric(mean=workers - 1), WorkerQueue(workers), Fixed(workers - 1)
    limits = [largest_stable_learning_rate(ig.SGD(1.0), law, 1.0) for law in laws]
    for law in laws[:2]:
        mean = largest_stable_learning_rate(ig.SGD(1.0), law, 1.0, sense="mean")
        np.testing.assert_allclose([*limits, mean], TABLE[workers], rtol=0, atol=1e-8)


@pytest.mark.parametrize("rho", [1.0, 1.4, 3.3])
@pytest.mark.parametrize("law", [Geometric(mean=7), WorkerQueue(8), Fixed(7), Fixed(0), WorkerQueue(1)], ids=repr)
@pytest.mark.parametrize("sense", ["mean", "mean_square"])
def test_closed_forms_equal_the_general_criterion(law, rho, sense, monkeypatch):
    ask = ig.SGD(1.0), law, 2.5, sense, rho - 1
    closed = largest_stable_learning_rate(*ask)
    monkeypatch.setattr(stability, "_closed_form", lambda *_: None)
    assert largest_stable_learning_rate(*ask) == pytest.approx(closed, rel=3e-12)


def test_limits_at_a_mean_delay_of_seven():
    uniform, two = Pmf(np.full(15, 1 / 15)), Pmf([0.5, *[0.0] * 13, 0.5])
    limits = {
        0.2091: Fixed(7),
        0.2789: uniform,
        0.4678: two,
        0.5131: Geometric(mean=7),
        0.5664: WorkerQueue(8),
    }
    for limit, law in limits.items():
        assert law.mean == pytest.approx(7)
        rate = largest_stable_learning_rate(ig.SGD(1.0), law, 1.0)
        assert rate == pytest.approx(limit, abs=5.1e-5)
        if law is uniform or law is two:  # stable just below it, and not just above
            problem = ig.problems.Quadratic(1.0, 1.0)
            assert ig.stationary_covariance(Asynchronous(ig.SGD(rate * (1 - 1e-6)), law), problem).item() > 1e3
            with pytest.raises(ValueError, match="no stationary law"):
                ig.stationary_covariance(Asynchronous(ig.SGD(rate * (1 + 1e-6)), law), problem)


def radius_of_all_moments(optimizer, law, variance, curvature=1.0):
    """√ρ of the whole map of (Cov y, S): what the loop gain replaces."""
    (mode,) = stability._modes(optimizer, law, [curvature])
    f, n, g, closure = mode.f, mode.n, mode.g, mode.closure
    upper, (q, _) = np.triu_indices(len(f)), closure.read
    count = len(upper[0])

    def advanced(z):
        c = np.zeros_like(f)
        c[upper] = z[:count]
        c += np.triu(c, 1).T
        squared = z[count:].reshape(1, 1)
        c = f @ c @ f.T + n @ (squared - q @ c @ q.T) @ n.T + variance * g @ squared @ g.T
        return np.append(c[upper], closure.squared_read(squared, np.zeros(len(f)), c))

    columns = np.array([advanced(e) for e in np.eye(count + 1)]).T
    return np.sqrt(np.abs(np.linalg.eigvals(columns)).max())


def test_the_loop_gain_gives_the_spectral_radius_of_all_moments():
    rng = np.random.default_rng(0)
    optimizers = [ig.SGD(1.0), ig.Momentum(1.0, -0.6), ig.Nesterov(1.0, 0.7), ig.SGD(1.0, weight_decay=0.1)]
    laws = [Geometric(mean=4.3), WorkerQueue(6), Fixed(4), Pmf([0.1, 0.0, 0.6, 0.3])]
    stable = 0
    for optimizer in optimizers:
        for law in laws:
            rule = dataclasses.replace(optimizer, learning_rate=float(np.exp(rng.uniform(-4, 0.5))))
            for relative in (0.0, 0.4):
                whole = radius_of_all_moments(rule, law, relative)
                ours = mean_square_rate(rule, law, 1.0, relative)
                assert ours == pytest.approx(whole, rel=1e-8)
                assert stability.is_stable(rule, law, 1.0, "mean_square", relative) == (whole < 1)
                assert ours >= mean_rate(rule, law, 1.0) - 1e-9
                stable += whole < 1
    assert 5 < stable < 27


@pytest.mark.parametrize(
    ("largest", "implicit", "explicit", "rate", "mean", "independent", "queue"),
    [
        (5, 0.1, 0.05, 2.165, 0.4221, 1.287, None),
        (5, 0.5, -0.22, 3.911, 0.6696, 2.483, 2.418),
        (5, 0.9, -0.31, 24.89, 0.8987, 7.749, 7.742),
        (20, 0.5, -0.18, 4.323, 0.6984, 2.730, 2.664),
        (20, 0.9, -0.32, 24.99, 0.9367, 7.782, 7.774),
    ],
)
def test_optima_of_the_mean_explode_in_the_mean_square(largest, implicit, explicit, rate, mean, independent, queue):
    """The table of theory 2.3, rates and momenta as printed there."""
    rule, ends = ig.Momentum(rate / largest, explicit), [1.0, largest]
    law = Geometric(ratio=implicit)
    assert mean_rate(rule, law, ends).max() == pytest.approx(mean, abs=1e-4)
    assert mean_square_rate(rule, law, ends).max() == pytest.approx(independent, abs=1.5e-3)
    if queue is not None:
        workers = WorkerQueue(round(1 / (1 - implicit)))
        assert mean_square_rate(rule, workers, ends).max() == pytest.approx(queue, abs=1.5e-3)


def test_staleness_accelerates_a_slow_mode_also_in_the_mean_square():
    """Theory 2.3: at M = 1/(4κ), κ = .0025, 1.76 κ a step in the queue, 1.74 κ, and 1.86 κ in the mean (1.87 there)."""
    kappa = 0.0025
    ask = ig.SGD(kappa), WorkerQueue(100), 1.0
    speeds = mean_square_rate(*ask), mean_square_rate(ig.SGD(kappa), Geometric(mean=99), 1.0), mean_rate(*ask)
    np.testing.assert_allclose([(1 - speed) / kappa for speed in speeds], [1.76, 1.74, 1.8635], atol=0.0051)


def test_the_mean_square_next_to_a_double_root_of_the_mean():
    """An optimum of the mean, where F is defective to rounding and its Lyapunov equation hardly solvable."""
    rule = ig.Momentum(0.17501495219435514, 0.197524739314336)
    law, (mode,) = Geometric(ratio=0.2), stability._modes(rule, Geometric(ratio=0.2), [20.0])
    assert mode.radius == pytest.approx(0.7376577, abs=1e-6)
    assert mean_square_rate(rule, law, 20.0) == pytest.approx(radius_of_all_moments(rule, law, 0.0, 20.0), rel=1e-6)


def test_critical_damping_of_the_mean():
    """Theory 1.8: at μ* = ((1−κ)/(1+κ))² the mean shrinks by √μ* a step."""
    for kappa in (0.01, 0.2):
        critical = ((1 - kappa) / (1 + kappa)) ** 2
        rate = mean_rate(ig.SGD(kappa), Geometric(ratio=critical), 1.0)
        assert rate == pytest.approx(np.sqrt(critical), abs=1e-7)


def test_the_interior_of_a_curvature_range_is_no_slower_than_its_ends():
    for law in (Geometric(mean=3), WorkerQueue(4), Pmf([0.2, 0.3, 0.5])):
        for momentum in (-0.4, 0.5):
            limit = largest_stable_learning_rate(ig.Momentum(1.0, momentum), law, 8.0)
            rates = mean_square_rate(ig.Momentum(0.9 * limit, momentum), law, np.geomspace(0.5, 8.0, 15))
            assert rates.max() == max(rates[0], rates[-1])


def test_a_margin_says_what_is_wrong_and_the_nearest_stable_rate():
    unstable = stability_margin(ig.Momentum(1.0, -0.3), WorkerQueue(16), 0.1, 1.0)
    assert unstable.mean_rate < 1 < unstable.mean_square_rate
    assert not unstable.is_stable
    assert unstable.margin < 1
    with pytest.raises(ValueError, match=r"average over many runs converges.*single run diverges.*momentum -0.3"):
        unstable.require_stable()
    assert f"{unstable.mean_square_limit:.4g}" in unstable.warning
    nearest = stability_margin(ig.Momentum(0.999 * unstable.mean_square_limit, -0.3), WorkerQueue(16), 0.1, 1.0)
    assert nearest.is_stable
    assert nearest.warning is None
    assert "even the average over runs diverges" in stability_margin(ig.SGD(3.0), Fixed(2), 1.0, 1.0).warning


@pytest.mark.parametrize(
    ("calculate", "message"),
    [
        (lambda: largest_stable_learning_rate(ig.SGD(1.0), Fixed(2), 0.0), r"curvature must be .* in \(0, inf\)"),
        (lambda: largest_stable_learning_rate(ig.SGD(1.0), Fixed(2), 1.0, "median"), "sense must be one of"),
        (lambda: largest_stable_learning_rate(ig.Adam(1.0), Fixed(2), 1.0), "Adam is not; simulate it"),
        (lambda: mean_rate(ig.SGD(1.0), Fixed(2), [1.0, -1.0]), "curvatures must be positive: got -1"),
        (
            lambda: mean_rate(ig.SGD(ig.schedules.Cosine(0.1, 5.0)), Fixed(2), 1.0),
            "constant hyperparameters: learning_rate has a schedule",
        ),
    ],
)
def test_bad_input_is_named(calculate, message):
    with pytest.raises(ValueError, match=message):
        calculate()
