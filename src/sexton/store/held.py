"""A run while a transaction changes it: its row, locked, and what of the row is derived from its records.

The columns of `runs` are named as the fields of `model.runs.Run`. State and description are `model.runs.settle`d from
what all sessions said, so they do not depend on the order in which records arrive.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import bindparam, exists, select

from sexton.model.records import Concluded, Finished, Started
from sexton.model.runs import settle
from sexton.model.values import clean_name
from sexton.store import records, schema
from sexton.store.database import Tx, some
from sexton.store.metrics import Home

_encode = msgspec.json.encode
_decode = msgspec.json.decode

_NAMED = ("name", "task", "sweep", "parent")
_DESCRIBED = ("user", "host", "cwd", "hypothesis")
_ENDED = ("cause", "exit_code", "signal", "message", "cpu_seconds", "cpu_method", "cpu_coverage", "max_rss")
_SETTLED = (
    "project",
    "experiment",
    "state",
    "created_at",
    "ended_at",
    "seconds",
    "argv",
    *_NAMED,
    *_DESCRIBED,
    *_ENDED,
)
_COUNTED = ("created_at", "heard_at", "received_at", "bytes", "trouble", "loose")

_t = schema.runs.c
_STARTED = exists().where(schema.records.c.run == _t.id, schema.records.c.type == "started")
_LOCK = (
    select(_t.id, _t.project, _t.experiment, _t.state, _t.created_at, _t.heard_at, _t.bytes, _t.trouble, _t.loose)
    .add_columns(_STARTED)
    .where(_t.id.in_(bindparam("runs", expanding=True)))
    .order_by(_t.id)
    .with_for_update()
)


@dataclass(slots=True)
class Held:
    """A run while a transaction changes it."""

    id: str
    project: str
    experiment: str
    state: str
    created_at: int
    heard_at: int | None
    bytes: int | None
    trouble: dict[str, int]
    loose: int
    started: bool
    """Whether any session said so; until then `created_at` is the earliest time that was heard of."""
    new: bool
    """Whether this transaction made it."""
    changed: bool = False

    @property
    def home(self) -> Home:
        return self.project, self.experiment

    def count(self, kind: str, number: int = 1) -> None:
        """Count trouble with the record itself."""
        self.trouble[kind] = self.trouble.get(kind, 0) + number


def hold(tx: Tx, ids: Iterable[str]) -> dict[str, Held]:
    """Lock the runs for this transaction; those that nobody spoke of before are made."""
    wanted = sorted(set(ids))
    held = _held(tx, wanted, new=False)
    missing = [run for run in wanted if run not in held]
    if missing:
        blank = dict.fromkeys(column.name for column in schema.runs.columns)
        blank |= {"project": "default", "experiment": "default", "state": "running"}
        blank |= {"created_at": tx.now, "received_at": tx.now, "loose": 0, "revision": 0}
        tx.ensure(schema.runs, [tuple((blank | {"id": run}).values()) for run in missing])
        held |= _held(tx, missing, new=True)
    return held


def _held(tx: Tx, ids: Sequence[str], new: bool) -> dict[str, Held]:
    found = {}
    for part in some(ids):
        for row in tx.connection.execute(_LOCK, {"runs": part}).all():
            run, project, experiment, state, created, heard, size, trouble, loose, started = row
            counted = _decode(trouble) if trouble else {}
            found[run] = Held(run, project, experiment, state, created, heard, size, counted, loose, bool(started), new)
    return found


def save(tx: Tx, held: Iterable[Held]) -> None:
    """Keep what was counted."""
    rows = [
        (h.created_at, h.heard_at, tx.now, h.bytes, _encode(h.trouble).decode() if h.trouble else None, h.loose, h.id)
        for h in held
    ]
    tx.update(schema.runs, _COUNTED, rows)


def resettle(tx: Tx, held: Sequence[Held]) -> None:
    """Derive state and description of the runs from what all their sessions have said."""
    spoken: dict[str, list[records.Said]] = defaultdict(list)
    for one in records.said(tx.connection, [h.id for h in held], Started, Finished):
        spoken[one.run].append(one)
    rows = []
    for h in held:
        settled = settle(records.sessions(spoken[h.id]))
        started, end = settled.started, settled.end
        h.started = any(isinstance(one.record, Started) for one in spoken[h.id])
        h.project = clean_name(started.project or "default")
        h.experiment = clean_name(started.experiment or "default")
        h.state = settled.state
        h.created_at = settled.created_at if h.started else h.created_at
        seconds = None if settled.ended_at is None else (settled.ended_at - h.created_at) / 1e9
        named = [name and clean_name(name) for name in (getattr(started, field) for field in _NAMED)]
        described = [plain(getattr(started, field)) for field in _DESCRIBED]
        ended = [plain(getattr(end, field)) for field in _ENDED] if end else [None] * len(_ENDED)
        argv = _encode(started.argv).decode() if started.argv else None
        first = (h.project, h.experiment, h.state, h.created_at, settled.ended_at, seconds, argv)
        rows.append((*first, *named, *described, *ended, h.id))
    tx.update(schema.runs, _SETTLED, rows)


def conclude(tx: Tx, runs: Iterable[str]) -> None:
    """Let the newest conclusion of each run count."""
    newest = {one.run: one.record for one in records.said(tx.connection, runs, Concluded)}
    rows = [(record.outcome, plain(record.takeaway), run) for run, record in newest.items()]
    tx.update(schema.runs, ("outcome", "takeaway"), rows)


def plain(value: Any) -> Any:
    """A value for a column of SQL: PostgreSQL has no NUL in text, SQLite no NaN."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    return None if value != value else value
