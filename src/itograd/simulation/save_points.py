"""When an ensemble is saved: the step numbers and times that the arguments of `simulate` stand for."""

from __future__ import annotations

import math

import numpy as np

from itograd.validation import require, require_count


def save_grid(time_per_step: float, steps, save_every=None, save_at=None) -> np.ndarray:
    """The step numbers at which an optimiser is saved, from the arguments of `simulate`."""
    if save_at is not None:
        require(steps is None and save_every is None, "give either steps (and save_every) or save_at, not both")
        return on_grid(save_times(save_at), time_per_step, "the optimiser's clock")
    require(steps is not None, "an optimiser needs `steps` (or the times `save_at`)")
    require_count("steps", steps)
    every = max(1, math.ceil(steps / 100)) if save_every is None else save_every
    require_count("save_every", every)
    require(every <= steps, f"save_every must be at most steps={steps}: got {every}")
    return np.unique(np.append(np.arange(0, steps + 1, every), steps))


def save_times(save_at) -> np.ndarray:
    """The times of `save_at`, checked."""
    times = np.asarray(save_at, float)
    require(times.ndim == 1 and times.size > 0, f"save_at must be a list of times: got shape {times.shape}")
    require(
        np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) > 0).all(),
        "save_at must be finite times that start at or after 0 and increase",
    )
    require(times[-1] > 0, "save_at must reach beyond time 0")
    return times


def times_since(start: float, times: np.ndarray) -> np.ndarray:
    """How long after `start` the times of `save_at` are, for a model that starts then."""
    require(
        times[0] >= start - 1e-9 * times[-1],
        f"save_at must not lie before the equation's start at time {start:g}: got {times[0]:g}",
    )
    require(times[-1] > start, f"save_at must reach beyond the equation's start at time {start:g}: got {times[-1]:g}")
    return np.maximum(times - start, 0.0)


def on_grid(times: np.ndarray, step: float, owner: str) -> np.ndarray:
    """The step numbers of times that must be multiples of `step`."""
    numbers = times / step
    whole = np.rint(numbers)
    off = np.abs(numbers - whole) > 1e-6 * np.maximum(1.0, whole)
    require(not off.any(), f"save_at must be multiples of {owner}, {step:g}: got {times[off][:1]}")
    require(whole[-1] < 2**31, f"save_at reaches step {whole[-1]:g}: at most 2^31 steps")
    return whole.astype(np.int64)
