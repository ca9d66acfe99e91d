"""What nothing refers to any more, and letting go of it: the rows of a collection, each step a transaction's own.

Every step finds its rows by reading, locks them, and looks again in a second statement: in PostgreSQL a statement that
waited for a lock goes on with what it saw before it waited. What is deleted had no reference under the lock, whatever
plan, clock or other collection there is.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Table, delete, exists, false, func, select, update

from sexton.store import audit, schema, uploads
from sexton.store.database import Tx, some

BATCH = 5_000
"""Rows that one transaction locks."""

_a, _u, _p, _c, _m = (schema.artifacts.c, schema.uploads.c, schema.packs.c, schema.chunks.c, schema.manifests.c)
_edges = schema.manifest_chunks.c

_WANTED = exists().where(_a.digest == _m.digest, _a.uri.is_(None), _a.deleted_at.is_(None))
_FREE = ~_WANTED & ~exists().where(schema.claims.c.manifest == _m.id)
_NAMED = exists().where(_edges.chunk == _c.id)
_PINNED = exists().where(schema.pins.c.chunk == _c.id)
_EMPTY = ~exists().where(_c.pack == _p.id) & ~exists().where(_u.id == _p.upload, _u.state == "open")
"""A pack without chunks, for good: while its upload is open, a transaction that was interrupted may come again."""


def _named_by(which: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether such a manifest names the chunk."""
    named = select(_edges.chunk).join(schema.manifests, _m.id == _edges.manifest).where(_edges.chunk == _c.id, which)
    return exists(named.correlate(schema.chunks))


def _held(table: Table, column: str, row: ColumnElement[Any], now: int) -> ColumnElement[bool]:
    """Whether an upload that is not about to be ended holds the row."""
    holding = select(table.c.upload).join(schema.uploads, _u.id == table.c.upload)
    return exists(holding.where(table.c[column] == row, _u.lease_until > now).correlate(row.table))


_STAYS = _named_by(_m.condemned_at.is_(None))
_LOOSE = _c.condemned_at.is_(None) & ~_STAYS & ~_PINNED


class Sum(msgspec.Struct, frozen=True):
    """A number of rows, and the bytes that are stored for them."""

    count: int
    bytes: int


# ------------------------------------------------------------------------------------- what a collection would do, read


def expired(connection: Connection, now: int) -> list[str]:
    """The open uploads whose lease has run out."""
    query = select(_u.id).where(_u.state == "open", _u.lease_until <= now).order_by(_u.id)
    return list(connection.scalars(query))


def free_manifests(connection: Connection, now: int) -> list[str]:
    """The digests of live manifests that nothing will refer to once the expired uploads are ended."""
    free = ~_WANTED & ~_held(schema.claims, "manifest", _m.id, now)
    return list(connection.scalars(select(_m.digest).where(_m.condemned_at.is_(None), free).order_by(_m.digest)))


def ripe_manifests(connection: Connection, until: int) -> list[str]:
    """The digests of those that were condemned by `until` and that nothing refers to."""
    return list(connection.scalars(select(_m.digest).where(_m.condemned_at <= until, _FREE).order_by(_m.digest)))


def stored(connection: Connection) -> Sum:
    """All packs."""
    return _sum(connection, _p.bytes)


def live(connection: Connection, now: int) -> Sum:
    """The chunks that stay."""
    return _sum(connection, _c.stored, _kept(now))


def loose(connection: Connection, now: int) -> Sum:
    """The chunks that are to be condemned."""
    return _sum(connection, _c.stored, _c.condemned_at.is_(None) & ~_kept(now))


def ripe(connection: Connection, now: int, until: int) -> Sum:
    """The chunks that are to be deleted."""
    return _sum(connection, _c.stored, _ripe(now, until))


def freed(connection: Connection, now: int, until: int) -> Sum:
    """The packs that are to be deleted: all of their chunks are."""
    left = select(_c.id).where(_c.pack == _p.id, ~_ripe(now, until)).correlate(schema.packs)
    return _sum(connection, _p.bytes, ~exists(left))


def _kept(now: int) -> ColumnElement[bool]:
    used = _named_by(_m.condemned_at.is_(None) & (_WANTED | _held(schema.claims, "manifest", _m.id, now)))
    return used | _held(schema.pins, "chunk", _c.id, now)


def _ripe(now: int, until: int) -> ColumnElement[bool]:
    left = _named_by(_m.condemned_at.is_(None) | (_m.condemned_at > until))
    condemned = func.coalesce(_c.condemned_at <= until, false())
    return condemned & ~left & ~_held(schema.pins, "chunk", _c.id, now)


def _sum(connection: Connection, size: ColumnElement[int], which: ColumnElement[bool] | None = None) -> Sum:
    query = select(func.count(), func.sum(size)).select_from(size.table)
    count, total = connection.execute(query if which is None else query.where(which)).one()
    return Sum(int(count), int(total or 0))


def dangling(connection: Connection) -> int:
    """How many artifacts name bytes that no manifest here is the recipe of."""
    here = exists().where(_m.digest == _a.digest)
    query = select(func.count()).select_from(schema.artifacts)
    return connection.scalar(query.where(_a.uri.is_(None), _a.deleted_at.is_(None), ~here)) or 0


# ------------------------------------------------------------------------------------------------------------ the steps


def abort(tx: Tx, upload: str) -> int:
    """End an upload whose lease has run out by now; whether it was this call that ended it."""
    return told(tx, "abort", upload, int(uploads.end(tx, upload, "aborted", until=tx.now)))


def condemn_manifests(tx: Tx, digests: Sequence[str]) -> int:
    """Condemn those of the manifests that nothing refers to; how many."""
    numbers = _checked(tx, _lock_manifests(tx, digests), schema.manifests, _m.condemned_at.is_(None) & _FREE)
    tx.connection.execute(update(schema.manifests).where(_m.id.in_(numbers)).values(condemned_at=tx.now))
    return told(tx, "condemn", "manifests", len(numbers))


def delete_manifests(tx: Tx, digests: Sequence[str], until: int) -> int:
    """Delete those that were condemned by `until` and that nothing refers to, and doom their objects; how many."""
    numbers = _checked(tx, _lock_manifests(tx, digests), schema.manifests, (_m.condemned_at <= until) & _FREE)
    keys = list(tx.connection.scalars(select(_m.key).where(_m.id.in_(numbers)).order_by(_m.key)))
    tx.connection.execute(delete(schema.manifest_chunks).where(_edges.manifest.in_(numbers)))
    tx.connection.execute(delete(schema.manifests).where(_m.id.in_(numbers)))
    tx.ensure(schema.doomed, [(key, tx.now) for key in keys])
    return told(tx, "delete", "manifests", len(numbers))


def _lock_manifests(tx: Tx, digests: Sequence[str]) -> list[int]:
    return _lock(tx, select(_m.id).where(_m.digest.in_(digests)).order_by(_m.digest))


def loose_chunks(connection: Connection, after: int) -> list[int]:
    """Some of the chunks, not condemned yet, that no live manifest names and no upload pins: with numbers above
    `after`, in their order."""
    return _some_chunks(connection, after, _LOOSE)


def condemn_chunks(tx: Tx, numbers: Sequence[int]) -> int:
    """Condemn those of the chunks that nothing makes stay; how many."""
    locked = _lock(tx, select(_c.id).where(_c.id.in_(numbers)).order_by(_c.hash))
    free = _checked(tx, locked, schema.chunks, _LOOSE)
    tx.connection.execute(update(schema.chunks).where(_c.id.in_(free)).values(condemned_at=tx.now))
    return told(tx, "condemn", "chunks", len(free))


def ripe_chunks(connection: Connection, after: int, until: int) -> list[int]:
    """Some of the chunks that were condemned by `until` and that no manifest names, in the order of their numbers."""
    # Not by the index on condemned_at: it would be read from its beginning for each batch.
    return _some_chunks(connection, after, (func.coalesce(_c.condemned_at, until + 1) <= until) & ~_NAMED & ~_PINNED)


def delete_chunks(tx: Tx, numbers: Sequence[int], until: int) -> int:
    """Delete those of the chunks that were condemned by `until` and that nothing refers to; how many."""
    locked = _lock(tx, select(_c.id).where(_c.id.in_(numbers)).order_by(_c.hash))
    free = _checked(tx, locked, schema.chunks, (_c.condemned_at <= until) & ~_NAMED & ~_PINNED)
    tx.connection.execute(delete(schema.chunks).where(_c.id.in_(free)))
    return told(tx, "delete", "chunks", len(free))


def _some_chunks(connection: Connection, after: int, which: ColumnElement[bool]) -> list[int]:
    return list(connection.scalars(select(_c.id).where(_c.id > after, which).order_by(_c.id).limit(BATCH)))


def empty_packs(connection: Connection, after: int) -> list[int]:
    """Some of the packs that have no chunk left, with numbers above `after`, in their order."""
    return list(connection.scalars(select(_p.id).where(_p.id > after, _EMPTY).order_by(_p.id).limit(BATCH)))


def delete_packs(tx: Tx, numbers: Sequence[int]) -> Sum:
    """Delete those of the packs that have no chunk left, and doom their objects."""
    locked = _lock(tx, select(_p.id).where(_p.id.in_(numbers)).order_by(_p.id))
    free = _checked(tx, locked, schema.packs, _EMPTY)
    gone = tx.connection.execute(select(_p.key, _p.bytes).where(_p.id.in_(free)).order_by(_p.key)).all()
    tx.connection.execute(delete(schema.packs).where(_p.id.in_(free)))
    tx.ensure(schema.doomed, [(row.key, tx.now) for row in gone])
    return Sum(told(tx, "delete", "packs", len(gone)), sum(row.bytes for row in gone))


def _lock(tx: Tx, query: Select[tuple[int]]) -> list[int]:
    return list(tx.connection.scalars(query.with_for_update()))


def _checked(tx: Tx, locked: Sequence[int], table: Any, which: ColumnElement[bool]) -> list[int]:
    """Look again, in a statement that sees what was committed before the locks were given."""
    return list(tx.connection.scalars(select(table.c.id).where(table.c.id.in_(locked), which)))


def told(tx: Tx, act: str, what: str, count: int) -> int:
    """Audit a step of a collection in its own transaction, unless it did nothing; give `count`."""
    if count:
        audit.add(tx, [(f"collect.{act}", what, str(count))])
    return count


# -------------------------------------------------------------------------------------------------------------- objects


def doomed(connection: Connection) -> list[str]:
    """Some of the keys whose objects nothing names any more, for good."""
    return list(connection.scalars(select(schema.doomed.c.key).order_by(schema.doomed.c.key).limit(BATCH)))


def bury(tx: Tx, keys: Sequence[str]) -> None:
    """The objects are gone."""
    tx.connection.execute(delete(schema.doomed).where(schema.doomed.c.key.in_(keys)))
    told(tx, "delete", "objects", len(keys))


def states(connection: Connection, which: Iterable[str]) -> dict[str, str]:
    """The states of those uploads that this store knows."""
    queries = (select(_u.id, _u.state).where(_u.id.in_(part)) for part in some(set(which)))
    return {row.id: row.state for query in queries for row in connection.execute(query)}


def named(connection: Connection, keys: Iterable[str]) -> set[str]:
    """Those of the keys that any row names."""
    columns = (_p.key, _m.key, schema.doomed.c.key)
    return {
        key
        for part in some(keys)
        for column in columns
        for key in connection.scalars(select(column).where(column.in_(part)))
    }


# ---------------------------------------------------------------------------------------------------------- collections


class Last(NamedTuple):
    """The newest collection: its number, which is the epoch of the store; when; and the bytes that were live."""

    epoch: int
    at: int
    live: int


def last(connection: Connection) -> Last:
    """The newest collection; zeros where there was none."""
    t = schema.collections.c
    row = connection.execute(select(t.id, t.at, t.live).order_by(t.id.desc()).limit(1)).one_or_none()
    return Last(*row) if row else Last(0, 0, 0)


def catch_up(tx: Tx, epoch: int) -> None:
    """Let the newest collection be at least this one: of a database that is younger than its place."""
    t = schema.collections
    if last(tx.connection).epoch < epoch:
        row = {"id": epoch, "at": tx.now, "actor": tx.actor, "fingerprint": "rebuild", "live": 0, "ended_at": tx.now}
        tx.connection.execute(t.insert().values(**row))
        if tx.connection.dialect.name == "postgresql":  # which numbers rows by itself, and would come to this one
            tx.connection.execute(select(func.setval(func.pg_get_serial_sequence(t.name, "id"), epoch)))
        told(tx, "rebuild", str(epoch), 1)


def begin(tx: Tx, fingerprint: str, live: int) -> int:
    """Log that a plan is being applied; the new epoch."""
    t = schema.collections
    row = {"at": tx.now, "actor": tx.actor, "fingerprint": fingerprint, "live": live}
    told(tx, "apply", fingerprint, 1)
    return int(tx.connection.execute(t.insert().values(**row).returning(t.c.id)).scalar_one())


def finish(tx: Tx, epoch: int, freed: int) -> None:
    """Log that it was applied, and how many bytes went."""
    t = schema.collections
    tx.connection.execute(update(t).where(t.c.id == epoch).values(ended_at=tx.now, freed=freed))
