"""`sexton run`: record any command. Prints only on stderr, and only before and after the command."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from sexton import clock, settings
from sexton.cli.options import Experiment, Sweep, Url
from sexton.cli.render import Span, say
from sexton.cli.text import duration, plain
from sexton.model.records import Finished
from sexton.model.runs import signal_name

_SCRIPTS = (".py", ".ipynb", ".sh", ".r", ".jl")


def run(
    argv: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command and its arguments.")],
    experiment: Experiment = None,
    name: Annotated[str | None, typer.Option("--name", metavar="N", help="Name of the run; else the script's.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", metavar="KEY[=VALUE]", help="A label; may be repeated.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="The ticket it belongs to.")] = None,
    hypothesis: Annotated[str | None, typer.Option("--hypothesis", metavar="H", help="What it is to show.")] = None,
    sweep: Sweep = None,
    project: Annotated[str | None, typer.Option("--project", metavar="P", help="The project.")] = None,
    url: Url = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing before and after.")] = False,
) -> int:
    """Record a command: what it printed, used, and how it ended. Its exit code is passed on.

    Options of the command come after --, or after its first word.
    """
    from sexton.model.values import clean_name
    from sexton.sdk.command import Recording

    chosen = settings.load(url=url, project=project, experiment=experiment)
    described = {
        "project": clean_name(chosen.project),
        "experiment": clean_name(chosen.experiment),
        "name": clean_name(name or name_of(argv)),
        "task": task,
        "hypothesis": hypothesis,
        "sweep": clean_name(sweep) if sweep else None,
        "parent": chosen.run,
    }
    recording = Recording(argv, chosen, described, labels(tag or []))
    if not quiet:
        say(Span(f"sexton: recording run {recording.id} (sexton show {recording.id})", "dim"))
    began = clock.monotonic()
    code = recording.run()
    took = duration((clock.monotonic() - began) / clock.SECOND)
    if recording.end and recording.end.cause == "command-not-found":
        say(f"sexton: {plain(recording.end.message or argv[0])}; as in `sexton run -- python train.py`")
    if recording.lost:
        say(Span(f"sexton: {recording.lost} records of run {recording.id} are lost: the disk did not take them", "red"))
    if not quiet:
        say(Span(f"sexton: run {recording.id} {ended(recording.end)} after {took}", "dim" if code == 0 else "red"))
    return code


def name_of(argv: Sequence[str]) -> str:
    """What people call this command: the script or module that an interpreter runs, else the program."""
    program = Path(argv[0]).name
    for before, word in pairwise(argv):
        if word.lower().endswith(_SCRIPTS):
            return Path(word).name
        if before == "-m" and program.startswith("python"):
            return word
    return program


def labels(words: Sequence[str]) -> dict[str, str]:
    """Tags from `KEY` and `KEY=VALUE`."""
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def ended(end: Finished | None) -> str:
    """How a command ended: its state, and what the system told of it."""
    if end is None or end.state == "finished":
        return "finished"
    told = f"exit code {end.exit_code}" if end.signal is None else signal_name(end.signal)
    return f"{end.state} ({told})"
