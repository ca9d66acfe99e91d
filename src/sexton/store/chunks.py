"""Chunks: which bytes are stored, and where. Each has one row, whoever brought it and however often.

A chunk stays while an upload pins it or a manifest names it. Whoever locks several takes them in the order of their
hashes; pinning and collecting one meet at its row, so that one of them sees what the other did.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, select, update

from sexton.model.artifacts import PackClass, Packed, Where
from sexton.store import schema
from sexton.store.database import Tx, some

_t = schema.chunks.c
_HASHES = _t.hash.in_(bindparam("hashes", expanding=True))
_LOCK = select(_t.id, _t.hash, _t.condemned_at, _t.damaged_at).where(_HASHES).order_by(_t.hash)
_LOCK = _LOCK.with_for_update(key_share=True)
_REVIVE = update(schema.chunks).where(_t.id.in_(bindparam("ids", expanding=True))).values(condemned_at=None)
_HERE = select(_t.pack, _t.hash, _t.offset, _t.stored, _t.size, _t.codec).where(_HASHES, _t.damaged_at.is_(None))
_NUMBERS = select(_t.id).where(_HASHES)
_PINNED = (
    select(_t.id, _t.hash)
    .join(schema.pins, schema.pins.c.chunk == _t.id)
    .where(schema.pins.c.upload == bindparam("upload"), _HASHES, _t.damaged_at.is_(None))
)

_MOVED = ("pack", "offset", "stored", "codec")
_WINS = ", ".join(
    f'"{name}" = CASE WHEN "chunks"."damaged_at" IS NULL THEN "chunks"."{name}" ELSE excluded."{name}" END'
    for name in _MOVED
)
_KEEP = f'ON CONFLICT ("hash") DO UPDATE SET "condemned_at" = NULL, "damaged_at" = NULL, {_WINS}'
"""Who stored a chunk first wins, unless it is damaged. The row is locked either way, so it can not go meanwhile."""


def pin(tx: Tx, upload: str, hashes: Iterable[bytes]) -> list[bytes]:
    """Let chunks stay while the upload is open; those that are not here whole are given back, in order."""
    missing: list[bytes] = []
    for part in some(sorted(set(hashes))):
        found = tx.connection.execute(_LOCK, {"hashes": part}).all()
        whole = {row.hash: row.id for row in found if row.damaged_at is None}
        condemned = [row.id for row in found if row.condemned_at is not None]
        if condemned:
            tx.connection.execute(_REVIVE, {"ids": condemned})
        tx.ensure(schema.pins, [(upload, number) for number in whole.values()])
        missing += [one for one in part if one not in whole]
    return missing


def add(tx: Tx, upload: str, key: str, kind: PackClass, size: int, packed: Sequence[Packed]) -> None:
    """Keep the chunks of a pack that was put under `key`, and let them stay while the upload is open."""
    store(tx, upload, key, kind, size, packed)
    for part in some(sorted(one.hash for one in packed)):
        tx.ensure(schema.pins, [(upload, number) for number in tx.connection.scalars(_NUMBERS, {"hashes": part})])


def store(tx: Tx, upload: str, key: str, kind: PackClass, size: int, packed: Sequence[Packed]) -> None:
    """Keep the chunks of a pack."""
    tx.ensure(schema.packs, [(key, kind, size, upload, tx.now, None)])
    pack = tx.connection.scalar(select(schema.packs.c.id).where(schema.packs.c.key == key))
    mine = sorted(packed, key=lambda one: one.hash)
    tx.insert(schema.chunks, [(c.hash, pack, c.offset, c.stored, c.size, c.codec, None, None) for c in mine], _KEEP)


def pinned(tx: Tx, upload: str, hashes: Iterable[bytes]) -> dict[bytes, int]:
    """The numbers of those of the chunks that the upload pins and that are whole."""
    found: dict[bytes, int] = {}
    for part in some(hashes):
        found |= {row.hash: row.id for row in tx.connection.execute(_PINNED, {"upload": upload, "hashes": part})}
    return found


def locate(connection: Connection, hashes: Iterable[bytes]) -> list[Where]:
    """Where those of the chunks are that are here whole."""
    rows = (row for part in some(hashes) for row in connection.execute(_HERE, {"hashes": part}).all())
    return [Where(pack, Packed(*place)) for pack, *place in rows]


def key_of(connection: Connection, pack: int) -> str | None:
    """The key of a pack's object; None where there is no such pack."""
    found: str | None = connection.scalar(select(schema.packs.c.key).where(schema.packs.c.id == pack))
    return found
