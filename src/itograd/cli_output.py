"""How the commands print and how they fail. Nothing that takes time to import is imported before it is needed."""

from __future__ import annotations

import sys
from typing import Any

import click


class Failure(click.ClickException):
    """What went wrong, one line a problem, on standard error; exit status 2."""

    exit_code = 2

    def show(self, file=None) -> None:
        for line in self.message.splitlines() or ["unknown"]:
            click.echo(f"error: {line}", err=True)


def console() -> Any:
    """Rich's, on standard output."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)
