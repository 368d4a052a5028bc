"""`itograd asynchrony`: what it says, that its numbers are the theory's, and how it refuses."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from itograd.asynchrony import Pmf, WorkerQueue, advise
from itograd.asynchrony import stability as stability_of
from itograd.asynchrony.stability import largest_stable_learning_rate, mean_square_rate
from itograd.cli import main
from itograd.optimizers.momentum import Momentum
from itograd.report.asynchrony_figures import both_moments

SETTING = ("--learning-rate", "0.01", "--momentum", "0.9")


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["asynchrony", *map(str, arguments)])

    return run


def test_an_unstable_setting_is_warned_of_with_the_nearest_stable_one_and_written(call, tmp_path):
    """κ = .5 is where the averages of ten workers still converge, and single runs no longer do (theory 1.8)."""
    result = call("--workers", 10, "--learning-rate", 0.6, "--curvature-min", 0.5, "--curvature-max", 1)
    text = " ".join(result.output.split())
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "Unstable on curvatures from 0.5 to 1" in text
    assert "the average over many runs converges" in text
    assert "nearest stable setting is a learning rate below 0.5" in text
    assert sorted(os.listdir(tmp_path)) == ["itograd-asynchrony"]
    written = tmp_path / "itograd-asynchrony"
    assert {"staleness.svg", "trajectories.png", "asynchrony.json"} <= set(os.listdir(written))
    found = json.loads((written / "asynchrony.json").read_text())
    assert found["stability"]["margin"]["mean_square_limit"] == pytest.approx(0.5, abs=1e-9)
    assert found["implicit_momentum"]["momentum"] == pytest.approx(0.9)
    assert found["stability"]["steps_per_decade"] is None
    slowest_of_ten, tuned = (
        sum(1 / m for m in range(1, 11)),
        found["tuned"],
    )  # ten writes a unit of time, or H_10 a step
    assert found["time"]["asynchronous"] == pytest.approx(tuned["stale"]["steps_per_decade"] / 10)
    assert found["time"]["synchronous"] == pytest.approx(tuned["fresh"]["steps_per_decade"] * slowest_of_ten)


def test_json_alone_is_finite_and_has_the_limits_of_the_theory(call, tmp_path):
    result = call("--workers", 16, "--learning-rate", 0.01, "--json")
    found = json.loads(result.stdout, parse_constant=lambda token: pytest.fail(token))
    assert os.listdir(tmp_path) == []
    assert found["stability"]["margin"] is None
    limits = found["stability"]["largest_stable_curvature"]
    assert [0.01 * limits[sense] for sense in ("mean_square", "mean")] == pytest.approx([0.38618177, 62], abs=1e-8)
    assert found["staleness"]["quantile_95"] == np.searchsorted(np.cumsum(WorkerQueue(16).probabilities(1e-12)), 0.95)


def test_a_trace_is_an_approximation_that_is_named(call, tmp_path):
    (tmp_path / "trace.txt").write_text("0\n1\n2\n3\n" * 50)
    result = call("--trace", "trace.txt", "--workers", 4, *SETTING)
    text = " ".join(result.output.split())
    assert result.exit_code == 0, result.output
    assert "Approximation: Delays are taken as independent" in text
    assert "implicit: none" in text
    assert "mean 1.5, standard deviation 1.12, 95% at most 3" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning-rate", 1], "--workers or --trace is missing"),
        (["--workers", 4], "--learning-rate is missing"),
        (["--workers", 0, *SETTING], "--workers must be at least 1: got 0"),
        (["--workers", 4, "--learning-rate", 0], "--learning-rate must be"),
        (["--workers", 4, "--learning-rate", "nan"], "--learning-rate must be"),
        (["--workers", 4, "--learning-rate", 1, "--momentum", 1], "--momentum must be a finite number in (-1, 1)"),
        (["--workers", 4, *SETTING, "--curvature-min", 1], "--curvature-min and --curvature-max belong together"),
        (["--workers", 4, *SETTING, "--curvature-min", 2, "--curvature-max", 1], "--curvature-max must be"),
        (["--workers", 4, *SETTING, "--service", "gamma:-1"], "--service must be"),
        (["--workers", 4, *SETTING, "--seed", -1], "--seed must be"),
        (["--trace", "negative", *SETTING], "--trace negative, line 2: a delay must be at least 0: got -1"),
        (["--trace", "gap", *SETTING], "--trace gap: write 1 is missing"),
        (["--trace", "lost", *SETTING], "--trace lost, line 2: worker b never returned"),
        (["--trace", "none", *SETTING], "--trace none: No such file"),
        (["--workers", 600, "--service", "deterministic", *SETTING], "--workers: moments need a memory of 600"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(call, tmp_path, arguments, message):
    for name, text in {"negative": "0\n-1\n", "gap": "a,0,0\na,1,2\n", "lost": "a,0,0\nb,0,\n"}.items():
        (tmp_path / name).write_text(text)
    result = call(*arguments, "--json")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"error: {message}")


def test_the_figure_predicts_what_is_simulated():
    """Exact mean and variance on both ends against 2048 runs, |z| < 4.5 at every save point."""
    found = advise(WorkerQueue(8), 0.1, 0.5, curvature_min=0.3, curvature_max=1.0)
    _, predicted, runs = both_moments(found, seed=3)
    for i, exact in enumerate(predicted):
        own = runs.isel(observable=i)
        exact = exact.isel(observable=0, time=own.step.values)
        late = own.step.values > 2  # before, the runs have not been scattered yet
        for name in ("mean", "variance"):
            difference, error = own[name].values - exact[name].values, own[f"{name}_standard_error"].values
            assert np.abs(difference[late] / error[late]).max() < 4.5, (i, name)


def test_the_loop_gain_of_a_long_ring_is_that_of_its_lyapunov_equation(monkeypatch):
    law = Pmf(np.ones(15) / 15)
    assert largest_stable_learning_rate(Momentum(1.0, 0.0), law, 1.0) == pytest.approx(0.2789, abs=5e-5)  # theory 1.8
    fast = [mean_square_rate(Momentum(0.05, mu), law, [0.2, 1.0], v) for mu in (-0.6, 0.6) for v in (0, 0.3)]
    monkeypatch.setattr(stability_of, "ring_loop_gain", lambda *_: None)
    slow = [mean_square_rate(Momentum(0.05, mu), law, [0.2, 1.0], v) for mu in (-0.6, 0.6) for v in (0, 0.3)]
    np.testing.assert_allclose(fast, slow, rtol=1e-9)
