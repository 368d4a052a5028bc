"""The commands. Nothing that takes time to import is imported before it is needed."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from itograd import __version__
from itograd.cli_asynchrony import asynchrony
from itograd.cli_output import Failure, console

if TYPE_CHECKING:
    from itograd.recipes import Recipe
    from itograd.scaling import TrainingRecipe

DEFAULT_OUTPUT = "itograd-check"
METHODS = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw")
# The options of a one-line recipe that are not the optimiser's, by the name of what they set in a TrainingRecipe.
BESIDE = {
    "steps": "steps",
    "clip_norm": "clip",
    "ema": "ema",
    "warmup_steps": "warmup",
    "schedule_steps": "schedule-steps",
    "accumulation": "accumulation",
}


class Commands(click.Group):
    """The group: errors of the library become one line and exit status 2, an interrupt one line and 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            click.echo(f"\ninterrupted: {str(error) or 'nothing was written'}", err=True)
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
@click.option("--budget", type=float, metavar="SECONDS", help="Choose the paths so that the check takes so long.")
@click.option("--seed", type=int, help="Instead of run.seed.")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep the ensembles here: an interrupted check goes on.",
)
@click.option("--progress/--no-progress", default=None, help="Show progress.  [default: on a terminal]")
def check(
    recipe: Path | None,
    as_json: bool,
    output: Path | None,
    paths: int | None,
    budget: float | None,
    seed: int | None,
    store: Path | None,
    progress: bool | None,
) -> None:
    """Say whether the SDE describes the run of RECIPE, and write the report.

    Without a RECIPE the built-in example runs: softmax regression on scikit-learn's handwritten digits. The format of
    a recipe is documented in docs/recipe.md.
    """
    if paths is not None and budget is not None:
        raise Failure("--paths or --budget, and not both")
    given: dict[str, Any] = {} if seed is None else {"seed": seed}
    if paths is not None or budget is not None:
        given |= {"paths": paths, "budget": budget}  # each replaces the other of the recipe
    found = _load(recipe, {"run": given} if given else None)
    if left_out := [*found.training.beside, *(["groups"] if found.training.groups else [])]:
        click.echo(
            f"warning: the check runs the optimiser alone: {', '.join(left_out)} of [training] are moved by `itograd "
            "scale` only",
            err=True,
        )
    target = output or (None if as_json else Path(DEFAULT_OUTPUT))
    from itograd.check import check as run_check
    from itograd.report.folder import ResultFolder, write_results
    from itograd.simulation.interrupt import deferred, safe_point

    with deferred(), ResultFolder(target) if target else nullcontext() as folder:
        try:
            result = run_check(found, progress, store)
        except KeyboardInterrupt:
            kept = f"what is finished is kept in {store}, and the same command goes on from there" if store else ""
            raise KeyboardInterrupt(kept) from None
        safe_point()
        if folder:
            write_results(result, folder.staging)
            folder.commit()
    if as_json:
        click.echo(result.to_json())
    else:
        from itograd.report.terminal import print_check

        print_check(result.to_dict(), console())
    if target:
        gap = "" if as_json else "\n"
        click.echo(f"{gap}Written to {target}{os.sep}: open {target / 'report.html'}", err=as_json)


@main.command()
@click.argument("what", metavar="[RECIPE|" + "|".join(METHODS) + "]", required=False)
@click.option("--from", "source", metavar="RECIPE", help="The recipe file, instead of the argument.")
@click.option("--to", type=int, metavar="N", help="The new batch size.")
@click.option("--batch-size", type=int, metavar="N", help="The batch size now; with a RECIPE the same as --to.")
@click.option("--rule", help="A rival instead of the optimiser's own rule, such as linear or keep_rate.")
@click.option("--betas", type=click.Choice(["linear", "memory"]), help="How decay rates move: 1 − κ(1 − b), or b^κ.")
@click.option("--learning-rate", type=float, help="The learning rate now.")
@click.option("--momentum", help="A number; for nesterov also 'increasing'.")
@click.option("--clock", type=click.Choice(["overdamped", "underdamped"]), help="Of momentum and nesterov.")
@click.option("--b1", type=float, help="Of adam and adamw: the decay rate of the mean.")
@click.option("--b2", type=float, help="Of adam and adamw: the decay rate of the second moment.")
@click.option("--beta", type=float, help="Of rmsprop: the decay rate of the second moment.")
@click.option("--eps", type=float, help="Of rmsprop, adam and adamw: ε outside the root.")
@click.option("--eps-root", type=float, help="The same inside the root, as in optax.")
@click.option("--weight-decay", type=float, help="Coupled weight decay; of adamw decoupled.")
@click.option(
    "--decay-times-rate/--decay-alone", default=None, help="Of adamw: whether the rate multiplies the decay.  [yes]"
)
@click.option("--steps", type=int, help="The steps of the run now.")
@click.option("--warmup", "warmup_steps", type=int, help="The steps of the warm-up now.")
@click.option("--schedule-steps", help="The steps at which the schedule changes or ends now: 300,600.")
@click.option("--clip", "clip_norm", type=float, help="The norm to which gradients are clipped now.")
@click.option("--ema", type=float, help="The decay rate of an average of the weights now.")
@click.option("--accumulation", type=int, help="The passes that make up a step now; the batch size counts them all.")
@click.option("--measure", is_flag=True, help="Run the RECIPE to equilibrium, and bound the batch factor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
def scale(
    what: str | None,
    source: str | None,
    to: int | None,
    batch_size: int | None,
    rule: str | None,
    betas: str | None,
    measure: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert a recipe to another batch size, old and new side by side.

    \b
    itograd scale recipe.toml --to 4096
    itograd scale --from recipe.toml --batch-size 4096
    itograd scale sgd --learning-rate 0.1 --batch-size 256 --to 4096 --steps 1000
    itograd scale adamw --learning-rate 0.001 --weight-decay 0.1 --clip 1 \\
        --batch-size 256 --to 4096 --steps 100000 --warmup 2000
    """
    if (what is None) == (source is None):
        raise Failure("a RECIPE or a method is needed, once: as the argument, or the recipe after --from")
    chosen = source or what or ""
    recipe = None if what in METHODS else _scale_recipe(chosen, options)
    if recipe:
        if to is not None and batch_size is not None and to != batch_size:
            raise Failure("--batch-size: with a recipe it is the new batch size, as --to is: give one of the two")
        training, new = recipe.training, to if to is not None else batch_size
        rule = rule or recipe.scale.rule
    else:
        if measure:
            raise Failure("--measure needs a RECIPE: a bound is measured on a run, and one line has no problem to run")
        if batch_size is None:
            raise Failure("--batch-size is missing: the batch size now")
        training, new = _one_line(chosen, batch_size, options), to
    if new is None:
        raise Failure("--to is missing: the new batch size")
    if recipe and recipe.problem.dataset_size is not None and new > recipe.problem.dataset_size:
        raise Failure(f"--to must be at most the {recipe.problem.dataset_size} examples of the data: got {new}")

    from itograd.optimizers.scaling_rules import DecayRate, moves_of
    from itograd.scaling import bound_sentence, scaled_recipe

    moves = moves_of(training.optimizer, rule).values()
    if betas is not None and not any(isinstance(move, DecayRate) for move in moves):
        raise Failure(f"--betas is given, and the rule moves no decay rate of {type(training.optimizer).__name__}")
    if recipe:
        betas = betas or recipe.scale.betas
    scaled = scaled_recipe(training, new, rule=rule, betas=betas)
    room = _measured_room(recipe) if recipe and measure else None
    if room is None:
        bound = [f"No bound was measured: {_no_bound(recipe is None, scaled.old.optimizer)}"]
    elif room["sharp"] is None:
        bound = ["There is no bound on the batch factor.", *room["reasons"]]
    else:
        bound = [bound_sentence(scaled.batch_factor, room["sharp"], room["closeness"])]
    shown = scaled.to_dict()
    if as_json:
        click.echo(
            json.dumps({**shown, "bound": room, "bound_notes": bound}, indent=2, ensure_ascii=False, allow_nan=False)
        )
        return
    from itograd.report.terminal import print_scaled

    print_scaled(shown, console(), bound=bound)


def _no_bound(one_line: bool, optimizer: Any) -> str:
    from itograd.optimizers.sgd import SGD

    if not isinstance(optimizer, SGD):
        return "the one that is known is SGD's."
    if one_line:
        return "a bound needs a run, and one line has no problem to run; give a RECIPE with --measure."
    return "--measure runs the recipe to equilibrium for one."


def _measured_room(recipe: Recipe) -> dict[str, Any]:
    from itograd.check import batch_size_room
    from itograd.check_record import room_to_dict

    return room_to_dict(batch_size_room(recipe))


def _load(path: Path | str | None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Recipe:
    from itograd.recipes import load_recipe

    return load_recipe(path, overrides)


def _scale_recipe(path: str, options: Mapping[str, Any]) -> Recipe:
    unused = [name for name, value in options.items() if value is not None]
    if unused:
        option = BESIDE.get(unused[0], unused[0].replace("_", "-"))
        raise Failure(f"--{option} belongs to a one-line recipe: {path} states its own")
    return _load(path)


def _one_line(method: str, batch_size: int, options: Mapping[str, Any]) -> TrainingRecipe:
    """The training recipe of a one-line recipe; its optimiser is checked as the [optimizer] section of a file is."""
    from itograd.recipes import RecipeError, optimizer_from_table

    given = {name: value for name, value in options.items() if value is not None}
    table = {name: value for name, value in given.items() if name not in BESIDE}
    beside = {name: value for name, value in given.items() if name in BESIDE}
    if "momentum" in table:
        table["momentum"] = _number_or_text(table["momentum"])
    if "schedule_steps" in beside:
        beside["schedule_steps"] = _counts("schedule-steps", beside["schedule_steps"])
    try:
        optimizer = optimizer_from_table({"name": method, **table})
    except RecipeError as error:  # the key is the option
        lines = (line.partition(" ") for line in str(error).splitlines())
        raise Failure("\n".join(f"--{key.replace('_', '-')} {_of_options(rest)}" for key, _, rest in lines)) from error
    from itograd.scaling import TrainingRecipe

    try:
        return TrainingRecipe(optimizer, batch_size, **beside)
    except (ValueError, TypeError) as error:  # the field is the option
        name, _, rest = str(error).partition(" ")
        raise Failure(f"--{BESIDE[name]} {rest}" if name in BESIDE else str(error)) from error


def _counts(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise Failure(f"--{option} must be whole numbers with commas between: got {text!r}") from error


def _of_options(message: str) -> str:
    return re.sub(r"is no key of \[(\w+)\].*", r"is no option of \1", message)


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


main.add_command(asynchrony)
