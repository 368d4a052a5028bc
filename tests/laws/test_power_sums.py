"""Moments of a tile from sums of powers are those of NumPy in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itograd.simulation import compiled
from itograd.simulation.engine import _moments
from itograd.simulation.power_sums import alive_sums, together
from itograd.simulation.precision import precision
from itograd.simulation.statistics import Moments

PATHS = 512
ROUNDING = {"float32": 1e-5, "float64": 1e-12}


SOURCES = ["jax"] + ["compiled"] * compiled.available()


@partial(jax.jit, static_argnums=(2, 3))
def sums(values, alive, source, covariances):
    after, found, packed = alive, None, None
    if covariances or source == "jax":
        after, found = alive_sums(values, alive, covariances)
        found = together(jax.tree.map(lambda x: x[None], found))
    if source == "compiled":
        after, packed = compiled.power_sums(jnp.concatenate(values), alive)
        packed = packed[None]
    return after, found, packed


def of_tile(values, alive=None, *, source="jax", dtype="float32", covariances=False):
    """The moments at one save point of observables (p,) or (m, p), and the paths alive, as `run_tile` has them."""
    alive = np.ones(np.shape(values[0])[-1], bool) if alive is None else alive

    with precision(dtype):
        arrays = [jnp.atleast_2d(jnp.asarray(v, dtype)) for v in values]
        after, *found = jax.device_get(sums(arrays, alive, source, covariances))
    return _moments(*found), after


def check(values, alive=None, *, source="jax", dtype="float32", covariances=False, highest=4):
    """Compare with NumPy's in extended precision, each power in units of its own absolute moment."""
    moments, after = of_tile(values, alive, source=source, dtype=dtype, covariances=covariances)
    exact = np.concatenate([np.atleast_2d(np.asarray(v, dtype)) for v in values]).astype(np.longdouble)
    if alive is not None:
        np.testing.assert_array_equal(after, alive & np.isfinite(exact).all(axis=0))
    exact = exact[:, after]
    count, mean = exact.shape[1], exact.mean(axis=1)
    spread = exact.std(axis=1)
    unit = np.where(spread > 0, spread, 1)
    centred = (exact - mean[:, None]) / unit[:, None]
    assert moments.count == count
    assert (np.abs(moments.mean[0] - mean) <= ROUNDING[dtype] * spread + 4e-16 * np.abs(mean)).all()
    for order in range(2, highest + 1):
        ours = getattr(moments, f"m{order}")[0] / count / unit**order
        bound = ROUNDING[dtype] * np.abs(centred**order).mean(axis=1) * order
        assert (np.abs(ours - (centred**order).mean(axis=1)) <= bound + 1e-300).all(), order
    if covariances:
        scale = np.outer(unit, unit)
        np.testing.assert_allclose(
            moments.covariance[0] / scale, centred @ centred.T / (count - 1), atol=10 * ROUNDING[dtype]
        )
    return moments


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, PATHS))


@pytest.fixture(params=[(s, t) for s in SOURCES for t in ("float32", "float64")], ids="-".join)
def how(request):
    return {"source": request.param[0], "dtype": request.param[1]}


@pytest.mark.parametrize(
    "values",
    [
        [normal()],
        [normal(), np.exp(normal(seed=1)), normal(seed=2) ** 3],
        [normal(3), normal(seed=3)],
        list(normal(12)),
        [normal(20)],
        [1e25 * normal(), 1e-25 * normal(seed=1), normal(seed=2)],
        [1e4 + 1e-2 * normal(), -1e4 + 1e-2 * normal(seed=1)],
        [np.sign(normal())],
        [np.where(np.arange(PATHS) % 17 == 16, 1.0, 0.0)],
    ],
    ids=["one", "skewed", "vector", "twelve", "long", "scales", "narrow", "signs", "rare"],
)
def test_moments_are_those_of_numpy(values, how):
    check(values, **how)
    check(values, covariances=True, **how)


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("lost", [[3], [0, 1, 100], range(0, 512, 2), range(12)], ids=["one", "three", "half", "first"])
def test_lost_paths_are_left_out(lost, scale, how):
    values = [scale * normal(), scale * (1e4 + 1e-2 * normal(seed=1))]
    values[0][list(lost)] = np.nan
    values[1][list(lost)[:1]] = np.inf
    check(values, np.ones(PATHS, bool), **how)


def test_a_path_once_lost_stays_lost(how):
    alive = np.arange(PATHS) % 5 != 0
    values = normal()
    values[::5] = 1e30
    check([values], alive, **how)


@pytest.mark.parametrize("filled", [1, 2, 7, 16, 300, 511])
def test_partly_filled_tiles(filled, how):
    values = [normal(), 1e4 + 1e-2 * normal(seed=1)]
    for value in values:
        value[filled:] = 1e3
    check(values, np.arange(PATHS) < filled, **how)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e25, 1e-25, 3e4])
def test_a_constant_has_no_variance(constant, how):
    for paths in (PATHS, 100):
        moments, _ = of_tile([np.full(PATHS, constant)], np.arange(PATHS) < paths, **how)
        assert moments.mean == np.asarray(constant, how["dtype"])
        assert moments.m2 == moments.m3 == moments.m4 == 0


def test_a_tile_without_paths_has_no_moments(how):
    moments, _ = of_tile([np.full(PATHS, np.nan)], **how)
    assert moments.count == 0
    assert np.isnan(moments.mean)
    assert np.isnan(moments.variance)


def test_two_halves_are_the_whole():
    values = normal(2)
    halves = [check([v], covariances=True) for v in (values[:, :256], values[:, 256:])]
    whole = Moments.of(np.moveaxis(values.astype("float32"), 0, 1)[None], np.ones((1, PATHS), bool), covariance=True)
    together = Moments.merged(halves)
    for name in ("count", "centre", "m2", "m3", "m4", "comoment"):
        np.testing.assert_allclose(getattr(together, name), getattr(whole, name), rtol=1e-5, atol=1e-3)


def test_few_far_paths_do_not_make_the_variance_infinite(how):
    """Paths on their way out of the range of numbers, of which the sample that sets the units holds none."""
    values = normal()
    values[100] = 1e12
    fourth_overflows = how == {"source": "jax", "dtype": "float32"}
    check([values], highest=3 if fourth_overflows else 4, **how)
