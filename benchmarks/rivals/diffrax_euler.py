"""diffrax: `diffeqsolve` with Euler's method, in its usual form (mapped over paths) and its best (one batched state).

Both take the Brownian path that is fastest, `UnsafeBrownianPath`, which is not reproducible from its key at other step
sizes; `VirtualBrownianTree`, which is, would be more than ten times slower again.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.left_out import LeftOut
from benchmarks.workloads import ETA, LinearEquation, Moments, Run

try:
    import diffrax
    import lineax
except ImportError:
    diffrax = lineax = None  # type: ignore[assignment]


def mapped(workload: LinearEquation, cores: int) -> Run:
    """One solve a path, mapped over keys."""
    _check()
    matrix, noise = _matrices(workload)

    @jax.jit
    def simulate(key):
        start = jnp.asarray(workload.x0, jnp.float32)

        def one_path(key):
            return _solve(workload, start, key, lambda t, x, _: -(matrix @ x), lambda t, x, _: noise)[:, :2]

        return jax.vmap(one_path, out_axes=1)(jax.random.split(key, workload.paths))

    return lambda seed: Moments.of(simulate(jax.random.key(seed)))


def batched(workload: LinearEquation, cores: int) -> Run:
    """One solve of all paths (paths, d)."""
    _check()
    matrix, noise = _matrices(workload)

    @jax.jit
    def simulate(key):
        start = jnp.tile(jnp.asarray(workload.x0, jnp.float32), (workload.paths, 1))
        shape = jax.ShapeDtypeStruct(start.shape, start.dtype)
        diffusion = lineax.FunctionLinearOperator(lambda dw: dw @ noise.T, shape)
        return _solve(workload, start, key, lambda t, x, _: -(x @ matrix.T), lambda t, x, _: diffusion)[:, :, :2]

    return lambda seed: Moments.of(simulate(jax.random.key(seed)))


def _check():
    if diffrax is None:
        raise LeftOut("diffrax is not installed")


def _matrices(w: LinearEquation):
    return jnp.asarray(w.matrix, jnp.float32), jnp.asarray(ETA**0.5 * w.noise, jnp.float32)


def _solve(w: LinearEquation, start, key, drift, diffusion):
    brownian = diffrax.UnsafeBrownianPath(jax.ShapeDtypeStruct(start.shape, start.dtype), key)
    times = ETA * w.save_every * np.arange(1, w.saves + 1)
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, brownian)),
        diffrax.Euler(),
        t0=0.0,
        t1=float(times[-1]),
        dt0=ETA,
        y0=start,
        saveat=diffrax.SaveAt(ts=jnp.asarray(times, jnp.float32)),
        max_steps=w.steps + 2,  # the clock is a float32
        adjoint=diffrax.ForwardMode(),
    )
    return solution.ys
