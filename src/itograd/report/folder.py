"""The folder with the results of a command: written beside its place, and moved there as a whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from itograd.analysis.curves import CurveTest
from itograd.report import figures
from itograd.report.curve_figures import curves
from itograd.report.page import page
from itograd.simulation.result import save

FIGURES = ("trajectories", "weak_error", "noise_scale")
CURVES = ("svag_test", "scaled_runs")  # figures that are there where the recipe asks for these runs
FILES = (
    "check.json",
    "flow.nc",
    "gaussian.nc",
    "recipe.toml",
    "report.html",
    "runs.nc",
    *(f"{name}.{ending}" for name in FIGURES for ending in ("png", "svg")),
)
FILES_OF_CURVES = tuple(f"{name}.{ending}" for name in CURVES for ending in ("png", "svg"))


class Kind(NamedTuple):
    """Whose results a folder has: what an earlier folder of the same kind is known by."""

    record: str  # a JSON file, of which
    format: str  # the format that it names begins so
    files: tuple[str, ...]  # all that may be in such a folder
    owner: str


CHECK = Kind("check.json", "itograd check", FILES + FILES_OF_CURVES, "an earlier check's")


class ResultFolder:
    """A context: inside it files are written to `staging`; `commit` puts them in place of earlier ones of the kind.

    Entering raises OSError, before anything is computed, where the folder cannot be written or holds foreign files.
    """

    def __init__(self, target: str | os.PathLike, kind: Kind = CHECK):
        self.target, self.kind = Path(os.path.abspath(target)), kind
        self.staging = Path()

    def __enter__(self) -> ResultFolder:
        target, parent = self.target, self.target.parent
        if not parent.is_dir():
            raise OSError(f"output: cannot write {target}: the folder {parent} does not exist")
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise OSError(f"output: {target} is there, and is no folder: give another name")
        if target == Path.cwd() or target in Path.cwd().parents:
            raise OSError(f"output: {target} is the folder this runs in, and would be replaced: give another")
        if target.is_dir():
            _require_own(target, self.kind)
        try:
            self.staging = Path(tempfile.mkdtemp(dir=parent, prefix=f".{target.name}."))
        except OSError as error:
            raise OSError(f"output: cannot write {target}: {error.strerror} in {parent}") from error
        return self

    def commit(self) -> None:
        """Put the staged files in place of what an earlier run left there."""
        mask = os.umask(0)
        os.umask(mask)
        self.staging.chmod(0o777 & ~mask)
        if not self.target.exists():
            self.staging.rename(self.target)
            return
        _require_own(self.target, self.kind)
        old = self.staging.with_name(f"{self.staging.name}.old")
        self.target.rename(old)
        try:
            self.staging.rename(self.target)
        except OSError:
            old.rename(self.target)
            raise
        shutil.rmtree(old)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.staging != Path() and self.staging.exists():
            shutil.rmtree(self.staging)


def write_results(check: Any, folder: Path) -> None:
    """Write data, figures, report page, recipe and JSON of a `Check` into a folder."""
    found, result = check.to_dict(), check.verdict
    for name in ("runs", "flow", "gaussian"):
        save(getattr(result, name), folder / f"{name}.nc")
    clock = found["run"]["clock"]
    drawn = {
        "trajectories": figures.trajectories(result, clock),
        "weak_error": figures.weak_errors(result, clock),
        "noise_scale": figures.noise_scales(found),
        **{name: curves(test, clock) for name, test in check.curves.items() if isinstance(test, CurveTest)},
    }
    images = {}
    for name, figure in drawn.items():
        images[name] = figures.render(figure, "svg")
        (folder / f"{name}.svg").write_bytes(images[name])
        (folder / f"{name}.png").write_bytes(figures.render(figure, "png"))
    panels = figures.shown_observables(result)
    text = page(
        found,
        images,
        recipe=check.recipe.text,
        panels=panels,
        errors_are_small=figures.errors_too_small_to_see(result, panels),
    )
    (folder / "report.html").write_text(text, encoding="utf-8")
    (folder / "recipe.toml").write_text(check.recipe.text, encoding="utf-8")
    (folder / "check.json").write_text(check.to_json() + "\n", encoding="utf-8")


def _require_own(folder: Path, kind: Kind) -> None:
    """Raise unless the folder is empty, or holds earlier results of the kind and nothing else."""
    names = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in names if name not in kind.files]
    if names and not foreign and not _is_of(folder / kind.record, kind):
        foreign = names
    if foreign:
        raise OSError(
            f"output: {folder} holds files that are not {kind.owner} ({', '.join(foreign[:3])}"
            f"{', …' if len(foreign) > 3 else ''}): give an empty or a new folder"
        )


def _is_of(file: Path, kind: Kind) -> bool:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["format"]).startswith(kind.format)
    except (OSError, ValueError, KeyError, TypeError):
        return False
