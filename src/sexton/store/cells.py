"""Runs in bulk and by column, for what is derived from them: all that a search may ask, and nothing more.

A statement for each kind of value, whatever the number of runs: the database joins the keys and values of a run into
one text each, so that most of the work is its own. Changes nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, func, select

from sexton.model.records import Note
from sexton.store import records, schema
from sexton.store.database import some
from sexton.store.metrics import USAGE, declared

BETWEEN = "\n"
_ESCAPED = ("\\", "\\\\"), (BETWEEN, "\\n")

ATTRIBUTES = (
    *("id", "project", "experiment", "state", "created_at", "heard_at", "name", "ended_at", "seconds", "cause"),
    *("exit_code", "signal", "message", "user", "host", "task", "hypothesis", "sweep", "parent", "outcome", "takeaway"),
    *("cpu_seconds", "max_rss", "bytes"),
)
"""Columns of `Part.runs`."""

Those = Callable[[ColumnElement[str]], ColumnElement[bool]]
"""Which runs, said of the column that has their ids."""


class Texts(NamedTuple):
    """Values of some runs. A row for each value: the place of its run in `Part.runs`, its key, the value."""

    place: np.ndarray[Any, Any]
    key: list[str]
    value: list[str]


class Metric(NamedTuple):
    """What the number of a metric stands for."""

    number: int
    name: str
    """With its context, as in `Run.metrics`."""
    usage: bool
    """Whether samples said it, not the run."""


class Part(NamedTuple):
    """Some runs, in the order of their ids, with what belongs to them."""

    runs: list[tuple[Any, ...]]
    """As `ATTRIBUTES` has it."""
    params: Texts
    """Values are JSON, as `model.values.encode_param` writes it."""
    tags: Texts
    summaries: np.ndarray[Any, Any]
    """A row for each metric of a run: the place of the run, the number of the metric, last, min, max. NaN is NaN."""
    metrics: list[Metric]
    """Those in `summaries`. Of two that have the same name in a run the later one counts."""
    directions: list[tuple[str, str, int, str]]
    """Project, experiment, number of the metric, and which way is better there."""
    notes: list[tuple[int, str]]
    """The place of a run, and all of its notes, a blank line between them."""


def count(connection: Connection, since: int = 0) -> int:
    """How many runs changed after the revision."""
    query = select(func.count()).select_from(schema.runs).where(schema.runs.c.revision > since)
    return int(connection.execute(query).scalar_one())


def changed(connection: Connection, since: int) -> list[str]:
    """The ids of the runs that changed after the revision, in their order."""
    ids = schema.runs.c.id
    return sorted(connection.scalars(select(ids).where(schema.runs.c.revision > since)))


def following(connection: Connection, after: str, limit: int) -> str | None:
    """The id that ends the next `limit` runs after the id `after`; None where there are no more."""
    ids = schema.runs.c.id
    part = select(ids).where(ids > after).order_by(ids).limit(limit).subquery()
    found: str | None = connection.execute(select(func.max(part.c.id))).scalar_one()
    return found


def read(connection: Connection, ids: Sequence[str]) -> Part:
    """Those of these runs that there are; about as many as `store.database.MANY`."""
    return _read(connection, lambda column: column.in_(ids))


def read_range(connection: Connection, after: str, until: str) -> Part:
    """The runs whose ids come after `after` and not after `until`."""
    return _read(connection, lambda column: (column > after) & (column <= until))


def _read(connection: Connection, those: Those) -> Part:
    runs, params, tags = schema.runs.c, schema.params.c, schema.tags.c
    query = select(*(runs[name] for name in ATTRIBUTES)).where(those(runs.id)).order_by(runs.id)
    found = _rows(connection, query)
    place = {row[0]: number for number, row in enumerate(found)}
    text: ColumnElement[str] = tags.value + func.coalesce(tags.rest, "")
    for old, new in _ESCAPED:
        text = func.replace(text, old, new)
    tagged = _texts(connection, tags.run, tags.key, text, those(tags.run) & tags.value.is_not(None), place)
    summaries = _summaries(connection, those, place)
    homes = {(row[1], row[2]) for row in found}
    return Part(
        runs=found,
        params=_texts(connection, params.run, params.key, params.value, those(params.run), place),
        tags=tagged._replace(value=[_unescaped(one) if "\\" in one else one for one in tagged.value]),
        summaries=summaries,
        metrics=_metrics(connection, np.unique(summaries[:, 1]).astype(int).tolist()),
        directions=[(*home, number, row.direction) for (home, number), row in declared(connection, homes).items()],
        notes=_notes(connection, those, place),
    )


def _rows(connection: Connection, query: Select[Any]) -> list[tuple[Any, ...]]:
    """As the driver has them: millions of rows are not worth an object each."""
    return list(connection.execute(query).cursor.fetchall())


def _texts(
    connection: Connection, run: Any, key: Any, value: Any, where: ColumnElement[bool], place: dict[str, int]
) -> Texts:
    query = select(run, func.count(), func.aggregate_strings(key, BETWEEN), func.aggregate_strings(value, BETWEEN))
    rows = _rows(connection, query.where(where).group_by(run))
    places = np.fromiter((place[row[0]] for row in rows), "u4", len(rows))
    counts = np.fromiter((row[1] for row in rows), "i8", len(rows))
    keys, values = (BETWEEN.join([row[column] for row in rows]).split(BETWEEN) if rows else [] for column in (2, 3))
    return Texts(np.repeat(places, counts), keys, values)


def _unescaped(text: str) -> str:
    return "\\".join(part.replace("\\n", BETWEEN) for part in text.split("\\\\"))


def _summaries(connection: Connection, those: Those, place: dict[str, int]) -> np.ndarray[Any, Any]:
    table = schema.summaries.c
    counted = _rows(connection, select(table.run, func.count()).where(those(table.run)).group_by(table.run))
    counts = {place[run]: count for run, count in counted}
    order = (table.run, table.metric)
    rows = _rows(
        connection, select(table.metric, table.last, table.min, table.max).where(those(table.run)).order_by(*order)
    )
    places = np.repeat(sorted(counts), [counts[one] for one in sorted(counts)])
    return np.column_stack((places, np.array(rows, "f8").reshape(-1, 4)))  # where None becomes NaN


def _metrics(connection: Connection, numbers: Sequence[int]) -> list[Metric]:
    table = schema.metrics.c
    rows = [
        row
        for part in some(numbers)
        for row in connection.execute(select(table.name, table.context, table.id).where(table.id.in_(part)))
    ]
    return [
        Metric(number, name if context == USAGE else name + context, context == USAGE)
        for name, context, number in sorted(map(tuple, rows))
    ]


def _notes(connection: Connection, those: Those, place: dict[str, int]) -> list[tuple[int, str]]:
    table = schema.records.c
    query = select(table.run).where(those(table.run), table.type == Note.__name__.lower()).distinct()
    noted: dict[str, list[str]] = {}
    for one in records.said(connection, list(connection.scalars(query)), Note):
        noted.setdefault(one.run, []).append(one.record.text)
    return [(place[run], "\n\n".join(texts)) for run, texts in noted.items()]
