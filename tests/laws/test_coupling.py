"""Coupled chains: laws of the members, exact differences, variance ratios, targets and refusals."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import itograd as ig
from itograd.analysis import coupling
from itograd.simulation import EulerMaruyama, ExactAffine, HeunDrift, WeakOrder2
from itograd.simulation.coupled import CoupledChain, ExactAffineOnPath, NoSharedNoise, PathDraws
from itograd.simulation.draws import SECOND_BATCH, STALENESS, Draws
from itograd.simulation.schemes import DiscretisedEquation
from itograd.simulation.threefry import path_key

Q = ig.problems.Quadratic([[1.0, 0.3], [0.3, 2.0]], [[1.0, 0.2], [0.2, 0.5]])
X0 = [1.0, -1.0]
SGD = ig.SGD(0.1)
TIMES = [0.5, 1.0, 2.0]
UNDERDAMPED = ig.Momentum(0.01, 0.9, clock="underdamped")
OPTIMIZERS = [
    SGD,
    ig.Momentum(0.02, 0.6),
    UNDERDAMPED,
    ig.Nesterov(0.01, 0.9, clock="underdamped"),
]


def equation(optimizer=SGD, problem=Q, order=1):
    return ig.modified_equation(optimizer, problem, order)


def coupled(first, second, problem=None, **options):
    return ig.coupled_difference(
        first, second, problem, **({"x0": X0, "save_at": TIMES, "paths": 4096, "progress": False} | options)
    )


def exact_difference(first, second):
    """From pairs (model, problem)."""
    a, b = (ig.moments(*m, x0=X0, save_at=TIMES)["mean"].values for m in (first, second))
    return a - b


def z_of(found, exact, floor=0.0):
    return (found["difference"].values - exact) / np.maximum(found["standard_error"].values, floor)


# ---- the members keep their laws


@pytest.mark.parametrize(("sharing", "parts"), [("brownian", 3), ("brownian", 32), ("words", 3)])
def test_every_member_has_the_moments_it_has_alone(parts, sharing):
    """Euler's chain of the SDE of step h is an optimiser of rate h with noise η/h times as large."""
    h = 0.1 / parts
    euler = DiscretisedEquation(equation(), EulerMaruyama(), h)
    # Steps so long that what W does within them matters.
    exact = [DiscretisedEquation(equation(), ExactAffine(), dt) for dt in (1.0, 0.5)]
    chain = CoupledChain(SGD.chain(Q), euler, UNDERDAMPED.chain(Q), *exact, sharing=sharing)
    assert chain.counts == (10, 10 * parts, 10, 1, 2)
    names = [(i, j) for i in range(5) for j in range(2)]
    runs = ig.simulate(
        chain,
        x0=X0,
        save_at=[1.0, 2.0],
        paths=20_480,
        observables={str(n): (lambda x, n=n: x[n[0]][n[1]]) for n in names},
        progress=False,
    )
    scaled = ig.problems.Quadratic(Q.hessian, np.array([[1.0, 0.2], [0.2, 0.5]]) * 0.1 / h)
    alone = [
        ig.moments(SGD, Q, x0=X0, save_at=[1.0, 2.0]),
        ig.moments(ig.SGD(h), scaled, x0=X0, save_at=[1.0, 2.0]),
        ig.moments(UNDERDAMPED, Q, x0=X0, save_at=[1.0, 2.0]),
        *[ig.moments(equation(), x0=X0, save_at=[1.0, 2.0])] * 2,
    ]
    for name in ("mean", "variance"):
        exact = np.concatenate([m[name].values for m in alone], axis=1)
        z = (runs[name].values - exact) / runs[f"{name}_standard_error"].values
        assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("noise", ["gaussian", "two_point", "skewed"])
def test_on_words_every_member_is_the_run_it_is_alone(noise):
    problem = ig.problems.DoubleWell(0.5, noise)
    members = [ig.SGD(0.1).chain(problem), ig.SGD(0.05).chain(problem)]
    options = {"x0": [-1.2], "paths": 100, "keep_paths": 100, "dtype": "float64", "progress": False}
    both = ig.simulate(
        CoupledChain(*members, sharing="words"),
        steps=10,
        observables={"0": lambda x: x[0][0], "1": lambda x: x[1][0]},
        **options,
    )
    for i, member in enumerate(members):
        alone = ig.simulate(member, save_at=both.time.values, **options)
        np.testing.assert_allclose(both["path_values"][..., i], alone["path_values"][..., 0], rtol=1e-12)


def test_the_exact_scheme_on_a_path_has_the_law_of_the_exact_scheme():
    scheme = ExactAffineOnPath(equation(UNDERDAMPED), 0.3)
    plain = ExactAffine().prepared(equation(UNDERDAMPED), 0.3).law
    np.testing.assert_array_equal(scheme.transition, plain[0])
    np.testing.assert_array_equal(scheme.shift, plain[1])
    covariance = scheme.path_root @ scheme.path_root.T + scheme.bridge_root @ scheme.bridge_root.T
    np.testing.assert_allclose(covariance, plain[2] @ plain[2].T, atol=1e-15)


def test_the_exact_scheme_follows_its_increment_as_in_closed_form():
    """Cov(∫ e^{−λ(h−s)} σ dW, W(h)) = σ (1 − e^{−λh})/λ; the SDE's σ is −√η R."""
    problem, h = ig.problems.Quadratic(2.0, 9.0), 0.7
    scheme = ExactAffineOnPath(equation(ig.SGD(0.1), problem), h)
    np.testing.assert_allclose(
        scheme.path_root, [[-np.sqrt(0.1) * 3 * (1 - np.exp(-2 * h)) / 2 / np.sqrt(h)]], rtol=1e-12
    )


def test_the_exact_scheme_stays_by_a_fine_path():
    """Variance of the distance to a fine Euler chain of step h on the same path: O(h²), the noise being additive."""
    left = []
    for parts in (8, 16, 32):
        fine = DiscretisedEquation(equation(), EulerMaruyama(), 0.1 / parts)
        exact = DiscretisedEquation(equation(), ExactAffine(), 0.1 / parts)
        left.append(coupled(fine, exact)["standard_error"].values[-1] ** 2)
    np.testing.assert_allclose(left[0] / left[1], 4, rtol=0.15)
    np.testing.assert_allclose(left[1] / left[2], 4, rtol=0.15)


def test_a_start_that_is_drawn_is_shared():
    found = coupled(SGD, SGD.chain(Q), Q, x0=lambda draws: draws.normal((2,)), save_at=[0.0, 1.0])
    assert (found["difference"].values == 0).all()


# ---- exact differences


def test_chains_with_a_random_start_of_their_own_are_coupled():
    """Workers that are not exponential begin with random times; the delays of two members are their own."""
    stale = ig.asynchrony.Asynchronous(ig.SGD(0.1), ig.asynchrony.WorkerQueue(4, "uniform"))
    found = ig.coupled_difference(stale, stale, Q, x0=[1.0, 1.0], save_at=[1.0], paths=500, progress=False)
    z = (found["difference"] / found["standard_error"]).values
    assert (np.abs(z) < 4.5).all()
    assert (found["variance_ratio"] > 1).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_the_difference_is_the_exact_weak_error(optimizer):
    times = float(optimizer.time_per_step) * np.array([5, 10, 40])
    found = coupled(optimizer, equation(optimizer), Q, save_at=times)
    a, b = (ig.moments(*m, x0=X0, save_at=times)["mean"].values for m in ((optimizer, Q), (equation(optimizer),)))
    assert np.abs(z_of(found, a - b)).max() < 4.5
    assert (found["variance_ratio"].values > 2).all()
    assert found.attrs["sharing"] == "brownian"


def test_euler_at_the_optimisers_own_step_is_the_optimiser():
    problem = ig.problems.DoubleWell(0.5)
    found = coupled(
        SGD, equation(SGD, problem), problem, x0=[-1.2], scheme=EulerMaruyama(), dt=0.1, dtype="float64", paths=100
    )
    np.testing.assert_allclose(found["difference"].values, 0, atol=1e-14)
    assert "discretisation_error" not in found


def test_svag_beside_its_optimiser():
    a = 4
    svag = SGD.scaled(1 / a).chain(Q.amplified(a).gaussian())
    found = coupled(SGD.chain(Q), svag)
    exact = exact_difference((SGD, Q), (SGD.scaled(1 / a), Q.amplified(a)))
    assert np.abs(z_of(found, exact)).max() < 4.5
    assert (found["variance_ratio"].values > 50).all()


def test_two_equations_on_one_path():
    found = coupled(equation(order=2), equation(order=1))
    exact = exact_difference((equation(order=2),), (equation(order=1),))
    assert np.abs(z_of(found, exact)).max() < 4.5
    assert (found["variance_ratio"].values > 100).all()


@pytest.mark.parametrize("noise", ["two_point", "skewed"])
def test_optimisers_of_one_clock_share_noise_of_any_law(noise):
    problem = ig.problems.Quadratic(Q.hessian, np.eye(2), noise)
    decayed = ig.SGD(0.1, weight_decay=0.1)
    found = coupled(SGD, decayed, problem)
    assert found.attrs["sharing"] == "words"
    assert np.abs(z_of(found, exact_difference((SGD, problem), (decayed, problem)))).max() < 4.5
    assert (found["variance_ratio"].values > 20).all()


@pytest.mark.slow
def test_the_intervals_cover_the_truth():
    """200 replicates of 200 pairs; 95 % of 200 is 190, fewer than 178 or all 200 has a chance below 1e-3."""
    half = ig.SGD(0.05)
    exact = exact_difference((SGD, Q), (half, Q))[-1]
    covered = np.zeros(2)
    for seed in range(200):
        found = coupled(SGD, half, Q, paths=200, seed=seed)
        covered += np.abs(z_of(found, exact)[-1]) < 1.972  # Student's, 199 degrees of freedom
    assert ((covered >= 178) & (covered < 200)).all(), covered


# ---- variances


@pytest.mark.parametrize(
    ("problem", "rate", "order"),
    [(ig.problems.Circle("gaussian"), 4.0, 1), (ig.problems.DoubleWell(0.5), 0.2, 2)],
    ids=["state", "additive"],
)
def test_the_variance_between_two_step_sizes_falls_with_the_strong_order(problem, rate, order):
    """Var(φ at h − φ at h/2) = O(h) for Euler with noise that depends on the state, O(h²) with additive noise."""
    sde = equation(ig.SGD(rate), problem)
    variances = []
    for parts in (64, 128, 256):
        pair = [DiscretisedEquation(sde, EulerMaruyama(), 1 / n) for n in (parts, 2 * parts)]
        found = coupled(*pair, x0=[1.0], save_at=[1.0], paths=20_480)
        assert found["variance_ratio"].values[-1, 0] > 10
        variances.append(found["standard_error"].values[-1, 0] ** 2)
    np.testing.assert_allclose(-np.diff(np.log2(variances)), order, atol=0.25)


def test_the_variance_ratio_is_that_of_independent_runs():
    found = coupled(SGD, equation(), Q, paths=8192)
    a = ig.simulate(SGD, Q, x0=X0, save_at=TIMES, paths=8192, seed=1, progress=False)
    b = ig.simulate(equation(), x0=X0, save_at=TIMES, paths=8192, seed=2, progress=False)
    independent = ig.weak_error(a, b)["standard_error"].values ** 2
    np.testing.assert_allclose(
        found["variance_ratio"].values, independent / found["standard_error"].values ** 2, rtol=0.1
    )


# ---- the step of the SDE


def test_the_discretisation_error_is_the_bias_of_the_scheme():
    h = 0.05
    found = coupled(SGD, equation(), Q, scheme=EulerMaruyama(), dt=h, dtype="float64")
    bias = np.array(
        [(np.linalg.matrix_power(np.eye(2) - h * Q.hessian, round(t / h)) - expm(-Q.hessian * t)) @ X0 for t in TIMES]
    )
    assert found.attrs["dt"] == h
    np.testing.assert_allclose(found["discretisation_error"].values, -bias, rtol=0.25)  # h → 0: the estimate is exact
    corrected = found["difference"] - found["discretisation_error"]
    exact = exact_difference((SGD, Q), (equation(),))
    assert (np.abs(corrected - exact) < np.abs(found["difference"] - exact) / 3).values.all()


def test_the_step_is_halved_until_it_does_not_show(monkeypatch):
    problem = ig.problems.DoubleWell(0.5)
    found = coupled(SGD, equation(SGD, problem), problem, x0=[-1.5], paths=2048)
    d, s = found["discretisation_error"].values, found["discretisation_error_standard_error"].values
    assert found.attrs["dt"] < 0.1 / 4
    assert (np.abs(d) <= np.maximum(found["standard_error"].values / 3, 3 * s)).all()
    monkeypatch.setattr(coupling, "MOST_PARTS", 8)
    with pytest.warns(UserWarning, match="still shows"):  # Euler's bias is far above this standard error
        coupled(SGD, equation(SGD, problem), problem, x0=[-1.5], scheme=EulerMaruyama(), paths=2048)


def test_an_exact_scheme_has_no_step_to_choose():
    assert not {"dt", "discretisation_error"} & {*(found := coupled(SGD, equation(), Q)).attrs, *found}


# ---- targets


def test_pairs_are_added_until_the_target():
    found = coupled(SGD, equation(), Q, paths=10**6, target_standard_error=1e-4)
    assert found.attrs["target_reached"] == "true"
    assert found["standard_error"].values.max() <= 1e-4
    paths = found.attrs["paths"]
    assert 2048 < paths < 10**6
    # The same pairs as a run of so many, and not twice as many as it takes.
    plain = coupled(SGD, equation(), Q, paths=paths)
    np.testing.assert_allclose(found["difference"], plain["difference"], rtol=1e-12)
    assert coupled(SGD, equation(), Q, paths=paths // 2)["standard_error"].values.max() > 1e-4
    again = coupled(SGD, equation(), Q, paths=10**6, target_standard_error=1e-4, threads=1)
    assert again.identical(found)


def test_a_budget_that_ends_first_is_told():
    with pytest.warns(UserWarning, match="budget of 3000 paths ended before"):
        found = coupled(SGD, equation(), Q, paths=3000, target_standard_error=1e-7)
    assert found.attrs["target_reached"] == "false"
    assert found.attrs["paths"] == 3000


def test_a_weak_error_to_a_tolerance():
    exact = exact_difference((SGD, Q), (equation(),))
    for tolerance in (1e-3, 3e-4):
        error = ig.weak_error_within(SGD, Q, tolerance=tolerance, x0=X0, save_at=TIMES, progress=False)
        assert error.attrs["target_reached"] == "true"
        assert np.abs(error["weak_error"].values - exact).max() < tolerance
    assert error["standard_error"].values.max() < 3e-4 / 2.6  # the Bonferroni quantile of six cells, 95 %, is 2.64
    assert error.attrs["sharing"] == "brownian"
    with pytest.warns(UserWarning, match="give more paths"):
        ig.weak_error_within(SGD, Q, tolerance=1e-7, x0=X0, save_at=TIMES, paths=2000, progress=False)


def test_without_shared_noise_optimiser_and_sde_are_independent():
    problem = ig.problems.Quadratic(Q.hessian, np.eye(2), "skewed")
    error = ig.weak_error_within(SGD, problem, tolerance=0.01, x0=X0, save_at=TIMES, progress=False)
    assert error.attrs["sharing"] == "independent"
    assert error.attrs["paths"] > 5000
    np.testing.assert_allclose(error["variance_ratio"], 1, atol=0.15)
    a, b = (ig.moments(*m, x0=X0, save_at=TIMES)["mean"].values for m in ((SGD, problem), (equation(SGD, problem),)))
    assert np.abs((error["weak_error"].values - (a - b)) / error["standard_error"].values).max() < 4.5
    double_well = ig.problems.DoubleWell(0.5, "two_point")
    found = ig.weak_error_within(SGD, double_well, tolerance=0.05, x0=[-1.5], save_at=[1.0], progress=False)
    assert found.attrs["sharing"] == "independent"
    assert np.isfinite(found["discretisation_error"].values).all()


# ---- divergence


def test_pairs_that_are_lost_are_counted():
    problem = ig.problems.DoubleWell(0.5)
    found = coupled(ig.SGD(0.5).chain(problem), ig.SGD(0.25).chain(problem), x0=[2.2], save_at=[5.0])
    assert 0 < found["diverged"].values[-1] < 4096


# ---- refusals


def test_the_first_normals_are_the_path_and_the_rest_the_chains_own():
    own = Draws(path_key((1, 2), 3), 4)
    draws = PathDraws(jnp.arange(3.0), own)
    assert draws.normal((2,)).tolist() == [0.0, 1.0]
    rest = draws.normal((3,))
    assert rest[0] == 2.0
    np.testing.assert_array_equal(rest[1:], own.of(0).normal((2,)))
    np.testing.assert_array_equal(draws.of(STALENESS).words(2), own.of(STALENESS).words(2))


def test_a_path_gives_normals_and_nothing_else():
    draws = PathDraws(jnp.zeros(2), Draws(path_key((1, 2), 3), 4))
    arguments = {"words": (2,), "bernoulli": (0.5,), "index": (3,), "geometric": (0.5,), "at_step": (3,)}
    keywords = {"geometric": {"maximum": 5}}
    public = {n for n, f in inspect.getmembers(Draws, inspect.isfunction) if not n.startswith("_")}
    for name in public - {"normal", "of"}:
        with pytest.raises(NoSharedNoise):
            getattr(draws, name)(*arguments.get(name, ()), **keywords.get(name, {}))
    with pytest.raises(NoSharedNoise, match=r"amplified\(a\)\.gaussian\(\)"):
        draws.of(SECOND_BATCH)


FINITE = ig.problems.LinearRegression(np.array([[1.0, 0.5], [0.2, 1.0], [1.0, -1.0]]), np.array([1.0, 0.0, 2.0]))
OTHER = ig.problems.Quadratic(1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((SGD, equation(SGD, FINITE), FINITE), {}, "indices of examples.*only Gaussian noise"),
        ((SGD, ig.SGD(0.05), FINITE), {}, "nor with steps of another size"),
        ((SGD, equation(), ig.problems.Quadratic(Q.hessian, 1.0 * np.eye(2), "skewed")), {}, "only Gaussian noise"),
        ((SGD.chain(Q), SGD.scaled(0.25).chain(Q.amplified(4))), {}, r"problem\.amplified\(a\)\.gaussian"),
        ((SGD, equation(), Q), {"scheme": WeakOrder2()}, "three-point"),
        ((SGD, equation(), Q), {"scheme": EulerMaruyama("two_point")}, "two-point"),
        ((SGD.chain(Q), ig.SGD(0.05).chain(OTHER)), {}, r"noise of one dimension: got \[2, 1\]"),
        ((SGD, ig.SGD(0.1 / np.pi), Q), {}, "common multiple"),
        ((SGD, ig.SGD(0.05), Q), {"dt": 0.01}, "dt belongs to a modified equation"),
        ((SGD, ig.SGD(0.05), Q), {"scheme": HeunDrift()}, "scheme belongs to a modified equation"),
        ((SGD, equation(), Q), {"dt": 0.03, "scheme": HeunDrift()}, "over a whole number"),
        ((SGD, equation(), Q), {"x0": [1.0]}, r"x0 must have shape \(2,\)"),
        ((SGD, equation(), Q), {"save_at": [0.15]}, "multiples of the optimiser's clock"),
        ((equation(order=2), equation()), {"save_at": None, "steps": 3}, "need the times"),
        ((SGD, equation(), Q), {"target_standard_error": 0.0}, "target_standard_error"),
        ((SGD, equation(), Q), {"paths": 1}, "paths must be at least 2"),
    ],
)
def test_what_cannot_be_coupled_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        coupled(*arguments, **options)


def test_members_of_the_wrong_kind_are_refused():
    with pytest.raises(TypeError, match="second must be an optimiser with a problem"):
        coupled(SGD.chain(Q), SGD)
    with pytest.raises(ValueError, match="at least one chain"):
        CoupledChain()
    with pytest.raises(ValueError, match="merged=1"):
        CoupledChain(SGD.chain(Q), DiscretisedEquation(equation(), HeunDrift(), 0.05, merged=2))
