"""The compiled source of random numbers: a C library (`native/`), called through `jax.ffi` on a CPU.

    state = Philox4x32-10(key = seed; tile, step, lane, block)    eight generators to a stream
    words = xoshiro256++(state)                                   in the order of (row, path in the tile)

Salmon et al. (2011) and Blackman, Vigna (2021). A word is a function of (seed, tile, step, lane, row, path in the
tile), and the bytes of the numbers made of it depend on nothing else: not on how many steps or tiles one call fills,
nor on the instruction set. `docs/noise.md` has the laws, their errors and their speed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from itograd.validation import require, require_choice

# What native/noise.h says: a library that was built from other sources than these is refused.
INTERFACE = 2

# In the order of `enum kind` and `enum instruction_set` in native/noise.h.
KINDS = ("words", "normal", "two_point", "three_point", "uniform", "index", "geometric")
INSTRUCTION_SETS = ("portable", "avx2", "avx512")

# The instruction set to use instead of the processor's best, for tests and timings.
CHOICE = "ITOGRAD_NOISE_ISA"

_TARGET, _SUMS_TARGET = "itograd_noise", "itograd_sums"
_DTYPES = {"words": "uint32", "index": "int32", "geometric": "int32"}


def available() -> bool:
    """Whether the compiled source can be used here; the first call loads the library.

    >>> available() == (reason() == "")
    True
    """
    return not reason()


def reason() -> str:
    """Why the compiled source cannot be used here; empty where it can."""
    return _load()[1]


def instruction_set() -> str:
    """The instruction set in use: "avx512", "avx2" or "portable".

    The processor's best, or what the environment variable ITOGRAD_NOISE_ISA names; the numbers are the same.

    >>> not available() or instruction_set() in INSTRUCTION_SETS
    True
    """
    supported = [name for code, name in enumerate(INSTRUCTION_SETS) if _library().itograd_noise_supports(code)]
    chosen = os.environ.get(CHOICE) or supported[-1]
    require_choice(CHOICE, chosen, tuple(supported))
    return chosen


def draw(
    kind: str,
    seed: jax.Array,
    tile: jax.Array,
    step: jax.Array,
    *,
    lane: int,
    steps: int,
    rows: int,
    paths: int,
    tile_size: int,
    parameter=None,
) -> jax.Array:
    """Random numbers of a kind for the steps step, step+1, …: an array (steps, rows, paths). Only on a CPU.

    Paths belong to the tiles tile, tile+1, …, `tile_size` to each. `seed` (two words), `tile` and `step` are uint32 and
    may be traced, the rest is static.

        words        uint32
        normal       standard normal, float32
        two_point    ±1, float32; one bit each
        three_point  ±√3 with probability 1/6 each, else 0, float32
        uniform      (word + 1/2) 2^-32 in (0, 1], float32
        index        0 … parameter − 1, int32
        geometric    P(j) = (1−q) q^j, int32, at most n: parameter is (q, n), of which q may be traced

    Raises ValueError for a kind, lane, size or parameter out of range, RuntimeError where `available()` is false.
    """
    library_is_there = available()
    require_choice("kind", kind, KINDS)
    require(0 <= lane < 2**32, f"lane must be in [0, 2^32): got {lane}")
    for name, size in (("steps", steps), ("rows", rows), ("paths", paths), ("tile_size", tile_size)):
        require(size >= 1, f"{name} must be at least 1: got {size}")
    require(paths % tile_size == 0, f"paths must be a multiple of tile_size: got {paths} and {tile_size}")
    ratio, n = _checked(kind, parameter)
    if not library_is_there:
        raise RuntimeError(f"the compiled noise is not to be had here: {reason()}")
    shape = jax.ShapeDtypeStruct((steps, rows, paths), np.dtype(_DTYPES.get(kind, "float32")))
    call = jax.ffi.ffi_call(_TARGET, shape, vmap_method="sequential")
    operands = [jnp.asarray(x, jnp.uint32) for x in (seed, tile, step)]
    return call(
        *operands,
        jnp.asarray(ratio, jnp.float32),
        instruction_set=np.int32(INSTRUCTION_SETS.index(instruction_set())),
        kind=np.int32(KINDS.index(kind)),
        lane=np.uint32(lane),
        n=np.uint32(n),
        tile_size=np.int64(tile_size),
    )


def power_sums(values: jax.Array, alive: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which paths are still alive, and sums of powers over them of observables (n, paths). Only on a CPU.

    A path stays alive while its observables are finite. The sums, (n, 7, 2) uint32, are float64 numbers as pairs of
    words (`numpy.ndarray.view`): count, shift, unit, Σd, Σd², Σd³, Σd⁴ with d = (value − shift)/unit. They are taken in
    one fixed order.
    """
    results = (
        jax.ShapeDtypeStruct(alive.shape, alive.dtype),
        jax.ShapeDtypeStruct((values.shape[0], 7, 2), np.dtype("uint32")),
    )
    call = jax.ffi.ffi_call(_SUMS_TARGET, results, vmap_method="sequential")
    still, sums = call(values, alive, instruction_set=np.int32(INSTRUCTION_SETS.index(instruction_set())))
    return still, sums


def _checked(kind: str, parameter):
    """The two parameters of a kind, (ratio, n)."""
    if kind == "index":
        require(parameter is not None and 1 <= parameter < 2**31, f"index needs 1 <= n < 2^31: got n={parameter}")
        return 0.0, parameter
    if kind == "geometric":
        require(isinstance(parameter, tuple) and len(parameter) == 2, f"geometric needs (q, n): got {parameter}")
        require(0 <= parameter[1] < 2**24, f"geometric needs 0 <= n < 2^24: got n={parameter[1]}")
        return parameter
    require(parameter is None, f"{kind} takes no parameter: got {parameter}")
    return 0.0, 0


def _library() -> ctypes.CDLL:
    library, why = _load()
    if library is None:
        raise RuntimeError(f"the compiled noise is not to be had here: {why}")
    return library


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none."""
    found = _files()
    if not found:
        return None, "itograd was installed without it; install from source where there is a C compiler (gcc or clang)"
    try:
        # A library made for another version of XLA's interface harms the backend only if it is registered first.
        jax.devices("cpu")
        library = ctypes.CDLL(str(found[0]))
        if library.itograd_noise_interface() != INTERFACE:
            return None, f"{found[0].name} was built from other sources; install itograd again"
        library.itograd_noise_supports.argtypes = [ctypes.c_int]
        for name in (_TARGET, _SUMS_TARGET):
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    except Exception as error:  # whatever fails, pure JAX serves instead
        return None, f"{found[0].name} cannot be loaded: {error}"
    return library, ""


def _files() -> list[Path]:
    """Where the library lies: beside this file, or in an editable install where the package's path leads to."""
    folders = dict.fromkeys([*sys.modules[__package__].__path__, str(Path(__file__).parent)])
    return [file for folder in folders for file in sorted(Path(folder).glob(f"*{_TARGET}.*")) if file.is_file()]
