"""Each workload on its kernel: coefficients in, moments out, groups of paths shared among threads."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import singledispatch

import numpy as np

from benchmarks.limit.build import kernels
from benchmarks.workloads import (
    ETA,
    Adaptive,
    LeastSquares,
    LinearEquation,
    Moments,
    Run,
    SoftmaxDigits,
    Underdamped,
    Workload,
)

_TILE = 10  # rows of a tile of dense.c


class _Parameters(ctypes.Structure):
    """`run` of lanes.h."""

    _fields_ = [
        ("dim", ctypes.c_int),
        ("saves", ctypes.c_int),
        ("steps_per_save", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("coefficients", ctypes.c_void_p),
        ("x0", ctypes.c_void_p),
    ]


def runner(workload: Workload, threads: int) -> Run:
    """A function from a seed to moments; the number of paths is rounded up to whole groups."""
    kernel, group, coefficients, dim, extra = _kernel(workload)
    call = getattr(kernels(), kernel)
    call.restype = None
    coefficients = np.ascontiguousarray(np.concatenate([np.ravel(c) for c in coefficients]), np.float32)
    x0 = np.ascontiguousarray(workload.x0, np.float32)
    groups = -(-workload.paths // group)
    shares = min(groups, threads if threads == 1 else 8 * threads)
    bounds = np.linspace(0, groups, shares + 1).astype(int)
    pool = ThreadPoolExecutor(threads)

    def run(seed: int) -> Moments:
        parameters = _Parameters(
            dim, workload.saves, workload.save_every, seed, coefficients.ctypes.data, x0.ctypes.data
        )

        def of_groups(first: int, end: int) -> np.ndarray:
            sums = np.zeros((workload.saves, 5))
            span = ctypes.c_long(first), ctypes.c_long(end - first)
            call(ctypes.byref(parameters), *span, *extra, sums.ctypes.data_as(ctypes.c_void_p))
            return sums

        moments = sum(pool.map(of_groups, bounds[:-1], bounds[1:])) / (groups * group)
        count = len(workload.observables)
        mean = moments[:, :count]
        return Moments(mean, moments[:, 2 : 2 + count] - mean**2, groups * group)

    return run


@singledispatch
def _kernel(workload):
    """(kernel, paths in a group, coefficients, dim, further arguments)."""
    raise TypeError(f"no kernel for {workload!r}")


@_kernel.register
def _(w: LeastSquares):
    a, b, n = np.sqrt(ETA) * w.features, np.sqrt(ETA) * w.targets, len(w.targets)
    if w.max_delay:
        return "asynchronous_sgd", 32, (a.T, b, 1 / np.log([w.delay_ratio])), n, ()
    return ("sgd_two_summands", 160, (a.T, b), n, ()) if n == 2 else ("sgd_table", 64, (a.T, b), n, ())


@_kernel.register
def _(w: LinearEquation):
    step, noise = np.eye(w.dim) - ETA * w.matrix, ETA * w.noise
    if w.dim == 2:
        return f"planar_{w.increment}", 64, (step, noise), 2, ()
    return "dense_gaussian", 32, ([ETA], _tiled(np.hstack([step, noise]))), w.dim, ()


@_kernel.register
def _(w: Underdamped):
    decay = 1 - ETA * w.friction
    if w.dim == 2:
        return "planar_underdamped", 64, (ETA * w.matrix, ETA * w.noise, [decay, ETA]), 2, ()
    blocks = np.hstack([decay * np.eye(w.dim), -ETA * w.matrix, ETA * w.noise])
    return "dense_underdamped", 32, ([ETA], _tiled(blocks)), w.dim, ()


@_kernel.register
def _(w: Adaptive):
    return w.rule, 32, ([w.sigma, w.learning_rate, w.b1, w.b2, w.eps], w.curvature), w.dim, ()


@_kernel.register
def _(w: SoftmaxDigits):
    features, labels = w.data
    classes = np.ascontiguousarray(labels.argmax(1), np.int32)
    further = ctypes.c_int(len(features)), ctypes.c_int(w.batch_size), _Held(classes)
    return "softmax_sgd", 1, ([w.learning_rate], features), features.shape[1], further


class _Held(ctypes.c_void_p):
    """The address of an array that lives as long as it."""

    def __init__(self, array: np.ndarray):
        super().__init__(array.ctypes.data)
        self.array = array


def _tiled(matrix: np.ndarray) -> np.ndarray:
    rows = -(-len(matrix) // _TILE) * _TILE
    padded = np.vstack([matrix, np.zeros((rows - len(matrix), matrix.shape[1]))])
    return padded.reshape(rows // _TILE, _TILE, -1).transpose(0, 2, 1)
