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
    kernel, coefficients, dim, extra = _kernel(workload)
    call = getattr(kernels(), kernel)
    call.restype = None
    group = _constant(f"{kernel}_paths")
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


def _constant(name: str) -> int:
    """What the kernels were built with."""
    return ctypes.c_int.in_dll(kernels(), name).value


@singledispatch
def _kernel(workload):
    """(kernel, coefficients, dim, further arguments)."""
    raise TypeError(f"no kernel for {workload!r}")


@_kernel.register
def _(w: LeastSquares):
    a, b, n = np.sqrt(ETA) * w.features, np.sqrt(ETA) * w.targets, len(w.targets)
    if w.max_delay:
        return "asynchronous_sgd", (a.T, b, 1 / np.log([w.delay_ratio])), n, ()
    return ("sgd_two_summands", (a.T, b), n, ()) if n == 2 else ("sgd_table", (a.T, b), n, ())


@_kernel.register
def _(w: LinearEquation):
    step, noise = np.eye(w.dim) - ETA * w.matrix, ETA * w.noise
    if w.dim == 2:
        return f"planar_{w.increment}", (step, noise), 2, ()
    return "dense_gaussian", ([ETA], _tiled(np.hstack([step, noise]))), w.dim, ()


@_kernel.register
def _(w: Underdamped):
    decay = 1 - ETA * w.friction
    if w.dim == 2:
        return "planar_underdamped", (ETA * w.matrix, ETA * w.noise, [decay, ETA]), 2, ()
    blocks = np.hstack([decay * np.eye(w.dim), -ETA * w.matrix, ETA * w.noise])
    return "dense_underdamped", ([ETA], _tiled(blocks)), w.dim, ()


@_kernel.register
def _(w: Adaptive):
    return w.rule, ([w.sigma, w.learning_rate, w.b1, w.b2, w.eps], w.curvature), w.dim, ()


@_kernel.register
def _(w: SoftmaxDigits):
    features, labels = w.data
    classes = np.ascontiguousarray(labels.argmax(1), np.int32)
    padded = np.pad(features, ((0, 0), (0, -features.shape[1] % _constant("softmax_block"))))
    further = ctypes.c_int(len(features)), ctypes.c_int(w.batch_size), _Held(classes)
    return "softmax_sgd", ([w.learning_rate], padded), padded.shape[1], further


class _Held(ctypes.c_void_p):
    """The address of an array that lives as long as it."""

    def __init__(self, array: np.ndarray):
        super().__init__(array.ctypes.data)
        self.array = array


def _tiled(matrix: np.ndarray) -> np.ndarray:
    """In tiles of rows, as dense.c reads them."""
    tile = _constant("dense_tile")
    padded = np.pad(matrix, ((0, -len(matrix) % tile), (0, 0)))
    return padded.reshape(-1, tile, matrix.shape[1]).transpose(0, 2, 1)
