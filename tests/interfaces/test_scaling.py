"""A training recipe at another batch size: what stands beside the optimiser, what is rounded, and what is refused."""

import pytest

import itograd as ig
from itograd.optimizers.scaling_rules import RULES
from itograd.scaling import clock_formula, describe

ADAM = ig.Adam(0.01, 0.9, 0.99)
FULL = ig.TrainingRecipe(
    ADAM,
    batch_size=32,
    steps=1200,
    clip_norm=2.0,
    ema=0.5,
    warmup_steps=80,
    schedule_steps=(400, 1200),
    accumulation=4,
    groups={"bias": ig.Adam(0.03, 0.9, 0.99, weight_decay=0.0)},
)


@pytest.mark.parametrize("rule", [None, *RULES])
def test_what_stands_beside_the_optimiser_moves_alike_under_every_rule(rule):
    new = ig.scaled_recipe(FULL, 128, rule=rule).new
    assert (new.batch_size, new.steps, new.warmup_steps, new.schedule_steps) == (128, 300, 20, (100, 300))
    assert (new.clip_norm, new.ema, new.accumulation) == (1.0, 0.0625, 16)
    assert new.optimizer == ig.scale(ADAM, 4, rule=rule)
    assert new.groups == {"bias": ig.scale(FULL.groups["bias"], 4, rule=rule)}


def test_there_and_back_is_the_same_recipe():
    back = ig.scaled_recipe(ig.scaled_recipe(FULL, 128).new, 32).new
    for name in ("batch_size", "steps", "clip_norm", "warmup_steps", "schedule_steps", "accumulation"):
        assert getattr(back, name) == getattr(FULL, name), name
    assert back.ema == pytest.approx(FULL.ema, rel=1e-14)
    assert vars(back.optimizer) == {**vars(ADAM), "b1": pytest.approx(0.9), "b2": pytest.approx(0.99)}


def test_what_is_not_given_is_not_invented():
    found = ig.scaled_recipe(ig.TrainingRecipe(ig.SGD(0.1), 4), 8)
    assert found.new == ig.TrainingRecipe(ig.SGD(0.2), 8)
    assert found.rounding == "no steps were given: divide them by κ"
    assert set(found.to_dict()["new"]) == {
        *("batch_size", "steps", "learning_rate", "weight_decay", "time_per_step", "time")
    }


def test_steps_are_those_of_the_same_examples_and_the_time_is_said_where_it_differs():
    recipe = ig.TrainingRecipe(ig.Adam(0.1), 4, steps=10)
    own, rival = ig.scaled_recipe(recipe, 8), ig.scaled_recipe(recipe, 8, rule="linear")
    assert (own.new.steps, rival.new.steps) == (5, 5)
    assert own.rounding == "10 steps become 5 exactly"
    assert rival.rounding == "10 steps become 5 exactly: the run ends at time 0.2 instead of 0.1"


def test_every_rounding_is_said():
    recipe = ig.TrainingRecipe(ADAM, 4, steps=90, warmup_steps=3, schedule_steps=(31, 90))
    said = ig.scaled_recipe(recipe, 16).rounding
    assert said == (
        "22.50 steps were rounded to 22: the run ends at time 0.0088 instead of 0.009; "
        "warmup steps rounded: 0.75 to 1; schedule steps rounded: 7.75 to 8, 22.50 to 22"
    )


def test_a_rule_by_its_own_name_is_no_rival():
    assert ig.scaled_recipe(FULL, 64, rule="square_root").is_own
    assert ig.scaled_recipe(ig.TrainingRecipe(ig.SGD(0.1), 4), 8, rule="linear").is_own
    assert not ig.scaled_recipe(FULL, 64, rule="linear").is_own


def test_the_sentence_of_a_rule():
    assert ig.scaled_recipe(FULL, 64).sentence == (
        "square-root scaling rule: batch size × κ, learning rate × √κ, b1 → b^κ, b2 → b^κ, eps ÷ √κ, steps ÷ κ"
    )
    assert ig.scaled_recipe(FULL, 64, rule="keep_rate_scale_b2").sentence == (
        "rule keep_rate_scale_b2: batch size × κ, b2 → b^κ, steps ÷ κ; learning rate and b1 and eps are kept"
    )
    slow = ig.Momentum(0.01, 0.95, clock="underdamped")
    assert ig.scaled_recipe(ig.TrainingRecipe(slow, 4), 8).sentence == (
        "rule of the clock k√η: batch size × κ, learning rate × κ², momentum → 1 − κ(1 − μ), steps ÷ κ"
    )


def test_what_is_assumed_for_clipping_is_said_for_every_optimiser():
    for optimizer in (ig.SGD(0.1), ig.Momentum(0.1), ADAM):
        said = ig.scaled_recipe(ig.TrainingRecipe(optimizer, 4, clip_norm=1.0), 8).assumptions
        assert "mostly noise; where the signal dominates, keep it" in said[-1]
        assert all("not measured" in line for line in said)


def test_adaptive_methods_in_words():
    assert describe(ig.AdamW(0.01)) == "AdamW, learning rate 0.01, b1 0.9, b2 0.999, eps 1e-08, weight decay 0.01"
    assert clock_formula(ig.RMSprop()) == "t = kη²"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1: got 0"),
        ({"steps": 2.5}, "steps must be a whole number: got 2.5"),
        ({"clip_norm": 0.0}, r"clip_norm must be a finite number in \(0, inf\): got 0"),
        ({"clip_norm": float("nan")}, "clip_norm must be a finite number"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\): got 1"),
        ({"ema": -0.1}, r"ema must be in \[0, 1\): got -0.1"),
        ({"ema": "0.9"}, "ema must be a number: got '0.9'"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0: got -1"),
        ({"warmup_steps": 500}, "schedule_steps must not be less than the 500 steps of the warm-up: got 400"),
        ({"steps": 79}, "steps must not be less than the 80 steps of the warm-up: got 79"),
        ({"schedule_steps": (400, 300)}, r"schedule_steps must not decrease: got \(400, 300\)"),
        ({"schedule_steps": (0,)}, "each of schedule_steps must be at least 1: got 0"),
        ({"accumulation": 5}, "accumulation must divide the batch size, .*: got accumulation=5, batch_size=32"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ig.TrainingRecipe(**{**vars(FULL), **changes})


@pytest.mark.parametrize(
    ("batch_size", "options", "message"),
    [
        (0, {}, "new_batch_size must be at least 1: got 0"),
        (100, {}, "multiple of the 8 examples of a pass: got 100; the nearest are 96 and 104"),
        (32 * 1600, {}, r"schedule_steps: at batch size 51200 the 400 steps would become 0.25: less than one"),
        (32 * 4096, {}, r"steps: at batch size 131072 the 1200 steps would become 0.29: less than one"),
        (32 * 16, {"betas": "linear"}, r"the linear form needs batch_factor\*\(1 - b1\) < 1"),
        (64, {"rule": "sqrt"}, "rule must be one of"),
    ],
)
def test_a_batch_size_that_cannot_be_reached_is_refused(batch_size, options, message):
    with pytest.raises(ValueError, match=message):
        ig.scaled_recipe(FULL, batch_size, **options)
