"""One list of all optimisers, crossed with the properties that every one of them has."""

import dataclasses
import inspect
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import itograd as ig
from itograd.optimizers.adam import Adam
from itograd.optimizers.adamw import AdamW
from itograd.optimizers.adaptive import AdaptiveMethod
from itograd.optimizers.from_optax import from_optax
from itograd.optimizers.momentum import Momentum, MomentumMethod
from itograd.optimizers.nesterov import IncreasingNesterov, Nesterov
from itograd.optimizers.rmsprop import RMSprop
from itograd.optimizers.sgd import SGD
from itograd.problems.landscapes import FlatSharp
from itograd.problems.quadratic import Quadratic
from itograd.simulation.draws import Draws
from itograd.simulation.precision import DTYPES, as_traced, double, precision
from itograd.simulation.schedule import (
    Cosine,
    Exponential,
    Function,
    Piecewise,
    Schedule,
    Warmup,
    base,
    shape,
)
from itograd.simulation.threefry import path_key, seed_words

STEPPED = Piecewise(0.05, (3.0, 7.0), (1.0, 0.5, 0.1))
WAVE = Function(0.9, lambda t: 1 + 0.08 * jnp.sin(t))  # a momentum between .83 and .97
SLOW = "underdamped"
LINEAR = {
    "sgd": SGD(0.1),
    "sgd, decay": SGD(0.1, weight_decay=0.05),
    "sgd, piecewise": SGD(STEPPED),
    "sgd, cosine": SGD(Cosine(0.1, duration=15.0, final=0.1), weight_decay=0.05),
    "sgd, warmup": SGD(Warmup(0.1, duration=5.0)),
    "sgd, exponential": SGD(Exponential(0.1, rate=0.2)),
    "sgd, function": SGD(Function(0.1, lambda t: 1 / (1 + t))),
    "heavy ball": Momentum(0.05, 0.8),
    "heavy ball, decay": Momentum(0.05, 0.8, weight_decay=0.05),
    "heavy ball, negative": Momentum(0.1, -0.5),
    "heavy ball, scheduled rate": Momentum(STEPPED, 0.8, weight_decay=0.05),
    "heavy ball, underdamped": Momentum(0.01, 0.95, 0.05, SLOW),
    "heavy ball, underdamped, scheduled rate": Momentum(Warmup(0.01, 5.0, 0.1), 0.9, clock=SLOW),
    "heavy ball, scheduled momentum": Momentum(Exponential(0.01, 0.1), WAVE, 0.05, SLOW),
    "nesterov": Nesterov(0.05, 0.8),
    "nesterov, decay": Nesterov(0.05, 0.8, weight_decay=0.05),
    "nesterov, iterate": Nesterov(0.05, 0.8, weight_decay=0.05, point="iterate"),
    "nesterov, negative": Nesterov(0.1, -0.5),
    "nesterov, negative, iterate": Nesterov(0.1, -0.5, point="iterate"),
    "nesterov, scheduled rate": Nesterov(Cosine(0.05, duration=30.0, final=0.1), 0.8),
    "nesterov, underdamped": Nesterov(0.01, 0.95, 0.05, SLOW),
    "nesterov, underdamped, iterate": Nesterov(Exponential(0.01, 0.1), 0.95, 0.0, SLOW, "iterate"),
    "nesterov, scheduled momentum": Nesterov(0.01, WAVE, clock=SLOW),
    "nesterov, scheduled momentum, iterate": Nesterov(Warmup(0.01, 5.0, 0.1), WAVE, 0.05, SLOW, "iterate"),
    "increasing nesterov": Nesterov.increasing(0.02),
    "increasing nesterov, iterate": Nesterov.increasing(Exponential(0.02, 0.1), 0.05, point="iterate"),
}
FADING = Exponential(0.02, 1.0)
ADAPTIVE = {
    "rmsprop": RMSprop(),
    "rmsprop, decay": RMSprop(0.02, 0.9, weight_decay=0.05),
    "rmsprop, scheduled": RMSprop(FADING, 0.9, eps=1e-3),
    "rmsprop, old": RMSprop(0.02, 0.9, v0=1.0, denominator="old"),
    "rmsprop, corrected": RMSprop(0.02, 0.9, correct_second=True),
    "rmsprop, corrected, old": RMSprop(0.02, 0.9, eps=1.0, denominator="old", correct_second=True),
    "rmsprop, optax": RMSprop.optax(0.02),
    "rmsprop, optax, all": RMSprop.optax(0.02, 0.8, 1e-3, 0.5, False, True),
    "adam": Adam(),
    "adam, decay": Adam(0.02, 0.8, 0.95, 1e-3, weight_decay=0.05),
    "adam, scheduled": Adam(FADING, 0.8, 0.95),
    "adam, old": Adam(0.02, 0.8, 0.95, eps=1.0, denominator="old"),
    "adam, uncorrected": Adam(0.02, 0.8, 0.95, v0=0.5, correct_first=False, correct_second=False),
    "adam, first corrected": Adam(0.02, 0.8, 0.95, v0=0.5, correct_second=False),
    "adam, second corrected, old": Adam(0.02, 0.8, 0.95, 0.1, 0.05, v0=0.5, denominator="old", correct_first=False),
    "adam, optax": Adam.optax(0.02, eps_root=1e-4),
    "adam, no memory of the mean": Adam(0.02, 0.0, 0.9),
    "adamw": AdamW(),
    "adamw, decay": AdamW(0.02, 0.8, 0.95, weight_decay=0.5),
    "adamw, scheduled": AdamW(FADING, 0.8, 0.95, weight_decay=0.5),
    "adamw, decay without rate": AdamW(FADING, 0.8, 0.95, weight_decay=0.01, decay_times_rate=False),
    "adamw, optax": AdamW.optax(0.02, eps=1e-3, eps_root=1e-4, weight_decay=0.2),
}
OPTIMIZERS = LINEAR | ADAPTIVE
SCALABLE = [n for n, o in OPTIMIZERS.items() if not isinstance(getattr(o, "momentum", 0.0), Schedule)]
X0 = np.array([1.0, -2.0, 0.5])
HESSIAN = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.5]])
STEPS = 200


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request):
    return OPTIMIZERS[request.param]


@pytest.fixture(params=LINEAR)
def linear(request):
    return LINEAR[request.param]


@pytest.fixture(params=ADAPTIVE)
def adaptive(request):
    return ADAPTIVE[request.param]


@pytest.fixture(params=SCALABLE)
def scalable(request):
    return OPTIMIZERS[request.param]


def gradient(x, k, xp=np):
    """A nonlinear gradient that changes from step to step, in NumPy or JAX."""
    hessian, phase = (xp.asarray(constant, x.dtype) for constant in (HESSIAN, X0))
    return hessian @ x + 0.5 * xp.sin(2 * x) + 0.3 * xp.cos(1.3 * k + phase)


@eqx.filter_jit
def _trajectory(rule, start, penalty):
    def step(state, k):
        point = rule.read(state)
        state = rule.update(state, k, (gradient(point, k, jnp) + penalty * point).astype(point.dtype))
        return state, (rule.observe(state), state)

    return jax.lax.scan(step, start, jnp.arange(STEPS))[1]


def trajectory(optimizer, dtype="float64", penalty=0.0):
    """x (STEPS+1, d), and the states after each step, along the gradients above (plus penalty·x)."""
    with precision(dtype):
        rule = as_traced(optimizer, dtype)
        start = rule.init(jnp.asarray(X0, dtype))
        points, states = _trajectory(rule, start, jnp.asarray(penalty, dtype))
        return np.concatenate([rule.observe(start)[None], points]), jax.tree.map(np.asarray, states)


def hyperparameters(optimizer):
    """(η_k) and (μ_k) for k = 0, …, STEPS."""
    steps = np.arange(STEPS + 1)

    def along(value):
        with double():
            return base(value) * np.array([float(shape(value, k * optimizer.time_per_step)) for k in steps])

    if isinstance(optimizer, IncreasingNesterov):
        return along(optimizer.learning_rate), (steps - 1) / (steps + 2)
    return along(optimizer.learning_rate), along(getattr(optimizer, "momentum", 0.0))


def textbook(optimizer):
    """The points and velocities of the textbook: v ← μv − η∇F(x [+ μv]), x ← x + v.

    PyTorch's buffer is Q with v = −ηQ, so that v is multiplied by the ratio of two rates where they differ.
    """
    rates, momenta = hyperparameters(optimizer)
    nesterov = isinstance(optimizer, Nesterov | IncreasingNesterov)
    x, v = X0, np.zeros_like(X0)
    iterates, ahead, velocities = [x], [x], []
    for k in range(STEPS):
        point = x + momenta[k] * v if nesterov else x
        kick = -rates[k] * (gradient(point, k) + optimizer.weight_decay * point)
        v = momenta[k] * v * rates[k] / rates[max(k - 1, 0)] + kick if v.any() else kick
        x = point + kick if nesterov else x + v
        iterates.append(x)
        ahead.append(x + momenta[k + 1] * v)
        velocities.append(v)
    points = ahead if getattr(optimizer, "point", "iterate") == "lookahead" else iterates
    return np.array(points), np.array(velocities), rates[:STEPS, None]


def test_equals_the_textbook(linear):
    points, states = trajectory(linear)
    expected, velocities, rates = textbook(linear)
    np.testing.assert_allclose(points, expected, rtol=0, atol=1e-13)
    if not isinstance(linear, SGD):
        np.testing.assert_allclose(-rates * states[1], velocities, rtol=0, atol=1e-13)


def adaptive_textbook(optimizer):
    """The points and states of the papers' loop, where a moment is corrected by its own fraction 1 − b^j."""
    rates = hyperparameters(optimizer)[0]
    b1, b2 = getattr(optimizer, "b1", 0.0), list(optimizer.decay_rates.values())[-1]
    decoupled = isinstance(optimizer, AdamW)
    x, m, v = X0, np.zeros(3), np.full(3, optimizer.v0)
    points, states = [x], []
    for k in range(STEPS):
        g = gradient(x, k)
        if decoupled:
            shrink = rates[k] if optimizer.decay_times_rate else rates[k] / rates[0]
            x = x - shrink * optimizer.weight_decay * x
        else:
            g = g + optimizer.weight_decay * x
        before = v
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        second, j = (v, k + 1) if optimizer.denominator == "new" else (before, k)
        if optimizer.correct_second and j > 0:
            second = second / (1 - b2**j)
        first = m / (1 - b1 ** (k + 1)) if getattr(optimizer, "correct_first", False) else m
        x = x - rates[k] * first / (np.sqrt(second + optimizer.eps_root) + optimizer.eps)
        points.append(x)
        states.append((x, v) if isinstance(optimizer, RMSprop) else (x, m, v))
    return np.array(points), tuple(np.array(s) for s in zip(*states))


def test_adaptive_rules_equal_the_textbook(adaptive):
    points, states = trajectory(adaptive)
    expected, moments = adaptive_textbook(adaptive)
    np.testing.assert_allclose(points, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(states, moments, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_increasing_momentum_is_as_precise_as_the_run():
    """The engine counts steps in int32, whose quotients are float32 in JAX."""
    optimizer, x = Nesterov.increasing(0.02), np.array([1.0, 2.0])
    with double():
        ours, theirs = (optimizer.update((x, 0.3 * x, x), k, 0.1 * x) for k in (jnp.int32(5), 5.0))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-15)


def test_an_old_denominator_divides_the_first_step_by_eps_alone():
    for optimizer in (RMSprop(0.1, eps=0.5, denominator="old"), Adam(0.1, eps=0.5, denominator="old")):
        with double():
            first = optimizer.update(optimizer.init(X0), 0, jnp.ones(3))[0]
        np.testing.assert_allclose(first, X0 - 0.1 / 0.5, rtol=1e-14)


TORCH_NAMES = {RMSprop: "RMSprop", Adam: "Adam", AdamW: "AdamW"}
TORCH_BUFFERS = {RMSprop: ("square_avg",), Adam: ("exp_avg", "exp_avg_sq"), AdamW: ("exp_avg", "exp_avg_sq")}


def is_torchs(optimizer):
    plain = optimizer.denominator == "new" and optimizer.eps_root == optimizer.v0 == 0
    if isinstance(optimizer, RMSprop):
        return plain and not optimizer.correct_second
    both = optimizer.correct_first and optimizer.correct_second
    return plain and both and getattr(optimizer, "decay_times_rate", True)


@pytest.mark.parametrize("name", [name for name, optimizer in ADAPTIVE.items() if is_torchs(optimizer)])
def test_adaptive_rules_equal_pytorch(name):
    torch = pytest.importorskip("torch")
    optimizer = ADAPTIVE[name]
    rate, rates, kind = base(optimizer.learning_rate), hyperparameters(optimizer)[0], type(optimizer)
    betas = {"alpha": optimizer.beta} if kind is RMSprop else {"betas": (optimizer.b1, optimizer.b2)}
    x = torch.tensor(X0, requires_grad=True)
    theirs = getattr(torch.optim, TORCH_NAMES[kind])(
        [x], lr=rate, eps=optimizer.eps, weight_decay=optimizer.weight_decay, **betas
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(theirs, lambda k: rates[k] / rate)
    points, buffers = [X0], []
    for k in range(STEPS):
        x.grad = torch.tensor(gradient(x.detach().numpy(), k))
        theirs.step()
        schedule.step()
        points.append(x.detach().numpy().copy())
        buffers.append([theirs.state[x][name].numpy().copy() for name in TORCH_BUFFERS[kind]])
    ours, states = trajectory(optimizer)
    np.testing.assert_allclose(ours, points, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.array(states[1:]), np.array(buffers).swapaxes(0, 1), rtol=0, atol=1e-12)


def test_the_defaults_are_pytorchs_and_optaxs():
    torch = pytest.importorskip("torch")
    parameter = [torch.zeros(1, requires_grad=True)]
    for kind, name in TORCH_NAMES.items():
        theirs, ours = getattr(torch.optim, name)(parameter).defaults, kind()
        betas = theirs.get("betas", (theirs.get("alpha"),))
        assert (ours.learning_rate, ours.eps, ours.weight_decay) == (
            theirs["lr"],
            theirs["eps"],
            theirs["weight_decay"],
        )
        assert tuple(ours.decay_rates.values()) == tuple(betas)
    for ours, theirs in ((RMSprop.optax, optax.rmsprop), (Adam.optax, optax.adam), (AdamW.optax, optax.adamw)):
        known = inspect.signature(theirs).parameters
        for argument, parameter in inspect.signature(ours).parameters.items():
            assert known[argument].default == parameter.default, (ours, argument)


OPTAX_TWINS = {
    "rmsprop": (RMSprop.optax(0.02), optax.rmsprop(0.02)),
    "rmsprop, outside": (RMSprop.optax(0.02, 0.8, 1e-3, eps_in_sqrt=False), optax.rmsprop(0.02, 0.8, 1e-3, 0.0, False)),
    "rmsprop, all": (
        RMSprop.optax(0.02, 0.8, 1e-3, 0.5, True, True),
        optax.rmsprop(0.02, 0.8, 1e-3, 0.5, bias_correction=True),
    ),
    "adam": (Adam.optax(0.02), optax.adam(0.02)),
    "adam, all": (Adam.optax(0.02, 0.8, 0.95, 1e-3, 1e-4), optax.adam(0.02, 0.8, 0.95, 1e-3, 1e-4)),
    "adamw": (AdamW.optax(0.02), optax.adamw(0.02)),
    "adamw, all": (
        AdamW.optax(0.02, 0.8, 0.95, 1e-3, 1e-4, weight_decay=0.5),
        optax.adamw(0.02, 0.8, 0.95, 1e-3, 1e-4, weight_decay=0.5),
    ),
    "adam, scheduled": (Adam.optax(FADING), optax.adam(lambda k: 0.02 * jnp.exp(-1.0 * k * 0.02**2))),
}


@pytest.mark.parametrize("name", OPTAX_TWINS)
def test_adaptive_rules_equal_optax(name):
    ours, theirs = OPTAX_TWINS[name]
    points, states = trajectory(ours)
    expected, inner = trajectory(from_optax(theirs))
    np.testing.assert_allclose(points, expected, rtol=0, atol=1e-12)
    moments = inner[1][0]
    for ours, theirs in zip(states[:0:-1], (moments.nu, getattr(moments, "mu", None))):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def is_in_pytorch(optimizer):
    momentum = getattr(optimizer, "momentum", -1.0)
    return isinstance(optimizer, SGD) or (
        isinstance(momentum, float) and momentum >= 0 and getattr(optimizer, "point", "lookahead") == "lookahead"
    )


@pytest.mark.parametrize("name", [name for name, optimizer in LINEAR.items() if is_in_pytorch(optimizer)])
def test_equals_pytorch(name):
    torch = pytest.importorskip("torch")
    optimizer = LINEAR[name]
    rate, rates = base(optimizer.learning_rate), hyperparameters(optimizer)[0]
    x = torch.tensor(X0, requires_grad=True)
    sgd = torch.optim.SGD(
        [x],
        lr=rate,
        momentum=getattr(optimizer, "momentum", 0.0),
        weight_decay=optimizer.weight_decay,
        nesterov=isinstance(optimizer, Nesterov),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(sgd, lambda k: rates[k] / rate)
    points, buffers = [X0], []
    for k in range(STEPS):
        x.grad = torch.tensor(gradient(x.detach().numpy(), k))
        sgd.step()
        schedule.step()
        points.append(x.detach().numpy().copy())
        if not isinstance(optimizer, SGD):
            buffers.append(sgd.state[x]["momentum_buffer"].numpy().copy())
    ours, states = trajectory(optimizer)
    np.testing.assert_allclose(ours, points, rtol=0, atol=1e-13)
    if not isinstance(optimizer, SGD):
        np.testing.assert_allclose(states[1], buffers, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, optimizer in OPTIMIZERS.items() if not isinstance(optimizer, AdamW)])
def test_coupled_decay_is_an_l2_term_of_the_loss(name):
    optimizer = OPTIMIZERS[name]
    plain, decaying = (eqx.tree_at(lambda o: o.weight_decay, optimizer, decay) for decay in (0.0, 0.05))
    penalised = trajectory(plain, penalty=0.05)[0]
    np.testing.assert_allclose(trajectory(decaying)[0], penalised, rtol=0, atol=1e-13)
    normalised = isinstance(optimizer, AdaptiveMethod)  # then a small force in the gradient's own direction is unseen
    assert np.abs(trajectory(plain)[0] - penalised).max() > (1e-5 if normalised else 1e-2)


def test_float32_follows_float64(optimizer):
    single, states = trajectory(optimizer, "float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(states)} == {np.dtype("float32")}
    np.testing.assert_allclose(single, trajectory(optimizer)[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_run_starts_at_x0_and_keeps_the_shape_of_its_state(optimizer, dtype):
    with precision(dtype):
        rule, x0 = as_traced(optimizer, dtype), jnp.asarray(X0, dtype)
        start = rule.init(x0)
        np.testing.assert_array_equal(rule.read(start), x0)
        np.testing.assert_array_equal(rule.observe(start), x0)
        after = eqx.filter_eval_shape(rule.update, start, jnp.int32(3), x0)
        assert jax.tree.structure(after) == jax.tree.structure(start)
        assert {(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves((start, after))} == {((3,), dtype)}


def test_the_rule_is_affine_as_declared(optimizer):
    assert optimizer.is_affine == (not isinstance(optimizer, AdaptiveMethod))
    random = np.random.default_rng(0)
    with double():
        ends = [jax.tree.map(lambda leaf: random.normal(size=3) ** 2, (optimizer.init(X0), X0)) for _ in range(2)]
        middle = jax.tree.map(lambda a, b: 0.3 * a + 0.7 * b, *ends)
        first, second, between = (optimizer.update(state, 7, g) for state, g in (*ends, middle))
        defects = [
            np.abs(0.3 * a + 0.7 * b - c).max() for a, b, c in zip(*map(jax.tree.leaves, (first, second, between)))
        ]
        assert (max(defects) < 1e-14) == optimizer.is_affine


@pytest.mark.parametrize(
    ("optimizer", "time"),
    [
        (SGD(0.1), 0.1),
        (SGD(STEPPED), 0.05),
        (Momentum(0.1, 0.9), 1.0),
        (Momentum(0.1, -0.25), 0.08),
        (Nesterov(0.1, 0.5), 0.2),
        (Momentum(0.01, 0.9, clock=SLOW), 0.1),
        (Nesterov(0.04, 0.9, clock=SLOW), 0.2),
        (Nesterov.increasing(0.25), 0.5),
        (RMSprop(0.1), 0.01),
        (Adam(FADING), 4e-4),
        (AdamW(0.2), 0.04),
    ],
    ids=repr,
)
def test_clock(optimizer, time):
    assert optimizer.time_per_step == pytest.approx(time, rel=1e-14)


# The modified equation

LANDSCAPE = FlatSharp(tilt=0.1, state_dependent_noise=True, batch_size=2)
POINT = np.array([0.7])


def leaves(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_the_equation_of_order_1_starts_where_the_rule_does_and_moves_as_it_does(linear):
    optimizer = linear
    sde = ig.modified_equation(optimizer, LANDSCAPE)
    assert (sde.weak_order, sde.time_per_step) == (1, pytest.approx(optimizer.time_per_step, rel=1e-14))
    scheduled = [value for value in vars(optimizer).values() if isinstance(value, Schedule)]
    assert sde.is_autonomous == (not scheduled and not isinstance(optimizer, IncreasingNesterov))
    with double():
        y = sde.start(jnp.asarray(POINT))
        np.testing.assert_array_equal(sde.observe(y), POINT)
        force = leaves(LANDSCAPE.gradient(POINT) + optimizer.weight_decay * POINT)
        u = float(shape(optimizer.learning_rate, 0.0))
        noise = np.sqrt(LANDSCAPE.noise_covariance(POINT)[0] * sde.time_per_step)
        drift, diffusion = sde.drift(0.0, y), sde.diffusion(0.0, y, jnp.ones(1))
        assert jax.tree.structure(drift) == jax.tree.structure(diffusion) == jax.tree.structure(y)
        on_x = isinstance(y, jax.Array)  # else on (X, V), where V = 0 and the force acts on V
        np.testing.assert_allclose(leaves(drift), -u * force if on_x else [0, *-force], rtol=1e-14)
        np.testing.assert_allclose(leaves(diffusion), -u * noise if on_x else [0, *-noise], rtol=1e-14)


def adaptive_coefficients(optimizer, t, x, m, w):
    """Drift and diffusion of theory 2.3 in the invariant w, with the γ of a correction that is off equal to 1."""
    eta, *speeds = base(optimizer.learning_rate), *(1 - np.array(list(optimizer.decay_rates.values())))
    speeds = np.array(speeds) / eta**2
    gamma = 1 - np.exp(-speeds * t)
    g1 = gamma[0] if getattr(optimizer, "correct_first", False) else 1.0
    g2 = gamma[-1] if optimizer.correct_second else 1.0
    u, decay = float(shape(optimizer.learning_rate, t)), optimizer.weight_decay
    p = np.sqrt(w + g2 * eta**2 * optimizer.eps_root) + eta * optimizer.eps * np.sqrt(g2)
    covariance = LANDSCAPE.noise_covariance(x)[0]
    force = LANDSCAPE.gradient(x) + (0 if isinstance(optimizer, AdamW) else decay * x)
    second, root = speeds[-1] * (eta**2 * covariance - w), eta * np.sqrt(covariance)
    if isinstance(optimizer, RMSprop):
        return [-u * np.sqrt(g2) / p * force, second], [-u * np.sqrt(g2) / p * root, 0 * x]
    moved = -u * np.sqrt(g2) / g1 / p * m
    if isinstance(optimizer, AdamW):
        moved = moved - u * decay / (eta if optimizer.decay_times_rate else eta**2) * x
    return [moved, speeds[0] * (force - m), second], [0 * x, speeds[0] * root, 0 * x]


def test_the_equation_of_an_adaptive_rule_is_that_of_the_theory(adaptive):
    sde = ig.modified_equation(adaptive, LANDSCAPE, start=(0.02, 0.3, 0.5))
    assert (sde.weak_order, sde.is_affine) == (1, False)
    assert (sde.time_per_step, sde.start_time) == (base(adaptive.learning_rate) ** 2, 0.02)
    corrected = adaptive.correct_second or getattr(adaptive, "correct_first", False)
    assert sde.is_autonomous == (not corrected and not isinstance(adaptive.learning_rate, Schedule))
    with double():
        y = sde.start(jnp.asarray(POINT))
        parts = (POINT, 0.5) if isinstance(adaptive, RMSprop) else (POINT, 0.3, 0.5)
        np.testing.assert_array_equal(leaves(y), np.hstack(parts))
        for t in (0.02, 0.7):
            drift, noise = adaptive_coefficients(adaptive, t, POINT, np.array([0.3]), np.array([0.5]))
            np.testing.assert_allclose(leaves(sde.drift(t, y)), np.hstack(drift), rtol=1e-12)
            np.testing.assert_allclose(leaves(sde.diffusion(t, y, jnp.ones(1))), np.hstack(noise), rtol=1e-12)
            together = leaves(sde.increment(t, y, 0.04, jnp.ones(1)))
            apart = 0.04 * np.hstack(drift) + 0.2 * np.hstack(noise)
            np.testing.assert_allclose(together, apart, rtol=1e-12)


# Scaling rules


def equation(optimizer, problem):
    """Its SDE; that of an adaptive rule from a stated start."""
    start = {"start": (0.5, 0.3, 0.5)} if isinstance(optimizer, AdaptiveMethod) else {}
    return ig.modified_equation(optimizer, problem, **start)


def test_scaling_there_and_back_changes_nothing(scalable):
    assert scalable.scaled(1) == scalable
    back = scalable.scaled(2).scaled(0.5)
    assert jax.tree.structure(back) == jax.tree.structure(scalable)
    np.testing.assert_allclose(jax.tree.leaves(back), jax.tree.leaves(scalable), rtol=1e-14, atol=0)


def test_a_scaled_optimiser_has_plain_readable_fields(scalable):
    scaled = ig.scale(scalable, 2)
    assert type(scaled) is type(scalable)
    assert scaled.weight_decay == scalable.weight_decay or isinstance(scalable, AdamW)
    for value in vars(scaled).values():
        assert type(value) in (float, str, bool) or (isinstance(value, Schedule) and type(value.base) is float)
    if isinstance(scalable.learning_rate, Schedule):
        new_base = scaled.learning_rate.base
        assert scaled.learning_rate == dataclasses.replace(scalable.learning_rate, base=new_base)


def is_underdamped(optimizer):
    return isinstance(optimizer, MomentumMethod) and optimizer.clock == SLOW


def test_the_scaled_optimiser_on_larger_batches_has_the_same_sde(scalable):
    # The friction of the underdamped clock and the c_i of an adaptive rule are kept exactly by the linear form alone.
    if getattr(scalable, "b1", 1) == 0:
        return  # has no linear form
    exact = is_underdamped(scalable) or isinstance(scalable, AdaptiveMethod)
    scaled = scalable.scaled(2, betas="linear") if exact else scalable.scaled(2)
    assert scaled.time_per_step == pytest.approx(2 * scalable.time_per_step, rel=1e-14)
    one, other = equation(scalable, LANDSCAPE), equation(scaled, LANDSCAPE.with_batch_size(4))
    with double():
        y = jax.tree.map(lambda leaf: leaf + 0.3, one.start(jnp.asarray(POINT)))
        for t in (one.start_time, 2.9, 3.1, 11.0):
            np.testing.assert_allclose(leaves(other.drift(t, y)), leaves(one.drift(t, y)), rtol=1e-13)
            ours, theirs = (leaves(sde.diffusion(t, y, jnp.ones(1))) for sde in (one, other))
            np.testing.assert_allclose(theirs, ours, rtol=1e-13)


def test_the_memory_form_of_an_adaptive_rule_keeps_the_decay_over_a_time(adaptive):
    scaled = adaptive.scaled(8)
    for before, after in zip(adaptive.decay_rates.values(), scaled.decay_rates.values(), strict=True):
        assert after ** (1 / scaled.time_per_step) == pytest.approx(before ** (1 / adaptive.time_per_step), rel=1e-9)
    expected = adaptive_fields(adaptive, 8)
    for name, value in expected.items():
        assert getattr(scaled, name) == pytest.approx(value, rel=1e-14), name


def adaptive_fields(optimizer, factor):
    """Theory 2.7, and the fields that it leaves out."""
    coupled = not isinstance(optimizer, AdamW)
    decoupled = factor**0.5 if getattr(optimizer, "decay_times_rate", True) else factor
    return {
        "eps": optimizer.eps / factor**0.5,
        "eps_root": optimizer.eps_root / factor,
        "v0": optimizer.v0 / factor,
        "weight_decay": optimizer.weight_decay * (1 if coupled else decoupled),
    }


@pytest.mark.parametrize("method", [Momentum, Nesterov])
def test_the_memory_form_keeps_the_decay_of_the_velocity_and_the_linear_form_the_friction(method):
    optimizer = method(1e-4, 0.99, clock=SLOW)
    memory, linear = ig.scale(optimizer, 8, betas="memory"), optimizer.scaled(8)
    for scaled in (memory, linear):
        assert scaled.learning_rate == pytest.approx(64e-4, rel=1e-14)
    assert math.log(memory.momentum) / memory.time_per_step == pytest.approx(
        math.log(optimizer.momentum) / optimizer.time_per_step, rel=1e-12
    )
    assert (1 - linear.momentum) / linear.time_per_step == pytest.approx(
        (1 - optimizer.momentum) / optimizer.time_per_step, rel=1e-12
    )


@pytest.mark.parametrize("method", [Momentum, Nesterov])
@pytest.mark.parametrize("factor", [2, 8])
def test_the_underdamped_rule_keeps_the_stationary_variance(method, factor):
    """Theory 5.2: to .2 % up to κ = 8, with the linear form. The memory form changes it by (κ−1)(1−μ)/2."""
    problem = Quadratic(1.0, 1.0, batch_size=2)

    def change(rate, momentum, **rule):
        optimizer = method(rate, momentum, clock=SLOW)
        scaled = optimizer.scaled(factor, **rule)
        larger = problem.with_batch_size(2 * factor)
        return ig.stationary_covariance(scaled, larger)[0, 0] / ig.stationary_covariance(optimizer, problem)[0, 0] - 1

    assert abs(change(1e-6, 0.99)) < 2e-3
    assert change(1e-6, 0.99, betas="memory") == pytest.approx((factor - 1) * 0.01 / 2, rel=0.1)
    assert abs(change(1e-9, 0.9995, betas="memory")) < 2e-3


# Optax

PROBLEM = Quadratic([[1.0, 0.2], [0.2, 0.5]], [[1.0, 0.3], [0.3, 0.5]], "skewed")
RUN = {
    "x0": [1.0, 1.5],
    "steps": 30,
    "save_every": 1,
    "paths": 4,
    "keep_paths": 4,
    "seed": 3,
    "dtype": "float64",
    "progress": False,
}


@pytest.mark.parametrize(
    "transformation",
    [
        pytest.param(optax.adam(0.1), marks=pytest.mark.slow),
        pytest.param(optax.adamw(optax.cosine_decay_schedule(0.1, 20), weight_decay=0.1), marks=pytest.mark.slow),
        pytest.param(optax.sgd(0.1, momentum=0.9), marks=pytest.mark.slow),
        optax.chain(optax.clip_by_global_norm(0.5), optax.rmsprop(0.01)),
    ],
    ids=["adam", "adamw", "momentum", "chain"],
)
def test_an_optax_optimiser_is_simulated_as_it_is(transformation):
    runs = ig.simulate(from_optax(transformation, time_per_step=0.1), PROBLEM, noise="jax", **RUN)
    np.testing.assert_allclose(runs.time, 0.1 * np.arange(31), rtol=1e-14)
    with double():

        @jax.jit
        def step(x, state, path, k):
            draws = Draws(path_key(tuple(seed_words(RUN["seed"])), path), k)
            updates, state = transformation.update(PROBLEM.noisy_gradient(x, draws), state, x)
            return optax.apply_updates(x, updates), state

        for path in (0, 3):
            x = jnp.asarray(RUN["x0"])
            state, points = transformation.init(x), [x]
            for k in range(30):
                x, state = step(x, state, path, k)
                points.append(x)
            np.testing.assert_allclose(runs["path_values"].values[path], points, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(0.1), optax.sgd(0.1)),
        (Momentum(0.1, 0.9), optax.sgd(0.1, momentum=0.9)),
        (Nesterov(0.1, 0.9), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    ],
    ids=["sgd", "momentum", "nesterov"],
)
def test_optax_has_the_same_rules_under_other_names(ours, theirs):
    a, b = (ig.simulate(rule, PROBLEM, **RUN)["path_values"].values for rule in (ours, from_optax(theirs)))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


# Refusals

CLOCKED = Momentum(0.01, 0.9, clock=SLOW)
OPTAX = from_optax(optax.sgd(0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), "learning_rate must be a finite number in .*: got -0.1"),
        (lambda: SGD(0.0), "learning_rate must be a finite number"),
        (lambda: SGD(math.nan), "learning_rate must be a finite number"),
        (lambda: SGD("0.1"), "learning_rate must be a number: got '0.1'"),
        (lambda: SGD(True), "learning_rate must be a number"),
        (lambda: SGD(Exponential(-0.1, 1.0)), "learning_rate must be a finite number"),
        (lambda: SGD(0.1, weight_decay=-1e-3), "weight_decay must be a finite number"),
        (lambda: SGD(0.1, weight_decay=None), "weight_decay must be a number"),
        (lambda: Momentum(0.1, 1.0), "momentum must be a finite number"),
        (lambda: Momentum(0.1, -1.0), "momentum must be a finite number"),
        (lambda: Nesterov(0.1, math.nan), "momentum must be a finite number"),
        (lambda: Nesterov(0.1, "0.9"), "momentum must be a number"),
        (lambda: Momentum(0.1, 0.9, clock="fast"), "clock must be one of 'overdamped', 'underdamped': got 'fast'"),
        (lambda: Momentum(0.1, 0.69, clock=SLOW), "underdamped clock needs 1 - momentum <= 0.3 .* momentum=0.69"),
        (lambda: Nesterov(0.1, -0.5, clock=SLOW), "underdamped clock needs 1 - momentum <= 0.3"),
        (lambda: Momentum(0.1, WAVE), "schedule of the momentum needs clock='underdamped'"),
        (lambda: Nesterov(0.1, 0.9, point="middle"), "point must be one of 'lookahead', 'iterate': got 'middle'"),
        (lambda: Nesterov.increasing(-0.1), "learning_rate must be a finite number"),
        (lambda: Nesterov.increasing(0.1, point="x"), "point must be one of"),
        (lambda: ig.modified_equation(SGD(0.1), PROBLEM, order=3), "order must be one of 1, 2: got 3"),
        (lambda: ig.modified_equation(CLOCKED, PROBLEM, order=0), "order must be one of 1, 2"),
        (lambda: ig.modified_equation(Momentum(0.1, 0.9), PROBLEM, order=2), "order 2 .* overdamped clock"),
        (lambda: ig.modified_equation(Nesterov(0.1, 0.9), PROBLEM, order=2), "order 2 .* overdamped clock"),
        (lambda: ig.modified_equation(Nesterov.increasing(0.1), PROBLEM, order=2), "singular at time 0"),
        (lambda: ig.scale(SGD(0.1), 0), "batch_factor must be a finite number"),
        (lambda: ig.scale(Momentum(0.1), -2), "batch_factor must be a finite number"),
        (lambda: ig.scale(Nesterov.increasing(0.1), math.inf), "batch_factor must be a finite number"),
        (lambda: ig.scale(Nesterov(0.1), "2"), "batch_factor must be a number: got '2'"),
        (lambda: CLOCKED.scaled(2, betas="square"), "betas must be one of 'linear', 'memory': got 'square'"),
        (
            lambda: CLOCKED.scaled(10.5, betas="linear"),
            r"batch_factor\*\(1 - momentum\) < 1: batch_factor=10.5, momentum=0.9 gives 1.05; keep .* below 10",
        ),
        (lambda: CLOCKED.scaled(8), "underdamped clock needs 1 - momentum <= 0.3"),
        (lambda: Momentum(0.01, WAVE, clock=SLOW).scaled(2), "schedule of the momentum has no scaling rule"),
        (lambda: from_optax(0.1), "needs an optax.GradientTransformation: got 0.1"),
        (lambda: from_optax(optax.sgd(0.1), time_per_step=0), "time_per_step must be a finite number"),
        (lambda: ig.modified_equation(OPTAX, PROBLEM), "no modified equation is known for an optax"),
        (lambda: ig.scale(OPTAX, 2), "no scaling rule is known for an optax"),
        (lambda: Adam(-1.0), "learning_rate must be a finite number in .*: got -1"),
        (lambda: Adam(b1=1.0), "b1 must be below 1: got 1"),
        (lambda: AdamW(b2=-0.1), "b2 must be a finite number"),
        (lambda: RMSprop(beta="0.9"), "beta must be a number: got '0.9'"),
        (lambda: RMSprop(eps=-1e-8), "eps must be a finite number"),
        (lambda: Adam(eps_root=math.nan), "eps_root must be a finite number"),
        (lambda: Adam(v0=-1.0), "v0 must be a finite number"),
        (lambda: Adam(denominator="mean"), "denominator must be one of 'new', 'old': got 'mean'"),
        (lambda: Adam(correct_first="yes"), "correct_first must be one of False, True: got 'yes'"),
        (lambda: AdamW(decay_times_rate=2), "decay_times_rate must be one of False, True: got 2"),
        (lambda: RMSprop(eps=0.0, denominator="old"), "one of v0, eps and eps_root must be positive"),
        (lambda: Adam().scaled(0), "batch_factor must be a finite number"),
        (lambda: Adam().scaled(2, betas="square"), "betas must be one of 'linear', 'memory': got 'square'"),
        (
            lambda: Adam().scaled(64, betas="linear"),
            r"batch_factor\*\(1 - b1\) < 1: batch_factor=64, b1=0.9 gives 6.4; keep .* below 10, raise b1, or",
        ),
        (lambda: RMSprop().scaled(100, betas="linear"), r"batch_factor\*\(1 - beta\) < 1"),
        (lambda: ig.modified_equation(Adam(), PROBLEM), "SDE of Adam has no usable limit .* v0=0; give warm_start=k0"),
        (
            lambda: ig.modified_equation(RMSprop(eps=1e-3), PROBLEM),
            "SDE of RMSprop has no usable limit .* however large eps",
        ),
        (lambda: ig.modified_equation(Adam(v0=1.0), PROBLEM), "singular at time 0, where the bias correction"),
        (lambda: ig.modified_equation(Adam(), PROBLEM, order=2, warm_start=1), "order 2 is given for Adam"),
        (lambda: ig.modified_equation(Adam(), PROBLEM, warm_start=-1), "warm_start must be at least 0: got -1"),
        (
            lambda: ig.modified_equation(Adam(), PROBLEM, warm_start=1, start=(1.0, 0.0, 1.0)),
            "either warm_start or start",
        ),
        (lambda: ig.modified_equation(Adam(), PROBLEM, start=(0.0, 0.0, 1.0)), "the time of start must be positive"),
        (lambda: ig.modified_equation(Adam(), PROBLEM, start=(1.0, 0.0, 0.0)), "w0 of start must be a finite number"),
        (lambda: ig.modified_equation(Adam(), PROBLEM, start=(1.0, 0.0)), "start must be .t0, m0, w0."),
    ],
)
def test_bad_input_is_refused_with_its_name(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
