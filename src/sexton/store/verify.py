"""What is known of stored bytes and what was found of them: the rows behind a scrub, an fsck and a rebuild."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, exists, select, update

from sexton.model.artifacts import Manifest, PackClass, Packed
from sexton.store import chunks, manifests, schema
from sexton.store.database import Tx, some

_p, _c, _m, _a = schema.packs.c, schema.chunks.c, schema.manifests.c, schema.artifacts.c
_edges = schema.manifest_chunks.c


_LOST = _a.uri.is_(None) & _a.deleted_at.is_(None) & ~exists().where(_m.digest == _a.digest)


class Pack(NamedTuple):
    """A pack as the store knows it."""

    id: int
    key: str
    kind: str
    bytes: int


class Known(NamedTuple):
    """A chunk as the store knows it."""

    id: int
    packed: Packed
    is_damaged: bool


class Named(NamedTuple):
    """An artifact by the run and the name it has there."""

    run: str
    name: str


class Recipe(NamedTuple):
    """A manifest and the object that a rebuild would read it from."""

    id: int
    digest: str
    key: str


def stalest(connection: Connection) -> list[Pack]:
    """All packs, those never checked first, then the one checked longest ago."""
    query = select(_p.id, _p.key, _p.kind, _p.bytes).order_by(_p.checked_at.is_not(None), _p.checked_at, _p.id)
    return [Pack(*row) for row in connection.execute(query)]


def contents(connection: Connection, pack: int) -> list[Known]:
    """The chunks that are read from a pack, in its order."""
    query = select(_c.id, _c.hash, _c.offset, _c.stored, _c.size, _c.codec, _c.damaged_at.is_not(None))
    rows = connection.execute(query.where(_c.pack == pack).order_by(_c.offset))
    return [Known(row[0], Packed(*row[1:6]), bool(row[6])) for row in rows]


def home(connection: Connection, hashes: Iterable[bytes]) -> list[Pack]:
    """The packs that these chunks are read from."""
    numbers: set[int] = set()
    for part in some(hashes):
        numbers |= set(connection.scalars(select(_c.pack).where(_c.hash.in_(part))))
    query = select(_p.id, _p.key, _p.kind, _p.bytes).where(_p.id.in_(numbers)).order_by(_p.id)
    return [Pack(*row) for row in connection.execute(query)]


def found(tx: Tx, pack: int, damaged: Sequence[int], whole: Sequence[int]) -> list[Named]:
    """Keep what was found of the chunks of a pack: which are damaged, and which no longer are. A chunk that was moved
    to another pack meanwhile is left as it is. The artifacts that are concerned."""
    for numbers, at in ((damaged, tx.now), (whole, None)):
        for part in some(sorted(numbers)):
            tx.connection.execute(update(schema.chunks).where(_c.id.in_(part), _c.pack == pack).values(damaged_at=at))
    tx.connection.execute(update(schema.packs).where(_p.id == pack).values(checked_at=tx.now))
    named = concerned(tx.connection, [*damaged, *whole])
    for one in named:
        tx.touch(one.run)
    return named


def concerned(connection: Connection, numbers: Iterable[int]) -> list[Named]:
    """The artifacts that are made of any of these chunks, in the order of their runs."""
    names: set[Named] = set()
    for part in some(numbers):
        query = select(_a.run, _a.name).distinct().join(schema.manifests, _m.digest == _a.digest)
        query = query.join(schema.manifest_chunks, _edges.manifest == _m.id)
        query = query.where(_edges.chunk.in_(part), _a.deleted_at.is_(None), _a.uri.is_(None))
        names |= {Named(*row) for row in connection.execute(query)}
    return sorted(names)


def dangling(connection: Connection) -> list[Named]:
    """The artifacts whose digest no manifest is the recipe of."""
    query = select(_a.run, _a.name).distinct().where(_LOST).order_by(_a.run, _a.name)
    return [Named(*row) for row in connection.execute(query)]


def give_up(tx: Tx, named: Named) -> None:
    """Say of a dangling artifact that its bytes are gone."""
    here = (_a.run == named.run) & (_a.name == named.name)
    tx.connection.execute(update(schema.artifacts).where(here, _LOST).values(deleted_at=tx.now))
    tx.touch(named.run)


# ---------------------------------------------------------------------------------------------------------- manifests


def recipes(connection: Connection) -> Iterator[Recipe]:
    """All manifests, in the order in which they came."""
    after = 0
    while rows := connection.execute(
        select(_m.id, _m.digest, _m.key).where(_m.id > after).order_by(_m.id).limit(1_000)
    ).all():
        yield from (Recipe(*row) for row in rows)
        after = rows[-1].id


def unnamed(connection: Connection, recipe: Recipe, manifest: Manifest) -> int:
    """How many of the chunks in the recipe the tables do not make stay for its sake."""
    query = select(_c.hash).join(schema.manifest_chunks, _edges.chunk == _c.id).where(_edges.manifest == recipe.id)
    return len(set(manifest.hashes) - set(connection.scalars(query)))


# ---------------------------------------------------------------------------------------------------------- rebuild


def is_empty(connection: Connection) -> bool:
    """Whether the store knows of no stored bytes."""
    tables = (schema.packs, schema.manifests)
    return not any(connection.execute(select(table.c.id).limit(1)).first() for table in tables)


def adopt_pack(tx: Tx, upload: str, key: str, kind: PackClass, size: int, packed: Sequence[Packed]) -> None:
    """Know a pack, found under its key, and its chunks, as if `upload` had just put it."""
    tx.ensure(schema.uploads, [(upload, "done", 0, tx.now, 0, tx.actor, tx.now)])
    chunks.store(tx, upload, key, kind, size, packed)


def adopt_manifest(tx: Tx, key: str, manifest: Manifest) -> int:
    """Know a manifest, found under its key; how many of its chunks are not here, in which case it is not known."""
    numbers: Mapping[bytes, int] = {
        row.hash: row.id
        for part in some(manifest.hashes)
        for row in tx.connection.execute(select(_c.id, _c.hash).where(_c.hash.in_(part)))
    }
    missing = len(manifest.hashes) - len(numbers)
    if not missing:
        manifests.store(tx, key, manifest, numbers)
    return missing


def sizes(connection: Connection) -> dict[str, int]:
    """Bytes of each pack, by its key."""
    return {row.key: row.bytes for row in connection.execute(select(_p.key, _p.bytes))}
