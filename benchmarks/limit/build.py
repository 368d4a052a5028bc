"""Builds the kernels with the C compiler at hand, into a temporary folder, and writes the tables they include."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import ndtri

from benchmarks.left_out import LeftOut

HERE = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")


@cache
def kernels() -> ctypes.CDLL:
    """The library of kernels. Raises `LeftOut` where there is no compiler, or neither AVX-512 nor AVX2 with FMA."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None:
        raise LeftOut("there is no C compiler (cc, gcc, clang or $CC)")
    folder = Path(tempfile.mkdtemp(prefix="itograd-limit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "tables.h").write_text(tables())
    library = folder / "limit.so"
    sources = [str(source) for source in sorted(HERE.glob("*.c"))]
    command = [compiler, *FLAGS, "-I", str(folder), "-o", str(library), *sources]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        errors = [line for line in built.stderr.splitlines() if "error" in line] or built.stderr.splitlines()
        raise LeftOut(f"the kernels do not compile here: {errors[0] if errors else 'no message'}")
    return ctypes.CDLL(str(library))


def tables() -> str:
    """The header tables.h: polynomials fitted at Chebyshev points."""
    normal = np.zeros((5, 32))
    for exponent in range(31):  # tail probabilities m 2^(exponent − 32), m in [1, 2); 2^-1 itself has the normal 0
        normal[:, (exponent - 1) % 32] = _fit(lambda m, e=exponent: ndtri(m * 2.0 ** (e - 32)), 4, (1, 2))
    log = _fit(lambda t: np.divide(np.log1p(t), t, out=np.ones_like(t), where=t != 0), 8, (-0.25, 0.5))
    exp2 = _fit(np.exp2, 6, (-0.5, 0.5))
    minus_log_rest = _fit(lambda m: np.log(2) * (m - 1) - np.log(m), 5, (1, 2))
    sine = _fit(lambda t: np.sqrt(2) * np.sin(np.pi / 2 * np.sqrt(t)) / np.sqrt(t), 3, (0, 1))
    cosine = _fit(lambda t: np.sqrt(2) * np.cos(np.pi / 2 * np.sqrt(t)), 3, (0, 1))
    rows = ",\n".join("{" + _numbers(row) + "}" for row in normal)
    return (
        f"static const float NORMAL_TABLE[5][32] = {{\n{rows}}};\n"
        f"static const float LOG_SERIES[9] = {{{_numbers(log)}}};\n"
        f"static const float EXP2_SERIES[7] = {{{_numbers(exp2)}}};\n"
        f"static const float MINUS_LOG_REST[6] = {{{_numbers(minus_log_rest)}}};\n"
        f"static const float SINE_SERIES[4] = {{{_numbers(sine)}}};\n"
        f"static const float COSINE_SERIES[4] = {{{_numbers(cosine)}}};\n"
    )


def _fit(function, degree: int, interval: tuple[float, float]) -> np.ndarray:
    """Coefficients, from the constant up, of the interpolation at Chebyshev points."""
    return Chebyshev.interpolate(function, degree, domain=interval).convert(kind=Polynomial, domain=[-1, 1]).coef


def _numbers(values) -> str:
    return ", ".join(f"{value:.9e}f" for value in values)
