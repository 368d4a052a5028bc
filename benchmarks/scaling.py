"""`python -m benchmarks.scaling`: do the scaling rules hold? What is predicted, against what is measured.

Every optimiser with every rule that has a meaning for it, where noise dominates and where the signal does. Softmax
regression on the digits, base batch size 2. Noise: 40 % of the labels redrawn, at a point that Adam reaches at its
stationary spread around the minimiser. Signal: clean labels, at the start from zero.

From that point x₀ the rules run for so few examples that ∇F stays what it is. The speed of a rule is the fall of F to
first order, E ∇F(x₀)·(x₀ − x), over that of the base rule for as many examples. Predicted fall of n steps:

    SGD               η n Σ_i (∂_iF)²
    heavy ball        η Σ_{j=1..n} (1−μ^j)/(1−μ) Σ_i (∂_iF)², exactly; Nesterov's look-ahead point: μ^{j+1} for μ^j
    RMSprop, Adam     η n Σ_i (∂_iF)²/(√(Σ_ii/κ + (∂_iF)²) + ε), of a v that has settled and averages many steps
    AdamW             the same and η n λ ∇F·x₀

with the rate, μ, ε and λ of the scaled rule, n = steps / κ. For the own rule of RMSprop and Adam the ratio of two of
them is `regime(...).speed(κ)`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

import itograd as ig
from benchmarks.report import as_table, write_between
from itograd.optimizers.adaptive import AdaptiveMethod
from itograd.optimizers.scaling_rules import RULES, moves_of
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
    "SGD": ig.SGD(RATE),
    "Momentum": ig.Momentum(RATE, momentum=0.9),
    "Nesterov": ig.Nesterov(RATE, momentum=0.9),
    "RMSprop": ig.RMSprop(RATE, 0.998, eps=2e-3, correct_second=True),
    "Adam": ig.Adam(RATE, 0.996, 0.998, eps=2e-3),
    "AdamW": ig.AdamW(RATE, 0.996, 0.998, eps=2e-3, weight_decay=0.05),
}
OWN = "its own"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the table, and write it into a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--paths", type=int, default=1024, metavar="N", help="of each run (1024)")
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


def rules_of(optimizer) -> dict[str, str | None]:
    """The rules that have a meaning for an optimiser and are not its own by another name; its own first."""
    found: dict[str, str | None] = {OWN: None}
    for name in RULES:
        try:
            moves = moves_of(optimizer, name)
        except ValueError:  # it speaks of what the optimiser does not have
            continue
        if moves != moves_of(optimizer):
            found[f"`{name}`"] = name
    return found


def measured_rows(name: str, optimizer: str, problem, point, paths: int):
    """The rows of one regime and one optimiser."""
    rule = OPTIMIZERS[optimizer]
    adaptive = isinstance(rule, AdaptiveMethod)
    found = ig.regime(rule, problem, point, tolerance=TOLERANCE) if adaptive else None
    with double():
        exact, at = as_traced((problem, point), "float64")
        place = Place(point, np.asarray(exact.gradient(at)), np.asarray(exact.noise_variances(at)))
    descent = Descent(point, place.gradient)
    base = fall(rule, problem, descent, 1, paths, seed=0)
    for factor in FACTORS:
        for seed, (title, its_name) in enumerate(rules_of(rule).items(), start=1):
            changed = ig.scale(rule, factor, its_name)
            value, error = fall(changed, problem, descent, factor, paths, seed=100 * factor + seed)
            speed = value / base[0]
            yield {
                "regime": name,
                "optimizer": optimizer,
                "factor": factor,
                "rule": title,
                "said": found.may_scale(factor).outcome if found and its_name is None else "",
                "predicted": predicted_fall(changed, place, factor) / predicted_fall(rule, place, 1),
                "measured": speed,
                "error": speed * np.hypot(error / value, base[1] / base[0]),
            }


class Place(NamedTuple):
    """A point x₀ with ∇F and diag Σ there, of the base batch size."""

    point: np.ndarray
    gradient: np.ndarray
    variances: np.ndarray


def predicted_fall(rule, place: Place, factor: int) -> float:
    """The fall of F to first order over as many examples as STEPS base batches; see the head of this file."""
    steps = STEPS // factor
    squares = place.gradient**2
    if isinstance(rule, AdaptiveMethod):
        descent = (squares / (np.sqrt(place.variances / factor + squares) + rule.eps)).sum()
        if isinstance(rule, ig.AdamW):
            descent += rule.weight_decay * place.gradient @ place.point
        return float(rule.learning_rate * steps * descent)
    momentum = getattr(rule, "momentum", 0.0)
    first = 2 if isinstance(rule, ig.Nesterov) else 1
    memory = (1 - momentum ** np.arange(first, first + steps)).sum() / (1 - momentum)
    return float(rule.learning_rate * memory * squares.sum())


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
    """The table of speeds with its caption, and what `may_scale` said before."""
    caption = (
        f"Speed per example over that of the base rule (B = {BATCH}, {STEPS} steps, {paths} paths each): predicted, "
        "and measured ± the standard error of a ratio of means."
    )
    speeds = _by_cell(rows, lambda row: f"{row['predicted']:.4f}: {with_error(row['measured'], row['error'])}")
    said = _by_cell([row for row in rows if row["said"]], lambda row: row["said"])
    return f"{caption}\n\n{speeds}\n\n`may_scale` at {TOLERANCE:.0%}, before the run:\n\n{said}\n"


def _by_cell(rows: list[dict], shown: Callable[[dict], str]) -> str:
    """A line for every optimiser and rule, a column for every regime and batch factor."""
    columns = list(dict.fromkeys((row["regime"], row["factor"]) for row in rows))
    lines: dict[tuple, dict] = {}
    for row in rows:
        lines.setdefault((row["optimizer"], row["rule"]), {})[row["regime"], row["factor"]] = shown(row)
    head = ["optimiser", "rule", *(f"{regime}, κ = {factor}" for regime, factor in columns)]
    return as_table([head, *([*key, *(cells[column] for column in columns)] for key, cells in lines.items())])


if __name__ == "__main__":
    sys.exit(main())
