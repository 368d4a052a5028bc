"""SVAG of every optimiser: the optimiser itself at a = 1, another start of the same SDE at every other a."""

import numpy as np
import pytest

import itograd as ig
from itograd.problems.landscapes import Circle
from itograd.simulation.precision import double

HESSIAN, NOISE = np.array([[2.0, 0.3], [0.3, 0.5]]), np.array([[1.0, 0.2], [0.2, 0.6]])
SLOW = "underdamped"
OPTIMIZERS = {
    "sgd": ig.SGD(0.1, weight_decay=0.05),
    "sgd, schedule": ig.SGD(ig.schedules.Exponential(0.1, rate=0.2)),
    "heavy ball": ig.Momentum(0.02, 0.8),
    "heavy ball, underdamped": ig.Momentum(0.01, 0.9, weight_decay=0.05, clock=SLOW),
    "nesterov": ig.Nesterov(0.02, 0.8),
    "nesterov, underdamped": ig.Nesterov(0.01, 0.9, clock=SLOW),
    "increasing nesterov": ig.Nesterov.increasing(0.01),
    "rmsprop": ig.RMSprop(0.1, beta=0.98, eps=0.1, v0=1.0),
    "adam": ig.Adam(0.1, b1=0.96, b2=0.98, eps=0.1),
    "adamw": ig.AdamW(0.1, b1=0.96, b2=0.98, eps=0.1, weight_decay=0.05),
}
AFFINE = [name for name, optimizer in OPTIMIZERS.items() if optimizer.is_affine]


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request):
    return OPTIMIZERS[request.param]


def quadratic(noise="two_point"):
    return ig.problems.Quadratic(HESSIAN, NOISE, noise)


def test_at_one_it_is_the_optimiser_byte_for_byte(optimizer):
    runs = [
        ig.simulate(rule, quadratic(), x0=[1.0, -1.0], steps=20, save_every=10, paths=50, keep_paths=50, progress=False)
        for rule in (optimizer, ig.SVAG(optimizer, 1))
    ]
    assert runs[0].path_values.values.tobytes() == runs[1].path_values.values.tobytes()
    assert ig.SVAG(optimizer, 1).time_per_step == optimizer.time_per_step


@pytest.mark.parametrize("a", [2, 2.5, 16])
def test_a_steps_stand_for_one_of_the_optimiser(optimizer, a):
    svag = ig.SVAG(optimizer, a)
    assert svag.time_per_step * a == pytest.approx(optimizer.time_per_step, rel=1e-12)
    assert svag.scaled(2).time_per_step * a == pytest.approx(optimizer.scaled(2).time_per_step, rel=1e-12)


@pytest.mark.parametrize("a", [2, 2.5, 16])
def test_the_sde_is_the_optimisers_own(optimizer, a):
    start = {"start": (0.5, 0.2, 0.3)} if hasattr(optimizer, "eps") else {}
    problem, z = quadratic(), np.array([0.7, -0.4])
    own = ig.modified_equation(optimizer, problem, **start)
    of_svag = ig.modified_equation(ig.SVAG(optimizer, a), problem, **start)
    with double():
        state = own.start(np.array([1.0, -1.0]))
        for at in ("drift", "diffusion"):
            more = (z,) if at == "diffusion" else ()
            expected, found = (getattr(equation, at)(0.8, state, *more) for equation in (own, of_svag))
            for e, f in zip(*(x if isinstance(x, tuple) else (x,) for x in (expected, found))):
                np.testing.assert_allclose(f, e, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", AFFINE)
def test_its_moments_approach_those_of_the_sde_with_order_one(name):
    """At a fixed recipe, along a; exact moments of both. SVAG of momentum in its own clock (theory, amendment 9)."""
    optimizer, problem = OPTIMIZERS[name], quadratic()
    span = 20 * optimizer.time_per_step
    where = {"x0": [1.0, -1.0], "save_at": [span / 2, span]}
    limit = ig.moments(ig.modified_equation(optimizer, problem), **where)["covariance"].values
    ladder = (8, 16, 32, 64)
    errors = [
        np.abs(ig.moments(ig.SVAG(optimizer, a), problem, **where)["covariance"].values - limit).max() for a in ladder
    ]
    plain = np.abs(ig.moments(optimizer, problem, **where)["covariance"].values - limit).max()
    assert errors[0] < plain / 4
    np.testing.assert_allclose(np.diff(np.log2(errors)), -1, atol=0.12)


def test_momentum_at_a_fixed_memory_approaches_another_sde():
    slow, problem = ig.Momentum(0.01, 0.9, clock=SLOW), quadratic()
    where = {"x0": [1.0, -1.0], "save_at": [1.0, 2.0]}
    limit = ig.moments(ig.modified_equation(slow, problem), **where)["mean"].values
    fast = ig.moments(ig.SVAG(ig.Momentum(0.01, 0.9), 64), problem, **where)["mean"].values  # overdamped clock
    own = ig.moments(ig.modified_equation(ig.Momentum(0.01, 0.9), problem), **where)["mean"].values
    assert np.abs(fast - own).max() < 0.01 < 0.1 < np.abs(fast - limit).max()


def test_it_runs_on_every_kind_of_problem():
    """Finite sums included: two batches a step, of which every statistic is finite and the clock shared."""
    for problem in (ig.problems.digits(batch_size=8), ig.problems.Rayleigh(), ig.problems.DoubleWell(0.5)):
        runs = ig.simulate(ig.SVAG(ig.SGD(0.1), 4), problem, steps=8, paths=20, progress=False)
        assert int(runs.diverged[-1]) == 0
        assert float(runs.time[-1]) == pytest.approx(0.2)


AMPLIFIER_POINTS = 2 * np.pi * np.arange(96) / 96


def _cosine(x):
    return np.cos(x) + 0.3 * np.sin(2 * x)


def _waves(points, modes):
    k = np.arange(modes) - modes // 2
    grid = 2 * np.pi * np.arange(modes) / modes
    return (np.exp(1j * np.outer(points, k)) @ np.exp(-1j * np.outer(k, grid)) / modes).real


def one_batch_amplifier(a, eta=0.2, modes=256):
    """E g(x_1) for loss·(1 ± √(a−1)) with one batch: the second simulator of the papers' code (theory 1.3)."""
    grid = 2 * np.pi * np.arange(modes) / modes
    slope, noise = np.sin(grid) + 1.2 * np.sin(2 * grid), 0.8 * (1 + 0.4 * np.cos(grid))
    step = np.zeros((modes, modes))
    for zeta in (-1, 1):
        for sign in (-1, 1):
            gradient = (slope + zeta * noise) * (1 + sign * np.sqrt(a - 1))
            step += _waves(grid - eta / a * gradient, modes) / 4
    values = np.linalg.matrix_power(step, round(a / eta)) @ _cosine(grid)
    return _waves(AMPLIFIER_POINTS, modes) @ values


def test_the_amplifier_with_one_batch_has_another_limit():
    """S3: loss·(1 ± √(a−1)) has the noise aΣ + (a−1)∇L∇Lᵀ, and does not converge to the SDE of SGD."""
    import jax.numpy as jnp

    sde = ig.modified_equation(ig.SGD(0.2), Circle())
    observable = {"observable": lambda x: jnp.cos(x[0]) + 0.3 * jnp.sin(2 * x[0]), "x0": AMPLIFIER_POINTS, "time": 1.0}
    limit = ig.analysis.transfer_expectation(sde, **observable)
    svag = ig.analysis.transfer_expectation(ig.SVAG(ig.SGD(0.2), 128), Circle(), **observable)
    assert np.abs(svag - limit).max() < 1e-3
    distances = [np.abs(one_batch_amplifier(a) - limit).max() for a in (128, 512)]
    assert min(distances) > 0.25
    assert distances[-1] == pytest.approx(0.30, abs=0.01)  # the theory's figure


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ig.SVAG(ig.SGD(0.1), 0.5), r"noise_amplification must be a finite number in \[1, inf\]: got 0.5"),
        (lambda: ig.SVAG(ig.SGD(0.1), float("nan")), "noise_amplification"),
        (lambda: ig.SVAG(ig.from_optax(_optax()), 2), "no scaling rule is known for an optax transformation"),
        (
            lambda: ig.SVAG(ig.Momentum(0.1, ig.schedules.Exponential(0.9, 0.1), clock=SLOW), 2),
            "a schedule of the momentum has no scaling rule",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _optax():
    import optax

    return optax.sgd(0.1)
