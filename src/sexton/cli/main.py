"""`sexton`: the commands, and the one place where what goes wrong becomes a message and an exit code.

A command returns its exit code, or None for 0. Nothing is printed on stdout but what was asked for.
"""

import contextlib
import io
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from sexton import errors
from sexton.cli import admin, artifacts, command, runs, storage
from sexton.cli.options import Command, Group
from sexton.cli.text import plain, prose

OTHER = 1
DEFECT = 70
INTERRUPTED = 130
PIPE_CLOSED = 141
EXIT_CODES: tuple[tuple[type[errors.SextonError], int], ...] = (
    (errors.UsageError, 2),
    (errors.NotFound, 3),
    (errors.Denied, 4),
    (errors.Unavailable, 5),
    (errors.IntegrityError, 6),
    (errors.SextonError, OTHER),
)
"""`docs/cli.md` has the same table for people."""

COMMANDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "run": (
        command.run,
        "Example:  sexton run -e digits --tag baseline -- python train.py --lr 0.1",
        {"allow_interspersed_args": False},
    ),
    "ls": (runs.ls, "Example:  sexton ls -e digits --state finished --sort -metrics.accuracy", {}),
    "show": (runs.show, "Example:  sexton show 7k3fq2a8", {}),
    "diff": (runs.diff, "Example:  sexton diff 7k3fq2a8 9mw04xze", {}),
    "tag": (
        runs.tag,
        "Example:  sexton tag 7k3fq2a8 baseline tier=passed --remove draft",
        {"ignore_unknown_options": True},
    ),
    "note": (runs.note, 'Example:  sexton note 7k3fq2a8 "Loss diverged after the warm-up."', {}),
    "files": (artifacts.files, "Example:  sexton files 7k3fq2a8", {}),
    "get": (artifacts.get, "Example:  sexton get 7k3fq2a8 model.pt --step 900 -o models", {}),
    "storage": (storage.storage, "Example:  sexton storage --by user", {}),
    "scrub": (storage.scrub, "Example:  sexton scrub --budget 1%", {}),
    "fsck": (storage.fsck, "Example:  sexton fsck --repair", {}),
    "collect": (storage.collect, "Example:  sexton collect  and then  sexton collect --apply", {}),
    "doctor": (admin.doctor, "Example:  sexton doctor", {}),
    "serve": (admin.serve, "Example:  sexton serve --store postgresql://ml@db/sexton --blobs file:/data/blobs", {}),
}

app = typer.Typer(
    name="sexton",
    cls=Group,
    help="One record of every ML run a team makes, and the acts on that record.",
    epilog="Example:  sexton run -- python train.py  and then  sexton ls",
    rich_markup_mode=None,
    add_completion=False,
)
for _name, (_function, _example, _settings) in COMMANDS.items():
    app.command(_name, cls=Command, epilog=_example, context_settings=_settings)(_function)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of what goes wrong.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from sexton import __version__

        print(f"sexton {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
    context.obj = debug


def main() -> NoReturn:
    """Do what the command line says and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that can't show a character shows its code
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_code_of(sys.argv[1:]))


def _code_of(words: Sequence[str]) -> int:
    """The exit code of a command line."""
    context = None
    try:
        group = typer.main.get_command(app)
        context = group.make_context("sexton", list(words))
        with context:
            code = group.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code or 0
    except typer.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _leave_the_pipe()
        return PIPE_CLOSED
    except typer.TyperException as error:
        return _misused(error)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever went wrong, a person gets a message and a code
        debug = context is not None and bool(context.obj)
        if debug:
            traceback.print_exception(error)
        return _failed(error, None if debug else words)


def _misused(error: typer.TyperException) -> int:
    """The command line can't be understood."""
    _tell(f"error: {prose(error.format_message())}")
    context = getattr(error, "ctx", None)
    if context is not None:
        _tell(f"`{context.command_path} --help` shows how it is used.")
    return 2


def _failed(error: Exception, words: Sequence[str] | None) -> int:
    """Tell what went wrong; `words` are the command line, where its traceback was not shown."""
    if isinstance(error, errors.SextonError):
        _tell(f"error: {prose(str(error))}")
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    if isinstance(error, OSError):  # the machine's condition, and it says which file
        _tell(f"error: {prose(str(error))}. `sexton doctor` says which folders are in use.")
        return OTHER
    _tell(f"error: {type(error).__name__}: {prose(str(error))}")
    if words is not None:
        _tell(f"Nobody foresaw this. `{plain(shlex.join(['sexton', '--debug', *words]))}` shows where it happened.")
    return DEFECT


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


def _leave_the_pipe() -> None:
    """Whoever read our output has gone; Python would complain of that once more at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
