"""The routes of the engine: which one a chain takes, and that none of them changes its law or its random words."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_chains import CHAINS, SOURCES, StepOf, as_usually_written, chain_of, ensemble
from jax import lax

from itograd.simulation.draws import BROWNIAN, SECOND_BATCH
from itograd.simulation.routes import Route

LARGEST_Z = 4.5


@pytest.mark.parametrize("name", CHAINS)
def test_the_rule_picks_route_tile_and_unroll(name):
    route = ensemble(chain_of(name), 1).route
    assert (route.name, route.tile, route.chunk) == CHAINS[name][1]


RARE = (
    *("momentum", "nesterov", "amplified", "weak order 2", "eight", "twenty", "hundred"),
    *("stale in three dimensions", "reshuffling", "coupled", "underdamped", "two-point", "two"),
)
SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW) if n in RARE else n for n in CHAINS])
def test_words_are_those_of_seed_path_step_and_lane(name):
    """Threefry's paths are those of `Draws(path_key(seed, path), step)` one by one, whatever the route."""
    steps, paths = [0, 3, 38], 40
    found = ensemble(chain_of(name), steps).values(paths)
    np.testing.assert_allclose(found, as_usually_written(chain_of(name), steps, paths), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "rounding"),
    [
        pytest.param("stale", 2e-6, marks=SLOW),
        ("nine", 2e-6),
        pytest.param("batches", 1e-12, marks=SLOW),
        ("mlp", 1e-12),
    ],
)
def test_words_in_float64(name, rounding):
    """A normal is a float32 number, whose last bit may hang on how it was compiled; all else agrees to rounding."""
    steps, paths = [37], 40
    found = ensemble(chain_of(name), steps, dtype="float64").values(paths)
    usual = as_usually_written(chain_of(name), steps, paths, dtype="float64")
    np.testing.assert_allclose(found, usual, rtol=rounding, atol=rounding)


@pytest.mark.skipif("compiled" not in SOURCES, reason="the compiled noise is not here")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=SLOW) for n in ("two-point", "batches", "stale")] + ["one dimension", "nine"],
)
def test_both_sources_have_one_law(name):
    means, variances = [], []
    for noise in SOURCES:
        (moments,) = [t.moments for t in ensemble(chain_of(name), [5, 30], noise=noise).tiles(1500)]
        means.append((moments.mean, moments.mean_standard_error))
        variances.append((moments.variance, moments.variance_standard_error))
    for (a, a_error), (b, b_error) in (means, variances):
        assert (np.abs(a - b) < LARGEST_Z * np.hypot(a_error, b_error)).all()
        assert (a != b).any()


A = np.array([[1.0, 0.3], [0.3, 0.5]])


def potential(x):
    return 0.5 * (x[0] ** 2 + 0.6 * x[0] * x[1] + 0.5 * x[1] ** 2)


FORMS = {
    "components": lambda x: jnp.stack([x[0] + 0.3 * x[1], 0.3 * x[0] + 0.5 * x[1]]),
    "product": lambda x: jnp.asarray(A, x.dtype) @ x,
    "sum": lambda x: (jnp.asarray(A, x.dtype) * x).sum(axis=1),
    "einsum": lambda x: jnp.einsum("ij,j->i", jnp.asarray(A, x.dtype), x),
    "gradient": jax.grad(potential),
    "jvp": lambda x: jax.vmap(lambda e: jax.jvp(potential, (x,), (e,))[1])(jnp.eye(2)),
    "compiled": jax.jit(jax.grad(potential)),
}


@pytest.mark.parametrize("noise", SOURCES[-1:])
def test_the_form_of_the_drift_does_not_matter(noise):
    def step(drift, x, k, draws):
        return x - 0.05 * drift(x) + 0.2 * draws.normal((2,))

    found = [
        ensemble(StepOf(partial(step, f)), 50, noise=noise, x0=np.array([1.0, -2.0])).values(50) for f in FORMS.values()
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5, atol=1e-5)


# Draws of every kind, on every route; the state is what was drawn last.

LAWS = {
    "normal": (lambda d, n: d.normal((n,)), 0.0, 1.0),
    "uniform": (lambda d, n: d.uniform((n,)), 0.5, 1 / 12),
    "two-point": (lambda d, n: d.two_point((n,)), 0.0, 1.0),
    "three-point": (lambda d, n: d.three_point((n,)), 0.0, 1.0),
    "bernoulli": (lambda d, n: d.bernoulli(0.3, (n,)), 0.3, 0.21),
    "index": (lambda d, n: d.index(7, (n,)), 3.0, 4.0),
    "index below a power of two": (lambda d, n: d.index(4, (n,)), 1.5, 1.25),
    "geometric": (lambda d, n: d.geometric(0.5, (n,), maximum=60), 1.0, 2.0),
}
STEPS = 6
EACH = np.arange(1, STEPS + 1)


def components(count):
    return {f"x{i}": partial(_component, i) for i in range(count)}


def _component(i, x):
    return x[i]


def recorder(n):
    """A chain that draws n numbers of each law twice in a step, and its observables: (laws, twice, few of the n)."""
    few = sorted({0, n // 2, n - 1})

    def step(state, k, draws):
        return tuple(jnp.stack([draw(draws, n).astype(float) for _ in range(2)]) for draw, *_ in LAWS.values())

    chain = StepOf(step, lambda x0: tuple(jnp.zeros((2, n)) for _ in LAWS), lambda s: jnp.stack(s)[..., few].ravel())
    return chain, components(len(LAWS) * 2 * len(few))


# Threefry takes long to compile.
ON_ROUTES = [
    pytest.param(n, route, noise, id=f"{n}-{route.name}-{noise}", marks=[SLOW] * (noise != SOURCES[-1]))
    for n, route in (
        (1, Route("scalars", 2048)),
        (3, Route("scalars", 2048, 4)),
        (3, Route("lanes", 2048)),
        (40, Route("lanes", 512)),
        (1, Route("runs", 512)),
        (70, Route("runs", 256)),
    )
    for noise in SOURCES
]


def on_route(route, *arguments, **options):
    run = ensemble(*arguments, **options)
    run.__dict__["_outline"] = replace(run._outline, route=route)
    assert run.tile == route.tile
    return run


@pytest.mark.parametrize(("n", "route", "noise"), ON_ROUTES)
def test_draws_have_their_laws_and_are_independent(n, route, noise):
    chain, observables = recorder(n)
    run = on_route(route, chain, EACH, noise=noise, x0=np.zeros(1), observables=observables)
    found = run.values(4096)  # (steps, paths, numbers)
    if noise == "jax":
        few = as_usually_written(chain, EACH, 8, x0=np.zeros(1), observables=observables)
        np.testing.assert_allclose(found[:, :8], few, rtol=1e-5, atol=1e-5)
    by_law = found.reshape(STEPS, 4096, len(LAWS), -1).astype(float)
    for i, (name, (_, mean, variance)) in enumerate(LAWS.items()):
        x = (by_law[:, :, i] - mean) / np.sqrt(variance)
        for sample, expected in ((x, 0), (x**2, 1)):
            error = sample.std() / np.sqrt(sample.size) + 1e-6
            assert abs(sample.mean() - expected) < LARGEST_Z * error, name
    numbers = np.moveaxis(found, 1, 0).reshape(4096, -1)
    correlation = np.corrcoef(numbers, rowvar=False)[np.triu_indices(numbers.shape[1], 1)]
    assert np.abs(correlation).max() * np.sqrt(4096) < 6.0  # up to 41,328 pairs, some of skewed numbers


def elsewhere(state, k, draws):
    """Draws at other steps, of other users, with parameters and steps that differ by path, and inside control flow."""
    own = draws.index(9)
    inside, _ = lax.scan(
        lambda c, j: (c + draws.at_step(100 + 8 * k + j).normal((2,)), None), jnp.zeros(2), jnp.arange(4)
    )
    return (
        draws.at_step(k + 5).normal((2,)),
        draws.at_step(2 * k + 1).two_point((2,)),
        draws.at_step(k + 1000 * (own + 1)).normal((2,)),
        draws.of(SECOND_BATCH).normal((2,)),
        draws.of(BROWNIAN).at_step(3 * k).normal((2,)),
        inside / 2,
        jnp.sqrt(12.0) * lax.cond(own > 3, lambda: draws.uniform((2,)), lambda: draws.at_step(k + 77).uniform((2,)))
        - jnp.sqrt(3.0),
        (draws.geometric(own / 10, (2,), maximum=50) - own / (10.0 - own))
        * (10 - own)
        / jnp.sqrt(10.0 * own + 1e-9 + 90 * (own == 0)),
    )


@pytest.mark.parametrize(
    ("route", "noise"),
    [
        pytest.param(route, noise, id=f"{route.name}-{noise}", marks=[SLOW] * (noise != SOURCES[-1]))
        for route in (Route("scalars", 2048), Route("lanes", 2048), Route("runs", 512))
        for noise in SOURCES
    ],
)
def test_draws_elsewhere_are_draws_as_well(route, noise):
    chain = StepOf(elsewhere, lambda x0: tuple(jnp.zeros(2) for _ in range(8)), jnp.concatenate)
    run = on_route(route, chain, EACH, noise=noise, x0=np.zeros(1), observables=components(16))
    found = run.values(4096)
    if noise == "jax":
        few = as_usually_written(chain, EACH, 8, x0=np.zeros(1), observables=components(16))
        np.testing.assert_allclose(found[:, :8], few, rtol=1e-5, atol=1e-5)
    x = found.reshape(-1, 16).astype(float)
    assert (np.abs(x.mean(axis=0)) < LARGEST_Z * x.std(axis=0) / np.sqrt(len(x))).all()
    numbers = found[-1].astype(float)
    correlation = np.corrcoef(numbers, rowvar=False)[np.triu_indices(16, 1)]
    assert np.abs(correlation).max() * np.sqrt(4096) < LARGEST_Z


@pytest.mark.parametrize(
    ("route", "noise"),
    [
        pytest.param(route, noise, id=f"{route.name}-{noise}", marks=[SLOW] * (noise != SOURCES[-1] and slow))
        for route, slow in ((Route("scalars", 512, 2), False), (Route("lanes", 512), True))
        for noise in SOURCES
    ],
)
def test_a_draw_at_its_own_step_is_the_draw(route, noise):
    """The words of the step k are the same by whatever way they are asked for.

    Not on the route "runs" with the compiled source: there a draw at a stated step is Threefry's.
    """

    def step(state, k, draws):
        both = []
        for draw, *_ in LAWS.values():
            there = draws.at_step(k)
            there._used = draws._used
            both.append(jnp.stack([draw(draws, 2), draw(there, 2)]).astype(float))
        return tuple(both)

    chain = StepOf(
        step, lambda x0: tuple(jnp.zeros((2, 2)) for _ in LAWS), lambda s: jnp.concatenate([x.ravel() for x in s])
    )
    found = on_route(route, chain, EACH, noise=noise, x0=np.zeros(1), observables=components(32)).values(100)
    own, there = np.moveaxis(found.reshape(STEPS, 100, len(LAWS), 2, 2), 3, 0)
    np.testing.assert_allclose(own, there, atol=1e-6)
    assert len(np.unique(own[:, :, 0])) == own[:, :, 0].size


@pytest.mark.parametrize("noise", SOURCES)
def test_nothing_may_be_drawn(noise):
    """A problem without noise draws vectors of length 0."""

    def step(x, k, draws):
        nothing = [draw(draws, 0) for draw, *_ in LAWS.values()]
        return 0.5 * x + sum(jnp.sum(z.astype(float)) for z in nothing)

    for size in (2, 30):
        found = ensemble(StepOf(step), 3, noise=noise, x0=np.ones(size)).values(5)
        np.testing.assert_array_equal(found[0, :, 0], 0.125)


@pytest.mark.parametrize(("rows", "column"), [((0, 1, 2), 0), ((1, 2, 3, 4), 1)], ids=["row", "rows"])
def test_a_ring_may_be_written_in_other_pieces_than_rows(rows, column):
    """A state whose leaf looks like a ring of pairs, changed in pieces of other shapes."""

    def step(state, k, draws):
        x, past = state
        piece = jnp.broadcast_to(x, (len(rows), 2))[:, column:]
        past = lax.dynamic_update_slice(past, piece, (k % 16, column))
        return 0.9 * x + 0.1 * past[3] + draws.normal((2,)), jnp.where(x[0] > 0, past, past * 0.99)

    chain = StepOf(step, lambda x0: (x0, jnp.zeros((20, 2))))
    found = ensemble(chain, 25, x0=np.ones(2)).values(5)
    np.testing.assert_allclose(found, as_usually_written(chain, 25, 5, x0=np.ones(2)), rtol=1e-5, atol=1e-5)
