"""Chains that run side by side on one path of noise: common random numbers.

The chains stand at equal continuous times after every common step T = n_i·(clock of chain i), n_i whole. Two ways to
share noise; in both, every chain has exactly the law that it has alone, and the paths of the whole are independent, so
the standard error of any difference is right whatever is shared.

"brownian"   All follow one Brownian motion W of dimension m. With L the least common multiple of the n_i, the common
             step has L increments ζ_1 … ζ_L ~ N(0, 1_m), and a step of chain i, made of r = L/n_i of them, is driven by

                 z = (ζ_{j+1} + … + ζ_{j+r})/√r ~ N(0, 1_m).

             For chains whose gradient noise is R(x) z with Gaussian z, and for SDEs with Gaussian increments.
"words"      Every chain draws the words of its own steps, as it does alone. Chains of one clock that draw in the same
             way share all their noise, of any law (the same batches, for one); an optimiser and an SDE share none,
             because the lanes of a batch are not those of a Brownian motion.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import ClassVar, NoReturn

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm

from itograd.simulation.affine import linear_parts, matrix_root, one_step_law
from itograd.simulation.chain import Chain
from itograd.simulation.draws import BATCH, BROWNIAN, SECOND_BATCH, Draws
from itograd.simulation.precision import is_off
from itograd.simulation.schemes import DiscretisedEquation, ExactAffine, Scheme
from itograd.validation import require, require_choice

SHARINGS = ("brownian", "words")
MAX_INCREMENTS = 1024
MOST_WRITTEN_OUT = 16  # more steps of a chain in a common step are a loop


class NoSharedNoise(ValueError):
    """Two chains whose noise cannot be one Brownian path."""


class CoupledChain(Chain):
    """Chains on one path of noise; see the head of this file. The state is theirs, `observe` the tuple of their x.

    All start from the same x0. Raises ValueError where the clocks have no common multiple, and `NoSharedNoise` (a
    ValueError), at the latest on the first step, where a chain draws anything but normals from a Brownian path.

    >>> import itograd as ig
    >>> problem = ig.problems.Quadratic(1.0, 1.0)
    >>> pair = CoupledChain(ig.SGD(0.2).chain(problem), ig.SGD(0.1).chain(problem))
    >>> pair.counts, pair.time_per_step
    ((1, 2), 0.2)
    """

    chains: tuple[Chain, ...]
    sharing: str = eqx.field(static=True)
    counts: tuple[int, ...] = eqx.field(static=True)  # n_i, the steps of each chain in a common step

    def __init__(self, *chains: Chain, sharing: str = "brownian"):
        require_choice("sharing", sharing, SHARINGS)
        require(chains, "a coupled chain needs at least one chain")
        require(
            all(is_off(chain.start_time) for chain in chains),
            "coupled chains start side by side at time 0: an equation with a start of its own (warm_start or start) "
            "cannot be coupled; compare independent runs by weak_error",
        )
        self.counts = _steps_in_common([float(chain.time_per_step) for chain in chains])
        self.sharing = sharing
        self.chains = tuple(map(_on_the_path, chains)) if sharing == "brownian" else chains
        if sharing == "brownian":
            dims = [_noise_dim(chain) for chain in chains]
            if len(set(dims)) > 1:
                raise NoSharedNoise(f"chains on one Brownian path need noise of one dimension: got {dims}")

    @property
    def problem(self):
        return self.chains[0].problem

    @property
    def time_per_step(self):
        return self.counts[0] * self.chains[0].time_per_step

    @property
    def increments(self) -> int:
        """L, the Brownian increments of a common step."""
        return math.lcm(*self.counts)

    def start(self, x0):
        return tuple(chain.start(x0) for chain in self.chains)

    def start_from(self, x0, draws):
        return tuple(chain.start_from(x0, draws) for chain in self.chains)

    def step(self, state, k, draws):
        if self.sharing == "words":
            return tuple(
                _repeated(n, lambda s, j, _, c=chain: c.step(s, j, draws.at_step(j)), s, k)
                for chain, n, s in zip(self.chains, self.counts, state)
            )
        own, dim = draws.of(BATCH), _noise_dim(self.chains[0])
        increments = draws.of(BROWNIAN).normal((self.increments, dim))
        after = []
        for chain, n, s in zip(self.chains, self.counts, state):
            r = self.increments // n
            z = increments.reshape(n, r, dim).sum(axis=1) / math.sqrt(r)
            after.append(_repeated(n, lambda s, j, z, c=chain: _driven(c, s, j, PathDraws(z, own.at_step(j))), s, k, z))
        return tuple(after)

    def observe(self, state):
        return tuple(chain.observe(s) for chain, s in zip(self.chains, state))


class PathDraws(Draws):
    """Draws whose first normals in a step are the increment z of a Brownian path; further ones are the chain's own.

    Anything else that a gradient noise may be made of is refused: it is no function of a Brownian path.
    """

    def __init__(self, z, own: Draws):
        self._z, self._own, self._given = z, own, 0

    def normal(self, shape=()):
        count = math.prod(shape)
        shared = self._z[self._given : self._given + count]
        self._given += len(shared)
        fresh = [self._own.normal((count - len(shared),))] if len(shared) < count else []
        return jnp.concatenate([shared, *fresh]).reshape(shape)

    def of(self, user):
        if user == SECOND_BATCH:
            raise NoSharedNoise(
                "a second batch is no part of one Brownian path: for SVAG with Gaussian noise give the problem as "
                "problem.amplified(a).gaussian(), which has the same law"
            )
        return self if user in (BATCH, BROWNIAN) else self._own.of(user)  # delays, for one, are the chain's own

    def at_step(self, step):
        raise NoSharedNoise("a chain on a Brownian path draws its noise of the present step: it asked for another one")

    def _refused(self, what: str) -> NoReturn:
        raise NoSharedNoise(
            f"no coupling: a chain draws {what}, and only Gaussian noise is a function of a Brownian path. Batches of "
            "a data set, two-point and skewed noise share no path with an SDE, nor with steps of another size; "
            "problem.gaussian() has Gaussian noise of the same covariance"
        )

    def words(self, count):
        self._refused("plain words")

    def uniform(self, shape=()):
        self._refused("uniforms")

    def two_point(self, shape=()):
        self._refused("two-point noise")

    def three_point(self, shape=()):
        self._refused("three-point increments")

    def bernoulli(self, probability, shape=()):
        self._refused("Bernoulli variables")

    def index(self, n, shape=()):
        self._refused("indices of examples")

    def geometric(self, ratio, shape=(), *, maximum):
        self._refused("geometric delays")


class ExactAffineOnPath(Scheme):
    """`ExactAffine` on a given Brownian path: the exact law of a step together with its increment.

        Y' = Φ Y + φ + G z + R z',   G = ∫₀^dt e^{As} B ds /√dt,   R Rᵀ = ∫₀^dt e^{As} B Bᵀ e^{Aᵀs} ds − G Gᵀ

    z is the standardised increment of W; z' is independent of it, for what W does between the ends of the step. (Given
    the increment, ∫ e^{A(dt−s)} B dW is normal with mean G z and covariance R Rᵀ.)
    """

    weak_order: ClassVar[float] = math.inf  # type: ignore[assignment]
    transition: np.ndarray
    shift: np.ndarray
    path_root: np.ndarray  # G
    bridge_root: np.ndarray  # R

    def __init__(self, equation, dt):
        a, c, b = linear_parts(equation)
        n, m = b.shape
        self.transition, self.shift, root = one_step_law(a, c, b, dt)
        self.path_root = expm(np.block([[a, b], [np.zeros((m, n + m))]]) * dt)[:n, n:] / math.sqrt(dt)
        self.bridge_root = matrix_root(root @ root.T - self.path_root @ self.path_root.T)

    def noise_dim(self, equation):
        return equation.noise_dim + len(self.shift)

    def step(self, equation, t, y, dt, z, draws):
        flat, unravel = ravel_pytree(y)
        m = equation.noise_dim
        return unravel(self.transition @ flat + self.shift + self.path_root @ z[:m] + self.bridge_root @ z[m:])


def _on_the_path(chain: Chain) -> Chain:
    if not isinstance(chain, DiscretisedEquation):
        return chain
    require(chain.merged == 1, "a chain on a Brownian path merges its increments itself: give merged=1")
    if not isinstance(chain.scheme, ExactAffine):
        return chain
    # The root of ExactAffine's covariance follows no Brownian motion: its sign, for one, is arbitrary.
    return DiscretisedEquation(chain.equation, ExactAffineOnPath(chain.equation, chain.dt), chain.dt)


def _noise_dim(chain: Chain) -> int:
    return chain.equation.noise_dim if isinstance(chain, DiscretisedEquation) else chain.problem.noise_dim


def _driven(chain: Chain, state, k, draws: PathDraws):
    """One step of a chain on the path."""
    if not isinstance(chain, DiscretisedEquation):
        return chain.step(state, k, draws)
    z = chain.scheme.increments(draws, chain.scheme.noise_dim(chain.equation))
    return chain.scheme.step(chain.equation, k * chain.dt, state, chain.dt, z, draws)


def _repeated(n: int, step, state, k, inputs=None):
    """n steps of a chain within common step k, with one row of `inputs` each."""
    if n > MOST_WRITTEN_OUT:
        return lax.scan(lambda s, at: (step(s, *at), None), state, (k * n + jnp.arange(n), inputs))[0]
    for j in range(n):
        state = step(state, k * n + j, None if inputs is None else inputs[j])
    return state


def _steps_in_common(clocks: list[float]) -> tuple[int, ...]:
    """How many steps of each clock make the shortest time that is a multiple of all."""
    ratios = [Fraction(clock / clocks[0]).limit_denominator(MAX_INCREMENTS) for clock in clocks]
    fits = all(r > 0 and abs(float(r) * clocks[0] / clock - 1) < 1e-9 for r, clock in zip(ratios, clocks))
    common = Fraction(math.lcm(*(r.numerator for r in ratios)), math.gcd(*(r.denominator for r in ratios)))
    counts = tuple(int(common / r) for r in ratios) if fits else ()
    require(
        fits and math.lcm(*counts) <= MAX_INCREMENTS,
        f"coupled chains need clocks with a common multiple within {MAX_INCREMENTS} steps: got {clocks}",
    )
    return counts
