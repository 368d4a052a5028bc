"""Adaptive accuracy: whole groups of paths are added until standard errors are small enough.

After each group of sixteen tiles, from MINIMUM_PATHS paths on, the largest ratio

    r = max over observables and save times of  s.e.(mean)/target

is looked at; the run ends at r <= 1, or at the budget. Where it looks is fixed, so a run of N paths found this way has
the bytes of a run that was asked for N paths.

Stopping on an *estimated* standard error ties the number of paths N to the sample. By Wald's identity the mean then has
the bias −γσ/N, with γ the skewness of the observable and σ its standard deviation: γ/√N of its standard error, 3 % at
γ = 2 and N = 4096. That is why there is a minimum.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from itograd.simulation.statistics import Moments
from itograd.validation import require, require_count, require_number

MINIMUM_PATHS = 4096
DEFAULT_BUDGET = 1_000_000


@dataclass(frozen=True)
class Target:
    """The standard errors of the mean that are wanted, and the number of paths that may be spent on them."""

    asked: float | dict[str, float]  # as the caller gave it
    standard_error: Float[np.ndarray, " n"]  # one number an observable; infinite where none is asked for
    max_paths: int

    @classmethod
    def of(cls, asked: float | Mapping[str, float], max_paths: int | None, observables: Sequence[str]) -> Target:
        """The target from the arguments of `simulate`, checked."""
        if max_paths is None:
            max_paths = DEFAULT_BUDGET
        require_count("max_paths", max_paths, minimum=2)
        if isinstance(asked, Mapping):
            unknown = sorted(set(asked) - set(observables))
            require(
                asked and not unknown,
                f"target_standard_error must name observables, {list(observables)}: got {unknown or 'none'}",
            )
            for name, value in asked.items():
                require_number(f"target_standard_error[{name!r}]", value, minimum=0, exclusive=True)
            asked = {name: float(value) for name, value in asked.items()}
            wanted = np.array([asked.get(name, math.inf) for name in observables])
        else:
            require_number("target_standard_error", asked, minimum=0, exclusive=True)
            asked = float(asked)
            wanted = np.full(len(observables), asked)
        return cls(asked, wanted, int(max_paths))

    def ratio(self, moments: Moments) -> float:
        """The largest s.e./target; infinite where an observable has no standard error, as fewer than two paths do."""
        asked = np.isfinite(self.standard_error)
        ratios = (moments.mean_standard_error / self.standard_error)[:, asked]
        return float(np.where(np.isfinite(ratios), ratios, math.inf).max())

    def outcome(self, moments: Moments, paths: int) -> dict[str, Any]:
        """What a result says of its target; warns, with the paths that would be needed, where it was not reached."""
        ratio = self.ratio(moments)
        found: dict[str, Any] = {
            "target_standard_error": json.dumps(self.asked),
            "target_reached": int(ratio <= 1),
            "largest_ratio_to_target": ratio,
        }
        if ratio <= 1:
            return found
        if math.isfinite(ratio):
            found["paths_needed"] = math.ceil(paths * ratio**2)
            what = f"the largest standard error is {ratio:.3g} times its target, which needs about "
            what += f"{found['paths_needed']} paths"
        else:
            what = "an observable has fewer than two paths that did not diverge"
        warnings.warn(f"target_standard_error was not reached within max_paths={self.max_paths}: {what}", stacklevel=3)
        return found
