"""M workers that each read the newest point, work on a gradient and write it (theory: asynchrony 2.2).

    worker j:   read x_s,  work for S/r_j,  write  x_{k+1} = x_k − η g(x_s),  read x_{k+1}, …        τ_k = k − s

S has the service law, r_j is the worker's rate. At the start all read x_0 and begin to work.

**The mean** is M − 1 for every service law and all rates: each write is counted once by each of the M − 1 other jobs
in flight. The variance is what the service law decides: nearly 0 for nearly equal times, M(M−1) for exponential ones,
more beyond.

**Exponential times** have no memory, so that the next writer is worker j with probability π_j = r_j/Σr whatever went
before, and one uniform number a step makes the queue:

    equal rates     P(τ = l) = (1−μ) μ^l with μ = 1 − 1/M; lag-1 correlation of the delays −1/(2M)
    other rates     P(τ = l) = Σ_j π_j² (1−π_j)^l,  a mixture of geometric laws

**Any other law** keeps the times until each worker writes, and the smallest is the next: M numbers a step and path.
Of workers that finish at the same instant the one of the lowest number writes first. So equal workers with
deterministic times take turns, and each delay is M − 1 once every worker has written.

**Crashes.** A job is lost with probability p, independently. The worker is back `restart_time` R after it began that
job, and then reads afresh; no write comes of a lost job, so that it counts in no delay. A worker needs on average
c_j = E S/r_j + R p/(1−p) from write to write, of which it spends f_j = (E S/r_j)/c_j on a job that will be written, and

    E τ = Σ_j w_j Σ_{i≠j} f_i,      w_j = (1/c_j) / Σ_i (1/c_i)                      (derived)

which is M − 1 without crashes: workers that are down write nothing meanwhile, and what is read is fresher. The formula
takes the workers to be out of step with each other, as random times make them. Where all times are multiples of one
number, as with deterministic ones and R = 1, writes and reads meet, and the mean is another. (A worker that is back
reads before the writes of that instant.)
"""

from __future__ import annotations

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from itograd.asynchrony.service import Deterministic, Exponential, Service, service_law
from itograd.asynchrony.staleness import TOLERANCE, Geometric, Read, Staleness, cumulated, inverted
from itograd.simulation.precision import is_off
from itograd.validation import require, require_count, require_number

# More jobs lost in a row than this count as so many.
_MOST_LOST = 1 << 20


class WorkerQueue(Staleness):
    """M workers with a service law, rates of their own and crashes; see the head of this file.

    Args:
        workers: M.
        service: "exponential", "deterministic", "uniform", or a law of `asynchrony.service` such as `Gamma(2)`.
        rates: the workers' speeds r_j, (M,); by default all 1. A worker of rate r needs S/r for a job.
        crash_probability: p, in [0, 1).
        restart_time: R, in the unit of the service law; needed where p > 0.

    Raises ValueError or TypeError for what is out of range.

    >>> WorkerQueue(8).geometric_ratio
    0.875
    >>> WorkerQueue(3, "deterministic", rates=[1, 1, 2]).mean
    2.0
    """

    workers: int = eqx.field(static=True)
    service: Service
    rates: np.ndarray
    crash_probability: float
    restart_time: float
    shares_up_to: np.ndarray  # the share in Σr of the workers 0 … j
    has_equal_workers: bool = eqx.field(static=True)

    def __init__(
        self,
        workers: int,
        service: str | Service = "exponential",
        *,
        rates=None,
        crash_probability: float = 0.0,
        restart_time: float | None = None,
    ):
        require_count("workers", workers)
        rates = np.ones(workers) if rates is None else np.asarray(rates, float)
        require(rates.shape == (workers,), f"rates must have one number a worker, ({workers},): got {rates.shape}")
        require(np.isfinite(rates).all() and (rates > 0).all(), f"rates must be finite and above 0: got {rates}")
        require_number("crash_probability", crash_probability, minimum=0)
        require(crash_probability < 1, f"crash_probability must be below 1: got {crash_probability:g}")
        require(
            (crash_probability > 0) == (restart_time is not None),
            f"crash_probability and restart_time belong together: got {crash_probability:g} and {restart_time}",
        )
        if restart_time is not None:
            require_number("restart_time", restart_time, minimum=0)
        self.workers, self.service, self.rates = int(workers), service_law(service), rates
        self.crash_probability, self.restart_time = float(crash_probability), float(restart_time or 0)
        self.shares_up_to = cumulated(rates)
        self.has_equal_workers = bool((rates == rates[0]).all())

    def __repr__(self):
        parts = [str(self.workers)]
        if not isinstance(self.service, Exponential):
            parts.append(repr(self.service))
        if not self.has_equal_workers:
            parts.append(f"rates={np.asarray(self.rates).tolist()}")
        if not is_off(self.crash_probability):
            parts.append(f"crash_probability={self.crash_probability}, restart_time={self.restart_time}")
        return f"WorkerQueue({', '.join(parts)})"

    @property
    def is_memoryless(self) -> bool:
        """Whether the next writer is independent of the past: exponential times and no crashes."""
        return isinstance(self.service, Exponential) and is_off(self.crash_probability)

    @property
    def has_uniform_writers(self) -> bool:
        """Whether each writer is uniform among the workers, whatever went before: the queue of theory 1.8."""
        return self.is_memoryless and self.has_equal_workers

    @property
    def takes_turns(self) -> bool:
        """Whether equal workers need equal times, and so write in turn, as one worker always does."""
        equal = self.has_equal_workers and isinstance(self.service, Deterministic)
        return self.workers == 1 or (equal and is_off(self.crash_probability))

    @property
    def is_independent(self):
        return self.workers == 1

    @property
    def cycle_times(self) -> np.ndarray:
        """c_j, the mean time of each worker from write to write, (M,)."""
        p = self.crash_probability
        return self.service.mean / self.rates + self.restart_time * p / (1 - p)

    @property
    def throughput(self) -> float:
        """Writes per unit of time, Σ_j 1/c_j."""
        return float((1 / self.cycle_times).sum())

    @property
    def mean(self):
        if is_off(self.crash_probability):
            return float(self.workers - 1)
        busy = self.service.mean / self.rates / self.cycle_times
        share = 1 / self.cycle_times / self.throughput
        return float(share @ (busy.sum() - busy))

    @property
    def geometric_ratio(self):
        return 1 - 1 / self.workers if self.has_uniform_writers else None

    @property
    def variance(self):
        if self.takes_turns:
            return 0.0
        self._require_closed_form("variance")
        pi = self.rates / self.rates.sum()
        return float(((1 - pi) * (2 - pi) / pi).sum() - (self.workers - 1) ** 2)  # E τ² of π_j (1−π_j)^l, times π_j

    def probabilities(self, tolerance=TOLERANCE):
        """P(τ = l), exact for exponential times without crashes and for workers that take turns.

        Raises ValueError for other queues, whose law has no closed form: `measured_law` simulates it.
        """
        if self.takes_turns:
            return np.eye(self.workers)[-1]
        self._require_closed_form("law of delays")
        if self.has_equal_workers:
            return Geometric(mean=self.mean).probabilities(tolerance)
        rates, counts = np.unique(self.rates / self.rates.sum(), return_counts=True)
        delays = np.arange(math.ceil(math.log(tolerance) / math.log1p(-rates[0])))  # the slowest has the longest tail
        return sum(n * pi**2 * (1 - pi) ** delays for pi, n in zip(rates, counts))

    def _require_closed_form(self, what: str) -> None:
        require(
            self.is_memoryless,
            f"the {what} of a queue with {type(self.service).__name__} times"
            f"{'' if is_off(self.crash_probability) else ' and crashes'} has no closed form: simulate it by "
            "asynchrony.measured_law(queue)",
        )

    def start(self, point):
        require(self.is_memoryless, "a queue that is not memoryless starts with random times: use start_from")
        points, steps = self._all_read(point)
        return points, steps, jnp.zeros((), jnp.int32)

    def start_from(self, point, draws):
        if self.is_memoryless:
            return self.start(point)
        return *self._all_read(point), *self._jobs(draws, self.rates)

    def _all_read(self, point):
        """The points that the workers hold, and the steps at which they read them."""
        return jnp.broadcast_to(point, (self.workers, *jnp.shape(point))), jnp.zeros(self.workers, jnp.int32)

    def read(self, memory, k, point, draws):
        return (self._read_memoryless if self.is_memoryless else self._read_timed)(memory, k, point, draws)

    def _read_memoryless(self, memory, k, point, draws):
        points, steps, writer = memory
        points, steps = points.at[writer].set(point), steps.at[writer].set(k)  # who wrote last has read since
        equal = self.has_equal_workers
        writer = draws.index(self.workers) if equal else inverted(self.shares_up_to, draws.uniform())
        return Read(points[writer], k - steps[writer]), (points, steps, writer)

    def _read_timed(self, memory, k, point, draws):
        """The memory has for each worker the time until it reads, infinite where it has, and until it writes.

        Who reads before the next write, as does the last writer, reads what is now the newest point.
        """
        points, steps, until_read, until_write = memory
        elapsed, writer = jnp.min(until_write), jnp.argmin(until_write)
        reads = until_read <= elapsed
        points = jnp.where(reads.reshape(-1, *(1,) * jnp.ndim(point)), point, points)
        steps = jnp.where(reads, k, steps)
        until_read = jnp.where(reads, jnp.inf, until_read - elapsed)
        wait, total = self._jobs(draws, jnp.asarray(self.rates)[writer])
        is_writer = jnp.arange(self.workers) == writer
        until_read = jnp.where(is_writer, wait, until_read)
        until_write = jnp.where(is_writer, total, until_write - elapsed)
        return Read(points[writer], k - steps[writer]), (points, steps, until_read, until_write)

    def _jobs(self, draws, rates):
        """The times until workers of these rates read for a job that will be written, and until they write it."""
        shape = jnp.shape(rates)
        work = self.service.draw(draws, shape) / jnp.asarray(rates)
        if is_off(self.crash_probability):
            return jnp.zeros(shape), work
        wait = self.restart_time * draws.geometric(self.crash_probability, shape, maximum=_MOST_LOST)
        return wait, wait + work
