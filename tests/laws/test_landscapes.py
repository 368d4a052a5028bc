"""The landscapes: wells and barriers, and the tables of theory 4.2 and 4.3 by quadrature."""

import jax
import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid, trapezoid

from itograd.problems import DoubleWell, FlatSharp
from itograd.simulation.precision import double


@pytest.fixture(autouse=True)
def float64():
    with double():
        yield


@pytest.mark.parametrize(
    ("diffusion", "to_saddle", "to_other"),
    [(0.2, 7.9340174, 19.093897), (0.1, 30.821296, 66.268626), (0.05, 361.90375, 729.67069)],
)
def test_first_passage_over_the_double_well_by_quadrature(diffusion, to_saddle, to_other):
    x = np.linspace(-3, 1, 200_001)
    f = np.asarray(jax.vmap(DoubleWell().loss)(x[:, None]))
    inner = cumulative_trapezoid(np.exp(-f / diffusion), x, initial=0)
    passage = cumulative_trapezoid(np.exp(f / diffusion) * inner, x, initial=0) / diffusion
    start, saddle = np.searchsorted(x, [-1 - 1e-9, -1e-9])
    assert passage[saddle] - passage[start] == pytest.approx(to_saddle, rel=1e-6)
    assert passage[-1] - passage[start] == pytest.approx(to_other, rel=1e-6)


def test_the_wells_of_flat_and_sharp():
    problem = FlatSharp()
    minima = np.array([[-4 / 3], [2 - np.sqrt(4 / 3)]])
    np.testing.assert_allclose(jax.vmap(problem.gradient)(minima), 0, atol=1e-15)
    np.testing.assert_allclose(jax.vmap(problem.loss)(minima), 0, atol=1e-15)
    flat, sharp = np.asarray(jax.jit(jax.vmap(jax.jacfwd(lambda x: problem.gradient(x))))(minima)).ravel()
    assert flat == pytest.approx(0.72)
    assert np.sqrt(sharp / flat) == pytest.approx(2.204635, abs=5e-7)
    depths = jax.vmap(FlatSharp(tilt=-0.02).loss)(minima)
    assert float(depths[0] - depths[1]) == pytest.approx(0.04)
    assert FlatSharp().has_additive_noise
    assert not FlatSharp(state_dependent_noise=True).has_additive_noise


@pytest.mark.parametrize(
    ("arguments", "table"),
    [
        ({}, [(0.2, "1.951"), (0.1, "2.039"), (0.05, "2.131"), (0.025, "2.175"), (0.0125, "2.191")]),
        ({"tilt": -0.02}, [(0.2, "1.65"), (0.1, "1.42"), (0.05, ".994"), (0.025, ".453"), (0.0125, ".092")]),
        ({"state_dependent_noise": True}, [(0.1, "5.12"), (0.05, "11.26")]),
    ],
)
def test_the_mass_of_the_flat_well_over_the_sharp_one(arguments, table):
    # p ~ exp(−∫ L'/D)/D with D(x) = D0 S(x)/S of unit noise (theory 4.3).
    problem = FlatSharp(**arguments)
    x = np.linspace(-9, 5, 40_001)
    slope = np.asarray(jax.vmap(problem.gradient)(x[:, None]))[:, 0]
    relative = np.asarray(jax.vmap(problem.noise_covariance)(x[:, None]))[:, 0, 0]
    for diffusion, ratio in table:
        potential = cumulative_trapezoid(slope / (diffusion * relative), x, initial=0)
        density = np.exp(-(potential - potential.min())) / relative
        left = x <= 0
        measured = trapezoid(density[left], x[left]) / trapezoid(density[~left], x[~left])
        assert f"{measured:.{len(ratio.split('.')[1])}f}".removeprefix("0") == ratio


def test_landscape_noise_is_divided_by_the_batch():
    x = np.array([0.4])
    assert float(DoubleWell(noise_std=3.0, batch_size=4).noise_trace(x)) == pytest.approx(9 / 4)
    slope = 1 + 0.4 / (2 * np.sqrt(1.16))
    covariance = FlatSharp(noise_std=3.0, batch_size=4, state_dependent_noise=True).noise_trace(x)
    assert float(covariance) == pytest.approx(9 / 4 * (0.4 + 0.6 * slope))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DoubleWell(noise_std=-1.0), "noise_std must be a finite number"),
        (lambda: DoubleWell(noise="cauchy"), "noise must be one of 'gaussian'"),
        (lambda: DoubleWell(batch_size=0), "batch_size must be at least 1"),
        (lambda: FlatSharp(tilt=np.nan), "tilt must be a finite number"),
        (lambda: FlatSharp(state_dependent_noise="yes"), "state_dependent_noise must be one of False, True"),
    ],
)
def test_bad_landscapes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
