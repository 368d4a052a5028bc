"""The commands. Nothing that takes time to import is imported before it is needed."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from itograd import __version__

if TYPE_CHECKING:
    from itograd.recipes import Recipe

DEFAULT_OUTPUT = "itograd-check"
METHODS = ("sgd", "momentum", "nesterov")


class Failure(click.ClickException):
    """What went wrong, one line a problem, on standard error; exit status 2."""

    exit_code = 2

    def show(self, file=None) -> None:
        for line in self.message.splitlines() or ["unknown"]:
            click.echo(f"error: {line}", err=True)


class Commands(click.Group):
    """The group: errors of the library become one line and exit status 2, an interrupt one line and 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\ninterrupted: nothing was written", err=True)
            ctx.exit(130)
        except (ValueError, TypeError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            raise Failure(str(error)) from error


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    click.echo(f"warning: {message}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="itograd")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Stochastic optimisers as stochastic differential equations.

    Does the SDE describe a training run, and how far may its batch size be changed?
    """


@main.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"The folder for data, figures and report.  [default: {DEFAULT_OUTPUT}; with --json none]",
)
@click.option("--paths", type=int, help="Paths of each ensemble, instead of run.paths.")
@click.option("--seed", type=int, help="Instead of run.seed.")
@click.option("--progress/--no-progress", default=None, help="Show progress.  [default: on a terminal]")
def check(
    recipe: Path | None, as_json: bool, output: Path | None, paths: int | None, seed: int | None, progress: bool | None
) -> None:
    """Say whether the SDE describes the run of RECIPE, and write the report.

    Without a RECIPE the built-in example runs: softmax regression on scikit-learn's handwritten digits. The format of
    a recipe is documented in docs/recipe.md.
    """
    given = {key: value for key, value in {"paths": paths, "seed": seed}.items() if value is not None}
    found = _load(recipe, {"run": given} if given else None)
    target = output or (None if as_json else Path(DEFAULT_OUTPUT))
    from itograd.check import check as run_check
    from itograd.report.folder import ResultFolder, write_results
    from itograd.simulation.interrupt import deferred, safe_point

    with deferred(), ResultFolder(target) if target else nullcontext() as folder:
        result = run_check(found, progress)
        safe_point()
        if folder:
            write_results(result, folder.staging)
            folder.commit()
    if as_json:
        click.echo(result.to_json())
    else:
        from itograd.report.terminal import print_check

        print_check(result.to_dict(), _console())
    if target:
        gap = "" if as_json else "\n"
        click.echo(f"{gap}Written to {target}{os.sep}: open {target / 'report.html'}", err=as_json)


@main.command()
@click.argument("what", metavar="RECIPE|" + "|".join(METHODS))
@click.option("--to", type=int, metavar="N", help="The new batch size.")
@click.option("--batch-size", type=int, metavar="N", help="The batch size now; with a RECIPE the same as --to.")
@click.option("--learning-rate", type=float, help="The learning rate now.")
@click.option("--momentum", help="A number; for nesterov also 'increasing'.")
@click.option("--weight-decay", type=float, help="Coupled weight decay.")
@click.option("--clock", type=click.Choice(["overdamped", "underdamped"]), help="Of momentum and nesterov.")
@click.option("--steps", type=int, help="The number of steps now.")
@click.option("--betas", type=click.Choice(["linear", "memory"]), help="How momentum scales in the underdamped clock.")
@click.option("--measure", is_flag=True, help="Run the RECIPE to equilibrium, and bound the batch factor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
def scale(
    what: str, to: int | None, batch_size: int | None, betas: str | None, measure: bool, as_json: bool, **options: Any
) -> None:
    """Convert a recipe to another batch size, old and new side by side.

    \b
    itograd scale recipe.toml --to 4096
    itograd scale sgd --learning-rate 0.1 --batch-size 256 --to 4096 --steps 1000
    """
    recipe = None if what in METHODS else _scale_recipe(what, options)
    old: int | None
    if recipe:
        if to is not None and batch_size is not None and to != batch_size:
            raise Failure("--batch-size: with a recipe it is the new batch size, as --to is: give one of the two")
        old, new = recipe.problem.batch_size, to if to is not None else batch_size
        optimizer, steps = recipe.optimizer, recipe.steps
        betas = betas or recipe.scale.betas
    else:
        if measure:
            raise Failure("--measure needs a RECIPE: a bound is measured on a run, and one line has no problem to run")
        old, new, steps = batch_size, to, options["steps"]
        if old is None:
            raise Failure("--batch-size is missing: the batch size now")
        optimizer = _one_line(what, options)
    if new is None:
        raise Failure("--to is missing: the new batch size")
    if recipe and recipe.problem.dataset_size is not None and new > recipe.problem.dataset_size:
        raise Failure(f"--to must be at most the {recipe.problem.dataset_size} examples of the data: got {new}")

    from itograd.check import batch_size_room, room_to_dict, scaled_to_dict
    from itograd.scaling import bound_sentence, scaled_recipe

    scaled = scaled_recipe(optimizer, old, new, steps=steps, betas=betas or "linear")
    shown = scaled_to_dict(scaled)
    room = room_to_dict(batch_size_room(recipe)) if recipe and measure else None
    if room is None:
        bound = [
            "No bound was measured: "
            + (
                "--measure runs the recipe to equilibrium for one."
                if recipe
                else "a bound needs a run, and one line has no problem to run; give a RECIPE with --measure."
            )
        ]
    elif room["sharp"] is None:
        bound = ["There is no bound on the batch factor.", *room["reasons"]]
    else:
        bound = [bound_sentence(scaled.batch_factor, room["sharp"], room["closeness"])]
    if as_json:
        click.echo(
            json.dumps({**shown, "bound": room, "bound_notes": bound}, indent=2, ensure_ascii=False, allow_nan=False)
        )
        return
    from itograd.report.terminal import print_scaled

    print_scaled(shown, _console(), bound=bound)


def _load(path: Path | str | None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Recipe:
    from itograd.recipes import load_recipe

    return load_recipe(path, overrides)


def _scale_recipe(path: str, options: Mapping[str, Any]) -> Recipe:
    unused = [name for name, value in options.items() if value is not None]
    if unused:
        raise Failure(f"--{unused[0].replace('_', '-')} belongs to a one-line recipe: {path} states its own")
    return _load(path)


def _one_line(method: str, options: Mapping[str, Any]) -> Any:
    """The optimiser of a one-line recipe, checked as the [optimizer] section of a file is."""
    from itograd.recipes import RecipeError, optimizer_from_table

    table = {name: value for name, value in options.items() if value is not None and name != "steps"}
    if "momentum" in table:
        table["momentum"] = _number_or_text(table["momentum"])
    try:
        return optimizer_from_table({"name": method, **table})
    except RecipeError as error:  # the key is the option
        lines = (line.partition(" ") for line in str(error).splitlines())
        raise Failure("\n".join(f"--{key.replace('_', '-')} {_of_options(rest)}" for key, _, rest in lines)) from error


def _of_options(message: str) -> str:
    return re.sub(r"is no key of \[(\w+)\].*", r"is no option of \1", message)


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)
