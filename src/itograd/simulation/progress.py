"""A progress bar for long runs."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """A progress bar of paths on standard error, where that is a terminal."""

    def __init__(self, total: int, wanted: bool | None, what: str = "paths"):
        self._total, self._what = total, what
        self._bar: Any = None
        self._wanted = sys.stderr.isatty() if wanted is None else wanted

    def __enter__(self):
        if self._wanted:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def advance(self, paths: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, advance=paths)

    def describe(self, what: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=what)

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.stop()
