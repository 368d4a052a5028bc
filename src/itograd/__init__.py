"""itograd: stochastic optimisers as stochastic differential equations."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names load on first use, so that `import itograd` and the command line do not wait for jax.
_HOMES = {
    "analysis": "itograd.analysis",
    "asynchrony": "itograd.asynchrony",
    "problems": "itograd.problems",
    "schedules": "itograd.simulation.schedule",
    "simulation": "itograd.simulation",
    "Adam": "itograd.optimizers.adam",
    "AdamW": "itograd.optimizers.adamw",
    "IncreasingNesterov": "itograd.optimizers.nesterov",
    "Momentum": "itograd.optimizers.momentum",
    "Nesterov": "itograd.optimizers.nesterov",
    "Optimizer": "itograd.optimizers.optimizer",
    "RMSprop": "itograd.optimizers.rmsprop",
    "SGD": "itograd.optimizers.sgd",
    "SVAG": "itograd.optimizers.svag",
    "TrainingRecipe": "itograd.scaling",
    "control_variates": "itograd.analysis.control_variates",
    "coupled_difference": "itograd.analysis.coupling",
    "fit_weak_order": "itograd.analysis.weak_order",
    "from_optax": "itograd.optimizers.from_optax",
    "load": "itograd.simulation.result",
    "modified_equation": "itograd.optimizers.optimizer",
    "moments": "itograd.analysis.moments",
    "noise_scale": "itograd.analysis.noise_scale",
    "noise_scale_from_norms": "itograd.analysis.noise_scale",
    "regime": "itograd.analysis.regime",
    "save": "itograd.simulation.result",
    "scale": "itograd.optimizers.optimizer",
    "scaled_runs": "itograd.analysis.curves",
    "scaled_recipe": "itograd.scaling",
    "simulate": "itograd.simulation.ensemble",
    "stationary_covariance": "itograd.analysis.moments",
    "svag_test": "itograd.analysis.curves",
    "verdict": "itograd.analysis.verdict",
    "weak_error": "itograd.analysis.weak_error",
    "weak_error_within": "itograd.analysis.weak_error",
    "weak_order": "itograd.analysis.weak_order",
}
_MODULES = {"analysis", "asynchrony", "problems", "schedules", "simulation"}

__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from itograd.optimizers.optimizer import Optimizer as Optimizer
    from itograd.optimizers.sgd import SGD as SGD


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'itograd' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    value = home if name in _MODULES else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
