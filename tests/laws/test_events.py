"""The event simulation of worker queues: against a plain heap, and the facts of theory 2.2."""

import heapq
import time

import numpy as np
import pytest

from itograd.asynchrony import Gamma, LogNormal, WorkerQueue, measured_law, simulate_events

WRITES, SEED = 400_000, 1
Z = 4.5


def settled(queue, writes=WRITES):
    """The delays of a queue without its first thousand rounds."""
    return simulate_events(queue, writes + 1000 * queue.workers, SEED).delays[1000 * queue.workers :]


def batch_error(values, batches=40):
    """The standard error of the mean of a stationary sequence, from the means of long batches."""
    means = values[: len(values) // batches * batches].reshape(batches, -1).mean(axis=1)
    return means.std(ddof=1) / np.sqrt(batches)


@pytest.mark.parametrize(
    "rates", [[1, 1, 1, 1], [1, 2, 4], np.sqrt([2, 3, 5, 7, 11])], ids=["equal", "dyadic", "roots"]
)
def test_deterministic_queues_are_those_of_a_heap(rates):
    heap = [(1 / rate, worker, 0) for worker, rate in enumerate(rates)]
    heapq.heapify(heap)
    expected = []
    for k in range(500):
        now, worker, read = heap[0]
        expected.append((k - read, worker, now))
        heapq.heapreplace(heap, (now + 1 / rates[worker], worker, k + 1))
    delays, writers, times = map(np.array, zip(*expected))
    events = simulate_events(WorkerQueue(len(rates), "deterministic", rates=rates), 500)
    np.testing.assert_array_equal(events.delays, delays)
    np.testing.assert_array_equal(events.writers, writers)
    np.testing.assert_allclose(events.times, times, rtol=1e-12)


@pytest.mark.parametrize("workers", [2, 4, 8, 16, 32])
def test_the_exponential_queue_has_geometric_delays_of_negative_correlation(workers):
    delays = settled(WorkerQueue(workers))
    found = np.bincount(delays) / len(delays)
    law = np.zeros(len(found))
    q = WorkerQueue(workers).probabilities(1e-15)
    law[: len(q)] = q[: len(law)]
    assert np.abs(found - law).sum() / 2 < 0.01
    assert np.corrcoef(delays[1:], delays[:-1])[0, 1] == pytest.approx(-1 / (2 * workers), abs=0.01)


# Variances at M = 8, by theory 2.2.
SERVICES = {
    "deterministic": ("deterministic", 0.0),
    "gamma 4": (Gamma(4.0), 15.0),
    "gamma 2": (Gamma(2.0), 28.7),
    "exponential": ("exponential", 56.0),
    "gamma 1/2": (Gamma(0.5), 111.0),
    "gamma 1/4": (Gamma(0.25), 219.0),
    "lognormal": (LogNormal(1.0), None),
    "uniform": ("uniform", None),
}


@pytest.mark.parametrize("name", SERVICES)
def test_the_mean_is_one_less_than_the_workers_for_every_service_law(name):
    service, variance = SERVICES[name]
    for rates in (None, [1, 1, 1, 1, 2, 2, 3, 5]):
        delays = settled(WorkerQueue(8, service, rates=rates), 1_000_000)
        # Each write is counted by the jobs in flight: only those at both ends are not, 8 delays of a few hundred.
        assert delays.mean() == pytest.approx(7, abs=8 * delays.max() / len(delays))
        if rates is None and variance is not None:
            assert delays.var() == pytest.approx(variance, rel=0.01, abs=1e-12)  # the table's digits, and its own noise


def test_unequal_exponential_workers_have_the_mixture_of_geometric_laws():
    queue = WorkerQueue(8, rates=[1, 1, 1, 1, 2, 2, 4, 8])
    delays, q = settled(queue), queue.probabilities(1e-9)
    found = np.bincount(delays, minlength=len(q)) / len(delays)
    assert np.abs(found[: len(q)] - q).sum() / 2 < 0.01
    assert delays.var() == pytest.approx(queue.variance, rel=0.02)
    geometric = WorkerQueue(8).probabilities(1e-15)
    assert np.abs(found[: len(geometric)] - geometric[: len(found)]).sum() / 2 > 0.1  # equal rates are told from these


CRASHING = {
    "exponential": WorkerQueue(6, crash_probability=0.3, restart_time=2.0),
    "gamma, rates": WorkerQueue(4, Gamma(2.0), rates=[1, 2, 3, 4], crash_probability=0.2, restart_time=1.0),
}


@pytest.mark.parametrize("name", CRASHING)
def test_crashes_lower_the_mean_and_the_throughput_as_derived(name):
    queue = CRASHING[name]
    events = simulate_events(queue, 1_000_000, SEED)
    delays = events.delays[10_000:]
    assert abs(delays.mean() - queue.mean) < Z * batch_error(delays)
    assert queue.workers - 1 - queue.mean > 20 * batch_error(delays)
    gaps = np.diff(events.times[10_000:])
    assert abs(gaps.mean() - 1 / queue.throughput) < Z * batch_error(gaps)


def test_a_measured_law_is_the_law_of_the_queue():
    queue = WorkerQueue(4, "uniform")
    law = measured_law(queue)
    assert law.mean == pytest.approx(3, abs=1e-3)
    assert 0.5 * law.variance < 3.5 < law.variance  # between turns and exponential times, whose variance is 12
    assert measured_law(WorkerQueue(1, Gamma(2.0)), writes=100).probabilities().tolist() == [1.0]


def test_few_writes_of_slow_and_fast_workers_are_all_there():
    for seed in range(200):
        events = simulate_events(WorkerQueue(3, LogNormal(2.0), rates=[0.01, 1, 30]), 7, seed)
        assert [len(values) for values in events] == [7, 7, 7]
        assert (np.diff(events.times) >= 0).all()
        assert (events.delays >= 0).all()
        assert (events.delays <= np.arange(7)).all()


@pytest.mark.slow
def test_ten_million_writes_of_ten_thousand_workers_take_less_than_a_minute():
    began = time.process_time()
    delays = simulate_events(WorkerQueue(10_000, Gamma(2.0)), 10_000_000).delays
    assert time.process_time() - began < 60
    assert delays[1_000_000:].mean() == pytest.approx(9999, abs=5)
