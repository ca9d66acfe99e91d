"""Records kept as they came, in log order: sessions' beginnings and ends, notes, console output, findings, conclusions,
and records of types that this version does not know. What is derived from them is recomputed, never edited.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, select

from sexton.model.records import Captured, Console, Note, Record, Started, Unknown, decode
from sexton.model.runs import ConsoleText, Session
from sexton.model.runs import Note as ShownNote
from sexton.model.values import plain
from sexton.store import schema
from sexton.store.database import Tx, some

R = TypeVar("R", bound=Record)


class Kept(NamedTuple):
    """A record as the `records` table has it. The type of one that this version does not know begins with `?`."""

    run: str
    type: str
    at: int
    session: int
    seq: int
    actor: str
    body: bytes


def keep(tx: Tx, records: Iterable[Kept]) -> None:
    """Keep records that were not there before."""
    tx.insert(schema.records, list(records))


class Said(NamedTuple):
    """A record, and who said it."""

    record: Any
    run: str
    writer: str
    epoch: int
    actor: str


def said(connection: Connection, runs: Iterable[str], *kinds: type[Record]) -> list[Said]:
    """What was said of these kinds in these runs, in log order."""
    records, sessions = schema.records, schema.sessions
    types = [kind.__name__.lower() for kind in kinds]
    found: list[Said] = []
    for ids in some(runs):
        query = select(records.c.body, records.c.run, sessions.c.writer, sessions.c.epoch, records.c.actor)
        query = query.join(sessions, sessions.c.id == records.c.session)
        query = query.where(records.c.run.in_(ids), records.c.type.in_(types))
        query = query.order_by(records.c.at, sessions.c.writer, sessions.c.epoch, records.c.seq)
        for body, *who in connection.execute(query):
            record = decode(body)
            if not isinstance(record, Unknown):
                found.append(Said(record, *who))
    return found


def sessions(spoken: Iterable[Said]) -> list[Session]:
    """The sessions that the `Started` and `Finished` in `spoken` make, as `model.runs.settle` takes them. Where one was
    described, or ended, several times, the last in the log counts."""
    parts: dict[tuple[str, int], dict[str, Any]] = {}
    for record, _, writer, epoch, _ in spoken:
        if isinstance(record, Started):
            parts.setdefault((writer, epoch), {})["started"] = record
        elif record.epoch is None:
            parts.setdefault((writer, epoch), {})["finished"] = record
        else:
            parts.setdefault((writer, record.epoch), {})["closed"] = record
    return [Session(*key, **part) for key, part in sorted(parts.items())]


def notes(connection: Connection, run: str) -> list[ShownNote]:
    """The notes of a run, in log order."""
    return [ShownNote(one.record.at, one.actor, one.record.text) for one in said(connection, [run], Note)]


def captured(connection: Connection, run: str) -> dict[str, Any]:
    """What the run's processes found out, the newest of each section."""
    return {one.record.section: plain(one.record.facts) for one in said(connection, [run], Captured)}


def console(connection: Connection, run: str) -> ConsoleText:
    """What the run's command printed on both streams, in log order. Bytes that are no UTF-8 show as U+FFFD."""
    pieces: list[Console] = [one.record for one in said(connection, [run], Console)]
    text = b"".join(piece.data for piece in pieces).decode(errors="replace")
    return ConsoleText(text, sum(piece.skipped for piece in pieces))
