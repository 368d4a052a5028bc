"""Measured staleness: a trace of delays, and the files it is read from.

A trace is replayed in its own order, round and round, so that what depends on the order of the delays is kept. Each
path begins at a place of its own, uniform along the trace: paths in lockstep on one trace would share its delays,
which leaves means right and spoils covariances.
"""

from __future__ import annotations

import os
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from itograd.asynchrony.staleness import TOLERANCE, Read, Staleness, masked_length
from itograd.simulation.history import recall, remember, ring
from itograd.validation import require

# A worker whose last write is longer ago than so many of the longest turns of all workers has not returned.
_SILENT_TURNS = 10

_HEADERS = (["delay"], ["worker", "read", "write"])


class Trace(Staleness):
    """Measured delays, replayed from a random place on each path; see the head of this file.

    Its law is the histogram of the trace. The ring has as many points as the longest delay asks for.

    Raises ValueError where a delay is negative or no whole number, TypeError where the trace is no list of numbers.

    >>> Trace([0, 1, 2, 2, 2]).mean
    1.4
    """

    delays: np.ndarray
    longest: int = eqx.field(static=True)

    def __init__(self, delays):
        delays = np.asarray(delays)
        if not np.issubdtype(delays.dtype, np.number) or np.iscomplexobj(delays):
            raise TypeError(f"a trace must be a list of whole numbers: got {delays.dtype}")
        require(delays.ndim == 1 and delays.size, f"a trace must be a list of delays: got shape {delays.shape}")
        wrong = np.flatnonzero(~((delays >= 0) & (delays == np.floor(delays)) & (delays < 2**24)))
        require(not wrong.size, f"delays must be whole numbers >= 0: got {delays[wrong[:1]]} at place {wrong[:1]}")
        self.delays, self.longest = delays.astype(np.int32), int(delays.max())

    @property
    def mean(self):
        return float(self.delays.mean())

    def probabilities(self, tolerance=TOLERANCE):
        return np.bincount(self.delays) / len(self.delays)

    @property
    def is_independent(self):
        return False

    def start(self, point):
        raise ValueError("a trace starts at a random place: use start_from")

    def start_from(self, point, draws):
        return ring(point, masked_length(self.longest + 1)), draws.index(len(self.delays))

    def read(self, memory, k, point, draws):
        points, place = memory
        points = remember(points, k, point)
        delay = jnp.asarray(self.delays)[place]
        following = jnp.where(place + 1 < len(self.delays), place + 1, 0)
        return Read(recall(points, k, delay), jnp.minimum(delay, k)), (points, following)


def read_trace(path: str | os.PathLike) -> Trace:
    """The trace in a file: text with one line a write, or a NumPy array (.npy).

    A line, or a row of the array, is either a delay, or a worker and the numbers of the steps at which it read and
    wrote: a gradient that was read at x_s and made x_{k+1} of x_k has read s and write k, and is k − s old. Values in
    text are separated by commas or blanks; the worker may be a name; the first line may be a header, and what follows a
    # is left out. Lines may come in any order; their writes must be all the numbers from the first to the last, each
    once.

    Raises ValueError, naming the line (of an array: the row, from 1) or the worker, for a value that is no whole
    number, a negative delay, a write that is missing or there twice, and a worker that never returned: one without a
    write (an empty field), or whose last write is over ten of the longest turns of all workers ago.
    """
    path = Path(path)
    rows = _rows_of_array(path) if path.suffix == ".npy" else _rows_of_text(path)
    require(rows, f"{path}: there is no line with a delay")
    widths = {len(fields) for _, fields in rows}
    if widths == {1}:
        return Trace(_delays(path, rows))
    for line, fields in rows:
        require(len(fields) == 3, f"{path}, line {line}: a delay or worker, read, write is needed: got {fields}")
    return Trace(_delays_of_jobs(path, rows))


Rows = list[tuple[int, list[str]]]


def _rows_of_text(path: Path) -> Rows:
    rows = []
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        text = text.partition("#")[0].strip()
        fields = [field.strip() for field in text.split(",")] if "," in text else text.split()
        if text and [field.lower() for field in fields] not in _HEADERS:
            rows.append((line, fields))
    return rows


def _rows_of_array(path: Path) -> Rows:
    array = np.load(path)
    require(
        array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 3),
        f"{path}: an array of delays (n,) or of worker, read, write (n, 3) is needed: got shape {array.shape}",
    )
    table = array.reshape(len(array), -1)
    return [(row, ["" if v != v else f"{v:.17g}" for v in values]) for row, values in enumerate(table, start=1)]


def _delays(path: Path, rows: Rows) -> list[int]:
    found = [_whole(path, line, "delay", fields[0]) for line, fields in rows]
    for (line, _), delay in zip(rows, found):
        require(delay >= 0, f"{path}, line {line}: a delay must be at least 0: got {delay}")
    return found


def _delays_of_jobs(path: Path, rows: Rows) -> np.ndarray:
    workers, jobs = [], []
    for line, (worker, read, write) in rows:
        require(write, f"{path}, line {line}: worker {worker} never returned: it read at step {read} and has no write")
        s, k = _whole(path, line, "read", read), _whole(path, line, "write", write)
        require(s <= k, f"{path}, line {line}: worker {worker} wrote step {k} and read {s}: a delay of {k - s}")
        workers.append(worker)
        jobs.append((k, s, line))
    order = np.argsort([k for k, _, _ in jobs], kind="stable")
    writes, reads, lines = np.array(jobs)[order].T
    steps = np.diff(writes)
    for place in np.flatnonzero(steps != 1)[:1]:
        before, after = f"line {lines[place]}", f"line {lines[place + 1]}"
        if steps[place] == 0:
            raise ValueError(f"{path}: write {writes[place]} is there twice, {before} and {after}")
        raise ValueError(f"{path}: write {writes[place] + 1} is missing, between {before} and {after}")
    _require_all_returned(path, np.array(workers)[order], writes)
    return writes - reads


def _require_all_returned(path: Path, workers: np.ndarray, writes: np.ndarray) -> None:
    names, number = np.unique(workers, return_inverse=True)
    by_worker = np.argsort(number, kind="stable")
    turns = np.diff(writes[by_worker])[np.diff(number[by_worker]) == 0]
    longest = int(turns.max(initial=1))
    last = np.zeros(len(names), int)
    last[number] = writes  # in order: the last one stands
    silent = np.flatnonzero(writes[-1] - last > _SILENT_TURNS * max(longest, len(names)))[:1]
    for worker in silent:
        raise ValueError(
            f"{path}: worker {names[worker]} never returned: its last write is {last[worker]} of {writes[-1]}, "
            f"and no worker's turn was longer than {longest} writes; leave its lines out, or end the trace there"
        )


def _whole(path: Path, line: int, what: str, text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    require(value.is_integer(), f"{path}, line {line}: the {what} must be a whole number: got {text!r}")
    return int(value)
