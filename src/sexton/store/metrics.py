"""Metrics: their names, the summary of each in a run, and which direction is better.

A summary is maintained as points arrive and does not depend on the order in which they do: `last` is by the log, `min`
and `max` pass over NaN. It is merged inside the database, which is asked nothing first. What usage samples say is kept
as metrics too, in a context that no caller can give, so that they never mix with a run's own.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, and_, bindparam, case, select, update

from sexton.model.records import Direction
from sexton.model.values import clean_name
from sexton.store import schema
from sexton.store.columns import Floats
from sexton.store.database import Tx, some

Key = tuple[str, str]
"""Name and context."""

Home = tuple[str, str]
"""Project and experiment, whose directions count for a run."""

USAGE = "usage"
"""The context of what usage samples say; a caller's context is empty or canonical JSON, which begins with `{`."""

_NAMED = select(schema.metrics).where(schema.metrics.c.name.in_(bindparam("names", expanding=True)))


def ids(tx: Tx, keys: Iterable[Key]) -> dict[Key, int]:
    """The numbers of the metrics, given to those that have none."""
    wanted = set(keys)
    found = _numbers(tx.connection, wanted)
    missing = sorted(wanted - found.keys())
    if missing:
        tx.ensure(schema.metrics, missing)
        found |= _numbers(tx.connection, set(missing))
    return found


def find(connection: Connection, name: str, context: str = "") -> list[int]:
    """The numbers that `name` may stand for, likeliest first. It may end in the context, as the keys of `Run.metrics`
    do, and may itself contain what looks like one."""
    splits = [(name, context)]
    if not context:
        splits += [(name[:at], name[at:]) for at, letter in enumerate(name) if letter == "{" and at]
    found = _numbers(connection, set(splits))
    return [found[split] for split in splits if split in found]


def _numbers(connection: Connection, wanted: set[Key]) -> dict[Key, int]:
    found = {}
    for names in some({name for name, _ in wanted}):
        for number, *key in connection.execute(_NAMED, {"names": names}).all():
            if (place := (key[0], key[1])) in wanted:
                found[place] = number
    return found


# --------------------------------------------------------------------------------------------------------- summaries


Summary = tuple[str, int, float | None, float | None, float | None, int, str | None, int, int, int, float | None]
"""A row of `summaries`, whose columns these are: run, metric, last, min, max (None for NaN), points, step (an int64 or
float64 as text), at, session and seq of the last, and rank, which `rank` sets."""


class Last(NamedTuple):
    """The last of some rows of points: its step as text, and its place in the log."""

    step: str | None
    at: int
    session: int
    seq: int


def summarised(run: str, metrics: Sequence[int], values: Floats, last: Last) -> list[Summary]:
    """The summaries of rows of points; `values` has a row for each metric."""
    hollow = bool(np.isnan(values).any())
    newest = _known(values[:, -1], hollow)
    least = _known(np.fmin.reduce(values, axis=1), hollow)
    greatest = _known(np.fmax.reduce(values, axis=1), hollow)
    always = map(repeat, (values.shape[1], *last, None))
    return list(zip(repeat(run), metrics, newest, least, greatest, *always, strict=False))


def _known(numbers: Floats, hollow: bool) -> list[float | None]:
    """The numbers for SQL, which has no NaN; `hollow` says whether they may."""
    plain: list[float | None] = numbers.tolist()
    return [number if number == number else None for number in plain] if hollow else plain


def merge(tx: Tx, summaries: Sequence[Summary]) -> None:
    """Take summaries of new points into those of their runs. A metric may come more than once."""
    while summaries:
        once = {(summary[0], summary[1]): summary for summary in reversed(summaries)}
        tx.insert(schema.summaries, list(once.values()), _MERGE)
        summaries = [summary for summary in summaries if once[summary[0], summary[1]] is not summary]


_NEWER = """
    excluded.at > summaries.at OR (excluded.at = summaries.at AND (
        SELECT (new.writer, new.epoch, excluded.seq) > (old.writer, old.epoch, summaries.seq)
        FROM sessions AS new, sessions AS old WHERE new.id = excluded.session AND old.id = summaries.session))"""
_NEWEST = ", ".join(
    f"{name} = CASE WHEN {_NEWER} THEN excluded.{name} ELSE summaries.{name} END"
    for name in ("last", "step", "at", "session", "seq")
)
_MERGE = f"""
    ON CONFLICT (run, metric) DO UPDATE SET {_NEWEST}, points = summaries.points + excluded.points,
        min = CASE WHEN summaries.min <= excluded.min THEN summaries.min ELSE coalesce(excluded.min, summaries.min) END,
        max = CASE WHEN summaries.max >= excluded.max THEN summaries.max ELSE coalesce(excluded.max, summaries.max) END
"""


# -------------------------------------------------------------------------------------------------------- directions

_s, _d, _r = schema.summaries.c, schema.directions.c, schema.runs.c

of_home = and_(_d.project == _r.project, _d.experiment == _r.experiment, _d.metric == _s.metric)
"""Joins the direction that counts for a summary, if one does, to it and its run."""

best = case((_d.direction == "min", _s.min), (_d.direction == "max", _s.max), else_=_s.last)
"""What runs are sorted by: the best by the direction, the last without one."""

_RANK = update(schema.summaries).where(_s.run.in_(bindparam("runs", expanding=True)))
_RANK = _RANK.values(
    rank=select(best)
    .select_from(schema.runs.outerjoin(schema.directions, of_home))
    .where(_r.id == _s.run, _r.state != "running")
    .correlate(schema.summaries)
    .scalar_subquery()
)


def rank(tx: Tx, runs: Iterable[str]) -> None:
    """Give the summaries of runs that have ended their rank. It is in an index: to keep it while points arrive would
    cost more than all else."""
    for part in some(sorted(runs)):
        tx.connection.execute(_RANK, {"runs": part})


_DECLARED = select(schema.directions).where(
    _d.project.in_(bindparam("projects", expanding=True)), _d.experiment.in_(bindparam("experiments", expanding=True))
)


def declared(connection: Connection, homes: Iterable[Home]) -> dict[tuple[Home, int], Any]:
    """By home and metric: the rows of `directions` in those homes."""
    found = {}
    for part in some(sorted(set(homes))):
        names = {"projects": sorted({project for project, _ in part}), "experiments": [name for _, name in part]}
        for row in connection.execute(_DECLARED, names).all():
            found[(row.project, row.experiment), row.metric] = row
    return found


def declare(tx: Tx, said: Iterable[tuple[str, Home, Direction]]) -> None:
    """Let what runs declared count for their experiments: the newest of a metric stays. Touches the runs whose best may
    change."""
    newest: dict[tuple[Home, str], tuple[int, str, str]] = {}
    for run, home, one in said:
        place = home, clean_name(one.metric)
        newest[place] = max(newest.get(place, (one.at, run, "")), (one.at, run, one.direction))
    numbers = ids(tx, [(name, "") for _, name in newest])
    known = declared(tx.connection, [home for home, _ in newest])
    for (home, name), (at, run, direction) in newest.items():
        metric = numbers[name, ""]
        old = known.get((home, metric))
        if old is None or (old.at, old.run) < (at, run):
            tx.upsert(schema.directions, [(*home, metric, direction, at, run)])
            if old is None or old.direction != direction:
                _redirect(tx, home, metric)


def _redirect(tx: Tx, home: Home, metric: int) -> None:
    measured = select(_s.run).where(_s.metric == metric)
    here = select(_r.id).where(_r.project == home[0], _r.experiment == home[1], _r.id.in_(measured))
    changed = tx.connection.scalars(here.order_by(_r.id).with_for_update()).all()
    rank(tx, changed)
    for run in changed:
        tx.touch(run)
