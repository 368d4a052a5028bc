"""`python -m benchmarks.scaling`: does the square-root rule hold? What `regime` predicts, against what is measured.

Softmax regression on the digits, base batch size 2. Where noise dominates: 40 % of the labels redrawn, at a point that
Adam reaches at its stationary spread around the minimiser. Where the signal does: clean labels, at the start from zero.

From that point x₀ the rules run for so few examples that ∇F stays what it is. The speed of a rule is the fall of F to
first order, E ∇F(x₀)·(x₀ − x), over that of the base rule for as many examples. Predicted, with the rate η' and the ε'
of the rule and its steps / κ:

    (η'/(κ η)) Σ_i (∂_iF)²/(√(Σ_ii/κ + (∂_iF)²) + ε') / Σ_i (∂_iF)²/(√(Σ_ii + (∂_iF)²) + ε)

which for the square-root rule is `regime(...).speed(κ)`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

import itograd as ig
from benchmarks.report import as_table, write_between
from itograd.report.numerals import with_error
from itograd.simulation.engine import final_points
from itograd.simulation.precision import as_traced, double

BEGIN = "<!-- scaling: written by `python -m benchmarks.scaling --write docs/batch-size.md` -->"
END = "<!-- end of scaling -->"
BATCH, DECAY, TOLERANCE = 2, 2e-3, 0.08
FACTORS = (4, 16)
RATE = 1e-5  # so small that 4096 steps of it leave ∇F as it is
STEPS = 4096
OPTIMIZERS = {
    "RMSprop": ig.RMSprop(RATE, 0.998, eps=2e-3, correct_second=True),
    "Adam": ig.Adam(RATE, 0.996, 0.998, eps=2e-3),
}
RULES = {
    "square root": lambda rule, factor: rule.scaled(factor),
    "linear rate": lambda rule, factor: dataclasses.replace(rule.scaled(factor), learning_rate=RATE * factor),
    "unchanged": lambda rule, factor: rule,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the table, and write it into a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--paths", type=int, default=256, metavar="N", help="of each run (256)")
    parser.add_argument("--write", metavar="PAGE", help="put the table into this page, between its markers")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    rows = [
        row
        for name, (problem, point) in settings().items()
        for optimizer in OPTIMIZERS
        for row in measured_rows(name, optimizer, problem, point, options.paths)
    ]
    text = as_markdown(rows, options.paths)
    print(text)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    if options.write:
        write_between(Path(options.write), BEGIN, END, text)
    return 0


def settings() -> dict[str, tuple]:
    """The regimes: (problem, point)."""
    noisy = ig.problems.digits(batch_size=BATCH, l2=DECAY, label_noise=0.4)
    adam = ig.Adam(0.002, 0.996, 0.998, eps=2e-3)
    spread = final_points(adam.chain(noisy), minimiser(noisy), 12_800)[0]
    clean = ig.problems.digits(batch_size=BATCH)
    return {"noise": (noisy, spread.astype(float)), "signal": (clean, clean.x0)}


def minimiser(problem) -> np.ndarray:
    """The minimiser, by L-BFGS."""
    with double():
        value_and_gradient = jax.jit(jax.value_and_grad(as_traced(problem, "float64").loss))

    def objective(x):
        with double():
            value, gradient = value_and_gradient(jnp.asarray(x))
        return float(value), np.asarray(gradient)

    settings = {"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-10}
    return minimize(objective, problem.x0, jac=True, method="L-BFGS-B", options=settings).x


class Descent(eqx.Module):
    """∇F(x₀)·(x₀ − x)."""

    point: np.ndarray
    gradient: np.ndarray

    def __call__(self, x):
        return jnp.asarray(self.gradient) @ (jnp.asarray(self.point) - x)


def measured_rows(name: str, optimizer: str, problem, point, paths: int):
    """The rows of one regime and one optimiser."""
    rule = OPTIMIZERS[optimizer]
    found = ig.regime(rule, problem, point, tolerance=TOLERANCE)
    with double():
        exact, at = as_traced((problem, point), "float64")
        gradient, variances = np.asarray(exact.gradient(at)), np.asarray(exact.noise_variances(at))
    descent = Descent(point, gradient)
    base = fall(rule, problem, descent, 1, paths, seed=0)
    for factor in FACTORS:
        for seed, (title, change) in enumerate(RULES.items(), start=1):
            changed = change(rule, factor)
            value, error = fall(changed, problem, descent, factor, paths, seed=100 * factor + seed)
            speed = value / base[0]
            yield {
                "regime": name,
                "optimizer": optimizer,
                "factor": factor,
                "rule": title,
                "said": found.may_scale(factor).outcome if title == "square root" else "",
                "predicted": predicted_speed(rule, changed, gradient**2, variances, factor),
                "measured": speed,
                "error": speed * np.hypot(error / value, base[1] / base[0]),
            }


def predicted_speed(rule, changed, squared_gradient, variances, factor) -> float:
    """The speed of a changed rule; see the head of this file."""

    def descent(variance, eps):
        below = np.sqrt(variance + squared_gradient) + eps
        return (squared_gradient / below).sum()

    rates = changed.learning_rate / (factor * rule.learning_rate)
    return float(rates * descent(variances / factor, changed.eps) / descent(variances, rule.eps))


def fall(rule, problem, descent: Descent, factor: int, paths: int, seed: int) -> tuple[float, float]:
    """The mean fall of F, to first order, and its standard error."""
    runs = ig.simulate(
        rule,
        problem.with_batch_size(BATCH * factor),
        x0=descent.point,
        steps=STEPS // factor,
        save_every=STEPS // factor,
        paths=paths,
        seed=seed,
        observables={"descent": descent},
        dtype="float64",
        progress=False,
    )
    return float(runs["mean"].values[-1, 0]), float(runs["mean_standard_error"].values[-1, 0])


def as_markdown(rows: list[dict], paths: int) -> str:
    """The table with its caption."""
    head = [
        "dominates",
        "optimiser",
        "κ",
        "rule",
        f"`may_scale` at {TOLERANCE:.0%}",
        "predicted speed",
        "measured speed",
    ]
    lines = [
        [
            row["regime"],
            row["optimizer"],
            str(row["factor"]),
            row["rule"],
            row["said"],
            f"{row['predicted']:.3f}",
            with_error(row["measured"], row["error"]),
        ]
        for row in rows
    ]
    caption = (
        f"Speed per example over that of the base rule (B = {BATCH}, {STEPS} steps, {paths} paths each; "
        "standard errors of a ratio of means)."
    )
    return f"{caption}\n\n{as_table([head, *lines])}\n"


if __name__ == "__main__":
    sys.exit(main())
