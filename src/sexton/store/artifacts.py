"""Artifacts: the named outputs of runs. Saving a name again adds one, it replaces none."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from sexton.model import records
from sexton.model.runs import Artifact
from sexton.model.values import clean_name, spell
from sexton.store import schema
from sexton.store.database import Tx
from sexton.store.sessions import Session


def row(session: Session, seq: int, said: records.Artifact) -> tuple[Any, ...]:
    """The row of an artifact."""
    metrics = {clean_name(key): spell(value) for key, value in said.metrics.items()}
    text = msgspec.json.encode(metrics).decode() if metrics else None
    named = (clean_name(said.name), clean_name(said.kind), clean_name(said.digest))
    step = said.step if said.step is not None and math.isfinite(said.step) else None
    return (session.run, session.id, seq, said.at, *named, said.size, step, text)


def add(tx: Tx, rows: Sequence[Sequence[Any]]) -> None:
    """Keep artifacts that were not there before."""
    tx.insert(schema.artifacts, rows)


def of(connection: Connection, run: str) -> list[Artifact]:
    """The artifacts of a run, in log order."""
    table, sessions = schema.artifacts, schema.sessions
    columns = (table.c.name, table.c.kind, table.c.digest, table.c.size, table.c.at, table.c.step, table.c.metrics)
    query = select(*columns).join(sessions, sessions.c.id == table.c.session).where(table.c.run == run)
    query = query.order_by(table.c.at, sessions.c.writer, sessions.c.epoch, table.c.seq)
    rows = connection.execute(query)
    return [Artifact(*row[:-1], msgspec.json.decode(row.metrics) if row.metrics else {}) for row in rows]
