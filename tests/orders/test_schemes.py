"""The schemes: the laws they promise, the noise they refuse, and the step size that is chosen for them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import itograd as ig
from itograd.simulation import EulerMaruyama, ExactAffine, HeunDrift, WeakOrder2
from itograd.simulation.precision import as_traced, double
from itograd.simulation.refinement import common_step
from itograd.simulation.schemes import DiscretisedEquation, default_scheme

PLANE = ig.problems.Quadratic([[1.0, 0.2], [0.2, 0.5]], [[1.0, 0.3], [0.3, 0.5]])
LINE = ig.problems.LinearRegression.one_dimensional([0.5, 1.0, 2.0], [0.3, -0.5, 0.2])
X0 = [1.0, 1.5]
SLOW = pytest.mark.slow
TIMES = [0.0, 1.0, 2.5]


def flow(equation, **options):
    return ig.simulate(equation, **({"save_at": TIMES, "paths": 20_000, "seed": 7, "progress": False} | options))


def scores(result, exact):
    m = (result["mean"] - exact["mean"]).values[1:] / result["mean_standard_error"].values[1:]
    v = (result["variance"] - exact["variance"]).values[1:] / result["variance_standard_error"].values[1:]
    return np.abs(np.concatenate([m, v])).max()


@pytest.mark.parametrize(
    "optimizer",
    [
        ig.SGD(0.3, 0.1),
        ig.Momentum(0.04, 0.8, clock="underdamped"),
        ig.Nesterov(0.04, 0.8, clock="underdamped", point="iterate"),
    ],
)
def test_the_exact_step_has_the_exact_law_at_any_step_size(optimizer):
    sde = ig.modified_equation(optimizer, PLANE, order=2)
    result = flow(sde, x0=X0, scheme=ExactAffine())
    assert result.attrs["dt"] == pytest.approx(0.5)
    assert scores(result, ig.moments(sde, x0=X0, save_at=TIMES)) < 4.5
    assert (result["discretisation_error"].values == 0).all()


@pytest.mark.parametrize(
    "scheme",
    [EulerMaruyama("two_point"), HeunDrift(), *(pytest.param(s, marks=SLOW) for s in (EulerMaruyama(), WeakOrder2()))],
)
def test_schemes_reach_the_law_of_the_equation(scheme):
    sde = ig.modified_equation(ig.SGD(0.2), LINE)  # multiplicative noise
    result = flow(sde, x0=[1.0], scheme=scheme, paths=6000)
    exact = ig.moments(sde, x0=[1.0], save_at=TIMES)
    assert scores(result, exact) < 4.5
    error = np.abs((result["mean"] - exact["mean"]).values)
    left = np.abs(result["discretisation_error"].values)
    assert (error <= 4.5 * result["mean_standard_error"].values + left + 1e-6).all()


class Signs:
    """Stands for Draws: hands out the given signs."""

    def __init__(self, signs):
        self.signs = signs

    def two_point(self, shape):
        assert shape == self.signs.shape
        return self.signs


def second_moment(scheme, equation, x0, steps, dt):
    """E x xᵀ after some steps of a scheme on a linear equation, over every value that its weak increments can take.

    One step is affine in x for each value of the increments, so the second moment obeys an exact recursion.
    """
    m = equation.noise_dim
    platen = isinstance(scheme, WeakOrder2)
    atoms = {-(3**0.5): 1 / 6, 0.0: 2 / 3, 3**0.5: 1 / 6} if platen else {-1.0: 0.5, 1.0: 0.5}
    below = np.tril_indices(m, -1)
    signs = list(itertools.product((-1.0, 1.0), repeat=len(below[0]))) if platen else [0.0]
    cases = list(itertools.product(itertools.product(atoms, repeat=m), signs))
    matrices = np.zeros((len(cases), m, m))
    matrices[:, *below] = np.array([np.broadcast_to(sign, len(below[0])) for _, sign in cases])
    p = np.array([np.prod([atoms[a] for a in z]) for z, _ in cases]) / len(signs)
    with double():
        traced = as_traced(equation, "float64")
        step = jax.jit(jax.vmap(lambda z, s, x: scheme.step(traced, 0.0, x, dt, z, Signs(s)), (0, 0, None)))
        z = jnp.array([z for z, _ in cases])
        shift = np.asarray(step(z, matrices, jnp.zeros(len(x0))))
        linear = np.stack([np.asarray(step(z, matrices, e)) - shift for e in jnp.eye(len(x0))], axis=2)
    mean, second = np.array(x0), np.outer(x0, x0)
    for _ in range(steps):
        cross = np.einsum("w,wij,j,wk->ik", p, linear, mean, shift)
        second = (
            np.einsum("w,wij,jk,wlk->il", p, linear, second, linear)
            + cross
            + cross.T
            + np.einsum("w,wi,wj->ij", p, shift, shift)
        )
        mean = np.einsum("w,wij,j->i", p, linear, mean) + p @ shift
    return second


@pytest.mark.parametrize(("scheme", "order"), [(EulerMaruyama("two_point"), 1), (HeunDrift(), 1), (WeakOrder2(), 2)])
def test_weak_order_with_non_commuting_noise_in_two_dimensions(scheme, order):
    plane = ig.problems.LinearRegression([[1.0, 0.5], [-0.3, 0.8], [0.2, -0.6]], [0.4, -0.7, 0.1])
    sde = ig.modified_equation(ig.SGD(0.6), plane)
    exact = ig.moments(sde, x0=X0, save_at=[1.0])
    target = exact["covariance"].values[0] + np.outer(exact["mean"].values[0], exact["mean"].values[0])
    steps = (8, 16, 32, 64)
    errors = [np.abs(second_moment(scheme, sde, X0, n, 1 / n) - target).max() for n in steps]
    fit = ig.fit_weak_order(1 / np.array(steps), errors)
    assert fit.local[-1] == pytest.approx(order, abs=0.1)
    assert scheme.weak_order == order


def test_heun_is_of_second_order_in_the_drift():
    still = ig.modified_equation(ig.SGD(0.1), ig.problems.DoubleWell(noise_std=0.0))
    exact = 1 / np.sqrt(1 + 3 * np.exp(-2.0))  # x' = x − x³ from 1/2, at time 1
    steps = np.array([8, 16, 32, 64])
    options = {"x0": [0.5], "save_at": [1.0], "paths": 2, "dtype": "float64"}
    for scheme, order in ((EulerMaruyama(), 1), (HeunDrift(), 2)):
        ends = [flow(still, scheme=scheme, dt=1 / n, **options)["mean"].values[-1, 0] for n in steps]
        assert ig.fit_weak_order(1 / steps, np.array(ends) - exact).local[-1] == pytest.approx(order, abs=0.05)


def test_coarse_and_fine_discretisations_follow_the_same_brownian_path():
    sde = ig.modified_equation(ig.SGD(0.2), PLANE)
    values = []
    for dt, merged in ((0.05, 1), (0.1, 2), (0.1, 1)):
        chain = DiscretisedEquation(sde, EulerMaruyama(), dt, merged)
        values.append(
            ig.simulate(chain, x0=X0, save_at=[1.0], paths=500, keep_paths=500, seed=2, progress=False)[
                "path_values"
            ].values[:, -1]
        )
    fine, coupled, independent = values
    assert (coupled - fine).std() < 0.15 * (independent - fine).std()


def test_the_step_size_is_halved_until_it_no_longer_shows():
    sde = ig.modified_equation(ig.SGD(0.2), PLANE)
    few, many = (flow(sde, x0=X0, scheme=EulerMaruyama(), paths=p) for p in (500, 20_000))
    assert many.attrs["dt"] < few.attrs["dt"]
    exact = ig.moments(sde, x0=X0, save_at=TIMES)
    for result in (few, many):
        share = np.abs(result["discretisation_error"].values[1:]) / result["mean_standard_error"].values[1:]
        assert share.max() <= 0.5
        assert scores(result, exact) < 4.5
        # and the estimate of the error left is right: a run at this dt has it, on average
    moved = (
        ig.moments(
            ig.SGD(many.attrs["dt"]), ig.problems.Quadratic(PLANE.hessian, 0 * PLANE.hessian), x0=X0, save_at=TIMES
        )["mean"]
        - exact["mean"]
    )  # Euler's mean is gradient descent's
    left, error = many["discretisation_error"].values, many["discretisation_error_standard_error"].values
    np.testing.assert_array_less(np.abs(moved.values - left), 4.5 * error + 0.1 * np.abs(left) + 1e-5)


def test_the_step_size_of_a_smooth_equation_without_noise_is_found():
    still = ig.problems.DoubleWell(noise_std=0.0)
    result = flow(ig.modified_equation(ig.SGD(0.1), still), x0=[0.5], paths=2)
    exact = 1 / np.sqrt(1 + 3 * np.exp(-2 * np.array(TIMES)))
    np.testing.assert_allclose(result["mean"].values[:, 0], exact, atol=1e-4)


def test_common_step():
    assert common_step(np.array([0.5, 0.75, 2.0])) == pytest.approx(0.25)
    assert common_step(np.arange(1, 41) * 0.1) == pytest.approx(0.1)
    assert common_step(np.array([0.0, 16.0, 640.0])) == 16.0
    with pytest.raises(ValueError, match="no common step"):
        common_step(np.array([1.0, np.pi]))


def test_default_scheme_follows_the_equation():
    assert isinstance(default_scheme(ig.modified_equation(ig.SGD(0.1), PLANE)), ExactAffine)
    assert isinstance(default_scheme(ig.modified_equation(ig.SGD(0.1), ig.problems.Circle())), WeakOrder2)
    assert isinstance(default_scheme(ig.modified_equation(ig.SGD(0.1), ig.problems.digits())), HeunDrift)
    schedule = ig.schedules.Exponential(0.1, 0.5)
    assert isinstance(default_scheme(ig.modified_equation(ig.SGD(schedule), PLANE)), WeakOrder2)


@pytest.mark.parametrize(
    ("scheme", "equation", "message"),
    [
        (ExactAffine(), ig.modified_equation(ig.SGD(0.1), ig.problems.Circle()), "drift is not affine"),
        (ExactAffine(), ig.modified_equation(ig.SGD(0.1), LINE), "depends on the state"),
        (ExactAffine(), ig.modified_equation(ig.SGD(ig.schedules.Cosine(0.1, 5.0)), PLANE), "depend on time"),
        (WeakOrder2(), ig.modified_equation(ig.SGD(0.1), ig.problems.digits()), "at most 32 columns.*HeunDrift"),
    ],
)
def test_a_scheme_refuses_what_it_cannot_take(scheme, equation, message):
    with pytest.raises(ValueError, match=message):
        flow(equation, scheme=scheme, paths=2)


def test_an_equation_that_explodes_is_counted_not_hidden():
    hot = ig.problems.DoubleWell(noise_std=4.0)
    result = flow(ig.modified_equation(ig.SGD(0.25), hot), x0=[1.0], scheme=EulerMaruyama(), dt=0.25, paths=2000)
    assert result["diverged"].values[-1] > 0


def test_euler_agrees_with_diffrax():
    """An independent check: the same equation by diffrax's Euler scheme, in law."""
    diffrax = pytest.importorskip("diffrax")
    circle = ig.problems.Circle("gaussian")
    sde = ig.modified_equation(ig.SGD(0.1), circle, order=2)
    ours = flow(sde, save_at=[1.0], paths=20_000, observables={"cos": lambda x: jnp.cos(x[0])})

    def one(key):
        noise = diffrax.UnsafeBrownianPath(shape=(1,), key=key)
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, a: sde.drift(t, y)),
            diffrax.ControlTerm(lambda t, y, a: jax.jacfwd(lambda z: sde.diffusion(t, y, z))(jnp.zeros(1)), noise),
        )
        solution = diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, 1.0, 0.01, jnp.array([1.0]), adjoint=diffrax.DirectAdjoint()
        )
        return jnp.cos(solution.ys[0, 0])

    theirs = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 20_000)), float)
    error = np.hypot(theirs.std() / np.sqrt(len(theirs)), ours["mean_standard_error"].values[-1, 0])
    assert abs(theirs.mean() - ours["mean"].values[-1, 0]) < 4.5 * error
