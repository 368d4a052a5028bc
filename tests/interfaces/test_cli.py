"""The commands: what they print, what they write, and how they end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import itograd as ig
from itograd.check_record import plain_numbers
from itograd.cli import main
from itograd.report.numerals import with_error
from itograd.report.words import reasons

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Call the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **environment):
        return CliRunner(env={"COLUMNS": "80", **environment}).invoke(main, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def quick(monkeypatch, quadratic_check):
    """`itograd check` with the ensembles already run: the commands are under test, not the engine."""
    monkeypatch.setattr("itograd.check.check", lambda recipe, progress=None, store=None: quadratic_check)


def process(*arguments, cwd, **options):
    command = [sys.executable, "-c", "from itograd.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# ---------------------------------------------------------------------------------------------------------- check


def test_check_prints_the_verdict_first_and_last_and_writes_the_folder(
    call, quick, quadratic_recipe, quadratic_check, tmp_path
):
    result = call("check", quadratic_recipe)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    verdicts = [line for line in result.output.splitlines() if line.startswith("Verdict: ")]
    assert len(verdicts) == 2
    assert all(line.startswith(f"Verdict: {quadratic_check.verdict.decision}.") for line in verdicts)
    for row in quadratic_check.verdict.assumptions:
        assert row.name in " ".join(result.output.split())
    assert "itograd-check/report.html" in result.output.replace("\n", "")
    assert sorted(os.listdir(tmp_path)) == ["itograd-check"]


def test_json_alone_is_on_standard_output_and_finite(call, quick, quadratic_recipe, tmp_path):
    result = call("check", quadratic_recipe, "--json")
    found = json.loads(result.stdout, parse_constant=lambda token: pytest.fail(f"{token} in the JSON"))
    assert found["format"] == "itograd check 1"
    assert os.listdir(tmp_path) == []
    both = call("check", quadratic_recipe, "--json", "--output", "results")
    assert json.loads(both.stdout) == found
    assert "results/report.html" in both.stderr
    assert json.loads((tmp_path / "results" / "check.json").read_text()) == found


def test_what_json_does_not_know_becomes_plain():
    given = {"count": np.int64(3), "list": np.array([1.0, np.inf]), 4: (np.float32("nan"), "text", None, True)}
    plain = plain_numbers(given)
    assert plain == {"count": 3, "list": [1.0, None], "4": [None, "text", None, True]}
    json.dumps(plain, allow_nan=False)


def test_the_json_holds_the_numbers_of_the_ensembles(quadratic_check, quadratic_folder):
    found = json.loads((quadratic_folder / "check.json").read_text())
    runs, flow = ig.load(quadratic_folder / "runs.nc"), ig.load(quadratic_folder / "flow.nc")
    error = ig.weak_error(runs, flow)
    for i, row in enumerate(found["final_weak_errors"]):
        assert row["weak_error"] == pytest.approx(error["weak_error"].values[-1, i], rel=1e-12)
        assert row["standard_error"] == pytest.approx(error["standard_error"].values[-1, i], rel=1e-12)
    assert found["verdict"] == quadratic_check.verdict.decision
    assert found["run"]["steps"] == 16
    assert found["run"]["time"] == 2.0
    assert [row["new"]["learning_rate"] for row in found["scaled_recipes"]] == [0.03125, 0.75]
    assert found["scaled_recipes"][1]["rounding"].startswith("2.67 steps were rounded to 3: the run ends at time 2.25")


def test_a_bound_is_given_only_where_its_guards_hold(quadratic_check):
    room = quadratic_check.to_dict()["batch_size_room"]  # a quadratic is not scale-invariant
    assert room["sharp"] is None
    assert room["reasons"]
    outcomes = {guard["name"]: guard["outcome"] for guard in room["equilibrium"]["guards"]}
    assert outcomes["scale invariance, |⟨∇L, x⟩|"] == "fails"


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        ('name = "momentum"\nlearning_rate = 0.125\nweight_decay = 0.5', "that of SGD: the recipe has Momentum"),
        (
            'name = "sgd"\nlearning_rate = {base = 0.125, kind = "warmup", duration = 1.0}\nweight_decay = 0.5',
            "a schedule",
        ),
        ('name = "sgd"\nlearning_rate = 0.125', "without weight decay"),
        ('name = "sgd"\nlearning_rate = 0.001\nweight_decay = 0.001', "takes about 6000000 steps"),
    ],
)
def test_the_reason_why_there_is_no_bound(quadratic_recipe, tmp_path, optimizer, reason):
    from itograd.check import batch_size_room
    from itograd.recipes import load_recipe

    text = re.sub(r"(?s)\[optimizer\].*?\n\n", f"[optimizer]\n{optimizer}\n\n", quadratic_recipe.read_text())
    file = tmp_path / "recipe.toml"
    file.write_text(text.replace("equilibrium_steps = 96\n", ""))
    room = batch_size_room(load_recipe(file))
    assert (room.equilibrium, room.bounds.sharp) == (None, None)
    assert reason in room.bounds.reasons[0]


def test_a_run_that_diverges_is_a_verdict(call, tmp_path):
    (tmp_path / "recipe.toml").write_text(
        '[problem]\nkind = "quadratic"\nhessian = 1.0\nnoise_covariance = 1.0\n'
        '[optimizer]\nname = "sgd"\nlearning_rate = 30\n'
        "[run]\nsteps = 64\nsave_every = 8\npaths = 16\nx0 = [1.0]\n"
    )
    result = call("check", "recipe.toml", "--json", "--output", "results")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["verdict"] == "do not trust"
    assert found["run"]["diverged"]["optimizer"] == 16
    assert found["final_weak_errors"][0]["optimizer_mean"] is None  # no path is left to average
    assert (tmp_path / "results" / "report.html").is_file()


@pytest.mark.slow
def test_named_observables_are_what_is_compared(call, tmp_path):
    (tmp_path / "named.toml").write_text((ROOT / "examples" / "own_problem.toml").read_text().replace("400", "20"))
    (tmp_path / "own_problem.py").write_text((ROOT / "examples" / "own_problem.py").read_text())
    found = json.loads(call("check", "named.toml", "--json", "--paths", "16").stdout)
    assert [row["observable"] for row in found["final_weak_errors"]] == ["loss", "squared_norm"]


MISTAKES = {
    "no file": (["nothing.toml"], "the recipe nothing.toml cannot be read: No such file or directory"),
    "paths": (["recipe.toml", "--paths", "1"], "run.paths must be at least 16: got 1"),
    "seed": (["recipe.toml", "--seed", "-1"], "run.seed must be at least 0: got -1"),
    "unwritable output": (["recipe.toml", "--output", "none/results"], "output: cannot write"),
    "output that is a file": (["recipe.toml", "--output", "recipe.toml"], "is there, and is no folder"),
    "foreign files": (["recipe.toml", "--output", "full"], "holds files that are not an earlier check's (notes.txt)"),
    "unknown option": (["recipe.toml", "--pahts", "3"], "No such option '--pahts'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_status_2_before_any_run(call, tmp_path, quadratic_recipe, monkeypatch, mistake):
    monkeypatch.setattr("itograd.check.check", lambda *_, **__: pytest.fail("it ran"))
    (tmp_path / "recipe.toml").write_text(quadratic_recipe.read_text())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    arguments, message = MISTAKES[mistake]
    result = call("check", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert message in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["full", "recipe.toml"]


def test_every_mistake_of_a_recipe_is_one_line(call, tmp_path):
    (tmp_path / "recipe.toml").write_text(
        '[problem]\nkind = "digits"\nbatch_size = 0\n[optimizer]\nname = "sgd"\n'
        "learning_rate = -1\n[run]\nsteps = 3\ncolour = 1\n"
    )
    result = call("check", "recipe.toml")
    assert result.exit_code == 2
    assert [line.split(" ")[:2] for line in result.stderr.splitlines()] == [
        ["error:", "problem.batch_size"],
        ["error:", "optimizer.learning_rate"],
        ["error:", "run.colour"],
    ]
    assert os.listdir(tmp_path) == ["recipe.toml"]


def test_nothing_is_left_where_writing_fails(call, quick, quadratic_recipe, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("itograd.report.figures.render", full)
    result = call("check", quadratic_recipe, "--output", "results")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert os.listdir(tmp_path) == []


def test_debug_shows_the_traceback(call):
    assert isinstance(call("--debug", "check", "nothing.toml").exception, ValueError)
    assert call("check", "nothing.toml").stderr.count("\n") == 1


def test_an_interrupt_is_one_line_and_status_130(call, quadratic_recipe, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("itograd.check.check", interrupted)
    result = call("check", quadratic_recipe, "--output", "results")
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted: nothing was written"
    assert os.listdir(tmp_path) == []


def test_an_interrupted_process_leaves_nothing(tmp_path):
    running = process("check", "--progress", "--output", "results", cwd=tmp_path)
    assert running.stderr.readline().startswith("[1/3]")  # it has begun, and has a staging folder
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted: nothing was written"
    assert os.listdir(tmp_path) == []


def test_the_built_in_recipe_on_real_data(tmp_path):
    """The whole way in a process of its own, with few paths."""
    running = process("check", "--json", "--paths", "32", "--seed", "3", "--output", "results", cwd=tmp_path)
    output, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    found = json.loads(output)
    assert (found["run"]["paths"], found["run"]["seed"], found["run"]["steps"]) == (32, 3, 40)
    assert [row["observable"] for row in found["final_weak_errors"]] == ["loss", "squared_norm", "accuracy"]
    norm = found["final_weak_errors"][1]
    # theory, amendment 13: |W|² of the run (64, 16) is 478.5 + 5.9, to ±.2
    assert abs(norm["optimizer_mean"] - 484.4) < 4.5 * np.hypot(norm["optimizer_standard_error"], 0.2)
    assert found["batch_size_room"]["sharp"] is None  # amendment 2: softmax regression is not scale-invariant
    report = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert with_error(norm["optimizer_mean"], norm["optimizer_standard_error"]) in report


# ---------------------------------------------------------------------------------------------------------- scale


def scale(call, *arguments):
    result = call("scale", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_scale_of_one_line(call):
    found = scale(call, "sgd", "--learning-rate", 0.1, "--batch-size", 256, "--to", 4096, "--steps", 1000)
    assert found["batch_factor"] == 16
    assert found["new"]["learning_rate"] == pytest.approx(1.6)
    assert (found["exact_steps"], found["new"]["steps"]) == (62.5, 62)
    assert found["rounding"] == "62.50 steps were rounded to 62: the run ends at time 99.2 instead of 100"
    assert found["bound"] is None
    assert found["bound_notes"][0].startswith("No bound was measured: a bound needs a run")


def test_scale_of_momentum_in_both_clocks(call):
    one = ["momentum", "--learning-rate", 0.01, "--momentum", 0.95, "--batch-size", 64, "--to", 128]
    overdamped, underdamped = scale(call, *one)["new"], scale(call, *one, "--clock", "underdamped")["new"]
    memory = scale(call, *one, "--clock", "underdamped", "--betas", "memory")["new"]
    assert (overdamped["learning_rate"], overdamped["momentum"]) == (0.02, 0.95)
    assert (underdamped["learning_rate"], underdamped["momentum"]) == pytest.approx((0.04, 0.9))
    assert memory["momentum"] == pytest.approx(0.95**2)
    increasing = scale(
        call, "nesterov", "--momentum", "increasing", "--learning-rate", 1, "--batch-size", 8, "--to", 16
    )
    assert increasing["new"]["learning_rate"] == 4


def test_scale_of_a_recipe_and_its_table(call):
    recipe = ROOT / "examples" / "digits_16.toml"
    found = scale(call, recipe, "--to", 100)
    assert found == scale(call, recipe, "--batch-size", 100)
    assert found["new"]["learning_rate"] == 25
    assert found["rounding"] == "25.60 steps were rounded to 26: the run ends at time 650 instead of 640"
    result = call("scale", recipe, "--to", 100)
    rows = [line.split() for line in result.output.splitlines()]
    assert ["learning", "rate", "4", "25", "×", "κ"] in rows
    assert ["batch", "size", "16", "100", "×", "κ"] in rows
    assert "--measure runs the recipe" in result.output
    assert max(map(len, result.output.splitlines())) <= 80


ADAMW = [
    *("adamw", "--learning-rate", 0.001, "--b1", 0.9, "--b2", 0.999, "--eps", 1e-8, "--weight-decay", 0.1),
    *("--batch-size", 256, "--to", 4096),
]
BESIDE = [
    *("--steps", 100000, "--warmup", 2005, "--schedule-steps", "60000,90000", "--clip", 1, "--ema", 0.9999),
    *("--accumulation", 4),
]


def test_scale_of_an_adaptive_method_with_all_that_stands_beside_it(call):
    found = scale(call, *ADAMW, *BESIDE)
    old, new = found["old"], found["new"]
    assert (old["b2"], old["accumulation"], old["time"]) == pytest.approx((0.999, 4, 0.1))
    assert list(old) == list(new)
    assert (found["method"], found["options"]["decay_times_rate"]) == ("AdamW", True)
    expected = {
        "batch_size": 4096,
        "steps": 6250,
        "learning_rate": 0.004,
        "b1": 0.9**16,
        "b2": 0.999**16,
        "eps": 2.5e-9,
        "weight_decay": 0.4,
        "time": 0.1,
        "clip_norm": 0.25,
        "ema": 0.9999**16,
        "warmup_steps": 125,
        "schedule_steps": [3750, 5625],
        "accumulation": 64,
    }
    for name, value in expected.items():
        assert new[name] == pytest.approx(value, rel=1e-12), name
    assert (found["rules"]["eps"], found["rules"]["b1"], found["rules"]["ema"]) == ("÷ √κ", "b^κ", "ρ^κ")
    assert found["rounding"] == "100000 steps become 6250 exactly; warmup steps rounded: 125.31 to 125"
    assert any("r² ≪ 1" in line and "not measured" in line for line in found["assumptions"])
    assert any(line.startswith("clip norm ÷ √κ assumes") for line in found["assumptions"])


@pytest.mark.parametrize("more", [[], BESIDE, ["--rule", "square_root_rate_only"], ["--rule", "keep_rate", *BESIDE]])
def test_the_table_of_an_adaptive_method_fits_80_columns(call, more):
    result = call("scale", *ADAMW, *more)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    rows = [line.split() for line in result.output.splitlines()]
    own = "--rule" not in more
    assert ["b2", "0.999", *(["0.984119", "b^κ"] if own else ["0.999", "kept"])] in rows
    text = " ".join(result.output.split())
    assert ("noise dominates: r² ≪ 1" in text) == own
    assert ("is a rival of AdamW's own" in text) == (not own)


def test_scale_by_a_rival_has_as_many_examples_and_says_both_times(call):
    found = scale(call, *ADAMW[:-2], "--to", 1024, "--steps", 1000, "--rule", "keep_rate")
    assert (found["new"]["learning_rate"], found["new"]["steps"], found["exact_steps"]) == (0.001, 250, 250)
    assert found["rounding"] == "1000 steps become 250 exactly: the run ends at time 0.00025 instead of 0.001"
    assert (found["rule_name"], found["is_own_rule"]) == ("keep_rate", False)
    named = scale(call, *ADAMW, "--rule", "square_root")
    assert named["is_own_rule"]
    assert named["rule"] == scale(call, *ADAMW)["rule"]


def test_betas_of_adam_in_both_forms(call):
    one = ["adam", "--learning-rate", 0.001, "--batch-size", 32, "--to", 64]
    assert scale(call, *one)["new"]["b1"] == pytest.approx(0.81)
    linear = scale(call, *one, "--betas", "linear")
    assert linear["new"]["b1"] == pytest.approx(0.8)
    assert linear["rules"]["b1"] == "1 − κ(1 − b)"


@pytest.mark.parametrize("method", ["rmsprop", "adam", "adamw"])
def test_one_line_defaults_are_the_optimisers(call, method):
    old = scale(call, method, "--learning-rate", 0.5, "--batch-size", 32, "--to", 64)["old"]
    optimizer = {"rmsprop": ig.RMSprop, "adam": ig.Adam, "adamw": ig.AdamW}[method](0.5)
    for name in ("eps", "weight_decay", *optimizer.decay_rates):
        assert old[name] == getattr(optimizer, name)
    assert "b2" in old or method == "rmsprop"


GROUPS = """
[problem]
kind = "digits"
batch_size = 64
[optimizer]
name = "adamw"
learning_rate = 0.001
weight_decay = 0.1
[training]
clip_norm = 1.0
groups = {bias = {weight_decay = 0.0}, head = {learning_rate = 0.01}}
[run]
steps = 1000
[scale]
rule = "linear"
"""


def test_scale_of_a_recipe_with_groups(call, tmp_path):
    (tmp_path / "groups.toml").write_text(GROUPS)
    found = scale(call, "--from", "groups.toml", "--batch-size", 256)
    assert found == scale(call, "groups.toml", "--to", 256)
    assert found["new"]["learning_rate"] == pytest.approx(0.004)  # the rule of [scale]
    own = scale(call, "groups.toml", "--to", 256, "--rule", "square_root")
    assert own["groups"]["head"]["new"]["learning_rate"] == pytest.approx(0.02)
    assert own["groups"]["bias"]["new"]["weight_decay"] == 0
    assert own["new"]["clip_norm"] == 0.5
    rows = [line.split() for line in call("scale", "groups.toml", "--to", 256).output.splitlines()]
    assert ["head:", "learning", "rate", "0.01", "0.04", "×", "κ"] in rows
    assert ["bias:", "weight", "decay", "0", "0", "×", "√κ"] in rows


def test_a_check_says_that_it_runs_without_what_stands_beside_the_optimiser(call, quick, quadratic_recipe, tmp_path):
    (tmp_path / "clipped.toml").write_text(quadratic_recipe.read_text() + "[training]\nclip_norm = 1.0\n")
    result = call("check", "clipped.toml", "--json")
    assert result.exit_code == 0
    assert "the check runs the optimiser alone: clip_norm of [training]" in result.stderr


def test_scale_measures_the_bound_of_a_recipe(call, quadratic_recipe, tmp_path):
    found = scale(call, quadratic_recipe, "--to", 8, "--measure")
    assert found["bound"]["sharp"] is None
    assert found["bound"]["equilibrium"]["steps"] == 96
    assert found["bound_notes"][0] == "There is no bound on the batch factor."
    invariant = tmp_path / "rayleigh.toml"
    invariant.write_text(
        '[problem]\nkind = "rayleigh"\nbatch_size = 16\n[optimizer]\nname = "sgd"\n'
        "learning_rate = 0.4\nweight_decay = 0.01\n[run]\nsteps = 100\n"
        "[scale]\nequilibrium_steps = 2048\n"
    )
    bound = scale(call, invariant, "--to", 64, "--measure")["bound"]
    low, high = bound["sharp_interval"]
    assert low < bound["sharp"] < high
    settled = bound["equilibrium"]
    ratio = settled["noise_trace"][0] / settled["squared_gradient"][0]
    assert bound["sharp"] == pytest.approx(2 + ratio, rel=1e-12)  # 1 + (C² − 1)(1 + N/G) with C² = 2


EXAMPLE = ROOT / "examples" / "digits_16.toml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sgd --learning-rate -1 --batch-size 8 --to 16", "--learning-rate must be greater than 0: got -1"),
        ("sgd --batch-size 8 --to 16", "--learning-rate is missing"),
        ("sgd --learning-rate 1 --to 16", "--batch-size is missing"),
        ("sgd --learning-rate 1 --batch-size 8", "--to is missing"),
        ("sgd --learning-rate 1 --batch-size 8 --to 0", "new_batch_size must be at least 1: got 0"),
        ("sgd --learning-rate 1 --batch-size 8 --to 16 --momentum 0.9", "--momentum is no option of sgd"),
        (
            "momentum --learning-rate 1 --batch-size 8 --to 16 --momentum fast",
            "--momentum must be a number or a schedule: got 'fast'",
        ),
        (
            "momentum --learning-rate 1 --batch-size 8 --to 16 --momentum 0.5 --clock underdamped",
            "the underdamped clock needs 1 - momentum <= 0.3",
        ),
        (
            "momentum --learning-rate 1 --batch-size 8 --to 160 --momentum 0.9 --clock underdamped --betas linear",
            "the linear form needs batch_factor*(1 - momentum) < 1",
        ),
        ("sgd --learning-rate 1 --batch-size 8 --to 800 --steps 10", "would become 0.1: less than one"),
        ("sgd --learning-rate 1 --batch-size 8 --to 16 --measure", "--measure needs a RECIPE"),
        ("nothing.toml --to 16", "the recipe nothing.toml cannot be read"),
        (f"{EXAMPLE} --to 16 --steps 3", "--steps belongs to a one-line recipe"),
        (f"{EXAMPLE} --to 1401", "--to must be at most the 1400 examples"),
        (f"{EXAMPLE}", "--to is missing"),
        (f"{EXAMPLE} --to 8 --clip 1", "--clip belongs to a one-line recipe"),
        (f"{EXAMPLE} --from {EXAMPLE} --to 8", "a RECIPE or a method is needed, once"),
        ("--to 8", "a RECIPE or a method is needed, once"),
        ("adam --learning-rate 1 --batch-size 8 --to 16 --momentum 0.9", "--momentum is no option of adam"),
        ("adam --learning-rate 1 --batch-size 8 --to 16 --beta 0.9", "--beta is no option of adam"),
        ("adam --learning-rate 1 --batch-size 8 --to 16 --decay-alone", "--decay-times-rate is no option of adam"),
        ("rmsprop --learning-rate 1 --batch-size 8 --to 16 --b1 0.9", "--b1 is no option of rmsprop"),
        ("sgd --learning-rate 1 --batch-size 8 --to 16 --eps 1e-8", "--eps is no option of sgd"),
        (
            "sgd --learning-rate 1 --batch-size 8 --to 16 --betas linear",
            "--betas is given, and the rule moves no decay rate of SGD",
        ),
        (f"{EXAMPLE} --to 8 --betas linear", "--betas is given, and the rule moves no decay rate of SGD"),
        (
            "momentum --learning-rate 1 --batch-size 8 --to 16 --betas memory",
            "the rule moves no decay rate of Momentum",
        ),
        ("adam --learning-rate 1 --b2 1 --batch-size 8 --to 16", "--b2 must be less than 1: got 1"),
        ("adam --learning-rate 1 --b1 -0.1 --batch-size 8 --to 16", "--b1 must be at least 0: got -0.1"),
        (
            "adam --learning-rate 1 --batch-size 8 --to 512 --betas linear",
            "batch_factor*(1 - b1) < 1: batch_factor=64, b1=0.9 gives 6.4; keep batch_factor below 10",
        ),
        ("adam --learning-rate 1 --batch-size 8 --to 16 --clip 0", "--clip must be a finite number in (0, inf): got 0"),
        ("adam --learning-rate 1 --batch-size 8 --to 16 --ema 1", "--ema must be in [0, 1): got 1"),
        ("adam --learning-rate 1 --batch-size 8 --to 16 --warmup -1", "--warmup must be at least 0: got -1"),
        (
            "adam --learning-rate 1 --batch-size 8 --to 16 --warmup 90 --schedule-steps 50,100",
            "--schedule-steps must not be less than the 90 steps of the warm-up: got 50",
        ),
        ("adam --learning-rate 1 --batch-size 8 --to 16 --warmup 9 --steps 5", "--steps must not be less than the 9"),
        (
            "adam --learning-rate 1 --batch-size 8 --to 16 --schedule-steps 5,x",
            "--schedule-steps must be whole numbers",
        ),
        ("adam --learning-rate 1 --batch-size 8 --to 16 --accumulation 3", "--accumulation must divide the batch size"),
        ("adam --learning-rate 1 --batch-size 8 --to 15 --accumulation 2", "a multiple of the 4 examples of a pass"),
        ("adam --learning-rate 1 --batch-size 8 --to 16 --rule sqrt", "rule must be one of 'linear', 'square_root'"),
        ("sgd --learning-rate 1 --batch-size 8 --to 16 --rule keep_rate_scale_b2", "and SGD has none"),
        (f"{EXAMPLE} --to 8 --batch-size 9", "give one of the two"),
    ],
)
def test_mistakes_of_scale(call, arguments, message):
    result = call("scale", *arguments.split(" "))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert message in result.stderr


# ------------------------------------------------------------------------------------------------- the way it starts


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["check", "--help"]])
def test_help_does_not_wait_for_jax(tmp_path, arguments):
    code = (
        "import sys\nfrom itograd.cli import main\ntry:\n    main()\nfinally:\n"
        "    print(sorted({'jax', 'numpy', 'xarray', 'matplotlib', 'rich', 'pydantic'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert result.stdout.strip().endswith("[]")


def test_a_check_within_a_budget_is_repeated_by_its_number_of_paths(call, quadratic_recipe):
    """The paths of the recipe give way to the budget, and the budget that a recipe states to --paths."""
    found = json.loads(call("check", quadratic_recipe, "--json", "--budget", "2").stdout)
    paths = found["run"]["paths"]
    assert found["run"]["budget"]["paths"] == paths
    assert any("the same number of paths repeats the run exactly" in line for line in reasons(found))
    of_budget = quadratic_recipe.with_name("budget.toml")
    of_budget.write_text(quadratic_recipe.read_text().replace("paths = 64", "budget = 2.0"))
    again = json.loads(call("check", of_budget, "--json", "--paths", paths).stdout)
    assert again["run"]["budget"] is None
    for key in ("final_weak_errors", "assumptions", "verdict", "batch_size_room"):
        assert again[key] == found[key]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "0"], "run.budget must be greater than 0: got 0.0"),
        (["--budget", "nan"], "run.budget must be finite: got nan"),
        (["--budget", "5", "--paths", "64"], "--paths or --budget, and not both"),
    ],
)
def test_budgets_that_are_none(call, quadratic_recipe, options, message):
    result = call("check", quadratic_recipe, *options)
    assert (result.exit_code, result.stderr.strip()) == (2, f"error: {message}")


def test_a_recipe_states_paths_or_a_budget(call, quadratic_recipe, tmp_path):
    both = tmp_path / "both.toml"
    both.write_text(quadratic_recipe.read_text().replace("paths = 64", "paths = 64\nbudget = 5.0"))
    result = call("check", both)
    assert result.exit_code == 2
    assert "run.paths or run.budget, and not both: got 64 paths and 5 seconds" in result.stderr


def test_an_interrupted_check_goes_on_from_its_store(call, quadratic_recipe, quadratic_check, monkeypatch):
    pytest.importorskip("zarr")
    whole = quadratic_check.to_dict()
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["itograd.analysis.verdict"], "weak_error", interrupted)
        result = call("check", quadratic_recipe, "--json", "--store", "kept")
    assert result.exit_code == 130
    assert "interrupted: what is finished is kept in kept, and the same command goes on" in result.stderr
    assert Path("kept", "flow.zarr").is_dir()
    with monkeypatch.context() as patched:  # nothing is run again
        patched.setattr("itograd.simulation.store.Store.finish", interrupted)
        found = json.loads(call("check", quadratic_recipe, "--json", "--store", "kept").stdout)
    assert found["final_weak_errors"] == whole["final_weak_errors"]
    assert call("check", quadratic_recipe, "--store", "kept", "--budget", "5").exit_code == 2


def interrupted(*_, **__):
    raise KeyboardInterrupt
