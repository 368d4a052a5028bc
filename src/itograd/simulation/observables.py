"""Observables: scalar functions of x, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import equinox as eqx

from itograd.problems.problem import Problem
from itograd.simulation.precision import portable
from itograd.validation import require

MAX_COMPONENTS = 32


def chosen_observables(problem: Problem, observables=None) -> dict[str, Callable]:
    """The observables that the argument of `simulate` of this name stands for, by name."""
    summary = {"loss": problem.loss, "squared_norm": squared_norm, **problem.observables()}
    if observables is None:
        few = problem.dim <= MAX_COMPONENTS
        return {f"x{i}": Component(i) for i in range(problem.dim)} if few else summary
    if not isinstance(observables, Mapping):
        found = {name: summary.get(name) or _component(name, problem.dim) for name in observables}
        unknown = [name for name, function in found.items() if function is None]
        require(
            not unknown,
            f"observables must be functions by name, or names among {', '.join(summary)} and "
            f"x0 … x{problem.dim - 1}: got {unknown}",
        )
        return chosen_observables(problem, found)
    require(observables, "observables must name at least one function")
    return {name: portable(function) for name, function in observables.items()}


def _component(name, dim: int) -> Callable | None:
    number = name[1:] if isinstance(name, str) and name.startswith("x") else ""
    return Component(int(number)) if number.isdecimal() and int(number) < dim else None


class Component(eqx.Module):
    """The observable x_i."""

    index: int = eqx.field(static=True)

    def __call__(self, x):
        return x[self.index]


def squared_norm(x):
    """The observable |x|²."""
    return x @ x
