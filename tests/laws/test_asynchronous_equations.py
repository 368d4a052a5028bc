"""The SDEs of asynchronous SGD: closed forms, their moment equations, their simulation, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

import itograd as ig
from itograd.asynchrony import Asynchronous, Dropping, Fixed, Geometric, WorkerQueue
from itograd.asynchrony.stale_equation import MomentForm, semidefinite_root
from itograd.simulation import EulerMaruyama
from itograd.simulation.precision import double

TIMES = np.array([0.0, 0.4, 1.0, 2.5])
LINE = ig.problems.Quadratic(2.0, 4.0)
PLANE = ig.problems.Quadratic([[2.0, 0.5], [0.5, 1.0]], [[1.0, 0.3], [0.3, 0.5]])
# Curvatures 1 and 4, and an additive noise that is independent of them: h = 5/2, va = 9/4, σ² = 5/2.
CURVATURES = ig.problems.LinearRegression([[1.0], [1.0], [2.0], [2.0]], [1.0, -1.0, 1.0, -1.0])


def of_sgd(rate, law, problem, *order, **options):
    return ig.modified_equation(Asynchronous(ig.SGD(rate), law), problem, *order, **options)


class Motion(MomentForm):
    """Observes the two vectors that move."""

    def observe(self, y):
        return jnp.concatenate(y[0])


@pytest.mark.parametrize("ratio", [0.9, 0.1])  # underdamped, overdamped
def test_closed_forms_of_mean_and_covariance(ratio):
    eta, h, variance = 0.02, 2.0, 4.0
    sde = of_sgd(eta, Geometric(ratio=ratio), LINE, staleness_noise=False)
    exact = ig.moments(Motion(sde), x0=[1.0], save_at=TIMES)
    dt, gamma, t = sde.time_per_step, sde.friction, TIMES
    assert (dt, gamma) == pytest.approx((np.sqrt(eta * (1 - ratio)), np.sqrt((1 - ratio) / eta)))
    w = np.sqrt(complex(h - gamma**2 / 4))
    decay, sin, cos = np.exp(-gamma * t / 2), np.sin(w * t), np.cos(w * t)
    mean = decay[:, None] * np.stack([cos + gamma / (2 * w) * sin, -h / w * sin], 1)
    assert abs(mean.imag).max() < 1e-15
    np.testing.assert_allclose(exact["mean"], mean.real, atol=1e-10)
    noise, faded = dt * variance, np.exp(-gamma * t)
    swing, square = gamma / (2 * w) * np.sin(2 * w * t), gamma**2 / (2 * w**2) * sin**2
    var_m = noise / (2 * gamma * h) * (1 - faded * (1 + swing + square))
    var_p = noise / (2 * gamma) * (1 - faded * (1 - swing + square))
    covariance = noise / (2 * w**2) * faded * sin**2
    np.testing.assert_allclose(exact["covariance"][:, 0, 0], var_m.real, atol=1e-10)
    np.testing.assert_allclose(exact["covariance"][:, 1, 1], var_p.real, atol=1e-10)
    np.testing.assert_allclose(exact["covariance"][:, 0, 1], covariance.real, atol=1e-10)
    x = ig.moments(sde, x0=[1.0], save_at=TIMES)
    np.testing.assert_allclose(x["mean"][:, 0], (mean @ [1, 1 / gamma]).real, atol=1e-10)


def test_the_stationary_law_with_staleness_noise():
    eta, mu, h, variance = 0.02, 0.92, 2.0, 4.0
    sde = of_sgd(eta, Geometric(ratio=mu), LINE)
    xi = variance / (1 - (eta * h) ** 2 / (2 * (1 - mu)))
    var_m, var_p = ig.stationary_covariance(Motion(sde)).diagonal()
    assert (var_m, var_p) == pytest.approx((eta * xi / (2 * h), eta * xi / 2), rel=1e-12)
    expected = eta * xi / (2 * h) + eta**2 * xi / (2 * (1 - mu))
    assert float(ig.stationary_covariance(sde)[0, 0]) == pytest.approx(expected, rel=1e-12)


def moment_equations(eta, mu, h, variance, va, times):
    """(E X, Var X) by theory 1.8, independent delays: z, Q, V and S."""
    dt, gamma = np.sqrt(eta * (1 - mu)), np.sqrt((1 - mu) / eta)
    a, e = np.array([[0, 1], [-h, -gamma]]), np.array([1, 1 / gamma])

    def slope(t, u):
        z, q, v, s = u[:2], u[2:6].reshape(2, 2), u[6], u[7]
        noise = np.diag([0, dt * (variance + h**2 * v + va * s)])
        spread = -gamma * v + (z[1] ** 2 + q[1, 1]) / gamma
        memory = gamma * ((e @ z) ** 2 + e @ q @ e - s)
        return np.concatenate([a @ z, (a @ q + q @ a.T + noise).ravel(), [spread, memory]])

    start = np.array([1.0, 0, 0, 0, 0, 0, 0, 1.0])
    u = solve_ivp(slope, (0, times[-1]), start, "DOP853", times, rtol=1e-12, atol=1e-14).y
    return e @ u[:2], np.einsum("i,ijt,j->t", e, u[2:6].reshape(2, 2, -1), e)


def queue_moment_equations(eta, mu, h, variance, va, times):
    """(E X, Var X) by theory 1.7: E X, E M, and E X², E XM, E M², E S."""
    dt, gamma = np.sqrt(eta * (1 - mu)), np.sqrt((1 - mu) / eta)

    def slope(t, u):
        x, m, xx, xm, mm, s = u
        v = s - mm  # V is S − M²
        return [
            -h * m / gamma,
            gamma * (x - m),
            -2 * h * xm / gamma + dt / gamma**2 * (h**2 * v + variance + va * s),
            -h * mm / gamma + gamma * (xx - xm) + dt * h * v,
            2 * gamma * (xm - mm) + gamma**2 * dt * v,
            gamma * (xx - s),
        ]

    u = solve_ivp(slope, (0, times[-1]), np.ones(6), "DOP853", times, rtol=1e-12, atol=1e-14).y
    return u[0], u[2] - u[0] ** 2


@pytest.mark.parametrize("forcing", ["linear", "general"])
@pytest.mark.parametrize(
    ("law", "equations"), [(Geometric(mean=4), moment_equations), (WorkerQueue(5), queue_moment_equations)]
)
@pytest.mark.parametrize(("problem", "numbers"), [(LINE, (2.0, 4.0, 0.0)), (CURVATURES, (2.5, 2.5, 2.25))])
def test_the_moment_equations_of_the_theory(law, equations, forcing, problem, numbers):
    exact = ig.moments(of_sgd(0.05, law, problem, forcing=forcing), x0=[1.0], save_at=TIMES)
    mean, variance = equations(0.05, 0.8, *numbers, TIMES)
    np.testing.assert_allclose(exact["mean"][:, 0], mean, atol=1e-10)
    np.testing.assert_allclose(exact["variance"][:, 0], variance, atol=1e-10)


@pytest.mark.parametrize(
    ("law", "problem", "options"),
    [
        (Geometric(mean=4), PLANE, {"forcing": "linear", "order": 2}),
        (Geometric(mean=4), PLANE, {"staleness_noise": False}),  # the exact step
        pytest.param(
            Geometric(mean=4), CURVATURES, {"forcing": "general", "staleness_noise": False}, marks=pytest.mark.slow
        ),
        pytest.param(WorkerQueue(5), PLANE, {"forcing": "general"}, marks=pytest.mark.slow),
        pytest.param(WorkerQueue(5), CURVATURES, {"forcing": "linear"}, marks=pytest.mark.slow),
    ],
)
def test_the_simulated_equation_has_the_moments_of_its_moment_form(law, problem, options):
    sde = of_sgd(0.1, law, problem, **options)
    x0 = np.ones(problem.dim)
    runs = ig.simulate(sde, x0=x0, save_at=[0.5, 2.0], paths=20_000, seed=3, dt=0.05, covariance=True, progress=False)
    exact = ig.moments(sde, x0=x0, save_at=[0.5, 2.0])
    for name in ("mean", "variance"):
        z = (runs[name] - exact[name]) / runs[f"{name}_standard_error"]
        assert abs(z.values).max() < 4.5
    sd = np.sqrt(exact["variance"].values)
    correlation = (runs["covariance"] - exact["covariance"]).values / (sd[:, :, None] * sd[:, None])
    assert abs(correlation).max() < 4.5 * np.sqrt(2 / 20_000)


def test_the_root_of_semidefinite_matrices():
    rng = np.random.default_rng(0)
    for rank in range(5):
        factor = rng.normal(size=(4, rank))
        matrix = jnp.asarray(factor @ factor.T, "float32")
        root = np.asarray(semidefinite_root(matrix))
        assert np.isfinite(root).all()
        assert (root == np.tril(root)).all()
        np.testing.assert_allclose(root @ root.T, matrix, atol=1e-4 * max(1.0, np.abs(matrix).max()))
    with double():
        factor = jnp.asarray(rng.normal(size=(6, 6)))
        matrix = factor @ factor.T
        np.testing.assert_allclose(semidefinite_root(matrix), np.linalg.cholesky(matrix), atol=1e-12)
    below = semidefinite_root(jnp.array([[1.0, 1.0], [1.0, 1.0 - 1e-7]]))  # negative by rounding
    np.testing.assert_allclose(below, [[1, 0], [1, 0]], atol=1e-6)


def test_euler_agrees_with_diffrax():
    """An independent check: the nonlinear equation by diffrax's Euler scheme, in law."""
    diffrax = pytest.importorskip("diffrax")
    sde = of_sgd(0.05, Geometric(mean=9), ig.problems.LogCosh(0.5))
    paths = 20_000
    options = {"x0": [2.0], "save_at": [3.0], "paths": paths, "seed": 5, "progress": False}
    ours = ig.simulate(sde, scheme=EulerMaruyama(), dt=0.05, **options)

    start, unravel = ravel_pytree(sde.start(jnp.array([2.0])))

    def one(key):
        def drift(t, y, _):
            return ravel_pytree(sde.drift(t, unravel(y)))[0]

        def columns(t, y, _):
            return jax.jacfwd(lambda z: ravel_pytree(sde.diffusion(t, unravel(y), z))[0])(jnp.zeros(sde.noise_dim))

        noise = diffrax.UnsafeBrownianPath(shape=(sde.noise_dim,), key=key)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(columns, noise))
        solution = diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, 3.0, 0.05, start, adjoint=diffrax.DirectAdjoint())
        return sde.observe(unravel(solution.ys[0]))[0]

    theirs = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), paths)), float)
    error = np.hypot(theirs.std() / np.sqrt(paths), ours["mean_standard_error"].values[-1, 0])
    assert abs(theirs.mean() - ours["mean"].values[-1, 0]) < 4.5 * error
    square = (theirs - theirs.mean()) ** 2
    error = np.hypot(square.std() / np.sqrt(paths), ours["variance_standard_error"].values[-1, 0])
    assert abs(square.mean() - ours["variance"].values[-1, 0]) < 4.5 * error


def test_the_clock_is_that_of_the_equation():
    optimizer = Asynchronous(ig.SGD(0.025), Geometric(ratio=0.9))
    sde = ig.modified_equation(optimizer, LINE)
    assert optimizer.time_per_step == optimizer.chain(LINE).time_per_step == sde.time_per_step == pytest.approx(0.05)
    runs = ig.simulate(optimizer, LINE, x0=[1.0], steps=20, save_every=10, paths=100, progress=False)
    flow = ig.simulate(sde, x0=[1.0], save_at=runs.time, paths=100, dt=0.05, progress=False)
    np.testing.assert_allclose(flow["time"], [0, 0.5, 1.0])
    own = [
        ig.SGD(0.1, weight_decay=0.1),
        ig.SGD(ig.schedules.Exponential(0.1, 0.5)),
        ig.Momentum(0.1, 0.9),
        ig.Adam(0.01),
    ]
    for rule in own:
        assert Asynchronous(rule, WorkerQueue(4)).time_per_step == rule.time_per_step
    assert Asynchronous(ig.SGD(0.1), Fixed(3)).time_per_step == 0.1
    assert Asynchronous(ig.SGD(0.1), WorkerQueue(4), Dropping(5)).time_per_step == 0.1
    assert Asynchronous(ig.SGD(0.1), WorkerQueue(4)).time_per_step == pytest.approx(np.sqrt(0.1 / 4))


def test_without_delay_it_is_the_optimisers_own_equation():
    for law in (Fixed(0), Geometric(mean=0), WorkerQueue(1)):
        optimizer = Asynchronous(ig.SGD(0.1), law)
        assert ig.modified_equation(optimizer, LINE, 2, forcing="general") == ig.modified_equation(ig.SGD(0.1), LINE, 2)
        assert optimizer.time_per_step == 0.1
    warm = ig.modified_equation(Asynchronous(ig.Adam(0.01), Fixed(0)), LINE, warm_start=10)
    assert warm.start_time == ig.modified_equation(ig.Adam(0.01), LINE, warm_start=10).start_time


@pytest.mark.parametrize(
    ("optimizer", "law", "options", "message"),
    [
        (ig.Momentum(0.1, 0.9), WorkerQueue(4), {}, "for Momentum with stale gradients: only SGD"),
        (ig.SGD(0.1), Fixed(3), {}, "needs a geometric law.*got Fixed"),
        (ig.SGD(0.1, 0.01), WorkerQueue(4), {}, "no weight decay"),
        (ig.SGD(ig.schedules.Exponential(0.1, 0.5)), WorkerQueue(4), {}, "needs a constant learning rate"),
        (ig.SGD(0.1), WorkerQueue(4), {"order": 2}, "to order 1 only"),
        (ig.SGD(0.1), WorkerQueue(4), {"order": 3}, "order must be one of 1, 2"),
        (ig.SGD(0.1), WorkerQueue(4), {"forcing": "both"}, "forcing must be one of 'auto'"),
        (ig.SGD(0.1), WorkerQueue(4), {"staleness_noise": "no"}, "staleness_noise must be one of"),
        (ig.SGD(0.1), WorkerQueue(4), {"warm_start": 3}, r"takes no options \['warm_start'\]"),
        (ig.SGD(0.1), Geometric(mean=3), {"forcing": "linear", "problem": ig.problems.LogCosh()}, "quadratic problem"),
    ],
)
def test_what_has_no_equation_is_refused(optimizer, law, options, message):
    options = {"problem": LINE} | options
    with pytest.raises(ValueError, match=message):
        ig.modified_equation(Asynchronous(optimizer, law), **options)
