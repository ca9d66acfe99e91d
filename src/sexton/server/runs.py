"""Routes of runs: lists, one run, its series and console, and the labels and notes that people add."""

from typing import Annotated

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from sexton.model.runs import Changes, ConsoleText, Detail, Page, RunFilter, Series, State
from sexton.server.auth import JSON, Client

READ = {"permission": "runs:read"}
WRITE = {"permission": "runs:write", "body": JSON}

Text = FromQuery[str | None]
Limit = Annotated[int, QueryParameter(ge=1, le=1_000)]
Points = Annotated[int | None, QueryParameter(ge=1)]
Revision = Annotated[int, QueryParameter(ge=0, le=2**62)]


class TagBody(msgspec.Struct, forbid_unknown_fields=True):
    """A label to set, or with a value of null to remove."""

    key: str
    value: str | None = ""


class NoteBody(msgspec.Struct, forbid_unknown_fields=True):
    """Markdown to add."""

    text: str


@get("/api/v1/runs", opt=READ, sync_to_thread=True)
def list_runs(
    client: Client,
    project: Text = None,
    experiment: Text = None,
    states: FromQuery[list[State] | None] = None,
    tags: FromQuery[list[str] | None] = None,
    sweep: Text = None,
    sort: FromQuery[str] = "-created",
    limit: Limit = 100,
    after: Text = None,
) -> Page:
    """Runs that pass all filters, a page of them. `states` and `tags` may be given several times."""
    return client.runs(
        RunFilter(
            project=project,
            experiment=experiment,
            states=tuple(states or ()),
            tags=tuple(tags or ()),
            sweep=sweep,
            sort=sort,
            limit=limit,
            after=after,
        )
    )


@get("/api/v1/runs/{run:str}", opt=READ, sync_to_thread=True)
def show_run(client: Client, run: FromPath[str]) -> Detail:
    """All of one run that is not a series."""
    return client.run(run)


@get("/api/v1/runs/{run:str}/series", opt=READ, sync_to_thread=True)
def show_series(
    client: Client, run: FromPath[str], metric: FromQuery[str], points: Points = None, context: FromQuery[str] = ""
) -> Series:
    """The points of one metric; at most about `points` of them, if given."""
    return client.series(run, metric, points, context)


@get("/api/v1/runs/{run:str}/console", opt=READ, sync_to_thread=True)
def show_console(client: Client, run: FromPath[str]) -> ConsoleText:
    """What the run's command printed."""
    return client.console(run)


@post("/api/v1/runs/{run:str}/tags", opt=WRITE, sync_to_thread=True, status_code=204)
def tag_run(client: Client, run: FromPath[str], data: JSONBody[TagBody]) -> None:
    """Set a label of the run, or remove it."""
    client.tag(run, data.key, data.value)


@post("/api/v1/runs/{run:str}/notes", opt=WRITE, sync_to_thread=True, status_code=204)
def note_run(client: Client, run: FromPath[str], data: JSONBody[NoteBody]) -> None:
    """Add a note to the run."""
    client.note(run, data.text)


@get("/api/v1/changes", opt=READ, sync_to_thread=True)
def list_changes(client: Client, since: Revision, limit: Limit = 1000) -> Changes:
    """The runs that changed after a revision, oldest change first."""
    return client.changes(since, limit)


ROUTES: list[HTTPRouteHandler] = [
    list_runs,
    show_run,
    show_series,
    show_console,
    tag_run,
    note_run,
    list_changes,
]
