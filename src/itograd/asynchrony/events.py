"""Event simulation of a worker queue, outside the engine: who writes when, and how old each gradient is.

Workers do not wait for each other, so that each makes a renewal process of its own, and the writes of all are these
processes merged. No queue of events is needed: the times of all writes are drawn in blocks and sorted. From x_0 on,

    a job read at the worker's own last write k':        τ = k − k' − 1
    a job read at time t, after crashes:                 τ = k − (the number of writes before t)

Writes at one instant come in the order of the workers' numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from itograd.asynchrony.staleness import Pmf
from itograd.asynchrony.worker_queue import WorkerQueue
from itograd.validation import require_count

_BLOCK = 1 << 20  # service times drawn at once


class Events(NamedTuple):
    """The writes k = 0, 1, … of a queue in order, each array (writes,)."""

    delays: np.ndarray  # τ_k, int64
    writers: np.ndarray  # the worker's number, int32
    times: np.ndarray  # when it writes, in the unit of the service law


def simulate_events(queue: WorkerQueue, writes: int, seed: int = 0) -> Events:
    """The first `writes` writes of a queue whose workers all read x_0 at time 0.

    About 50 bytes of memory a write. The queue is not in its stationary law at first: leave the first writes out where
    that one is meant, a few for each worker.

    >>> simulate_events(WorkerQueue(3, "deterministic"), 6).delays.tolist()
    [0, 1, 2, 2, 2, 2]
    """
    require_count("writes", writes)
    require_count("seed", seed, minimum=0)
    rng, horizon = np.random.default_rng(seed), writes / queue.throughput
    blocks: list[_Jobs] = []
    last = np.zeros(queue.workers)
    while True:
        while (active := np.flatnonzero(last <= horizon)).size:
            left = (horizon - last[active]) / queue.cycle_times[active]
            count = max(1, min(_BLOCK // len(active), math.ceil(left.min())))
            block = _drawn(queue, active, last[active], count, rng)
            last[active] = block.written[:, -1]
            blocks.append(block)
        written, writers, read = _merged(blocks, horizon, queue.crash_probability > 0)
        if len(written) >= writes:
            break
        horizon *= 1.01 + (writes - len(written)) / writes
    written, writers = written[:writes], writers[:writes]
    delays = np.arange(writes) - _read_steps(writers)
    if read is not None:
        late = np.flatnonzero(~np.isnan(read[:writes]))
        delays[late] = late - np.searchsorted(written, read[late], side="left")
    return Events(delays, writers, written)


class _Jobs(NamedTuple):
    """Jobs that are written, (workers, n): when, and when they were read; NaN where that is the last write before."""

    workers: np.ndarray
    written: np.ndarray
    read: np.ndarray | None


def _drawn(queue: WorkerQueue, workers, last, count: int, rng) -> _Jobs:
    """The next `count` jobs of some workers, of which the last writes were at the times `last`."""
    shape = (len(workers), count)
    works = queue.service.sample(rng, shape) / queue.rates[workers, None]
    if not queue.crash_probability:
        return _Jobs(workers, last[:, None] + np.cumsum(works, axis=1), None)
    waits = queue.restart_time * (rng.geometric(1 - queue.crash_probability, shape) - 1)
    written = last[:, None] + np.cumsum(waits + works, axis=1)
    return _Jobs(workers, written, np.where(waits > 0, written - works, np.nan))


def _merged(blocks: list[_Jobs], horizon: float, crashes: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Times, writers and times of reading of all writes up to the horizon, in order."""
    written = np.concatenate([b.written.ravel() for b in blocks])
    writers = np.concatenate([np.repeat(b.workers.astype(np.int32), b.written.shape[1]) for b in blocks])
    inside = np.flatnonzero(written <= horizon)
    order = inside[np.lexsort((writers[inside], written[inside]))]
    read = np.concatenate([b.read.ravel() for b in blocks])[order] if crashes else None  # type: ignore[union-attr]
    return written[order], writers[order], read


def _read_steps(writers: np.ndarray) -> np.ndarray:
    """For each write the number of the write after which its worker, who reads at its own writes, has read."""
    by_worker = np.argsort(writers, kind="stable")
    same = np.append(False, writers[by_worker][1:] == writers[by_worker][:-1])
    steps = np.empty(len(writers), np.int64)
    steps[by_worker] = np.where(same, np.append(0, by_worker[:-1] + 1), 0)
    return steps


def measured_law(queue: WorkerQueue, writes: int = 400_000, seed: int = 0) -> Pmf:
    """The law of a queue's delays from an event simulation, as independent delays.

    It has the queue's marginal law, up to a standard error of at most √(q_l/writes) or so for each q_l, and none of the
    dependence of its delays. Before what is counted, each worker has written a hundred times on average.

    >>> measured_law(WorkerQueue(4, "deterministic"), writes=100).probabilities().tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    require_count("writes", writes)
    delays = simulate_events(queue, writes + 100 * queue.workers, seed).delays[-writes:]
    return Pmf(np.bincount(delays) / writes)
