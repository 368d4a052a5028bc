"""Exact moments against closed forms, against brute force and against simulation (theory 3.1 to 3.4, 5.1)."""

import itertools

import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.special import j1

import itograd as ig
from itograd.analysis.moments import moments, stationary_covariance
from itograd.optimizers.from_optax import from_optax
from itograd.optimizers.momentum import Momentum
from itograd.optimizers.nesterov import Nesterov
from itograd.optimizers.sgd import SGD, SGDEquation
from itograd.problems.landscapes import Circle
from itograd.problems.linear_regression import LinearRegression
from itograd.problems.quadratic import Quadratic
from itograd.simulation.schedule import Cosine, Exponential, Piecewise

UNIT = Quadratic(1.0, 1.0)
SLOW = "underdamped"
A = np.array([[2.0, 0.5, 0.2], [0.5, 1.0, -0.3], [0.2, -0.3, 0.5]])
S = np.array([[1.0, -0.4, 0.1], [-0.4, 0.8, 0.3], [0.1, 0.3, 0.6]])
CENTRE = np.array([0.3, -1.0, 2.0])
THREE = Quadratic(A, S, minimizer=CENTRE)  # A and S do not commute
X0 = np.array([1.0, 0.5, -1.0])
LINE = LinearRegression.one_dimensional([0.5, 1.0, 2.0], [0.3, -0.5, 0.2])  # the example of theory 3.2


def at_end(model, *problem, x0=(1.0,), **when):
    """Mean and second moment of x0 at the last save point."""
    last = moments(model, *problem, x0=list(x0), **when).isel(time=-1, observable=0)
    return float(last["mean"]), float(last["variance"] + last["mean"] ** 2)


def variance(model, *problem):
    return stationary_covariance(model, *problem)[0, 0]


# 3.1: SGD with additive noise


@pytest.mark.parametrize(
    ("eta", "second", "first_order", "second_order"),
    [
        (0.2, 0.206554828800, -1.525e-2, 1.492e-2),
        (0.1, 0.167809462244, -1.076e-2, 3.565e-3),
        (0.05, 0.150857998704, -6.094e-3, 8.727e-4),
        (0.025, 0.142925934433, -3.218e-3, 2.160e-4),
    ],
)
def test_second_moments_of_sgd_and_its_equations(eta, second, first_order, second_order):
    exact = at_end(SGD(eta), UNIT, save_at=[1.0])[1]
    errors = [exact - at_end(ig.modified_equation(SGD(eta), UNIT, n), save_at=[1.0])[1] for n in (1, 2)]
    assert exact == pytest.approx(second, abs=6e-13)
    assert [f"{error:.3e}" for error in errors] == [f"{error:.3e}" for error in (first_order, second_order)]


@pytest.mark.parametrize("curvature", [1.0, 5.0, 9.0])  # times η = .1 / .5 / .9
def test_gaussian_sgd_is_an_exact_sde_at_its_steps(curvature):
    eta, s2, times = 0.1, 1.7, np.arange(0, 11) * 0.1
    decay = 1 - eta * curvature
    rate = -np.log(decay) / eta
    noise = eta**2 * s2 * 2 * rate / (1 - decay**2)
    sde = SGDEquation(Quadratic(rate, noise / eta), eta, 0.0, 1)
    ours = moments(sde, x0=[1.3], save_at=times)
    rule = moments(SGD(eta), Quadratic(curvature, s2), x0=[1.3], save_at=times)
    for name in ("mean", "variance"):
        np.testing.assert_allclose(ours[name], rule[name], rtol=1e-10, atol=1e-12)


def test_the_exact_sde_also_in_the_eigenbasis_of_commuting_matrices():
    eta, curvatures, s2 = 0.1, np.array([1.0, 5.0, 9.0]), np.array([1.0, 0.3, 2.0])
    basis = np.linalg.qr(A)[0]
    rates = -np.log(1 - eta * curvatures) / eta
    noises = eta**2 * s2 * 2 * rates / (1 - (1 - eta * curvatures) ** 2)
    turned = [(basis * values) @ basis.T for values in (curvatures, s2, rates, noises / eta)]
    rule = moments(SGD(eta), Quadratic(*turned[:2]), x0=X0, steps=8)
    sde = moments(SGDEquation(Quadratic(*turned[2:]), eta, 0.0, 1), x0=X0, save_at=rule.time)
    for name in ("mean", "covariance"):
        np.testing.assert_allclose(sde[name], rule[name], rtol=0, atol=1e-12)


def test_a_better_weak_order_is_a_worse_stationary_variance():
    """Theory 5.1: relative errors −ηa/2 for order 1 and −ηa for order 2, to first order."""
    for eta, a in ((0.01, 1.0), (0.01, 2.0), (0.1, 1.0), (0.2, 2.0)):
        problem = Quadratic(a, 1.3)
        exact = variance(SGD(eta), problem)
        first, second = (variance(ig.modified_equation(SGD(eta), problem, n)) for n in (1, 2))
        assert exact == pytest.approx(eta * 1.3 / (a * (2 - eta * a)), rel=1e-13)
        assert first == pytest.approx(eta * 1.3 / (2 * a), rel=1e-13)
        assert second == pytest.approx(eta * 1.3 / (2 * a * (1 + eta * a / 2)), rel=1e-13)
        assert first / exact - 1 == pytest.approx(-eta * a / 2, rel=1e-10)
        assert second / exact - 1 == pytest.approx(-eta * a, rel=0.6 * eta * a)
        assert abs(second - exact) > 1.5 * abs(first - exact)


def test_the_same_in_three_dimensions():
    exact = stationary_covariance(SGD(0.2), THREE)
    errors = [np.linalg.norm(stationary_covariance(ig.modified_equation(SGD(0.2), THREE, n)) - exact) for n in (1, 2)]
    assert errors[1] / errors[0] == pytest.approx(2, abs=0.15)


# 3.2: linear regression, multiplicative noise


def line_recursion(eta, steps, batch, x0=1.0):
    h, xi = np.array([0.5, 1.0, 2.0]), np.array([0.3, -0.5, 0.2])
    cross, mean, second = np.mean(h * xi) - h.mean() * xi.mean(), x0, x0**2
    for _ in range(steps):
        second = (
            ((1 - eta * h.mean()) ** 2 + eta**2 * h.var() / batch) * second
            - 2 * eta**2 / batch * cross * mean
            + eta**2 / batch * xi.var()
        )
        mean = (1 - eta * h.mean()) * mean
    return mean, second


@pytest.mark.parametrize("batch", [1, 4])
def test_linear_regression_follows_its_recursion(batch):
    ours = at_end(SGD(0.3), LINE.with_batch_size(batch), steps=7)
    np.testing.assert_allclose(ours, line_recursion(0.3, 7, batch), rtol=1e-13)


def test_errors_of_the_equations_of_linear_regression():
    exact = at_end(SGD(0.1), LINE, steps=10)[1]
    errors = [exact - at_end(ig.modified_equation(SGD(0.1), LINE, n), save_at=[1.0])[1] for n in (1, 2)]
    assert [f"{error:.2e}" for error in errors] == ["-1.26e-02", "4.20e-04"]


def test_the_rule_and_its_equation_lose_stability_at_different_rates():
    """SGD 2h̄/(h̄² + Var h/B), its SDE 2h̄B/Var h, gradient descent 2/h̄: 1.33, 6.0, 1.71 (theory 3.2)."""
    mean, spread = 7 / 6, np.var([0.5, 1.0, 2.0])
    thresholds = {
        2 * mean / (mean**2 + spread): lambda eta: stationary_covariance(SGD(eta), LINE),
        2 * mean / (mean**2 + spread / 4): lambda eta: stationary_covariance(SGD(eta), LINE.with_batch_size(4)),
        2 * mean / spread: lambda eta: stationary_covariance(ig.modified_equation(SGD(eta), LINE)),
        2 / mean: lambda eta: stationary_covariance(SGD(eta), Quadratic(mean, 1.0)),
    }
    assert [f"{threshold:.2f}" for threshold in thresholds] == ["1.33", "1.60", "6.00", "1.71"]
    for threshold, stationary in thresholds.items():
        assert stationary(threshold * (1 - 1e-6))[0, 0] > 1e3
        with pytest.raises(ValueError, match=r"no stationary law.*lower the learning rate"):
            stationary(threshold * (1 + 1e-6))


FEATURES, TARGETS = np.array([[1.0, 0.3], [-0.5, 1.0], [0.4, -0.8]]), np.array([1.0, -0.5, 2.0])
# The rules on (x, Q, 1) or (y, Q, 1) with a gradient Hx − b.
AUGMENTED = {
    "sgd": (SGD(0.2), lambda i, o, h, b: np.block([[i - 0.2 * h, o, 0.2 * b], [o, o, 0 * b]])),
    "heavy ball": (
        Momentum(0.1, 0.6),
        lambda i, o, h, b: np.block([[i - 0.1 * h, -0.06 * i, 0.1 * b], [h, 0.6 * i, -b]]),
    ),
    "nesterov": (
        Nesterov(0.1, 0.6),
        lambda i, o, h, b: np.block([[i - 0.16 * h, -0.036 * i, 0.16 * b], [h, 0.6 * i, -b]]),
    ),
}


@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement"])
@pytest.mark.parametrize("name", AUGMENTED)
def test_moments_under_multiplicative_noise_are_those_of_all_batches(name, sampling):
    """E z zᵀ of the augmented state z, by an average over every batch of two: (E M ⊗ M) vec."""
    optimizer, rule = AUGMENTED[name]
    problem = LinearRegression(FEATURES, TARGETS, batch_size=2, sampling=sampling)
    replaced = sampling == "with_replacement"
    maps = []
    for pair in itertools.product(range(3), repeat=2) if replaced else itertools.permutations(range(3), 2):
        a, b = FEATURES[list(pair)], TARGETS[list(pair)]
        top = rule(np.eye(2), np.zeros((2, 2)), a.T @ a / 2, (a.T @ b / 2)[:, None])
        maps.append(np.vstack([top, np.eye(5)[-1]]))
    step = np.mean([np.kron(m, m) for m in maps], axis=0)
    z = np.array([1.0, -1.0, 0.0, 0.0, 1.0])

    def mean_and_covariance(steps):
        second = (np.linalg.matrix_power(step, steps) @ np.kron(z, z)).reshape(5, 5)
        mean = second[-1, :2]
        return mean, second[:2, :2] - np.outer(mean, mean)

    exact = moments(optimizer, problem, x0=z[:2], steps=12)
    for k in (1, 5, 12):
        mean, covariance = mean_and_covariance(k)
        np.testing.assert_allclose(exact["mean"][k], mean, rtol=0, atol=1e-13)
        np.testing.assert_allclose(exact["covariance"][k], covariance, rtol=0, atol=1e-13)
    np.testing.assert_allclose(stationary_covariance(optimizer, problem), mean_and_covariance(4000)[1], rtol=1e-10)


# 3.3: momentum


@pytest.mark.parametrize(
    ("eta", "b", "heavy", "nesterov", "equation"),
    [
        (0.1, 0.9, "0.513513513514", "0.270633971292", "0.5"),
        (0.01, 0.9, "0.05013193", "0.04599317", "0.05"),
        (0.01, 0.99, "0.501259446", "0.251892341", "0.5"),
    ],
)
def test_stationary_variances_of_momentum(eta, b, heavy, nesterov, equation):
    rules = {
        heavy: (Momentum(eta, b), UNIT),
        nesterov: (Nesterov(eta, b, point="iterate"), UNIT),
        equation: (ig.modified_equation(Momentum(eta, b, clock=SLOW), UNIT),),
    }
    for printed, rule in rules.items():
        assert variance(*rule) == pytest.approx(float(printed), abs=0.51 * 10.0 ** -len(printed[2:]) + 1e-15)
    assert variance(ig.modified_equation(Nesterov(eta, b), UNIT)) == pytest.approx(float(equation), rel=1e-12)


@pytest.mark.parametrize("b", [-0.8, -0.3, 0.0, 0.9])
def test_closed_forms_of_momentum(b):
    eta, a, s2 = 0.2, 1.7, 0.6
    problem, q = Quadratic(a, s2), 1 - eta * a
    x, v = stationary_covariance(Momentum(eta, b), problem, state=True) @ np.diag([1, -eta])  # v = −ηQ
    var_v = 2 * eta**2 * s2 / ((1 - b) * (2 * (1 + b) - eta * a))
    np.testing.assert_allclose(x, [eta * s2 * (1 + b) / (a * (1 - b) * (2 * (1 + b) - eta * a)), var_v / 2], rtol=1e-12)
    assert -eta * v[1] == pytest.approx(var_v, rel=1e-12)
    iterate = variance(Nesterov(eta, b, point="iterate"), problem)
    assert iterate == pytest.approx(eta * s2 * (1 + q * b) / (a * (1 - q * b) * (1 + q + 2 * q * b)), rel=1e-12)


def test_pytorchs_nesterov_is_the_lookahead_point():
    assert f"{variance(Nesterov(0.1, 0.9), UNIT):.5f}" == "0.32177"  # amendment 5


@pytest.mark.parametrize("b", [-0.9, 0.0, 0.9])
def test_heavy_ball_is_stable_below_its_limit(b):
    limit = 2 * (1 + b)  # ηa
    assert variance(Momentum(limit * (1 - 1e-6), b), UNIT) > 1e3
    with pytest.raises(ValueError, match=r"spectral radius of the mean's map is 1.*must be below 1"):
        variance(Momentum(limit * (1 + 1e-6), b), UNIT)


def lyapunov_by_doubling(f, q):
    """Σ_k Fᵏ Q (Fᵀ)ᵏ."""
    for _ in range(40):
        q, f = q + f @ q @ f.T, f @ f
    return q


@pytest.mark.parametrize("b", [0.8, -0.4])
def test_covariances_of_noncommuting_matrices(b):
    """S11: theory 3.3's F in (x, v), driven by noise of covariance η²S along (−1, −1)."""
    eta, i, noise = 0.1, np.eye(3), 0.1**2 * S
    descent = i - eta * A
    both = np.block([[noise, noise], [noise, noise]])
    sgd = lyapunov_by_doubling(descent, noise)
    heavy = lyapunov_by_doubling(np.block([[descent, b * i], [-eta * A, b * i]]), both)
    nesterov = lyapunov_by_doubling(np.block([[descent, b * descent], [-eta * A, b * descent]]), both)
    ahead = np.hstack([i, b * i])  # y = x + bv
    for rule, expected in (
        (SGD(eta), sgd),
        (Momentum(eta, b), heavy[:3, :3]),
        (Nesterov(eta, b, point="iterate"), nesterov[:3, :3]),
        (Nesterov(eta, b), ahead @ nesterov @ ahead.T),
    ):
        np.testing.assert_allclose(stationary_covariance(rule, THREE), expected, rtol=0, atol=1e-12)


def test_equations_of_noncommuting_matrices():
    """AC + CA = ηS by a linear system; then C(t) = C − e^{−At} C e^{−At}, and the mean e^{−At}(x0 − c) + c."""
    eta, times = 0.1, np.array([0.5, 3.0])
    drifts = {1: A, 2: A + eta / 2 * A @ A}
    for n, a in drifts.items():
        sde = ig.modified_equation(SGD(eta), THREE, n)
        system = np.kron(a, np.eye(3)) + np.kron(np.eye(3), a)
        c = np.linalg.solve(system, eta * S.ravel()).reshape(3, 3)
        np.testing.assert_allclose(stationary_covariance(sde), c, rtol=0, atol=1e-12)
        exact = moments(sde, x0=X0, save_at=times)
        for k, t in enumerate(times):
            decay = expm(-a * t)
            np.testing.assert_allclose(exact["covariance"][k], c - decay @ c @ decay.T, rtol=0, atol=1e-11)
            np.testing.assert_allclose(exact["mean"][k], decay @ (X0 - CENTRE) + CENTRE, rtol=0, atol=1e-11)


# 3.4: Nesterov with μ_k = (k−1)/(k+2)


def test_increasing_momentum_has_the_mean_of_a_bessel_function():
    a, times = 2.3, np.array([0.5, 2.0, 4.0, 9.0])
    sde = ig.modified_equation(Nesterov.increasing(0.01), Quadratic(a, 1.0))
    r = np.sqrt(a) * times
    np.testing.assert_allclose(moments(sde, x0=[1.5], save_at=times)["mean"][:, 0], 1.5 * 2 * j1(r) / r, atol=1e-10)


def test_variance_of_increasing_momentum():
    h = 0.0125
    rule = Nesterov.increasing(h**2, point="iterate")
    discrete = float(moments(rule, UNIT, x0=[1.0], save_at=[4.0])["variance"][-1, 0])
    equation = float(moments(ig.modified_equation(rule, UNIT), x0=[1.0], save_at=[4.0])["variance"][-1, 0])
    assert [f"{value:.3e}" for value in (discrete, equation)] == ["5.468e-03", "5.464e-03"]

    def three_moments(t, m):  # Var X, Cov(X, V), Var V
        xx, xv, vv = m
        return [2 * xv, vv - xx - 3 / t * xv, -2 * xv - 6 / t * vv + h]

    start = 1e-4
    ode = solve_ivp(three_moments, (start, 4.0), [0, 0, h * start / 7], method="LSODA", rtol=1e-10, atol=1e-14)
    assert equation == pytest.approx(ode.y[0, -1], rel=1e-6)


# Against simulation

SKEWED = Quadratic(A, S, "skewed", minimizer=CENTRE)
POINTS = LinearRegression(FEATURES, TARGETS, batch_size=2, sampling="without_replacement")
SIMULATED = {
    "sgd": (SGD(Exponential(0.3, 0.2), 0.1), SKEWED),
    "heavy ball": (Momentum(0.2, -0.5), SKEWED),
    "nesterov": (Nesterov(0.04, 0.8, 0.1, SLOW), SKEWED),
    "increasing": (Nesterov.increasing(0.05, point="iterate"), SKEWED),
    "regression": (Nesterov(0.1, 0.6, point="iterate"), POINTS),
    "order 2": (ig.modified_equation(Nesterov(0.04, 0.8, 0.1, SLOW, "iterate"), SKEWED, 2),),
}


RARE = ("heavy ball", "increasing", "order 2")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in RARE)) for name in SIMULATED])
def test_simulated_moments(name):
    model = SIMULATED[name]
    x0 = X0[:2] if name == "regression" else X0
    when = {"save_at": np.arange(1, 6) * 4 * model[0].time_per_step, "x0": x0}
    exact, runs = moments(*model, **when), ig.simulate(*model, **when, paths=20_000, seed=7, progress=False)
    for quantity in ("mean", "variance"):
        z = (runs[quantity] - exact[quantity]) / runs[f"{quantity}_standard_error"]
        assert np.abs(z.values).max() < 4.5


# Form, and refusals


def test_a_result_says_when_and_where():
    exact = moments(Momentum(0.1, 0.5), SKEWED, x0=X0, steps=10, save_every=4)
    assert dict(exact["covariance"].sizes) == {"time": 4, "observable": 3, "observable_2": 3}
    np.testing.assert_allclose(exact.time, np.array([0, 4, 8, 10]) * 0.2)
    assert exact.step.values.tolist() == [0, 4, 8, 10]
    np.testing.assert_array_equal(exact["mean"][0], X0)
    assert not exact["variance"][0].any()
    assert exact.observable.values.tolist() == ["x0", "x1", "x2"]
    assert stationary_covariance(Momentum(0.1, 0.5), SKEWED, state=True).shape == (6, 6)


RESHUFFLED = LinearRegression(FEATURES, TARGETS, batch_size=1, sampling="reshuffling")


@pytest.mark.parametrize(
    ("calculate", "message"),
    [
        (lambda: moments(SGD(0.1), Circle(), steps=3), "Circle is not quadratic; simulate it"),
        (lambda: moments(ig.modified_equation(SGD(0.1), Circle()), save_at=[1.0]), "Circle is not quadratic"),
        (lambda: stationary_covariance(SGD(0.1), Circle()), "Circle is not quadratic"),
        (lambda: moments(SGD(0.1), RESHUFFLED, steps=3), "sampling='reshuffling' makes the batches of an epoch depend"),
        (lambda: stationary_covariance(SGD(0.1), RESHUFFLED), "independent batches"),
        (lambda: moments(from_optax(optax.sgd(0.1)), UNIT, steps=3), "OptaxOptimizer is not; simulate it"),
        (lambda: stationary_covariance(from_optax(optax.sgd(0.1)), UNIT), "OptaxOptimizer is not"),
        (lambda: moments(SGD(0.1), steps=3), "an optimiser with a problem, or a modified equation"),
        (lambda: moments(SGD(0.1), UNIT), "needs `steps`"),
        (lambda: moments(SGD(0.1), UNIT, x0=[1.0, 2.0], steps=3), r"x0 must have shape \(1,\): got \(2,\)"),
        (lambda: moments(SGD(0.1), UNIT, save_at=[0.05]), "multiples of the optimiser's clock"),
        (lambda: moments(ig.modified_equation(SGD(0.1), UNIT)), "save_at"),
        (lambda: moments(ig.modified_equation(SGD(0.1), UNIT), save_at=[2.0, 1.0]), "increase"),
        (lambda: moments(ig.modified_equation(SGD(0.1), UNIT), save_at=[1.0], steps=3), "give no steps"),
        (lambda: moments(ig.modified_equation(SGD(0.1), UNIT), UNIT, save_at=[1.0]), "carries its problem"),
        (lambda: moments(SGD(0.1), UNIT, x0=[np.nan], steps=3), "x0 must be finite"),
        (lambda: moments("sgd", UNIT, steps=3), "an optimiser with a problem, or a modified equation: got 'sgd'"),
        (lambda: stationary_covariance(SGD(0.1)), "an optimiser with a problem, or a modified equation"),
        (
            lambda: stationary_covariance(SGD(2.5), UNIT),
            "spectral radius of the mean's map is 1.5, and must be below 1",
        ),
        (
            lambda: stationary_covariance(ig.modified_equation(SGD(0.1), Quadratic(-1.0, 1.0))),
            "eigenvalues is 1, and must",
        ),
        (lambda: stationary_covariance(SGD(0.1), Quadratic(0.0, 1.0)), "no stationary law"),
        (lambda: stationary_covariance(SGD(Cosine(0.1, 50.0)), UNIT), "hyperparameters change over time"),
        (lambda: stationary_covariance(SGD(Piecewise(0.1, 5.0, (1, 0.5))), UNIT), "hyperparameters change over time"),
        (lambda: stationary_covariance(SGD(Piecewise(0.1, 500.0, (1, 0.5))), UNIT), "hyperparameters change over time"),
        (lambda: stationary_covariance(Nesterov.increasing(0.1), UNIT), "hyperparameters change over time"),
        (lambda: stationary_covariance(ig.modified_equation(Nesterov.increasing(0.1), UNIT)), "depend on time"),
        (lambda: stationary_covariance(SGD(0.01), LinearRegression(np.eye(61), np.ones(61))), "60 dimensions: got 61"),
    ],
)
def test_what_has_no_moments_is_refused_with_the_reason(calculate, message):
    with pytest.raises((ValueError, TypeError), match=message):
        calculate()
