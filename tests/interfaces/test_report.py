"""The report: numerals, figures, the page and the folder that it is written to."""

import dataclasses
import re
import tomllib
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

import itograd as ig
from itograd.check_record import FORMAT
from itograd.report import figures
from itograd.report.curve_figures import curves
from itograd.report.folder import FIGURES, FILES, ResultFolder, write_results
from itograd.report.numerals import interval, number, of_unit, percent, with_error
from itograd.report.page import page
from itograd.scaling import TrainingRecipe, scaled_recipe


@pytest.fixture(scope="module")
def images():
    return dict.fromkeys(FIGURES, b"<svg/>")


@pytest.fixture(scope="module")
def found(quadratic_check):
    return quadratic_check.to_dict()


@pytest.fixture(scope="module")
def html(found, images):
    return page(found, images, recipe="[problem]  # <b> & 'quotes'", panels=["x0", "x1"], errors_are_small=False)


def test_numerals_have_the_digits_of_their_error():
    assert with_error(484.5612, 0.213) == "484.56 ± 0.21"
    assert with_error(484.5612, 0.213, digits=1) == "484.6 ± 0.2"
    assert with_error(484.5612, 0.113, digits=1) == "484.56 ± 0.11"  # a single 1 would be a quarter off
    assert with_error(-1.9e-4, 3.5e-4) == "−0.00019 ± 0.00035"
    assert with_error(1.087e-7, 7.6e-9) == "(1.087 ± 0.076)×10⁻⁷"
    assert with_error(1234567.0, 4321.0) == "(1.2346 ± 0.0043)×10⁶"
    assert with_error(2.0, 0.0) == "2"
    assert with_error(None, None) == number(None) == percent(None) == interval([None, None]) == "–"
    assert interval([360.0, None]) == "from 360"
    assert interval([0.01, 0.02], as_percent=True) == "1 … 2%"


def test_shares_are_shown_in_per_cent_and_other_units_are_not():
    row = {"measured": 0.03, "interval": [0.01, 0.05], "limit": 0.05}
    assert of_unit({**row, "unit": "of its scale"}) == {"measured": "3%", "interval": "1 … 5%", "limit": "5%"}
    assert of_unit({**row, "unit": "along the gradient"})["measured"] == "0.03"


def test_figures_show_the_numbers_of_the_ensembles(quadratic_check):
    result = quadratic_check.verdict
    panels = figures.trajectories(result, "t = kη").axes
    for i, axes in enumerate(panels):
        curves = {to_hex(line.get_color()).upper(): line for line in axes.lines if line.get_linestyle() in "---"}
        np.testing.assert_array_equal(curves[figures.OPTIMIZER].get_ydata(), result.runs["mean"].values[:, i])
        np.testing.assert_array_equal(curves[figures.SDE].get_ydata(), result.flow["mean"].values[:, i])
    errors = figures.weak_errors(result, "t = kη").axes
    scale = np.ptp(result.flow["mean"].values[:, 0])
    expected = 100 * result.errors["total"]["weak_error"].values[:, 0] / scale
    (curve,) = [
        line
        for line in errors[0].lines
        if to_hex(line.get_color()).upper() == figures.OPTIMIZER
        and len(line.get_ydata()) == len(expected)
        and line.get_linestyle() == "-"
    ]
    np.testing.assert_allclose(curve.get_ydata(), expected)
    tolerances = {line.get_ydata()[0] for line in errors[0].lines if to_hex(line.get_color()).upper() == figures.LIMIT}
    assert tolerances == {-5.0, 5.0}


def test_figures_leave_the_settings_of_the_user_alone(quadratic_check, found):
    before = dict(matplotlib.rcParams)
    for figure in (figures.trajectories(quadratic_check.verdict, "t = kη"), figures.noise_scales(found)):
        figures.render(figure, "png")
    assert dict(matplotlib.rcParams) == before


def test_the_same_figure_gives_the_same_bytes(quadratic_check):
    first, second = (figures.render(figures.weak_errors(quadratic_check.verdict, "t = k√η"), "svg") for _ in range(2))
    assert first == second


def test_few_panels_are_drawn_of_many_observables(quadratic_check, monkeypatch):
    monkeypatch.setattr(figures, "MAX_PANELS", 1)
    shown = figures.shown_observables(quadratic_check.verdict)
    errors = quadratic_check.verdict.errors["total"]
    scale = np.ptp(quadratic_check.verdict.flow["mean"].values, axis=0)
    share = np.abs(errors["weak_error"].values).max(axis=0) / scale
    assert shown == [["x0", "x1"][int(share.argmax())]]


class _Links(HTMLParser):
    """Every address that a page refers to."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def test_the_page_needs_nothing_beside_it(html):
    links = _Links()
    links.feed(html)
    assert len(links.found) == 3
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links.found)
    assert not re.search(r"url\(|@import|<script|<link", html)


def test_the_page_escapes_what_comes_from_outside(html, found, images):
    assert "&lt;b&gt; &amp; &#39;quotes&#39;" in html
    hostile = {**found, "recipe": {**found["recipe"], "name": "<script>"}, "reasons": ["<img src=x>"]}
    text = page(hostile, images, recipe="", panels=["x0"], errors_are_small=True)
    assert "<script>" not in text
    assert "<img src=x>" not in text


def test_the_page_shows_verdict_reasons_and_every_assumption(html, found):
    text = re.sub(r"<[^>]*>", "", html)
    assert found["verdict"].capitalize() in text
    for row in (*found["assumptions"], *found["batch_size_room"]["equilibrium"]["guards"]):
        assert row["name"] in text
        assert of_unit(row)["measured"] in text
    for row in found["final_weak_errors"]:
        assert with_error(row["weak_error"], row["standard_error"]) in text


@pytest.mark.parametrize(
    "change",
    [
        {"noise_scale": {"start": "there is no noise", "end": "there is no noise"}},
        {"scaled_recipes": []},
        {"scaled_recipes": [{"reason": "no rule"}]},
        {"reasons": [f"reason {i}" for i in range(20)]},
    ],
)
def test_the_page_stands_what_a_check_may_lack(found, images, change):
    from rich.console import Console

    from itograd.report.terminal import print_check

    room = {**found["batch_size_room"], "equilibrium": None, "sharp": None, "reasons": ["a reason"]}
    lacking = {**found, "batch_size_room": room, **change}
    assert "a reason" in page(lacking, images, recipe="", panels=["x0"], errors_are_small=False)
    figures.render(figures.noise_scales(lacking), "png")
    with open("/dev/null", "w") as nowhere:
        print_check(lacking, Console(file=nowhere))


def fill(folder):
    """What a check would leave, as far as the folder looks at it."""
    (folder / "check.json").write_text(f'{{"format": "{FORMAT}"}}')
    (folder / "report.html").write_text("new")


def stop_after_filling(folder, error):
    fill(folder.staging)
    raise error


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_the_folder_appears_as_a_whole(tmp_path):
    target = tmp_path / "results"
    with ResultFolder(target) as folder:
        fill(folder.staging)
        assert not target.exists()
        folder.commit()
    assert names(tmp_path) == ["results"]
    assert names(target) == ["check.json", "report.html"]
    (tmp_path / "another").mkdir()
    assert target.stat().st_mode == (tmp_path / "another").stat().st_mode  # not the private mode of a temporary folder


def test_nothing_is_left_of_a_check_that_fails(tmp_path):
    target = tmp_path / "results"
    with pytest.raises(KeyboardInterrupt), ResultFolder(target) as folder:
        stop_after_filling(folder, KeyboardInterrupt)
    assert names(tmp_path) == []


def test_an_earlier_check_is_replaced_as_a_whole_and_stays_where_a_later_one_fails(tmp_path):
    target = tmp_path / "results"
    target.mkdir()
    fill(target)
    (target / "runs.nc").write_text("old")
    with pytest.raises(RuntimeError), ResultFolder(target) as folder:
        stop_after_filling(folder, RuntimeError)
    assert names(target) == ["check.json", "report.html", "runs.nc"]
    with ResultFolder(target) as folder:
        fill(folder.staging)
        folder.commit()
    assert names(target) == ["check.json", "report.html"]
    assert names(tmp_path) == ["results"]


@pytest.mark.parametrize("content", [["notes.txt"], ["recipe.toml"], ["check.json", "notes.txt"], ["check.json"]])
def test_a_folder_with_foreign_files_is_refused(tmp_path, content):
    for name in content:  # recipe.toml and check.json may be the user's own: only a check's check.json says otherwise
        (tmp_path / name).write_text("{}")
    message = r"output: .* holds files that are not an earlier check's"
    with pytest.raises(OSError, match=message), ResultFolder(tmp_path):
        pass
    assert names(tmp_path) == sorted(content)


def test_a_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    refused = {
        tmp_path / "file": "is no folder",
        tmp_path / "none" / "results": "does not exist",
        tmp_path / "file" / "results": "does not exist",
    }
    for target, message in refused.items():
        with pytest.raises(OSError, match=message), ResultFolder(target):
            pass
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="is the folder this runs in"), ResultFolder("."):
        pass

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", denied)
    with pytest.raises(OSError, match=r"cannot write .*results: Permission denied"), ResultFolder(tmp_path / "results"):
        pass


def test_a_check_writes_what_the_folder_knows(quadratic_folder):
    assert names(quadratic_folder) == sorted(FILES)
    tomllib.loads((quadratic_folder / "recipe.toml").read_text())


@pytest.fixture(scope="module")
def check_with_curves(quadratic_check):
    recipe = quadratic_check.recipe
    options = {"steps": recipe.steps, "x0": recipe.x0, "paths": 64, "tolerance": 0.001, "progress": False}
    found = ig.svag_test(recipe.optimizer, recipe.problem, amplifications=[2, 4], **options)
    refused = "no rule for a batch size"
    return dataclasses.replace(quadratic_check, curves={"svag_test": found, "scaled_runs": refused})


def test_the_figure_of_the_curves_shows_their_means_the_tolerance_and_where_they_part(check_with_curves):
    found = check_with_curves.curves["svag_test"]
    panel = curves(found, "t = kη").axes[0]
    shown = [line.get_ydata() for line in panel.lines if len(line.get_ydata()) == found.reference.sizes["time"]]
    for run in (found.reference, *(curve.runs for curve in found.curves)):
        assert any(np.array_equal(line, run["mean"].values[:, 0]) for line in shown)
    crosses = [line.get_xdata() for line in panel.lines if line.get_marker() == "x"]
    partings = [curve.parting["x0"] for curve in found.curves if curve.parting["x0"] is not None]
    assert [float(x[0]) for x in crosses] == partings
    assert partings, "at a tolerance of 0.1 % the curves part"


def test_the_page_shows_curves_that_were_run_and_says_why_others_were_not(check_with_curves, tmp_path):
    write_results(check_with_curves, tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert names(tmp_path) == sorted([*FILES, "svag_test.png", "svag_test.svg"])
    with ResultFolder(tmp_path):  # may be replaced: it is an earlier check's
        pass
    assert html.count("<figure") == 4
    assert "not run, no rule for a batch size" in html


def test_the_page_shows_every_hyperparameter_of_a_scaled_recipe(found, images):
    adamw = TrainingRecipe(ig.AdamW(1e-3, eps=1e-6, weight_decay=0.1), 256, 1000, clip_norm=1.0, ema=0.999)
    scaled = {**scaled_recipe(adamw, 1024).to_dict(), "bound": "none"}
    html = page({**found, "scaled_recipes": [scaled]}, images, recipe="", panels=["x0", "x1"], errors_are_small=False)
    rows = {
        name: re.findall(r"<td class=\"n\">(.*?)</td>", cells)
        for name, cells in re.findall(r"<tr><th>(.*?)</th>(.*?)</tr>", html)
    }
    assert rows["learning rate"] == ["0.001", "0.002", "× √κ"]
    assert rows["b1"] == ["0.9", "0.6561", "b^κ"]
    assert rows["b2"][:2] == ["0.999", "0.996006"]
    assert rows["eps"][1:] == ["5×10⁻⁷", "÷ √κ"]
    assert rows["weight decay"] == ["0.1", "0.2", "× √κ"]
    assert rows["clip norm"] == ["1", "0.5", "÷ √κ"]
    assert rows["ema"][2] == "ρ^κ"
    assert rows["steps"] == ["1000", "250", "÷ κ"]
