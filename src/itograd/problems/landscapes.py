"""Landscapes on a line or a circle: a stated potential and a stated noise."""

from __future__ import annotations

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from itograd.problems.explicit_noise import NOISE_LAWS, ExplicitNoise
from itograd.validation import require_choice, require_count, require_number


class Landscape(ExplicitNoise):
    """A potential of one variable: what the landscapes share."""

    noise_law: str = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __init__(self, noise: str, batch_size: int):
        require_choice("noise", noise, tuple(NOISE_LAWS))
        require_count("batch_size", batch_size)
        self.noise_law, self.batch_size = noise, int(batch_size)

    @property
    def dim(self):
        return 1

    @property
    def noise_dim(self):
        return 1


class Circle(Landscape):
    """The non-convex problem on the circle whose weak errors are known without Monte Carlo (theory 1.2, 3.6).

    L'(x) = sin x + 1.2 sin 2x,  S^½(x) = 0.8 (1 + 0.4 cos x),  x modulo 2π.
    """

    def __init__(self, noise: str = "two_point", batch_size: int = 1):
        super().__init__(noise, batch_size)

    @property
    def period(self):
        """The length of the circle."""
        return 2 * math.pi

    @property
    def x0(self):
        return np.array([1.0])

    def loss(self, x):
        return -jnp.cos(x[0]) - 0.6 * jnp.cos(2 * x[0])

    def gradient(self, x):
        return jnp.sin(x) + 1.2 * jnp.sin(2 * x)

    def sample_root(self, x):
        return 0.8 * (1 + 0.4 * jnp.cos(x))[:, None]


class ConstantNoise(Landscape):
    """A landscape with gradient noise of constant variance s²/B; `noise_std` is s, of one sample."""

    noise_std: float

    def __init__(self, noise_std: float = 1.0, noise: str = "gaussian", batch_size: int = 1):
        super().__init__(noise, batch_size)
        require_number("noise_std", noise_std, minimum=0)
        self.noise_std = float(noise_std)

    @property
    def has_additive_noise(self):
        return True

    def sample_root(self, x):
        return jnp.full((1, 1), self.noise_std)


class DoubleWell(ConstantNoise):
    """L(x) = x⁴/4 − x²/2 with gradient noise of constant variance s²/B (theory 4.2).

    Minima at ±1 with L'' = 2, the saddle at 0 with L'' = −1, barrier 1/4. `noise_std` is s, of one sample;
    SGD at rate η has the diffusion constant D = η s²/(2B). Starts in the left well, x0 = −1.

    >>> float(DoubleWell().gradient(np.array([2.0]))[0])
    6.0
    """

    @property
    def x0(self):
        return np.array([-1.0])

    def loss(self, x):
        return x[0] ** 4 / 4 - x[0] ** 2 / 2

    def gradient(self, x):
        return x**3 - x


class LogCosh(ConstantNoise):
    """L(x) = log cosh x with gradient noise of constant variance s²/B (theory: asynchrony 1.9).

    Convex, quadratic at the minimum 0 (L'' = 1) and linear far from it (|L'| < 1). `noise_std` is s, of one sample.
    Starts at x0 = 2.

    >>> round(float(LogCosh().gradient(np.array([1.0]))[0]), 6)
    0.761594
    """

    @property
    def x0(self):
        return np.array([2.0])

    def loss(self, x):
        return jnp.logaddexp(x[0], -x[0]) - math.log(2)

    def gradient(self, x):
        return jnp.tanh(x)


class FlatSharp(Landscape):
    """Two wells, the left one flat and the right one sharp (theory 4.3, amendment 14).

        L(x) = (φ² − 1)²/4 + tilt·φ,      φ(x) = x + (√(1+x²) − 1)/2

    Without tilt the minima are at x = −4/3 (φ = −1, L'' = 0.72) and x = 2 − √(4/3) (φ = 1, L'' = 3.4995) with
    equal depths, the saddle at 0. A negative tilt lowers the sharp well by 2|tilt| against the flat one.

    The variance of one sample's gradient is s² = `noise_std`², or s² (0.4 + 0.6 φ'(x)) with
    `state_dependent_noise`; SGD at rate η has the diffusion constant D = η S(x)/(2B). Starts in the flat
    well, x0 = −4/3.

    >>> bool(abs(FlatSharp(tilt=-0.02).gradient(np.array([0.0]))[0] + 0.02) < 1e-6)
    True
    """

    tilt: float
    noise_std: float
    state_dependent_noise: bool = eqx.field(static=True)

    def __init__(
        self,
        tilt: float = 0.0,
        noise_std: float = 1.0,
        noise: str = "gaussian",
        *,
        state_dependent_noise: bool = False,
        batch_size: int = 1,
    ):
        super().__init__(noise, batch_size)
        require_number("tilt", tilt)
        require_number("noise_std", noise_std, minimum=0)
        require_choice("state_dependent_noise", state_dependent_noise, (False, True))
        self.tilt, self.noise_std = float(tilt), float(noise_std)
        self.state_dependent_noise = bool(state_dependent_noise)

    @property
    def has_additive_noise(self):
        return not self.state_dependent_noise

    @property
    def x0(self):
        return np.array([-4 / 3])

    def loss(self, x):
        phi = _phi(x[0])
        return (phi**2 - 1) ** 2 / 4 + self.tilt * phi

    def gradient(self, x):
        phi = _phi(x)
        return (phi * (phi**2 - 1) + self.tilt) * _phi_slope(x)

    def sample_root(self, x):
        relative = 0.4 + 0.6 * _phi_slope(x) if self.state_dependent_noise else jnp.ones_like(x)
        return (self.noise_std * jnp.sqrt(relative))[:, None]


def _phi(x):
    return x + (jnp.sqrt(1 + x**2) - 1) / 2


def _phi_slope(x):
    return 1 + x / (2 * jnp.sqrt(1 + x**2))
