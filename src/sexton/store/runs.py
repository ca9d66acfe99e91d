"""Runs as readers see them: pages of them, one in detail, and what changed. Knows which rows make a `Run`."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, func, select

from sexton import errors
from sexton.model.records import Finished, Started
from sexton.model.runs import Changes, ConsoleText, Detail, Page, Run, RunFilter, Summary, settle, shown_state
from sexton.model.values import spell
from sexton.store import artifacts, pages, records, schema
from sexton.store.database import some
from sexton.store.metrics import USAGE, Home, declared

_json = msgspec.json.decode


def page(connection: Connection, which: RunFilter, now: int) -> Page:
    """The runs that pass the filter, in its order, as they stand at `now`. Raises `InvalidValue` for a sort or a place
    to go on from that there is not."""
    total = pages.count(connection, which, now)
    ids, following = pages.select_page(connection, which, now, total)
    return Page(_runs(connection, ids, now), total, following)


def detail(connection: Connection, run: str, now: int) -> Detail:
    """All of one run that is not a series, as it stands at `now`. Raises `RunNotFound`."""
    found = _runs(connection, [run], now)
    if not found:
        raise errors.RunNotFound(run=run)
    sessions = records.sessions(records.said(connection, [run], Started, Finished))
    end = settle(sessions).end
    return Detail(
        run=found[0],
        notes=records.notes(connection, run),
        artifacts=artifacts.of(connection, run),
        sessions=sessions,
        captured=records.captured(connection, run),
        traceback=end.traceback if end else None,
    )


def resolve(connection: Connection, text: str) -> str:
    """The id of the one run whose id is, or begins with, `text`. Raises `RunNotFound`, `AmbiguousRun`."""
    ids = schema.runs.c.id
    near = select(ids).where(ids >= text, ids < f"{text}\x7f").order_by(ids).limit(5)  # letters and digits are below
    found = list(connection.scalars(near)) if text.isascii() and text.isalnum() else []
    if not found:
        raise errors.RunNotFound(run=text)
    if len(found) > 1 and found[0] != text:
        raise errors.AmbiguousRun(run=text, matches=", ".join(found))
    return str(found[0])


def console(connection: Connection, run: str) -> ConsoleText:
    """What the run's command printed."""
    return records.console(connection, run)


def changes(connection: Connection, since: int, limit: int, now: int) -> Changes:
    """Runs that changed after revision `since`, about `limit` of them: those of one revision come together."""
    table = schema.runs
    order = (table.c.revision, table.c.id)
    query = select(*order).order_by(*order)
    found = connection.execute(query.where(table.c.revision > since).limit(limit)).all()
    if not found:
        return Changes(since, [])
    last = found[-1]
    rest = query.where(table.c.revision == last.revision, table.c.id > last.id)
    ids = [row.id for row in (*found, *connection.execute(rest))]
    return Changes(last.revision, _runs(connection, ids, now))


def revision(connection: Connection) -> int:
    """The store's newest revision."""
    return int(connection.execute(select(schema.counter.c.revision)).scalar_one())


# ------------------------------------------------------------------------------------------------- from rows to runs


def _runs(connection: Connection, ids: Sequence[str], now: int) -> list[Run]:
    """The runs in the order of `ids`: a few statements, however many they are."""
    found: dict[str, Run] = {}
    for part in some(ids):
        found |= _some_runs(connection, part, now)
    return [found[run] for run in ids if run in found]


def _some_runs(connection: Connection, ids: Sequence[str], now: int) -> dict[str, Run]:
    runs, params, tags = schema.runs, schema.params, schema.tags
    rows = connection.execute(select(*_columns()).where(runs.c.id.in_(ids))).mappings().all()
    mine = select(params.c.run, params.c.key, params.c.value).where(params.c.run.in_(ids))
    given = _by_run(connection, mine.order_by(params.c.run, params.c.key), _json)
    whole = tags.c.value + func.coalesce(tags.c.rest, "")
    mine = select(tags.c.run, tags.c.key, whole).where(tags.c.run.in_(ids), tags.c.value.is_not(None))
    tagged = _by_run(connection, mine.order_by(tags.c.run, tags.c.key), str)
    metrics, memory = _metrics(connection, {row["id"]: (row["project"], row["experiment"]) for row in rows})
    found = {}
    for row in rows:
        run = row["id"]
        fields = dict(row) | {
            "state": shown_state(row["state"], row["heard_at"], now),
            "argv": tuple(_json(row["argv"])) if row["argv"] else (),
            "trouble": _json(row["trouble"]) if row["trouble"] else {},
            "max_rss": memory.get(run) if row["max_rss"] is None else row["max_rss"],
        }
        found[run] = Run(**fields, params=given[run], tags=tagged[run], metrics=metrics[run])
    return found


def _columns() -> list[Any]:
    fields = set(Run.__struct_fields__)
    return [column for column in schema.runs.columns if column.name in fields]


def _by_run(
    connection: Connection, query: Select[Any], decode: Callable[[str], Any]
) -> defaultdict[str, dict[str, Any]]:
    found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for run, key, value in connection.execute(query).all():
        found[run][key] = decode(value)
    return found


def _metrics(
    connection: Connection, homes: Mapping[str, Home]
) -> tuple[defaultdict[str, dict[str, Summary]], dict[str, int]]:
    """The summaries of each run, and the most memory that samples of it saw."""
    table, names = schema.summaries, schema.metrics
    columns = (table.c.last, table.c.min, table.c.max, table.c.points, table.c.step)
    query = select(table.c.run, names.c.id, names.c.name, names.c.context, *columns)
    query = query.join(names, names.c.id == table.c.metric).where(table.c.run.in_(list(homes)))
    directions = declared(connection, homes.values())
    found: defaultdict[str, dict[str, Summary]] = defaultdict(dict)
    memory = {}
    ordered = query.order_by(table.c.run, names.c.name, names.c.context)
    for run, number, name, context, last, least, greatest, count, step in connection.execute(ordered).all():
        if context != USAGE:
            way = directions.get((homes[run], number)) if directions else None
            found[run][name + context] = _summary(last, least, greatest, count, step, way and way.direction)
        elif name == "memory":
            memory[run] = int(greatest)
    return found, memory


def _summary(
    last: float | None, least: float | None, greatest: float | None, count: int, step: str | None, direction: Any
) -> Summary:
    low, high = _spelt(least), _spelt(greatest)
    best = None if direction is None else low if direction == "min" else high
    return Summary(_spelt(last), low, high, count, None if step is None else _step(step), direction, best)


def _spelt(number: float | None) -> float | str:
    return number if number is not None and isfinite(number) else "NaN" if number is None else spell(number)


def _step(text: str) -> int | float:
    return float(text) if "." in text or "e" in text else int(text)
