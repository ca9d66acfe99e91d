"""Which runs pass a `RunFilter`, in which order: page by page, each from where the one before ended.

A page is found by the value and id of the last run before it, so it costs the same wherever it is, and a run that
comes or goes meanwhile shifts nothing. Runs whose sort value is unknown follow the others, newest first.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    FromClause,
    Select,
    and_,
    asc,
    desc,
    func,
    literal,
    or_,
    select,
    tuple_,
    union_all,
)

from sexton import errors
from sexton.model.runs import LOST_AFTER_SECONDS, RunFilter
from sexton.model.values import bookmark, opened_at
from sexton.store import metrics, schema
from sexton.store.schema import TAG_HEAD

_runs, _tags, _summaries, _directions = schema.runs, schema.tags, schema.summaries, schema.directions

Conditions = Sequence[ColumnElement[bool]]

_SORTS = {
    "created": _runs.c.created_at,
    "ended": _runs.c.ended_at,
    "name": _runs.c.name,
    "seconds": _runs.c.seconds,
    "cpu": _runs.c.cpu_seconds,
}

_MANY = 3_000  # runs that pass a filter


class _Place(NamedTuple):
    """The last run of a page: whether its sort value is known, that value or else when it was created, and its id."""

    known: bool
    value: Any
    id: str


class _Order(NamedTuple):
    """What runs are sorted by: a column of theirs, or a metric."""

    descending: bool
    column: ColumnElement[Any] | None = None
    metric: int = -1


def count(connection: Connection, which: RunFilter, now: int) -> int:
    """How many runs pass the filter."""
    query = select(func.count()).select_from(_runs).where(*_conditions(which, now))
    return int(connection.execute(query).scalar_one())


def select_page(connection: Connection, which: RunFilter, now: int, total: int) -> tuple[list[str], str | None]:
    """The ids of a page, and what to pass as `after` for the next one. `total` is what `count` said. Raises
    `InvalidValue`."""
    limit = max(which.limit, 1) + 1
    order = _order(connection, which.sort)
    after = opened_at(which.after, _Place)
    conditions = _conditions(which, now, walk=total > _MANY)
    found: list[_Place] = []
    if after is None or after.known:
        found = [_Place(True, *row) for row in connection.execute(_known(order, conditions, after).limit(limit))]
    if len(found) < limit and order.column is not _runs.c.created_at:
        rest = _unknown(order, conditions, after).limit(limit - len(found))
        found += [_Place(False, *row) for row in connection.execute(rest)]
    page = found[: limit - 1]
    return [place.id for place in page], bookmark(page[-1]) if len(found) == limit else None


def _known(order: _Order, conditions: Conditions, after: _Place | None) -> CompoundSelect[Any, Any]:
    parts = [
        _after(order, select(value.label("value"), _runs.c.id.label("id")).select_from(source), value, after).where(
            value.is_not(None), *conditions, *more
        )
        for value, source, more in _sources(order)
    ]
    way = desc if order.descending else asc
    return union_all(*parts).order_by(way("value"), way("id"))


def _sources(order: _Order) -> list[tuple[ColumnElement[Any], FromClause, Conditions]]:
    """Where the value of a run is. That of a metric is in an index once the run has ended."""
    if order.column is not None:
        return [(order.column, _runs, [])]
    both = _summaries.join(_runs, _runs.c.id == _summaries.c.run)
    running = both.outerjoin(_directions, metrics.of_home)
    mine = _summaries.c.metric == order.metric
    return [
        (_summaries.c.rank, both, [mine, _runs.c.state != "running"]),
        (metrics.best, running, [mine, _runs.c.state == "running"]),
    ]


def _after(order: _Order, query: Select[Any], value: ColumnElement[Any], after: _Place | None) -> Select[Any]:
    if after is None:
        return query
    here, there = tuple_(value, _runs.c.id), tuple_(literal(after.value), literal(after.id))
    return query.where(here < there if order.descending else here > there)


def _unknown(order: _Order, conditions: Conditions, after: _Place | None) -> Select[Any]:
    created, key = _runs.c.created_at, _runs.c.id
    measured = select(_summaries.c.run).select_from(_summaries.outerjoin(_directions, metrics.of_home))
    measured = measured.where(_summaries.c.run == key, _summaries.c.metric == order.metric, metrics.best.is_not(None))
    unknown = ~measured.correlate(_runs).exists() if order.column is None else order.column.is_(None)
    query = select(created, key).where(unknown, *conditions)
    if after is not None and not after.known:
        query = query.where(tuple_(created, key) < tuple_(literal(after.value), literal(after.id)))
    return query.order_by(created.desc(), key.desc())


def _order(connection: Connection, sort: str) -> _Order:
    name = sort.removeprefix("-")
    descending = name != sort
    if name in _SORTS:
        return _Order(descending, _SORTS[name])
    if name.startswith("metrics."):
        numbers = metrics.find(connection, name.removeprefix("metrics."))
        return _Order(descending, metric=numbers[0] if numbers else -1)
    reason = f"it is {', '.join(_SORTS)} or metrics.NAME, with - before it for descending"
    raise errors.InvalidValue(what="the order of runs", value=sort, reason=reason)


def _conditions(which: RunFilter, now: int, walk: bool = False) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    for column, value in (("project", which.project), ("experiment", which.experiment), ("sweep", which.sweep)):
        if value is not None:
            found.append(_runs.c[column] == value)
    if which.states:
        found.append(_in_state(which.states, now))
    # Adding nothing keeps SQLite from looking each id up: where many pass, going through the runs in order, until the
    # page is full, costs less.
    run = _runs.c.id + "" if walk else _runs.c.id
    return found + [run.in_(_tagged(tag)) for tag in which.tags]


def _in_state(states: Sequence[str], now: int) -> ColumnElement[bool]:
    """As `model.runs.shown_state` has it."""
    silent = _runs.c.heard_at < now - LOST_AFTER_SECONDS * 1_000_000_000
    running = _runs.c.state == "running"
    either: list[ColumnElement[bool]] = [_runs.c.state.in_([state for state in states if state != "running"])]
    if "running" in states:
        either.append(and_(running, silent.is_not(True)))
    if "lost" in states:
        either.append(and_(running, silent))
    return or_(*either)


def _tagged(tag: str) -> Select[Any]:
    key, given, value = tag.partition("=")
    query = select(_tags.c.run).where(_tags.c.key == key)
    if not given:
        return query.where(_tags.c.value.is_not(None))
    query = query.where(_tags.c.value == value[:TAG_HEAD])
    return query if len(value) < TAG_HEAD else query.where(func.coalesce(_tags.c.rest, "") == value[TAG_HEAD:])
