"""The benchmarks, at tiny sizes: every runner agrees with the reference, and the figures have their form."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import itograd_models, measure, report  # noqa: E402
from benchmarks.closed_forms import largest_z, reference  # noqa: E402
from benchmarks.figures import figures  # noqa: E402
from benchmarks.left_out import LeftOut  # noqa: E402
from benchmarks.limit import build  # noqa: E402
from benchmarks.machine import available_cores  # noqa: E402
from benchmarks.memory import peak_memory  # noqa: E402
from benchmarks.runners import RUNNERS  # noqa: E402
from benchmarks.workloads import WORKLOADS, Moments  # noqa: E402
from itograd.simulation.noise import noise_source  # noqa: E402

# What is compiled anew for each workload is tested on a few of them, and on all by `make test-slow`.
OURS = f"itograd-{noise_source()}"
FEW = {
    "jax": ("sgd-2", "em-2"),
    OURS: ("sgd-2", "em-2", "em-2-two-point", "em-20", "underdamped-2", "async", "adam", "softmax"),
}
OTHERS = ("em-2",)
NOT_COMPILED = ("limit", "numpy", "torch", "torchsde")


def is_quick(workload, runner):
    """Whether a pair belongs to the quick tests."""
    return runner in NOT_COMPILED or (workload in FEW.get(runner, OTHERS) and runner != "diffrax")


PAIRS = [
    pytest.param(workload, name, marks=() if is_quick(workload, name) else pytest.mark.slow, id=f"{workload}-{name}")
    for name, runner in RUNNERS.items()
    for workload in runner.workloads
]


def tiny(name):
    """Two save points of a workload."""
    workload = WORKLOADS[name]
    return replace(workload, save_every=20).resized({100: 1024, 650: 64}.get(workload.dim, 4096), 40)


SIZED = {name: tiny(name) for name in WORKLOADS}  # one object each: the references are kept by identity


@pytest.mark.parametrize(("workload", "runner"), PAIRS)
def test_a_runner_agrees_with_the_reference(workload, runner):
    try:
        moments = RUNNERS[runner].prepare(SIZED[workload], 1)(7)
    except LeftOut as reason:
        pytest.skip(f"{runner}: {reason}")
    assert largest_z(SIZED[workload], moments) < measure.LARGEST_Z


@pytest.mark.parametrize("form", [name for name in WORKLOADS if name.startswith("drift-")])
def test_the_forms_of_a_drift_are_one_equation(form):
    x = np.array([0.3, -0.7])
    drift = itograd_models.linear_sde(WORKLOADS[form]).drift(0.0, x)
    np.testing.assert_allclose(drift, -WORKLOADS[form].matrix @ x, rtol=1e-6)


def test_a_wrong_law_is_seen():
    """A run whose rate is wrong by two per cent, and one that is not finite."""
    workload = WORKLOADS["em-2"].resized(4096, 200)
    wrong = reference(replace(workload, matrix=1.02 * workload.matrix))
    assert largest_z(workload, Moments(wrong.mean, wrong.variance, workload.paths)) > measure.LARGEST_Z
    assert largest_z(workload, Moments(np.nan * wrong.mean, wrong.variance, workload.paths)) == np.inf


def test_the_two_ways_to_the_moments_of_a_finite_sum_agree():
    """Without delay, the recursion over stale points is that of `ig.moments`."""
    import itograd as ig

    workload = WORKLOADS["sgd-2"].resized(steps=40)
    problem = ig.problems.LinearRegression(workload.features, workload.targets)
    times = [0.2, 0.4]
    exact = ig.moments(ig.SGD(0.01), problem, x0=workload.x0, save_at=times)
    np.testing.assert_allclose(reference(workload).mean, exact["mean"].values, rtol=1e-12)
    variance = np.diagonal(exact["covariance"].values, axis1=1, axis2=2)
    np.testing.assert_allclose(reference(workload).variance, variance, rtol=1e-9)


@pytest.fixture(scope="module")
def results():
    """The figures of one workload, as the file holds them."""
    runners = [RUNNERS[name] for name in ("limit", OURS, "numpy")]
    return json.loads(json.dumps(figures([SIZED["em-2"]], runners, cores=1, repeat=1, shrink=8)))


def test_the_figures_have_their_form(results):
    assert set(results) == {"machine", "versions", "settings", "rows", "left_out"}
    assert {"processor", "vectors", "cores"} <= set(results["machine"])
    assert {"python", "jax", "itograd", "numpy"} <= set(results["versions"])
    assert any(row["runner"].startswith("itograd") for row in results["rows"])
    for row in results["rows"]:
        assert set(row) == set(measure.Row.__dataclass_fields__)
        assert row["agrees"], row
        assert row["path_steps_per_second"] == pytest.approx(row["paths"] * row["steps"] / row["seconds"])
    for left in results["left_out"]:
        assert left["runner"] in RUNNERS
        assert left["reason"]


def test_the_memory_of_a_runner_is_its_own():
    """NumPy holds paths and steps, and no more than a few copies of them."""
    ballast = np.ones(2**24)
    small, large = (
        peak_memory("em-20", "benchmarks.rivals.numpy_loop:runner", {}, 1, paths, 20) for paths in (64, 2**16)
    )
    assert small < ballast.nbytes + 2**24
    assert 20 * 4 * 2**16 < large - small < 12 * 20 * 4 * 2**16


@pytest.mark.slow
@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
def test_the_command_writes_figures(tmp_path):
    file = tmp_path / "results.json"
    how = ["--workload", "em-2", "--rivals", "numpy", "--quick", "--repeat", "1", "--json", str(file)]
    done = subprocess.run([sys.executable, "-m", "benchmarks", *how], cwd=ROOT, check=True, capture_output=True)
    rows = json.loads(file.read_text())["rows"]
    assert {row["cores"] for row in rows if row["runner"] == OURS} == {1, 2}
    assert "Euler–Maruyama d=2, Gaussian" in done.stdout.decode()


def test_the_tables_are_written_between_the_markers_alone(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(page, results)
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    assert "| Euler–Maruyama d=2, Gaussian |" in text
    report.write(page, results)
    assert page.read_text() == text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="must hold the lines"):
        report.write(page, results)


def test_the_tables_say_what_the_limit_was_built_for(results):
    limit = [row for row in results["rows"] if row["runner"] == "limit"]
    if not limit:
        pytest.skip("no limit here")
    assert results["machine"]["vectors"] in ("AVX-512", "AVX2")
    assert f"the limit built for {results['machine']['vectors']};" in report.as_markdown(results)
    without = results | {"rows": [row for row in results["rows"] if row not in limit]}
    assert "the limit built for" not in report.as_markdown(without)


def test_the_page_has_its_markers():
    text = (ROOT / "docs" / "performance.md").read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_a_wrong_name_lists_the_right_ones():
    with pytest.raises(SystemExit, match="no workload em-3: there are sgd-2, "):
        command.chosen("workload", ["em-2", "em-3"], list(WORKLOADS))


def test_without_a_compiler_the_limit_is_left_out(monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    build.kernels.cache_clear()
    try:
        rows, left_out = measure.measure(
            SIZED["em-2"], [RUNNERS["limit"], RUNNERS["numpy"]], cores=1, repeat=1, shrink=8
        )
    finally:
        build.kernels.cache_clear()
    assert [row.runner for row in rows] == ["numpy"]
    assert rows[0].share_of_limit is None
    assert left_out == [
        {"workload": "em-2", "runner": "limit", "reason": "there is no C compiler (cc, gcc, clang or $CC)"}
    ]
