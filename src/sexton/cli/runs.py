"""`sexton ls`, `show`, `diff`, `tag`, `note`: what was recorded, and the words that people add to it."""

import sys
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from sexton import clock, errors
from sexton.cli import options
from sexton.cli.options import Experiment, Json, Project, RunId, Sweep, Url

if TYPE_CHECKING:
    from sexton.client import Client
    from sexton.model.runs import Page, RunFilter, State

PAGE = 1_000
"""Runs that a store is asked for at once."""


def ls(
    experiment: Experiment = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", metavar="S", help="In this state; may be repeated.")
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", "-t", metavar="KEY[=VALUE]", help="With this tag; may be repeated, all must hold."),
    ] = None,
    sweep: Sweep = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="KEY",
            help="created, ended, name, seconds, cpu or metrics.NAME; with - before it the greatest come first.",
        ),
    ] = "-created",
    most: Annotated[int, typer.Option("--number", "-n", metavar="N", help="How many at most.")] = 30,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="A,B", help="These columns, as in id,state,metrics.loss,params.lr."),
    ] = None,
    project: Project = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """List runs, newest first. Shows the params that differ between them, and their metrics."""
    from sexton.cli import render
    from sexton.model.runs import RunFilter

    if most < 1:
        raise errors.InvalidValue(what="--number", value=most, reason="it is at least 1; --all lists all of them")
    which = RunFilter(
        project=project,
        experiment=experiment,
        states=_states(state),
        tags=tuple(tag or ()),
        sweep=sweep,
        sort=sort,
    )
    with options.store(url) as client:
        page = fetch(client, which, None if everything else most)
        if json:
            render.emit(page)
        elif page.runs:
            _print_list(client, which, page, columns)
        else:
            _print_none(client)


def _states(words: list[str] | None) -> "tuple[State, ...]":
    import msgspec

    from sexton.model.runs import State

    try:
        return msgspec.convert(words or (), tuple[State, ...])
    except msgspec.ValidationError:
        known = ", ".join(get_args(State))
        raise errors.InvalidValue(what="--state", value=" ".join(words or ()), reason=f"it is {known}") from None


def fetch(client: "Client", which: "RunFilter", most: int | None) -> "Page":
    """The first `most` runs that pass a filter, or all of them: as one page, however many the store gives at once."""
    import msgspec

    from sexton.model.runs import Page, Run

    runs: list[Run] = []
    after = None
    while True:
        limit = PAGE if most is None else min(PAGE, most - len(runs))
        page = client.runs(msgspec.structs.replace(which, limit=limit, after=after))
        runs, after = runs + page.runs, page.next
        if after is None or len(runs) == most:
            return Page(runs, page.total, after)


def _print_list(client: "Client", which: "RunFilter", page: "Page", columns: str | None) -> None:
    from sexton.cli import listing
    from sexton.cli.render import Screen, Span

    screen, now = Screen(), clock.now()
    if columns is None:
        shown = listing.columns(page.runs, now, narrow=screen.width is not None)
    else:
        shown = listing.chosen_columns(columns.split(","), page.runs, now)
    left_out = screen.table(shown)
    running = _running(client, which, page)
    screen.line()
    screen.line(Span(listing.footer(page, running, left_out), "dim"))


def _running(client: "Client", which: "RunFilter", page: "Page") -> int:
    """How many of all runs that pass the filter are running now."""
    import msgspec

    if page.next is None and page.total == len(page.runs):
        return sum(run.state == "running" for run in page.runs)
    if which.states and "running" not in which.states:
        return 0
    return client.runs(msgspec.structs.replace(which, states=("running",), limit=1)).total


def _print_none(client: "Client") -> None:
    from sexton.cli import text
    from sexton.cli.render import Screen
    from sexton.model.runs import RunFilter

    screen = Screen()
    total = client.runs(RunFilter(limit=1)).total
    if total:
        screen.line(f"None of the {text.count(total, 'run')} here is like that. sexton ls shows the newest.")
    else:
        screen.line(f"No runs yet in {text.address(client.url)}. Record one:")
        screen.line("    sexton run -- python train.py")


def show(
    run: RunId,
    console: Annotated[bool, typer.Option("--console", help="Print all that the command printed, as it was.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show all of one run on one screen. How it ended and why, what went in, what came out."""
    from sexton.cli import render, sheet

    with options.store(url) as client:
        if console:
            printed = client.console(run)
            render.emit(printed) if json else sheet.print_console(printed)
        elif json:
            render.emit(client.run(run))
        else:
            sheet.print_run(client, client.run(run), clock.now())


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's id, or enough of its beginning.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another's.")],
    everything: Annotated[bool, typer.Option("--all", help="Also what is the same.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show what differs between two runs. Params, metrics, tags, command, code, machine."""
    from sexton.cli import difference, render

    with options.store(url) as client:
        found = difference.between(client.run(a), client.run(b), everything=everything)
    if json:
        render.emit(found)
    else:
        difference.print_difference(found)


def tag(
    run: RunId,
    tags: Annotated[
        list[str] | None,
        typer.Argument(metavar="TAG", show_default=False, help="KEY or KEY=VALUE to set, -KEY to remove."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="KEY", help="A label to remove; may be repeated.")
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Set labels of a run, or remove them."""
    from sexton.cli import render, text

    changes = tag_changes(tags or [], remove or [])
    with options.store(url) as client:
        known = client.run(run).run.id  # so that nothing is done where the run is not found
        for key, value in changes.items():
            client.tag(known, key, value)
        detail = client.run(known)
    if json:
        render.emit(detail)
    else:
        render.Screen().line(f"{known}  {text.labels(detail.run.tags) or '(no tags)'}")


def tag_changes(words: list[str], removed: list[str]) -> dict[str, str | None]:
    """The value of each key that is to change; None removes it. Raises `UsageError`."""
    changes: dict[str, str | None] = {}
    for word in words:
        if word.startswith("--") or word in ("", "+", "-"):
            raise errors.UsageError(reason=f"{word!r} is neither an option of `sexton tag` nor a tag")
        if word.startswith("-"):
            changes[word[1:]] = None
        else:
            key, _, value = word.removeprefix("+").partition("=")
            changes[key] = value
    changes |= dict.fromkeys(removed)
    if not changes or "" in changes:
        raise errors.UsageError(reason="no tag was named; as in `sexton tag RUN baseline tier=passed`")
    return changes


def note(
    run: RunId,
    words: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT", show_default=False, help="Markdown; - reads it from stdin; without it, $EDITOR."
        ),
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Add a note to a run. Notes are signed and never edited."""
    from sexton.cli import editor, render

    with options.store(url) as client:
        known = client.run(run).run.id  # before anybody writes an essay about it
        written = (sys.stdin.read() if words == "-" else editor.written(known) if words is None else words).strip()
        if not written:
            raise errors.UsageError(reason="the note is empty, so none was added")
        client.note(known, written)
        detail = client.run(known)
    if json:
        render.emit(detail)
    else:
        render.Screen().line(f"{known}  has {len(detail.notes)} note{'' if len(detail.notes) == 1 else 's'}")
