"""The command `itograd asynchrony`. Nothing that takes time to import is imported before it is needed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from itograd.cli_output import Failure, console

if TYPE_CHECKING:
    from itograd.asynchrony import Staleness, WorkerQueue

DEFAULT_OUTPUT = "itograd-asynchrony"
MOST_WORKERS = 100_000
# The options for words of the library's messages, where they are not called alike.
OPTIONS = {"relative_curvature_variance": "curvature-variance", "queue": "workers"}


@click.command()
@click.option("--workers", type=int, metavar="M", help="Workers that write to one model, each at its own pace.")
@click.option("--learning-rate", type=float, help="The learning rate of each write.")
@click.option("--momentum", type=float, default=0.0, show_default=True, help="Explicit momentum, in (−1, 1).")
@click.option(
    "--service",
    metavar="LAW",
    help="How long a gradient takes: exponential, deterministic, uniform, gamma:SHAPE or lognormal:SIGMA.  "
    "[default: exponential]",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measured delays: a line a write, with a delay, or worker, read, write. --workers is then what they are "
    "compared with.",
)
@click.option("--curvature-min", type=float, help="The smallest eigenvalue of the Hessian that matters.")
@click.option("--curvature-max", type=float, help="The largest.")
@click.option(
    "--curvature-variance",
    type=float,
    default=0.0,
    help="Var(a)/(B h²) of the curvature a that a batch of size B sees.  [default: 0]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all simulations.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"The folder for figures and numbers.  [default: {DEFAULT_OUTPUT}; with --json none]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
def asynchrony(
    workers: int | None,
    service: str | None,
    trace: Path | None,
    seed: int,
    output: Path | None,
    as_json: bool,
    curvature_variance: float,
    **setting: Any,
) -> None:
    """Say what stale gradients do to a setting, and what to set.

    \b
    itograd asynchrony --workers 16 --learning-rate 0.01 --momentum 0.9
    itograd asynchrony --workers 16 --learning-rate 0.01 --momentum 0.9 \\
        --curvature-min 0.1 --curvature-max 1
    itograd asynchrony --trace delays.txt --learning-rate 0.01

    An unstable setting is an answer: it is warned of, and the exit status is 0 (--json has it as is_stable). Bad
    input is one line on standard error and exit status 2.
    """
    from itograd.asynchrony import advise
    from itograd.check_record import plain_numbers
    from itograd.report.asynchrony_words import print_advice, verdict

    if setting["learning_rate"] is None:
        raise Failure("--learning-rate is missing: the learning rate of each write")
    if seed < 0:
        raise Failure(f"--seed must be at least 0: got {seed}")
    law, expected = _staleness(workers, service, trace)
    target = output or (None if as_json else Path(DEFAULT_OUTPUT))
    with _folder(target) as folder:
        found = _named(
            lambda: advise(law, **setting, relative_curvature_variance=curvature_variance, expected=expected, seed=seed)
        )
        record = plain_numbers(found.to_dict())
        record["verdict"] = verdict(record)[1]
        if folder:
            from itograd.report.asynchrony_figures import write_figures

            write_figures(found, seed, folder.staging)
            text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
            (folder.staging / "asynchrony.json").write_text(text + "\n", encoding="utf-8")
            folder.commit()
    if as_json:
        click.echo(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_advice(record, console())
    if target:
        click.echo(f"{'' if as_json else chr(10)}Written to {target}{os.sep}", err=as_json)


def _folder(target: Path | None) -> Any:
    if target is None:
        return nullcontext()
    from itograd.report.asynchrony_figures import FOLDER
    from itograd.report.folder import ResultFolder

    return ResultFolder(target, FOLDER)


def _staleness(workers: int | None, service: str | None, trace: Path | None) -> tuple[Staleness, WorkerQueue | None]:
    """The law that the options describe, and with a trace the one that it is compared with."""
    from itograd.asynchrony import WorkerQueue, read_trace

    if workers is None and trace is None:
        raise Failure("--workers or --trace is missing: how many workers write, or the file with measured delays")
    if service is not None and trace is not None:
        raise Failure("--service is the law of --workers, and a trace has measured delays: give one of the two")
    queue = None
    if workers is not None:
        if workers > MOST_WORKERS:
            raise Failure(f"--workers must be at most {MOST_WORKERS}: got {workers}")
        law = _service(service or "exponential")
        queue = _named(lambda: WorkerQueue(workers, law))
    if trace is None:
        assert queue is not None
        return queue, None
    try:
        return read_trace(trace), queue
    except OSError as error:
        raise Failure(f"--trace {trace}: {error.strerror or error}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise Failure(f"--trace {error}") from error


def _service(text: str) -> Any:
    """The service law of `exponential`, `gamma:2`, …"""
    from itograd.asynchrony import Gamma, LogNormal
    from itograd.asynchrony.service import SERVICES

    name, _, value = text.partition(":")
    if name in SERVICES and not value:
        return SERVICES[name]
    try:
        return {"gamma": Gamma, "lognormal": LogNormal}[name](float(value))
    except (KeyError, ValueError) as error:
        raise Failure(
            f"--service must be {', '.join(SERVICES)}, gamma:SHAPE or lognormal:SIGMA, with a number above 0: got "
            f"{text!r}"
        ) from error


def _named(function: Callable[[], Any]) -> Any:
    """The result; an error names options for arguments: the first word, and all words with an underscore."""

    try:
        return function()
    except (ValueError, TypeError) as error:
        raise Failure(re.sub(r"\b[a-z_]+\b", _option, str(error))) from error


def _option(word: re.Match) -> str:
    if word.start() > 0 and "_" not in word[0]:
        return word[0]
    name = OPTIONS.get(word[0], word[0].replace("_", "-"))
    return f"--{name}" if name.replace("-", "_") in {parameter.name for parameter in asynchrony.params} else word[0]
