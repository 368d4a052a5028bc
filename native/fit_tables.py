"""Writes tables.h: the polynomials of the normal law's inverse distribution function and of the logarithm.

    python native/fit_tables.py > native/tables.h

Minimax polynomials by the exchange algorithm of Remez in float64. Coefficients are rounded to float32 one after the
other, from the highest power; those still free are fitted again after each, so that they take up its rounding.
"""

import numpy as np
from scipy.special import ndtri

NORMAL_DEGREE, LOG_DEGREE = 4, 9


def remez(function, degree, low, high):
    """The polynomial of a degree nearest to the function on [low, high], as powers of x."""
    count = degree + 2
    grid = np.linspace(low, high, 8001)
    target = function(grid)
    points = np.rint((1 - np.cos(np.pi * np.arange(count) / (count - 1))) / 2 * 8000).astype(int)

    def scaled(x):
        return (2 * x - low - high) / (high - low)

    for _ in range(20):
        matrix = np.polynomial.chebyshev.chebvander(scaled(grid[points]), degree)
        signs = (-1.0) ** np.arange(count)
        solution = np.linalg.solve(np.column_stack([matrix, signs]), target[points])[:-1]
        error = target - np.polynomial.chebyshev.chebval(scaled(grid), solution)
        ends = np.flatnonzero(np.diff(np.sign(error)) != 0) + 1
        runs = np.split(np.arange(len(grid)), ends)
        extrema = [run[np.argmax(np.abs(error[run]))] for run in runs]
        while len(extrema) > count:
            extrema.pop(0 if abs(error[extrema[0]]) < abs(error[extrema[-1]]) else -1)
        if len(extrema) < count or list(extrema) == list(points):
            break
        points = np.array(extrema)
    chebyshev = np.polynomial.Chebyshev(solution, domain=[low, high])
    return chebyshev.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef


def rounded(function, degree, low, high):
    """The same with float32 coefficients."""
    coefficients = np.zeros(degree + 1)
    for power in range(degree, -1, -1):
        known = np.polynomial.Polynomial(coefficients)
        free = remez(lambda x, known=known: function(x) - known(x), power, low, high)
        coefficients[power] = np.float32(free[power])
    return coefficients.astype(np.float32)


def normal_table():
    """Coefficients (power, 64): entry 2 (e mod 32) + half serves the odd numbers k in 2^e [1 + half/2, 1.5 + half/2).

    k 2^-32 is the probability of a tail and z its quantile. The last entry but one is that of k rounded up to 2^31.
    """
    table = np.zeros((NORMAL_DEGREE + 1, 64), np.float32)
    for exponent in range(31):
        for half in (0, 1):
            scale, shift = 2.0 ** (exponent - 32), half / 2
            entry = 2 * ((exponent + 127) % 32) + half
            table[:, entry] = rounded(lambda m, a=scale, b=shift: -ndtri(a * (m + b)), NORMAL_DEGREE, 1, 1.5)
    table[0, 2 * ((31 + 127) % 32)] = -ndtri(0.5 - 2.0**-27)  # the mean of k = 2^31 − 63 … 2^31 − 1
    return table


def log2_series():
    """log2(1 + t) = t P(t) for 1 + t in [√½, √2)."""

    def ratio(t):
        return np.where(np.abs(t) < 1e-9, 1.0, np.log1p(t) / np.where(t == 0, 1.0, t)) / np.log(2)

    return rounded(ratio, LOG_DEGREE, np.sqrt(0.5) - 1, np.sqrt(2) - 1)


def row(values):
    """Exact float32 numbers as C literals."""
    return ", ".join(f"{float(v).hex()}f" for v in values)


if __name__ == "__main__":
    print("/* Written by fit_tables.py. */\n#pragma once\n")
    table = normal_table()
    print("/* normal of laws.h: [power][interval] */")
    print(f"enum {{ NORMAL_DEGREE = {NORMAL_DEGREE} }};")
    print("static const float NORMAL_TABLE[NORMAL_DEGREE + 1][64] = {")
    for power in table:
        for start in range(0, 64, 8):
            print(f"    {'{' if start == 0 else ' '}{row(power[start : start + 8])}{'},' if start == 56 else ','}")
    print("};\n")
    print("/* The same, an interval's coefficients side by side. */")
    print("static const float NORMAL_ROWS[64][8] = {")
    for coefficients in table.T:
        print(f"    {{{row(coefficients)}}},")
    print("};\n")
    print("/* log2(1 + t) / t */")
    series = log2_series()
    print(f"enum {{ LOG_DEGREE = {LOG_DEGREE} }};")
    print(f"static const float LOG2_SERIES[LOG_DEGREE + 1] = {{{row(series[:5])},")
    print(f"    {row(series[5:])}}};")
