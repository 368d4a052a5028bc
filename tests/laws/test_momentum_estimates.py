"""Momentum measured from runs, and held by YellowFin's loop (theory: asynchrony 2.4 and 2.5)."""

import numpy as np
import pytest

from itograd.asynchrony import (
    ClosedLoopMomentum,
    implicit_momentum_from_run,
    total_momentum_from_run,
    yellowfin_tuning,
)

CURVATURES = np.array([0.2, 0.4, 0.6, 0.8, 1.0])


def queue_runs(workers, momentum=0.0, *, rate=0.1, noise=0.1, steps=60, runs=20_000, seed=0, curvatures=CURVATURES):
    """Iterates and fresh gradients (time, runs, d) of M exponential workers on a quadratic, from 1."""
    rng = np.random.default_rng(seed)
    x = before = np.ones((runs, len(curvatures)))
    held = np.ones((workers, *x.shape))

    def gradient(point):
        return curvatures * point + noise * rng.normal(size=x.shape)

    iterates, fresh = [x], [gradient(x)]
    for writer in rng.integers(workers, size=(steps, runs)):
        stale = gradient(held[writer, np.arange(runs)])
        x, before = x - rate * stale + momentum * (x - before), x
        held[writer, np.arange(runs)] = x
        iterates.append(x)
        fresh.append(gradient(x))
    return np.array(iterates), np.array(fresh)


def delayed_run(delay, momentum, *, rate, curvatures, steps, noise=0.0, seed=0):
    """Iterates x_0 … x_K of one run with a fixed delay, the gradients its steps applied, and the fresh ones."""
    rng = np.random.default_rng(seed)
    x, applied, fresh = [np.ones(len(curvatures))] * 2, [], []
    for k in range(steps):
        gradients = [curvatures * x[1 + at] + noise * rng.normal(size=len(curvatures)) for at in (max(0, k - delay), k)]
        applied.append(gradients[0])
        fresh.append(gradients[1])
        x.append(x[-1] - rate * applied[-1] + momentum * (x[-1] - x[-2]))
    return np.array(x[1:-1]), np.array(applied), np.array(fresh)


@pytest.mark.parametrize(("workers", "explicit"), [(2, 0.0), (4, 0.0), (8, 0.0), (16, 0.0), (8, 0.3), (8, -0.3)])
def test_implicit_momentum_of_a_queue(workers, explicit):
    found = implicit_momentum_from_run(*queue_runs(workers, explicit), 0.1, explicit)
    assert found.least_squares == pytest.approx(1 - 1 / workers, abs=0.002)
    assert abs(found.least_squares - (1 - 1 / workers)) < 4.5 * found.standard_error
    assert abs(found.median - (1 - 1 / workers)) < 4.5 * found.median_standard_error
    low, high = found.interval
    assert low < found.least_squares < high
    assert high - low < 0.006


def test_the_interval_has_its_coverage():
    inside = []
    for seed in range(60):
        found = implicit_momentum_from_run(*queue_runs(4, runs=1000, steps=30, seed=seed), 0.1, confidence=0.9)
        inside.append(found.interval[0] < 0.75 < found.interval[1])
    assert abs(np.mean(inside) - 0.9) < 4.5 * np.sqrt(0.09 / 60)


def test_ratios_of_single_runs_are_biased_and_averages_are_not():
    x, g = queue_runs(8, runs=500)
    alone = np.mean([implicit_momentum_from_run(x[:, i], g[:, i], 0.1).least_squares for i in range(50)])
    assert abs(alone - 0.875) > 0.1
    together = implicit_momentum_from_run(x, g, 0.1)
    assert abs(together.least_squares - 0.875) < 4.5 * together.standard_error


@pytest.mark.parametrize("workers", [4, 16])
def test_a_memory_averages_over_time(workers):
    """One run of many coordinates: each step's ratio is far off, that of the moving averages near."""
    x, g = queue_runs(workers, noise=0.02, runs=1, curvatures=np.linspace(0.1, 1, 2000))
    plain, smooth = (implicit_momentum_from_run(x, g, 0.1, memory=m).least_squares for m in (1, 10))
    assert abs(plain - (1 - 1 / workers)) > 0.25
    assert abs(smooth - (1 - 1 / workers)) < 0.03


@pytest.mark.parametrize(("delay", "measured"), [(1, 0.004), (3, 0.012), (7, 0.0283), (15, 0.0618)])
def test_total_momentum_of_a_fixed_delay(delay, measured):
    x, applied, fresh = delayed_run(delay, 0.0, rate=0.02, curvatures=np.array([0.2]), steps=400)  # α h = 0.004
    found = total_momentum_from_run(x[2 * delay :], fresh[2 * delay :], 0.02)
    assert found.median == pytest.approx(measured, abs=1e-4)
    assert found.median == pytest.approx(delay * 0.004, rel=0.05)
    known_delay = total_momentum_from_run(x[2 * delay :], applied[2 * delay :], 0.02, delay=delay)
    assert known_delay.median == pytest.approx(found.median, rel=1e-3)


@pytest.mark.parametrize("delay", [0, 7])
def test_gradients_that_were_applied_return_the_explicit_momentum(delay):
    x, applied, fresh = delayed_run(delay, 0.5, rate=0.02, curvatures=CURVATURES, steps=200, noise=0.3)
    assert total_momentum_from_run(x, applied, 0.02).median == pytest.approx(0.5, abs=1e-9)
    assert implicit_momentum_from_run(x, applied, 0.02, 0.5).least_squares == pytest.approx(0, abs=1e-9)
    if delay:
        assert abs(total_momentum_from_run(x, fresh, 0.02).median - 0.5) > 0.005


@pytest.mark.parametrize("curvature", [0.05, 0.2])
def test_total_momentum_of_a_queue_is_not_the_sum(curvature):
    """In the mean μ_S (1 + α g/Δ), which is (M−1)(1−r) for the slow root r of the mean: (M−1) α h at most modes."""
    rate, workers, mu = 0.02, 8, 0.875
    x, g = queue_runs(workers, rate=rate, noise=0.0, steps=120, runs=4000, curvatures=np.array([curvature]))
    late = slice(60, None)
    found = total_momentum_from_run(x[late], g[late], rate)
    slow = max(np.roots([1, -(1 + mu - (1 - mu) * rate * curvature), mu]))
    expected = (workers - 1) * (1 - slow)
    assert expected == pytest.approx((workers - 1) * rate * curvature, rel=0.05)
    assert abs(found.least_squares - expected) < 4.5 * found.standard_error
    assert found.standard_error < 0.05 * expected
    assert implicit_momentum_from_run(x, g, rate).least_squares == pytest.approx(mu, abs=0.002)


def test_the_early_form_is_the_moving_average():
    x, _, g = delayed_run(3, 0.5, rate=0.02, curvatures=CURVATURES, steps=60, noise=0.01)
    step, beta = np.diff(x, axis=0), 1 - 1 / 10

    def average(values):
        weights = beta ** np.arange(len(values))[::-1]
        return weights @ values / weights.sum()

    a, b, c = (average(v) for v in (step[1:], step[1:] - step[:-1], g[1:-1]))
    found = total_momentum_from_run(x, g, 0.02, memory=10)
    last = total_momentum_from_run(x[-4:], g[-4:], 0.02)
    assert last.groups == 2
    ratios = [(average(step[1 : n + 1] + 0.02 * g[1 : n + 1]) / average(step[:n])) for n in range(1, len(step))]
    np.testing.assert_allclose(ratios[-1], (a + 0.02 * c) / (a - b), rtol=1e-12)
    assert found.median == pytest.approx(np.median(ratios), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gradients": np.zeros((9, 2))}, r"must both be \(time, d\).*got \(10, 2\) and \(9, 2\)"),
        ({"iterates": np.zeros((3, 2)), "gradients": np.zeros((3, 2))}, "at least 4 iterates: got 3"),
        ({"iterates": np.zeros((10, 2))}, "the run stands still"),
        ({"gradients": np.full((10, 2), np.nan)}, "must be finite"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"explicit_momentum": -1.0}, "explicit_momentum must be"),
        ({"memory": 0.5}, "memory must be"),
        ({"confidence": 1.0}, "confidence must be"),
    ],
)
def test_bad_records_are_refused(change, message):
    fields = {"iterates": np.random.default_rng(0).normal(size=(10, 2)), "gradients": np.zeros((10, 2))}
    with pytest.raises(ValueError, match=message):
        implicit_momentum_from_run(**{**fields, "learning_rate": 0.1, **change})


def closed_loop_run(delay, gain, steps=1500, modes=2000, seed=0):
    """(momentum, μ̂_T, loss relative to the start) at each step of theory 2.5's quadratic."""
    rng = np.random.default_rng(seed)
    h = np.exp(rng.uniform(np.log(0.05), 0, modes))
    loop = ClosedLoopMomentum(0.8, learning_rate=0.02, delay=delay, gain=gain)
    points, found = [np.ones(modes)] * 2, []
    for k in range(steps):
        gradient = h * points[1 + max(0, k - delay)] + 0.01 * rng.normal(size=modes)
        momentum = loop.observe(points[-1], gradient)
        points.append(points[-1] - 0.02 * gradient + momentum * (points[-1] - points[-2]))
        found.append((momentum, loop.measured, h @ points[-1] ** 2 / h.sum()))
    return np.array(found).T


@pytest.mark.parametrize(
    ("delay", "open_measured", "closed_momentum", "closed_measured"),
    [(0, 0.800, 0.800, 0.800), (3, 0.817, 0.783, 0.800), (7, 0.830, 0.775, 0.804), (15, 0.885, 0.755, 0.803)],
)
def test_the_closed_loop_holds_the_total_momentum(delay, open_measured, closed_momentum, closed_measured):
    """The table does not say over which steps it averages: here the last 400 of 1500, and within .006 of all of it."""
    last = slice(1100, None)
    _, measured, loss = closed_loop_run(delay, 0.0)
    assert measured[last].mean() == pytest.approx(open_measured, abs=0.006)
    assert loss[-1] > 1e3 if delay == 15 else loss[-1] < 1e-3
    momentum, measured, loss = closed_loop_run(delay, 0.01)
    assert momentum[last].mean() == pytest.approx(closed_momentum, abs=0.006)
    assert measured[last].mean() == pytest.approx(closed_measured, abs=0.006)
    assert loss[-1] < 1e-3
    if delay == 15:
        assert np.argmax(loss < 0.01) == pytest.approx(204, abs=3)  # steps to 1 % of the loss


def test_the_controller_without_information_stays():
    loop = ClosedLoopMomentum(0.6, learning_rate=0.1, delay=2, gain=0.5, initial=0.0)
    for _ in range(10):
        assert loop.observe(np.ones(3), np.zeros(3)) == 0.0  # nothing moves
    assert np.isnan(loop.measured)
    wild = ClosedLoopMomentum(0.6, learning_rate=0.1, delay=0, gain=1.0)
    for point in ([0.0], [1e-6], [1e6]):
        momentum = wild.observe(np.array(point), np.zeros(1))
    assert momentum == -ClosedLoopMomentum.LIMIT


@pytest.mark.parametrize("p", [1e-9, 1e-3, 1.0, 1e3, 1e6])
def test_yellowfins_tuner_solves_its_cubic(p):
    momentum, rate = yellowfin_tuning(0.5, 0.5, gradient_variance=0.25 / (2 * p), distance=1.0)
    x = np.sqrt(momentum)
    assert p * x == pytest.approx((1 - x) ** 3, rel=1e-6)
    assert rate == pytest.approx((1 - x) ** 2 / 0.5, rel=1e-12)
    ranged, _ = yellowfin_tuning(0.5, 0.5 * 400, gradient_variance=0.25 / (2 * p), distance=1.0)
    assert ranged == pytest.approx(max(momentum, (19 / 21) ** 2), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClosedLoopMomentum(1.0, learning_rate=0.1, delay=0), "target must be a finite number"),
        (lambda: ClosedLoopMomentum(0.5, learning_rate=0.0, delay=0), "learning_rate must be"),
        (lambda: ClosedLoopMomentum(0.5, learning_rate=0.1, delay=-1), "delay must be at least 0"),
        (lambda: ClosedLoopMomentum(0.5, learning_rate=0.1, delay=0, gain=2.0), "gain must be"),
        (lambda: yellowfin_tuning(1.0, 0.5, 1.0, 1.0), "curvature_max must be at least curvature_min=1: got 0.5"),
        (lambda: yellowfin_tuning(0.0, 0.5, 1.0, 1.0), "curvature_min must be"),
        (lambda: yellowfin_tuning(0.1, 0.5, 0.0, 1.0), "gradient_variance must be"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
