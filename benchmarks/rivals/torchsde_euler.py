"""torchsde: `sdeint` with the Euler method, additive noise, float32."""

from __future__ import annotations

import numpy as np

from benchmarks.left_out import LeftOut
from benchmarks.workloads import ETA, LinearEquation, Moments, Run

try:
    import torch
    import torchsde
except ImportError:
    torch = torchsde = None  # type: ignore[assignment]


def runner(workload: LinearEquation, cores: int) -> Run:
    """From a seed to moments."""
    if torchsde is None:
        raise LeftOut("torchsde is not installed")
    torch.set_num_threads(cores)
    start = torch.tensor(workload.x0, dtype=torch.float32).repeat(workload.paths, 1)
    times = torch.tensor(ETA * workload.save_every * np.arange(workload.saves + 1), dtype=torch.float32)
    sde = _equation(workload)

    def run(seed: int) -> Moments:
        torch.manual_seed(seed)
        with torch.no_grad():
            values = torchsde.sdeint(sde, start, times, method="euler", dt=ETA)
        return Moments.of(values[1:, :, :2].numpy())

    return run


def _equation(w: LinearEquation):
    class Equation(torch.nn.Module):
        """dX = −A X dt + √η S dW."""

        noise_type, sde_type = "additive", "ito"

        def __init__(self):
            super().__init__()
            self.matrix = torch.tensor(w.matrix, dtype=torch.float32).T
            self.noise = torch.tensor(ETA**0.5 * w.noise, dtype=torch.float32)

        def f(self, t, x):
            """The drift (paths, d)."""
            return -(x @ self.matrix)

        def g(self, t, x):
            """The diffusion (paths, d, m)."""
            return self.noise.expand(len(x), -1, -1)

    return Equation()
