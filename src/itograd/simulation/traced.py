"""The functions of one path that the engine runs, traced once."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from itograd.simulation.draws import INITIAL, Draws
from itograd.simulation.program import Program, Variable, as_variable, trace

_WORD = jax.ShapeDtypeStruct((), np.uint32)
_COUNTER = jax.ShapeDtypeStruct((), np.int32)


@dataclass(frozen=True)
class Traced:
    """The functions of one path as programs: start(key), step(state, key, number, k) and observe(state)."""

    start: Program
    step: Program
    observe: Program

    @classmethod
    def of(cls, chain, observables, x0) -> Traced:
        """Trace a chain, its observables (a tuple of functions of x) and its starting point."""

        def start(k0, k1):
            draws = Draws((k0, k1), 0, INITIAL)
            return chain.start_from(jnp.asarray(x0(draws), float) if callable(x0) else x0, draws)

        state = jax.eval_shape(start, _WORD, _WORD)

        def step(state, k0, k1, number, k):
            return chain.step(state, k, Draws((k0, k1), number))

        def observe(state):
            x = chain.observe(state)
            return tuple(jnp.asarray(f(x), float) for f in observables)

        return cls(
            trace(start, _WORD, _WORD)[0],
            trace(step, state, _WORD, _WORD, _WORD, _COUNTER)[0],
            trace(observe, state)[0],
        )

    @property
    def state(self) -> tuple[Variable, ...]:
        """The leaves of the state, as inputs of the step."""
        return self.step.inputs[:-4]

    @property
    def after(self) -> tuple[Variable, ...]:
        """The leaves of the state that a step returns."""
        return tuple(map(as_variable, self.step.outputs))

    @property
    def observed(self) -> tuple[Variable, ...]:
        """The observables."""
        return tuple(map(as_variable, self.observe.outputs))
