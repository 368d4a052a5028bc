"""The problem of theory 2.6: f' = (sin t + sin 2t)/2, Σ^½ = 0.9 (1 + 0.2 cos t), noise of scale σ = 1/η."""

import math

import equinox as eqx
import jax.numpy as jnp

from itograd.optimizers.rmsprop import RMSprop
from itograd.problems.explicit_noise import NoiseLaw
from itograd.problems.landscapes import Landscape

LAWS = {
    "two_point": NoiseLaw("two_point", (-1.0, 1.0), (0.5, 0.5)),
    "skewed": NoiseLaw("skewed", (-((0.35 / 0.65) ** 0.5), (0.65 / 0.35) ** 0.5), (0.65, 0.35)),  # skewness .629
}


class Case(Landscape):
    scale: float
    named: str = eqx.field(static=True)

    def __init__(self, scale, law="two_point"):
        super().__init__("two_point", 1)
        self.scale, self.named = float(scale), law

    @property
    def law(self):
        return LAWS[self.named]

    @property
    def period(self):
        return 2 * math.pi

    def loss(self, x):
        return -0.5 * jnp.cos(x[0]) - 0.25 * jnp.cos(2 * x[0])

    def gradient(self, x):
        return 0.5 * (jnp.sin(x) + jnp.sin(2 * x))

    def sample_root(self, x):
        return self.scale * 0.9 * (1 + 0.2 * jnp.cos(x))[:, None]


def rmsprop(eta, denominator="old"):
    """c₂ = 1, ε₀ = .1."""
    return RMSprop(eta, 1 - eta**2, eps=0.1 / eta, v0=1 / eta**2, denominator=denominator)
