"""Artifacts: the named outputs of runs. Saving a name again adds one, it replaces none.

One whose bytes were let go stays as history: its row has `deleted_at`, and makes nothing stay any more.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, select, update

from sexton.model import records
from sexton.model.runs import Artifact
from sexton.model.values import clean_name, spell
from sexton.store import manifests, schema
from sexton.store.database import Tx
from sexton.store.sessions import Session

_t = schema.artifacts
_json = msgspec.json.decode

Place = tuple[int, int]
"""Session and sequence number of the record that named an artifact."""


def digests(said: Iterable[records.Artifact]) -> set[str]:
    """Those whose bytes are to be in this store."""
    return {clean_name(one.digest) for one in said if one.uri is None and one.digest is not None}


def size_of(said: records.Artifact, sizes: Mapping[str, int]) -> int | None:
    """Bytes of an artifact: of those that are stored what was stored, whatever was said."""
    return said.size if said.uri is not None else sizes[clean_name(said.digest or "")]


def row(session: Session, seq: int, said: records.Artifact, sizes: Mapping[str, int]) -> tuple[Any, ...]:
    """The row of an artifact; `sizes` are those of the manifests."""
    metrics = {clean_name(key): spell(value) for key, value in said.metrics.items()}
    named = (clean_name(said.name), clean_name(said.kind), said.digest and clean_name(said.digest))
    step = said.step if said.step is not None and math.isfinite(said.step) else None
    where = (None, said.files, said.uri and clean_name(said.uri), _text(said.shed))
    return (session.run, session.id, seq, said.at, *named, size_of(said, sizes), step, _text(metrics), *where)


def add(tx: Tx, rows: Sequence[Sequence[Any]]) -> None:
    """Keep artifacts that were not there before."""
    tx.insert(_t, rows)


def forget(tx: Tx, run: str, places: Collection[Place]) -> None:
    """Let the bytes of a run's artifacts go, as far as it is for them that they stay. The caller holds the run."""
    mine = [(tx.now, run, *place) for place in sorted(places)]
    tx.update(_t, ("deleted_at",), mine)
    kept = _t.c.uri.is_(None) & _t.c.deleted_at.is_(None)
    sizes = tx.connection.scalars(select(_t.c.size).where(_t.c.run == run, kept))
    left = min(sum(size for size in sizes if size is not None), 2**63 - 1)
    tx.connection.execute(update(schema.runs).where(schema.runs.c.id == run).values(bytes=left))
    tx.touch(run)


def places(connection: Connection, run: str) -> list[Place]:
    """Those of a run's artifacts whose bytes are here for its sake, in the order of their arrival."""
    here = (_t.c.run == run, _t.c.uri.is_(None), _t.c.deleted_at.is_(None))
    rows = connection.execute(select(_t.c.session, _t.c.seq).where(*here).order_by(_t.c.session, _t.c.seq))
    return [(row.session, row.seq) for row in rows]


def of(connection: Connection, run: str) -> list[Artifact]:
    """The artifacts of a run, in log order."""
    c, sessions = _t.c, schema.sessions
    columns = (c.name, c.kind, c.digest, c.size, c.at, c.step, c.metrics, c.files, c.uri, c.shed, c.deleted_at)
    query = select(*columns).join(sessions, sessions.c.id == c.session).where(c.run == run)
    rows = connection.execute(query.order_by(c.at, sessions.c.writer, sessions.c.epoch, c.seq)).all()
    damaged = manifests.damaged(connection, {row.digest for row in rows if row.uri is None and row.digest})
    return [
        Artifact(
            *row[:6],
            metrics=_json(row.metrics) if row.metrics else {},
            files=row.files,
            uri=row.uri,
            shed=tuple(_json(row.shed)) if row.shed else (),
            state=_state(row, damaged),
        )
        for row in rows
    ]


def _state(row: Any, damaged: Collection[str]) -> Literal["whole", "damaged", "deleted"]:
    if row.deleted_at is not None:
        return "deleted"
    return "damaged" if row.uri is None and row.digest in damaged else "whole"


def _text(value: Collection[str] | Mapping[str, Any]) -> str | None:
    return msgspec.json.encode(value).decode() if value else None
