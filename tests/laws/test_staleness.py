"""Laws of staleness in the engine: their delays, their memories, and the moments of stale SGD on a quadratic."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import itograd as ig
from itograd.asynchrony import (
    Asynchronous,
    Empirical,
    Exponential,
    Fixed,
    Gamma,
    Geometric,
    LogNormal,
    Pmf,
    Trace,
    Uniform,
    WorkerQueue,
    read_trace,
    simulate_events,
)
from itograd.asynchrony.asynchronous import AsynchronousChain
from itograd.asynchrony.staleness import Staleness, inverted
from itograd.problems.explicit_noise import ExplicitNoise
from itograd.simulation.chain import Chain
from itograd.simulation.draws import STALENESS, Draws
from itograd.simulation.precision import double
from itograd.simulation.threefry import path_key

Z = 4.5


class Delays(Chain):
    """The delays of a law, observed as (τ, the point that was read), where the point of step k is k itself."""

    problem: ig.problems.Quadratic
    law: Staleness

    @property
    def time_per_step(self):
        return 1.0

    def start(self, x0):
        raise AssertionError("the engine starts from draws")

    def start_from(self, x0, draws):
        return self.law.start_from(jnp.zeros(1), draws), jnp.zeros(2)

    def step(self, state, k, draws):
        point = jnp.asarray(k, float)[None]
        read, memory = self.law.read(state[0], k, point, draws.of(STALENESS))
        return memory, jnp.stack([jnp.asarray(read.delay, float), read.point[0]])

    def observe(self, state):
        return state[1]


def delays(law, steps, paths, seed=1):
    """The delays (steps, paths), checked: the point that was read at step k is that of step k − τ."""
    chain = Delays(ig.problems.Quadratic(1.0, 0.0), law)
    seen = {"delay": lambda x: x[0], "read": lambda x: x[1]}
    runs = ig.simulate(
        chain, x0=[0.0], steps=steps, save_every=1, paths=paths, keep_paths=paths, seed=seed, observables=seen
    )
    values = runs["path_values"].transpose("observable", "time", "path").values[:, 1:]
    tau, read = values.round().astype(int)
    assert (read == np.arange(steps)[:, None] - tau).all()
    return tau


def largest_z(counts, q):
    """The largest |z| of counts of independent draws against probabilities; rare values are lumped."""
    n = counts.sum()
    length = max(len(counts), len(q))
    counts, q = np.pad(counts, (0, length - len(counts))), np.pad(q, (0, length - len(q)))
    assert not counts[q == 0].any()
    common = n * q >= 25
    counts, q = np.append(counts[common], counts[~common].sum()), np.append(q[common], q[~common].sum())
    spread = np.sqrt(n * q * (1 - q))
    return np.abs((counts - n * q)[spread > 0] / spread[spread > 0]).max(initial=0.0)


IN_CLOSED_FORM = {
    "fixed": Fixed(3),
    "geometric": Geometric(mean=3),
    "pmf": Pmf([0.25, 0.0, 0.5, 0.0, 0.25]),
    "queue": WorkerQueue(4),
    "queue, rates": WorkerQueue(4, rates=[1, 1, 2, 4]),
    "queue, in turn": WorkerQueue(4, "deterministic"),
    "trace": Trace([0, 3, 1, 4, 4]),
}


@pytest.mark.parametrize("name", IN_CLOSED_FORM)
def test_a_law_has_its_probabilities_mean_and_variance(name):
    law, paths = IN_CLOSED_FORM[name], 20_000
    q = law.probabilities(1e-15)
    last = delays(law, 80, paths)[-1]  # independent between paths
    assert largest_z(np.bincount(last), q) < Z
    values = np.arange(len(q))
    assert law.mean == pytest.approx(q @ values, abs=1e-12)
    assert law.variance == pytest.approx(q @ values**2 - (q @ values) ** 2, rel=1e-9, abs=1e-12)
    assert q.sum() == pytest.approx(1, abs=1e-12)


TIMED = {
    "gamma, rates": WorkerQueue(4, Gamma(3.0), rates=[1, 1, 2, 4]),
    "lognormal, crashes": WorkerQueue(4, LogNormal(1.0), crash_probability=0.3, restart_time=1.5),
    "in step, crashes": WorkerQueue(4, "deterministic", crash_probability=0.3, restart_time=1.0),
    "empirical": WorkerQueue(3, Empirical([1.0, 1.3, 7.0])),
}


@pytest.mark.parametrize("name", TIMED)
def test_a_timed_queue_in_the_engine_is_that_of_the_events(name):
    """Two programs of one queue: times that each path keeps, against all times drawn and sorted."""
    law, paths, step = TIMED[name], 20_000, 100
    engine = np.bincount(delays(law, step + 1, paths)[-1])
    apart = 40 * law.workers  # so that delays that are counted depend on each other little
    events = np.bincount(simulate_events(law, 100 + 20_000 * apart, 3).delays[100::apart])
    total = np.zeros((2, max(len(engine), len(events))))
    total[0, : len(engine)], total[1, : len(events)] = engine, events
    common = total.sum(axis=0) >= 50
    total = np.column_stack([total[:, common], total[:, ~common].sum(axis=1)])
    n, m = total.sum(axis=1)
    share = total.sum(axis=0) / (n + m)
    spread = np.sqrt(share * (1 - share) * (1 / n + 1 / m))
    z = (total[0] / n - total[1] / m)[spread > 0] / spread[spread > 0]
    assert np.abs(z).max() < Z
    assert len(z) > 4


SERVICES = {
    "exponential": (Exponential(), stats.expon()),
    "gamma 3": (Gamma(3.0), stats.gamma(3, scale=1 / 3)),
    "gamma 1/2": (Gamma(0.5), stats.gamma(0.5, scale=2)),
    "lognormal": (LogNormal(0.7), stats.lognorm(0.7, scale=np.exp(-(0.7**2) / 2))),
    "uniform": (Uniform(0.5, 2.0), stats.uniform(0.5, 1.5)),
}


@pytest.mark.parametrize("name", SERVICES)
def test_service_times_have_their_law_in_the_engine_and_by_numpy(name):
    law, expected = SERVICES[name]
    with double():
        draw = jax.jit(jax.vmap(lambda path: law.draw(Draws(path_key((1, 0), path), 0))))
        engine = np.asarray(draw(jnp.arange(200_000, dtype=jnp.uint32)))
    for times in (engine, law.sample(np.random.default_rng(1), (200_000,))):
        assert stats.kstest(times, expected.cdf).pvalue > 1e-5
    assert expected.mean() == pytest.approx(law.mean)


@pytest.mark.parametrize("workers", [2, 8])
def test_the_queue_is_told_from_independent_delays_by_its_correlation(workers):
    tau = delays(WorkerQueue(workers), 100 + 2, 40_000)[-2:]
    independent = delays(Geometric(mean=workers - 1), 100 + 2, 40_000)[-2:]
    error = 1 / np.sqrt(40_000)
    assert np.corrcoef(tau)[0, 1] == pytest.approx(-1 / (2 * workers), abs=Z * error)
    assert np.corrcoef(independent)[0, 1] == pytest.approx(0, abs=Z * error)
    assert 1 / (2 * workers) > 2 * Z * error


def test_workers_with_equal_times_take_turns():
    assert (delays(WorkerQueue(5, "deterministic"), 12, 8) == np.minimum(np.arange(12), 4)[:, None]).all()
    dyadic = delays(WorkerQueue(3, "deterministic", rates=[1, 2, 4]), 50, 8)
    assert (dyadic == simulate_events(WorkerQueue(3, "deterministic", rates=[1, 2, 4]), 50).delays[:, None]).all()


def test_a_trace_is_replayed_round_and_round_from_a_random_place():
    trace = np.random.default_rng(0).integers(0, 9, size=50)
    tau = delays(Trace(trace), 120, 5000)
    places = np.array([[np.roll(trace, -s)[k % 50] for k in range(120)] for s in range(50)])
    found = (tau.T[:, None, 8:] == places[None, :, 8:]).all(axis=2)  # later than the clamped reads
    assert (found.sum(axis=1) == 1).all()
    assert largest_z(found.sum(axis=0), np.full(50, 1 / 50)) < Z


def test_inversion_takes_the_first_delay_whose_cumulative_probability_reaches_the_uniform():
    law = Pmf([0.25, 0.0, 0.75, 0.0])
    assert law.ring_length == 4
    uniforms = jnp.array([1e-9, 0.25, 0.2500001, 1.0])
    assert inverted(law.cumulative, uniforms).tolist() == [0, 0, 2, 2]


# The exact second moments of stale SGD on h x²/2 (theory 1.8): rows (E x, E m, E x², E xm, E m², E S).


def exact_moments(model, steps, *, eta, h, sigma, mu, va=0.0):
    kappa, workers = eta * h, 1 / (1 - mu)
    x = m = a = c = d = s = 1.0
    rows = [(x, m, a, c, d, s)]
    for _ in range(steps):
        x, m = x - kappa * m, (1 - mu) * x + (mu - (1 - mu) * kappa) * m
        a_next = a - 2 * kappa * c + eta**2 * ((h**2 + va) * s + sigma**2)
        if model == "independent":
            e = c - kappa * d
            c = mu * e + (1 - mu) * a_next
            d = mu**2 * d + 2 * mu * (1 - mu) * e + (1 - mu) ** 2 * a_next
            s = mu * s + (1 - mu) * a_next
        else:
            after = (c - kappa * d) + (a_next - (c - kappa * s)) / workers
            d += 2 / workers * (c - (1 + kappa) * d) + (a_next - 2 * (c - kappa * s) + s) / workers**2
            c, s = after, s + (a_next - s) / workers
        a = a_next
        rows.append((x, m, a, c, d, s))
    return np.array(rows)


SETS = {
    "A": {"eta": 0.05, "h": 2.0, "sigma": 2.0, "mu": 0.9},
    "B": {"eta": 0.1, "h": 1.0, "sigma": 1.0, "mu": 0.75, "va": 0.5},
    "C": {"eta": 0.025, "h": 2.0, "sigma": 2.0, "mu": 0.9},
}
# Of theory 1.8 and its oracle: (E x, E m), then (E x², E xm, E m², E S) of both models.
ORACLES = [
    ("A", 2, 0.801, 0.9711, "independent", 0.66142, 0.780724, 0.9434926, 0.949942),
    ("A", 2, 0.801, 0.9711, "queue", 0.66142, 0.780742, 0.9435142, 0.949942),
    ("A", 50, 0.015339887515, -0.058453027203, "queue", 0.102358119506, 0.055305425367, 0.060729996150, 0.119965904615),
    ("B", 5, 0.540429257812, 0.744555849609, "independent", 0.353441781997, 0.4359563, 0.575338591051, 0.620835765546),
    ("B", 5, 0.540429257812, 0.744555849609, "queue", 0.353192628078, 0.437087707902, 0.579375819573, 0.620751493424),
    ("C", 50, -0.0551341499326, -0.014185021630, "independent", 0.0416009508, 0.0278431845, 0.0266799591, 0.0538452019),
]


@pytest.mark.parametrize("row", ORACLES, ids=lambda row: f"{row[0]}, k={row[1]}, {row[4]}")
def test_the_recursions_have_the_rows_of_the_specification(row):
    name, k, x, m, model, *rest = row
    np.testing.assert_allclose(exact_moments(model, k, **SETS[name])[k], [x, m, *rest], rtol=0, atol=1.1e-10)


class RandomCurvature(ExplicitNoise):
    """L = h x²/2 with the gradient (h + √v ζ₁) x + σ ζ₂."""

    curvature: float
    curvature_variance: float
    sigma: float
    batch_size: int = eqx.field(static=True, default=1)
    noise_law: str = eqx.field(static=True, default="two_point")
    dim, noise_dim = 1, 2

    def loss(self, x):
        return 0.5 * self.curvature * x @ x

    def sample_root(self, x):
        return jnp.stack([jnp.sqrt(self.curvature_variance) * x[0], jnp.asarray(self.sigma, x.dtype)])[None]


class WithMeanRead(Chain):
    """Stale SGD in one dimension, observed as (x, m, S): the mean, and the mean square, of what may be read next."""

    problem: ExplicitNoise
    inner: AsynchronousChain

    @property
    def time_per_step(self):
        return 1.0

    def start(self, x0):
        return self.inner.start(x0), x0, x0**2

    def step(self, state, k, draws):
        inner, m, s = state
        inner = self.inner.step(inner, k, draws)
        x, memory, law = self.inner.observe(inner), inner[1], self.inner.optimizer.staleness
        if isinstance(law, WorkerQueue):
            points, _, writer = memory
            held = points[:, 0].at[writer].set(x[0])  # the writer reads at once
            return inner, held.mean()[None], (held**2).mean()[None]
        mu = law.ratio
        return inner, mu * m + (1 - mu) * x, mu * s + (1 - mu) * x**2

    def observe(self, state):
        inner, m, s = state
        return jnp.concatenate([self.inner.observe(inner), m, s])


MOMENTS = {
    "x": lambda y: y[0],
    "m": lambda y: y[1],
    "xx": lambda y: y[0] ** 2,
    "xm": lambda y: y[0] * y[1],
    "mm": lambda y: y[1] ** 2,
    "S": lambda y: y[2],
}


def with_mean_read(model, *, eta, h, sigma, mu, va=0.0):
    law = Geometric(ratio=mu) if model == "independent" else WorkerQueue(round(1 / (1 - mu)))
    problem = RandomCurvature(h, va, sigma)
    return WithMeanRead(problem, Asynchronous(ig.SGD(eta), law).chain(problem))


@pytest.mark.parametrize("model", ["independent", "queue"])
@pytest.mark.parametrize("name", ["A", "B"])
def test_simulated_moments_are_the_exact_ones_at_every_step(name, model):
    chain = with_mean_read(model, **SETS[name])
    runs = ig.simulate(chain, x0=[1.0], steps=60, save_every=1, paths=100_000, seed=2, observables=MOMENTS)
    exact = exact_moments(model, 60, **SETS[name])
    error = runs["mean_standard_error"].values
    z = (runs["mean"].values - exact) / np.where(error > 0, error, 1e-6)  # the first steps have moments without error
    assert np.abs(z).max() < Z


class Outcomes:
    """Draws that give what they are told: one delay or worker a step, and signs ±1."""

    def __init__(self, number, signs):
        self.number, self.signs = number, signs

    def of(self, user):
        return self

    def index(self, n):
        return self.number

    def geometric(self, ratio, *, maximum):
        return self.number

    def two_point(self, shape):
        return jnp.asarray(self.signs)


@pytest.mark.parametrize("model", ["independent", "queue"])
def test_queue_and_independent_delays_part_at_the_second_step_in_the_mean_read(model):
    """All outcomes of three steps, weighted: exact to rounding, where the two models differ by 10⁻²."""
    numbers = {"eta": 0.5, "h": 1.0, "sigma": 0.5, "mu": 0.5}
    chances = 0.5 ** np.array([1, 2, 3, 3]) if model == "independent" else [0.5, 0.5]  # of a delay, or of a worker
    with double():
        chain = with_mean_read(model, **numbers)

        @jax.jit
        def moments(delays_or_workers, signs):
            state = chain.start(jnp.ones(1))
            points = [chain.observe(state)]
            for k in range(3):
                state = chain.step(state, k, Outcomes(delays_or_workers[k], jnp.stack([0.0 * signs[k], signs[k]])))
                points.append(chain.observe(state))
            return jnp.array([[f(y) for f in MOMENTS.values()] for y in points])

        total = np.zeros((4, 6))
        for path in itertools.product(range(len(chances)), repeat=3):
            for signs in itertools.product([-1.0, 1.0], repeat=3):
                weight = np.prod([chances[number] for number in path]) / 8
                total += weight * np.asarray(moments(jnp.array(path), jnp.array(signs)))
    np.testing.assert_allclose(total, exact_moments(model, 3, **numbers), atol=1e-14)
    both = [exact_moments(m, 2, **numbers) for m in ("independent", "queue")]
    differ = np.abs(both[0] - both[1]) > 1e-12
    assert differ.tolist() == [[False] * 6, [False] * 6, [False, False, False, True, True, False]]


def test_a_trace_is_read_from_text_and_from_arrays(tmp_path):
    queue = WorkerQueue(4, Gamma(2.0))
    events = simulate_events(queue, 200)
    steps = np.arange(200)
    jobs = np.column_stack([events.writers, steps - events.delays, steps])
    one_column, text, array = tmp_path / "delays.txt", tmp_path / "jobs.csv", tmp_path / "jobs.npy"
    one_column.write_text("delay\n# measured\n" + "\n".join(map(str, events.delays)))
    shuffled = np.random.default_rng(0).permutation(jobs)
    text.write_text("worker, read, write\n" + "".join(f"gpu{w}, {s}, {k}\n" for w, s, k in shuffled))
    np.save(array, jobs)
    for file in (one_column, text, array):
        np.testing.assert_array_equal(read_trace(file).delays, events.delays)
    np.save(array, events.delays)
    np.testing.assert_array_equal(read_trace(array).delays, events.delays)


SILENT = "".join(f"{'b' if k == 3 else 'a'} {k} {k}\n" for k in range(40))
BAD_TRACES = {
    "1\n2\n-1\n": "line 3: a delay must be at least 0: got -1",
    "1\n2.5\n": "line 2: the delay must be a whole number: got '2.5'",
    "": "no line with a delay",
    "a,0,0\nb,0\n": "line 2: a delay or worker, read, write is needed",
    "a,0,0\nb,5,1\n": "line 2: worker b wrote step 1 and read 5: a delay of -4",
    "a,0,0\nb,0,1\na,1,4\n": "write 2 is missing, between line 2 and line 3",
    "a,0,0\nb,0,1\na,1,1\n": "write 1 is there twice, line 2 and line 3",
    "a,0,0\nb,0,\na,1,1\n": "line 2: worker b never returned: it read at step 0 and has no write",
    SILENT: "worker b never returned: its last write is 3 of 39",
}


@pytest.mark.parametrize("content", BAD_TRACES, ids=lambda content: BAD_TRACES[content][:40])
def test_a_bad_trace_is_named_by_line_or_worker(content, tmp_path):
    file = tmp_path / "trace.txt"
    file.write_text(content)
    with pytest.raises(ValueError, match=BAD_TRACES[content]):
        read_trace(file)


def test_bad_laws_are_refused_with_what_is_legal():
    refusals = {
        "sum to one: they sum to 0.9": lambda: Pmf([0.5, 0.4]),
        "numbers >= 0: got": lambda: Pmf([1.5, -0.5]),
        "list of numbers: got shape": lambda: Pmf([]),
        "in \\[0, 1\\): got 1": lambda: Geometric(ratio=1.0),
        "delay must be at least 0: got -1": lambda: Fixed(-1),
        "workers must be at least 1: got 0": lambda: WorkerQueue(0),
        "one of 'exponential', 'deterministic', 'uniform' or a law": lambda: WorkerQueue(2, "gamma"),
        "one number a worker": lambda: WorkerQueue(2, rates=[1.0]),
        "finite and above 0": lambda: WorkerQueue(2, rates=[1.0, 0.0]),
        "must be below 1: got 1": lambda: WorkerQueue(2, crash_probability=1.0, restart_time=1.0),
        "belong together": lambda: WorkerQueue(2, crash_probability=0.1),
        "shape must be a finite number": lambda: Gamma(0.0),
        "high must exceed low=2": lambda: Uniform(2.0, 1.0),
        "times must be finite and above 0": lambda: Empirical([1.0, 0.0]),
        "whole numbers >= 0": lambda: Trace([1, -1]),
        "Gamma times has no closed form: simulate it by": lambda: WorkerQueue(2, Gamma(2.0)).probabilities(),
        "Exponential times and crashes has no": lambda: WorkerQueue(2, crash_probability=0.1, restart_time=1).variance,
    }
    for message, make in refusals.items():
        with pytest.raises(ValueError, match=message):
            make()
