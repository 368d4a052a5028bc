"""Modified equations: Itô SDEs that an optimiser follows in distribution.

    dY = drift(t, Y) dt + diffusion(t, Y) dW,      x = observe(Y)

All SDEs of this library are read in the sense of Itô (theory: an optimiser's noise is drawn at the current point).
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from itograd.simulation.draws import Draws

State = Any


class ModifiedEquation(eqx.Module):
    """An Itô SDE on a pytree Y of vectors. The noise is standard and of dimension `noise_dim`."""

    problem: eqx.AbstractVar[Any]  # whose gradient noise drives the equation

    @property
    @abstractmethod
    def time_per_step(self) -> float:
        """Continuous time of one step of the optimiser that the equation models."""

    @property
    @abstractmethod
    def weak_order(self) -> int:
        """The order at which the equation approximates its optimiser."""

    @property
    def start_time(self) -> float:
        """The time at which the equation starts."""
        return 0.0

    @abstractmethod
    def start(self, x0: Float[Array, " d"]) -> State:
        """Y at the start time."""

    def start_from(self, x0: Float[Array, " d"], draws: Draws) -> State:
        """Y at the start time where it is random; by default `start(x0)`."""
        return self.start(x0)

    @abstractmethod
    def drift(self, t, y: State) -> State:
        """The drift, of the shape of Y."""

    @abstractmethod
    def diffusion(self, t, y: State, z: Float[Array, " m"]) -> State:
        """The diffusion coefficient applied to a vector z of the noise space: linear in z."""

    @abstractmethod
    def observe(self, y: State) -> Float[Array, " d"]:
        """The point x of a state."""

    @property
    def noise_dim(self) -> int:
        """The dimension m of the Brownian motion."""
        return self.problem.noise_dim

    @property
    def is_affine(self) -> bool:
        """Whether the drift is affine in Y."""
        return self.problem.is_quadratic

    @property
    def has_additive_noise(self) -> bool:
        """Whether the diffusion coefficient does not depend on Y."""
        return self.problem.has_additive_noise

    @property
    def is_autonomous(self) -> bool:
        """Whether neither coefficient depends on time."""
        return True

    def affine_form(self) -> "ModifiedEquation":
        """An equation whose x has the same mean and covariance, and whose moments may close: by default itself.

        Raises ValueError, with the reason, where it is known that there is none.
        """
        return self

    def stationary_form(self) -> "ModifiedEquation":
        """The autonomous equation that this one becomes in the long run: by default itself.

        Raises ValueError where the coefficients go on changing.
        """
        if not self.is_autonomous:
            raise ValueError("no stationary law: the coefficients of the equation depend on time")
        return self

    def increment(self, t, y: State, dt, z: Float[Array, " m"]) -> State:
        """drift·dt + diffusion·√dt·z, for the equations that compute the two cheaper together than apart."""
        return jax.tree.map(lambda a, b: a * dt + jnp.sqrt(dt) * b, self.drift(t, y), self.diffusion(t, y, z))
