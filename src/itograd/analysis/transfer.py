"""Transfer operators: expectations of one-dimensional periodic chains and SDEs without Monte Carlo.

A chain x → x + δ(x, ζ) whose noise ζ has atoms ζ_j of probability p_j moves an observable u backwards,

    (P_k u)(x) = E[u(x_{k+1}) | x_k = x] = Σ_j p_j u(x + δ_k(x, ζ_j)),     E g(x_n) = (P_0 … P_{n−1} g)(x_0)

and the SDE dX = b dt + σ dW by its semigroup

    E g(X_T) = (e^{TA} g)(x_0),     A = b ∂ + ½ σ² ∂².

Both act on trigonometric interpolants on an equispaced grid, in float64, so the answers converge faster than
any power of the number of modes. δ is the optimiser's own `update` (the scheme's own `step`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm

from itograd.optimizers.optimizer import Optimizer, OptimizerChain
from itograd.problems.explicit_noise import NOISE_LAWS, ExplicitNoise, NoiseLaw
from itograd.problems.problem import Amplified, GaussianNoise, Problem
from itograd.simulation.chain import Chain
from itograd.simulation.draws import Draws
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.precision import as_traced, double
from itograd.simulation.schemes import DiscretisedEquation, EulerMaruyama, HeunDrift, WeakOrder2
from itograd.simulation.threefry import path_key, seed_words
from itograd.validation import require, require_count, require_number

Process = Optimizer | Chain | ModifiedEquation
_Chain = OptimizerChain | DiscretisedEquation

MAX_ATOMS = 4096
# How much of an answer its highest modes may hold; beyond, the answer is refused as not resolved.
RESOLUTION = 1e-9

_THREE_POINT = NoiseLaw("three_point", (-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6))


def transfer_expectation(
    process: Process, problem: Problem | None = None, *, observable: Callable, x0, time: float, modes: int = 256
) -> float | np.ndarray:
    """E observable(x_T) from x_0, to rounding, for a one-dimensional periodic optimiser, chain or SDE.

        E g(x_n) = (P_0 … P_{n−1} g)(x_0),  n = T / time_per_step;      E g(X_T) = (e^{TA} g)(x_0)

    `process` is an optimiser (then `problem` is needed), a chain (an optimiser on a problem, or an SDE with
    a scheme) or an autonomous `ModifiedEquation`; `observable` a function of x, shape (1,), of the
    problem's period; `x0` a number or an array of starting points, whose shape the answer has; `time` T in
    the continuous time of the process (steps × η for SGD), for a chain a whole number of its steps; `modes`
    the size of the grid. The law of the gradient noise must be a stated one: its atoms are summed over, a
    normal law's by 40 Gauss–Hermite nodes.

    Raises ValueError, with the reason, where the state has more than one component, where problem, process or
    observable is not periodic, where T is off the grid of steps, and where `modes` do not resolve the answer.

    >>> from itograd.optimizers.sgd import SGD
    >>> from itograd.problems.landscapes import Circle
    >>> cosine = lambda x: jnp.cos(x[0])
    >>> round(transfer_expectation(SGD(0.2), Circle(), observable=cosine, x0=1.0, time=1.0), 6)
    0.97182

    Source: theory 1.2 and 3.6.
    """
    starts = np.asarray(x0, float)
    require(np.isfinite(starts).all(), f"x0 must be finite: got {x0!r}")
    grid, values = transfer_on_grid(process, problem, observable=observable, time=time, modes=modes)
    period = period_of(_with_problem(process, problem).problem)
    k, coefficients = fourier(len(grid))
    answer = (waves_at(starts.ravel(), k, period) @ (coefficients @ values)).real
    return float(answer[0]) if starts.ndim == 0 else answer.reshape(starts.shape)


def transfer_on_grid(
    process: Process, problem: Problem | None = None, *, observable: Callable, time: float, modes: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The grid of starting points, x_i = period · i / modes, and E observable(x_T) from each of them.

    Arguments and errors as in `transfer_expectation`.

    >>> from itograd.optimizers.sgd import SGD
    >>> from itograd.problems.landscapes import Circle
    >>> grid, values = transfer_on_grid(SGD(0.2), Circle(), observable=lambda x: jnp.cos(x[0]), time=1.0)
    >>> grid.shape, values.shape
    ((256,), (256,))
    """
    require_number("time", time, minimum=0)
    require_count("modes", modes, minimum=8)
    process = _with_problem(process, problem)
    period = period_of(process.problem)
    grid = period * np.arange(modes) / modes
    with double():
        state = jax.eval_shape(process.start, jax.ShapeDtypeStruct((1,), float))
        components = sum(leaf.size for leaf in jax.tree.leaves(state))
        require(
            components == 1, f"a transfer operator needs a state of one component: {_name(process)} has {components}"
        )
        values = _observed(process, observable, grid, period)
        if isinstance(process, ModifiedEquation):
            return grid, _semigroup(process, values, grid, period, time)
        return grid, _backwards(process, values, grid, period, time)


def _with_problem(process: Process, problem: Problem | None) -> _Chain | ModifiedEquation:
    if isinstance(process, Optimizer):
        if problem is None:
            raise ValueError(f"an optimiser needs a problem: got {_name(process)} and problem=None")
        return process.chain(problem)
    if not isinstance(process, OptimizerChain | DiscretisedEquation | ModifiedEquation):
        raise TypeError(
            f"process must be an optimiser, an optimiser's chain, an SDE or an SDE with a scheme: got {_name(process)}"
        )
    require(problem is None, f"{_name(process)} has its own problem: leave problem out")
    return process


def _name(process):
    return type(process.optimizer if isinstance(process, OptimizerChain) else process).__name__


def period_of(problem: Problem) -> float:
    """The period of a one-dimensional problem; ValueError where it has none, or more dimensions."""
    require(problem.dim == 1, f"a transfer operator needs a problem of one dimension: got {problem.dim}")
    innermost: Any = problem
    while isinstance(innermost, Amplified | GaussianNoise):
        innermost = innermost.original
    require(
        hasattr(innermost, "period"),
        f"a transfer operator needs a periodic problem: {_name(innermost)} has no `period`",
    )
    return float(innermost.period)


# Trigonometric interpolation on n equispaced points: u(y) = Re Σ_k c_k e^{2πi k y/period}, k = 0 … n/2.


def fourier(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(k, C) with c = C u the coefficients of the interpolant of the grid values u."""
    k = np.arange(n // 2 + 1)
    weight = np.where((k == 0) | (2 * k == n), 1.0, 2.0)
    return k, (weight / n)[:, None] * np.exp(-2j * np.pi * np.outer(k, np.arange(n)) / n)


def waves_at(y, k, period):
    """e^{2πi k y/period} for every point y and wave number k."""
    return np.exp(2j * np.pi / period * np.outer(y, k))


def _resolved(values: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    modes = len(values)
    tail = np.abs(coefficients[-max(4, modes // 32) :] @ values).max() / max(np.abs(values).max(), 1e-300)
    require(
        tail <= RESOLUTION,
        f"modes={modes} do not resolve the answer: its highest modes hold {tail:.1e} "
        f"of it and may hold {RESOLUTION:.0e}; double modes",
    )
    return values


def _observed(process, observable, grid, period):
    """g on the grid."""

    def at(flat):
        unravel = ravel_pytree(process.start(jnp.zeros(1)))[1]
        return jnp.asarray(observable(process.observe(unravel(flat))), float).reshape(())

    points = jnp.asarray(np.concatenate([grid, grid + period]))[:, None]
    values, again = np.split(np.asarray(jax.vmap(at)(points)), 2)
    require(np.isfinite(values).all(), "the observable must be finite on the whole period")
    require(_close(values, again), f"the observable must have the problem's period {period:g}")
    return values


def _close(values, again):
    return np.allclose(values, again, rtol=0, atol=1e-9 * np.abs(values).max())


# SDEs


def _semigroup(equation: ModifiedEquation, values, grid, period, time) -> np.ndarray:
    """e^{TA} g on the grid."""
    require(
        equation.is_autonomous,
        f"a transfer operator needs an autonomous equation: the coefficients of {_name(equation)} depend on time",
    )
    points = jnp.asarray(np.concatenate([grid, grid + period]))
    drift, variance = map(np.asarray, _drift_and_variance(as_traced(equation, "float64"), points))
    n = len(grid)
    for name, coefficient in (("drift", drift), ("diffusion", variance)):
        require(
            _close(coefficient[:n], coefficient[n:]),
            f"the {name} of {_name(equation)} does not have the problem's period {period:g}",
        )
    k, coefficients = fourier(n)
    waves, wavenumber = waves_at(grid, k, period), 2 * np.pi / period * k
    first = ((waves * 1j * wavenumber) @ coefficients).real
    second = (-(waves * wavenumber**2) @ coefficients).real
    generator = drift[:n, None] * first + 0.5 * variance[:n, None] * second
    return _resolved(expm(time * generator) @ values, coefficients)


@eqx.filter_jit
def _drift_and_variance(equation, points):
    """b and σ² at the points."""
    unravel = ravel_pytree(equation.start(jnp.zeros(1)))[1]

    def at(point):
        y = unravel(point[None])
        units = jnp.eye(equation.noise_dim)
        columns = jax.vmap(lambda e: ravel_pytree(equation.diffusion(0.0, y, e))[0])(units)
        return ravel_pytree(equation.drift(0.0, y))[0][0], (columns**2).sum()

    return jax.vmap(at)(points)


# Chains


def _backwards(chain: _Chain, values, grid, period, time) -> np.ndarray:
    """P_0 … P_{n−1} g on the grid."""
    dt = chain.time_per_step
    steps = round(time / dt)
    require(
        abs(steps * dt - time) <= 1e-9 * max(time, dt),
        f"time must be a whole number of steps of {dt:g}: got {time:g}, which is {time / dt:.6g} steps",
    )
    move, parts, atoms, probabilities = _moves(chain)
    points, z = jnp.asarray(np.concatenate([grid, grid + period])), jnp.asarray(atoms)
    k, coefficients = fourier(len(grid))
    targets, operator = None, None
    for step in reversed(range(steps)):
        moved = np.asarray(_moved(move, parts, jnp.asarray(step), points, z))  # (atom, point)
        if targets is None or not np.array_equal(moved, targets):  # built once, but for a schedule
            targets = moved
            operator = _operator(moved, probabilities, k, coefficients, period, _name(chain))
        values = _resolved(operator @ values, coefficients)
    return values


@eqx.filter_jit
def _moved(move, parts, step, points, atoms):
    return jax.vmap(lambda z: jax.vmap(lambda y: move(parts, step, y[None], z)[0])(points))(atoms)


def _operator(moved, probabilities, k, coefficients, period, name) -> np.ndarray:
    """P_k as a matrix on grid values."""
    here, next_period = np.split(moved, 2, axis=1)
    require(np.isfinite(moved).all(), f"{name} leaves the finite numbers within one step")
    require(
        np.allclose(next_period, here + period, rtol=0, atol=1e-9 * period),
        f"a step of {name} does not have the problem's period {period:g} (weight decay has none)",
    )
    waves = sum(p * waves_at(y, k, period) for y, p in zip(here, probabilities))  # E[e^{2πi k x'/period} | x]
    return (waves @ coefficients).real


def _moves(chain: _Chain) -> tuple[Callable, Any, np.ndarray, np.ndarray]:
    """(move, parts, atoms, probabilities): the step `move(parts, k, y, z)` and the law of its noise z."""
    if isinstance(chain, OptimizerChain):
        rooted, law = gradient_noise(chain.problem)
        parts = as_traced((chain.optimizer, rooted), "float64")
        return _optimizer_move, parts, *product_law(law, rooted.noise_dim)
    scheme, columns = chain.scheme, chain.scheme.noise_dim(chain.equation)
    require(chain.merged == 1, f"merged increments have no short list of atoms: got merged={chain.merged}")
    if isinstance(scheme, WeakOrder2):
        require(columns == 1, f"WeakOrder2 draws further signs where the noise has several columns: got {columns}")
        law = _THREE_POINT
    elif isinstance(scheme, EulerMaruyama):
        law = NOISE_LAWS[scheme.increment]
    else:
        require(
            isinstance(scheme, HeunDrift),
            "the scheme must be EulerMaruyama, HeunDrift or WeakOrder2, "
            f"whose increments are known: got {_name(scheme)}",
        )
        law = NOISE_LAWS["gaussian"]
    return _scheme_move, as_traced(chain, "float64"), *product_law(law, columns)


def _optimizer_move(parts, k, y, z):
    optimizer, rooted = parts
    state = ravel_pytree(optimizer.init(jnp.zeros(1)))[1](y)
    gradient = rooted.perturbed_gradient(optimizer.read(state), z, 1.0)  # ∇L + R z
    return ravel_pytree(optimizer.update(state, k, gradient))[0]


def _scheme_move(chain, k, y, z):
    state = ravel_pytree(chain.start(jnp.zeros(1)))[1](y)
    draws = Draws(path_key(tuple(seed_words(0)), 0), k)  # without effect: one column needs no draws beside z
    moved = chain.scheme.step(chain.equation, k * chain.dt, state, chain.dt, z, draws)
    return ravel_pytree(moved)[0]


def gradient_noise(problem: Problem) -> tuple[Problem, NoiseLaw]:
    """(Q, law) with noisy gradient ∇L + R_Q(x) ζ, the components of ζ independent with this law."""
    if isinstance(problem, GaussianNoise):
        return problem.original, NOISE_LAWS["gaussian"]
    if isinstance(problem, Amplified):
        rooted, law = gradient_noise(problem.original)
        z, p = np.array(law.atoms), np.array(law.probabilities)
        if law.name == "gaussian":  # r₁ ζ + r₂ ζ' is normal, of variance r₁² + r₂² = a
            return rooted, NoiseLaw("gaussian", tuple(problem.factor**0.5 * z), law.probabilities)
        r1, r2 = problem.weights
        pairs = np.add.outer(r1 * z, r2 * z)
        return rooted, NoiseLaw("amplified", tuple(pairs.ravel()), tuple(np.outer(p, p).ravel()))
    if not isinstance(problem, ExplicitNoise):
        raise ValueError(
            f"the law of the gradient noise must be stated: {_name(problem)} samples its noise; "
            "use problem.gaussian() for noise of the same covariance"
        )
    return problem, problem.law


def product_law(law: NoiseLaw, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The atoms (J, columns) and probabilities (J,) of a vector of independent components."""
    count = len(law.atoms) ** columns
    require(
        count <= MAX_ATOMS,
        f"the noise has {count} atoms, {len(law.atoms)} in each of {columns} "
        f"columns: at most {MAX_ATOMS} can be summed over",
    )
    atoms = np.array(list(itertools.product(law.atoms, repeat=columns)))
    return atoms, np.prod(list(itertools.product(law.probabilities, repeat=columns)), axis=1)
