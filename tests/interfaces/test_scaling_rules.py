"""Every scaling rule on every optimiser, against numbers written by hand, and what the rules refuse."""

import math
import re
from pathlib import Path

import jax.numpy as jnp
import pytest

import itograd as ig
from itograd.optimizers.scaling_rules import RULES
from itograd.simulation.precision import double

PAGE = Path(__file__).parents[2] / "docs" / "batch-size.md"
SLOW = "underdamped"
OPTIMIZERS = {
    "sgd": ig.SGD(0.1, weight_decay=0.01),
    "momentum": ig.Momentum(0.1, 0.9, 0.01),
    "momentum, underdamped": ig.Momentum(0.01, 0.95, 0.01, SLOW),
    "nesterov": ig.Nesterov(0.1, 0.9, point="iterate"),
    "nesterov, underdamped": ig.Nesterov(0.01, 0.95, clock=SLOW),
    "increasing nesterov": ig.IncreasingNesterov(0.1),
    "rmsprop": ig.RMSprop(0.01, 0.5, eps=0.2, eps_root=0.4, v0=8.0, weight_decay=0.01),
    "adam": ig.Adam(0.01, 0.5, 0.25, eps=0.2, eps_root=0.4, v0=8.0, weight_decay=0.01),
    "adamw": ig.AdamW(0.01, 0.5, 0.25, eps=0.2, v0=8.0, weight_decay=0.03),
    "adamw, decay without rate": ig.AdamW(0.01, 0.5, 0.25, eps=0.2, weight_decay=0.03, decay_times_rate=False),
}
# What changes for a batch four times larger; everything else is kept. None: the rule has no meaning.
SECOND = {"beta": 0.0625}  # ½⁴
BOTH = {"b1": 0.0625, "b2": 0.00390625}  # ½⁴, ¼⁴
ROOTED = {"eps": 0.1, "eps_root": 0.1, "v0": 2.0}
KEPT_EPS = {"eps": 0.2, "eps_root": 0.4, "v0": 2.0}
ADAPTIVE_ONLY = ("square_root_rate_only", "square_root_keep_betas", "square_root_keep_eps", "keep_rate_scale_b2")
NO_MEANING = dict.fromkeys(ADAPTIVE_ONLY)
EXPECTED = {
    "sgd": {
        None: {"learning_rate": 0.4},
        "linear": {"learning_rate": 0.4},
        "square_root": {"learning_rate": 0.2},
        "keep_rate": {},
        **NO_MEANING,
    },
    "momentum": {
        None: {"learning_rate": 0.4},
        "linear": {"learning_rate": 0.4},
        "square_root": {"learning_rate": 0.2},
        "keep_rate": {},
        **NO_MEANING,
    },
    "momentum, underdamped": {
        None: {"learning_rate": 0.16, "momentum": 0.8},
        "linear": {"learning_rate": 0.04, "momentum": 0.8},
        "square_root": {"learning_rate": 0.02},
        "keep_rate": {},
        **NO_MEANING,
    },
    "nesterov": {
        None: {"learning_rate": 0.4},
        "linear": {"learning_rate": 0.4},
        "square_root": {"learning_rate": 0.2},
        "keep_rate": {},
        **NO_MEANING,
    },
    "nesterov, underdamped": {
        None: {"learning_rate": 0.16, "momentum": 0.8},
        "linear": {"learning_rate": 0.04, "momentum": 0.8},
        "square_root": {"learning_rate": 0.02},
        "keep_rate": {},
        **NO_MEANING,
    },
    "increasing nesterov": {
        None: {"learning_rate": 1.6},
        "linear": {"learning_rate": 0.4},
        "square_root": {"learning_rate": 0.2},
        "keep_rate": {},
        **NO_MEANING,
    },
    "rmsprop": {
        None: {"learning_rate": 0.02, **SECOND, **ROOTED},
        "linear": {"learning_rate": 0.04, **SECOND, **ROOTED},
        "square_root": {"learning_rate": 0.02, **SECOND, **ROOTED},
        "square_root_rate_only": {"learning_rate": 0.02},
        "square_root_keep_betas": {"learning_rate": 0.02, **ROOTED},
        "square_root_keep_eps": {"learning_rate": 0.02, **SECOND, **KEPT_EPS},
        "keep_rate": {},
        "keep_rate_scale_b2": SECOND,
    },
    "adam": {
        None: {"learning_rate": 0.02, **BOTH, **ROOTED},
        "linear": {"learning_rate": 0.04, **BOTH, **ROOTED},
        "square_root": {"learning_rate": 0.02, **BOTH, **ROOTED},
        "square_root_rate_only": {"learning_rate": 0.02},
        "square_root_keep_betas": {"learning_rate": 0.02, **ROOTED},
        "square_root_keep_eps": {"learning_rate": 0.02, **BOTH, **KEPT_EPS},
        "keep_rate": {},
        "keep_rate_scale_b2": {"b2": 0.00390625},
    },
    "adamw": {
        None: {"learning_rate": 0.02, **BOTH, "eps": 0.1, "v0": 2.0, "weight_decay": 0.06},
        "linear": {"learning_rate": 0.04, **BOTH, "eps": 0.1, "v0": 2.0, "weight_decay": 0.06},
        "square_root": {"learning_rate": 0.02, **BOTH, "eps": 0.1, "v0": 2.0, "weight_decay": 0.06},
        "square_root_rate_only": {"learning_rate": 0.02},
        "square_root_keep_betas": {"learning_rate": 0.02, "eps": 0.1, "v0": 2.0, "weight_decay": 0.06},
        "square_root_keep_eps": {"learning_rate": 0.02, **BOTH, "v0": 2.0, "weight_decay": 0.06},
        "keep_rate": {},
        "keep_rate_scale_b2": {"b2": 0.00390625},
    },
    "adamw, decay without rate": {
        None: {"learning_rate": 0.02, **BOTH, "eps": 0.1, "weight_decay": 0.12},
        "linear": {"learning_rate": 0.04, **BOTH, "eps": 0.1, "weight_decay": 0.12},
        "square_root": {"learning_rate": 0.02, **BOTH, "eps": 0.1, "weight_decay": 0.12},
        "square_root_rate_only": {"learning_rate": 0.02},
        "square_root_keep_betas": {"learning_rate": 0.02, "eps": 0.1, "weight_decay": 0.12},
        "square_root_keep_eps": {"learning_rate": 0.02, **BOTH, "weight_decay": 0.12},
        "keep_rate": {},
        "keep_rate_scale_b2": {"b2": 0.00390625},
    },
}


@pytest.mark.parametrize("rule", [None, *RULES])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_rule_on_every_optimiser(name, rule):
    optimizer, expected = OPTIMIZERS[name], EXPECTED[name][rule]
    if expected is None:
        message = f"the rule '{rule}' speaks of .*, and {type(optimizer).__name__} has none: its rules are 'linear'"
        with pytest.raises(ValueError, match=message):
            ig.scale(optimizer, 4, rule=rule)
        return
    scaled = ig.scale(optimizer, 4, rule=rule)
    assert type(scaled) is type(optimizer)
    fields = {**vars(optimizer), **expected}
    for field, value in vars(scaled).items():
        wanted = fields[field] if isinstance(fields[field], str | bool) else pytest.approx(fields[field], rel=1e-14)
        assert value == wanted, field


@pytest.mark.parametrize("rule", [None, *RULES])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rule_there_and_back_changes_nothing(name, rule):
    optimizer = OPTIMIZERS[name]
    if EXPECTED[name][rule] is None:
        return
    assert ig.scale(optimizer, 1, rule=rule) == optimizer
    back = ig.scale(ig.scale(optimizer, 2, rule=rule), 0.5, rule=rule)
    for field, value in vars(optimizer).items():
        wanted = value if isinstance(value, str | bool) else pytest.approx(value, rel=1e-14)
        assert getattr(back, field) == wanted, field


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_own_rule_keeps_the_continuous_time_of_the_same_examples(name):
    optimizer = OPTIMIZERS[name]
    assert ig.scale(optimizer, 4).time_per_step == pytest.approx(4 * optimizer.time_per_step, rel=1e-14)


def test_the_linear_form_of_the_betas():
    scaled = ig.scale(ig.Adam(b1=0.9, b2=0.99), 4, rule="square_root", betas="linear")
    assert (scaled.b1, scaled.b2) == pytest.approx((0.6, 0.96), rel=1e-14)
    assert ig.scale(ig.Adam(b1=0.9), 64, rule="square_root_keep_betas", betas="linear").b1 == 0.9  # not moved: legal
    assert ig.scale(ig.Momentum(0.01, 0.9, clock=SLOW), 64, rule="keep_rate").momentum == 0.9


DOCUMENTED = {"kept": 0.0, "× √κ": 0.5, "÷ √κ": -0.5, "× κ": 1.0, "÷ κ": -1.0}
FACTOR = 1.0001  # an exponent is the slope at κ = 1


def test_the_table_of_the_documentation_says_what_each_rule_keeps():
    """docs/batch-size.md, the columns of the SDE: σ₀, ε₀, c₁ and c₂, λ₀ and the time of the same examples."""
    old = ig.AdamW(0.01, 0.99, 0.999, 1e-3, 0.1)
    table = re.findall(r"(?m)^\| (?:own = )?`\"(\w+)\"` \|(.*)\|$", PAGE.read_text(encoding="utf-8"))
    assert [name for name, _ in table] == ["square_root", *(name for name in RULES if name != "square_root")]
    for name, cells in table:
        new = ig.scale(old, FACTOR, rule=name, betas="linear")
        first, second = (
            ((1 - getattr(new, b)) / new.learning_rate**2) / ((1 - getattr(old, b)) / old.learning_rate**2)
            for b in ("b1", "b2")
        )
        ratios = {
            "sigma0": new.learning_rate / old.learning_rate / FACTOR**0.5,
            "eps0": new.eps * new.learning_rate / (old.eps * old.learning_rate),
            "lambda0": new.weight_decay / new.learning_rate / (old.weight_decay / old.learning_rate),
            "time": new.time_per_step / old.time_per_step / FACTOR,
        }
        *_, sigma0, eps0, c, lambda0, time = (cell.strip() for cell in cells.split("|"))
        both = ("kept", "× κ") if c == "c₁ kept, c₂ × κ" else (c, c)
        said = {"sigma0": sigma0, "eps0": eps0, "lambda0": lambda0, "time": time, "c1": both[0], "c2": both[1]}
        for quantity, ratio in {**ratios, "c1": first, "c2": second}.items():
            exponent = math.log(ratio) / math.log(FACTOR)
            assert exponent == pytest.approx(DOCUMENTED[said[quantity]], abs=1e-3), (name, quantity)


SCHEDULES = {
    "cosine": lambda base: ig.schedules.Cosine(base, duration=2.0, final=0.1),
    "warmup": lambda base: ig.schedules.Warmup(base, duration=2.0, initial=0.1),
    "exponential": lambda base: ig.schedules.Exponential(base, rate=0.7),
    "piecewise": lambda base: ig.schedules.Piecewise(base, (0.6, 1.7), (1.0, 0.5, 0.1)),
    "function": lambda base: ig.schedules.Function(base, lambda t: 1 + 0.5 * jnp.sin(2 * t)),
}


@pytest.mark.parametrize("rule", [None, "linear", "square_root", "keep_rate"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", [ig.SGD, ig.Adam, ig.IncreasingNesterov])
def test_a_schedule_is_unchanged_in_examples(method, schedule, rule):
    """The shape after k steps is that after k/4 steps of a batch four times larger, whatever the clock."""
    optimizer = method(SCHEDULES[schedule](0.1))
    scaled = ig.scale(optimizer, 4, rule=rule)
    with double():
        for steps in (0, 8, 40, 120, 400):
            before = optimizer.learning_rate.shape(steps * optimizer.time_per_step)
            after = scaled.learning_rate.shape(steps / 4 * scaled.time_per_step)
            assert float(after) == pytest.approx(float(before), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ig.scale(ig.SGD(0.1), 2, rule="sqrt"), "rule must be one of 'linear', 'square_root', .*: got 'sqrt'"),
        (lambda: ig.scale(ig.Adam(), 0, rule="linear"), "batch_factor must be a finite number"),
        (lambda: ig.scale(ig.Adam(), 2, rule="linear", betas="square"), "betas must be one of 'linear', 'memory'"),
        (
            lambda: ig.scale(ig.Adam(), 16, rule="square_root", betas="linear"),
            r"batch_factor\*\(1 - b1\) < 1: batch_factor=16, b1=0.9 gives 1.6; keep batch_factor below 10",
        ),
        (lambda: ig.scale(ig.SGD(0.1), 2, rule="keep_rate_scale_b2"), "speaks of the decay rate of a second moment"),
        (lambda: ig.scale(ig.Momentum(0.1), 2, rule="square_root_keep_eps"), "speaks of ε, and Momentum has none"),
    ],
)
def test_rules_refuse_with_the_reason(make, message):
    with pytest.raises(ValueError, match=message):
        make()
