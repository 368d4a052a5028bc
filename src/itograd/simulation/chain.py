"""A chain: a Markov chain of one path with a time per step. The engine runs chains and knows nothing else."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from itograd.simulation.draws import Draws

State = Any


class Chain(eqx.Module):
    """What the engine runs. A chain says nothing of paths: the engine maps it over them."""

    problem: eqx.AbstractVar[Any]  # names the default observables

    @property
    @abstractmethod
    def time_per_step(self) -> float:
        """Continuous time that one step stands for."""

    @property
    def start_time(self) -> float:
        """Continuous time at step 0."""
        return 0.0

    @abstractmethod
    def start(self, x0: Float[Array, " d"]) -> State:
        """The state at step 0."""

    def start_from(self, x0: Float[Array, " d"], draws: Draws) -> State:
        """The state at step 0 where it is random; by default `start(x0)`."""
        return self.start(x0)

    @abstractmethod
    def step(self, state: State, k, draws: Draws) -> State:
        """The state at step k+1 from the state at step k."""

    @abstractmethod
    def observe(self, state: State) -> Float[Array, " d"]:
        """The point x of a state."""
