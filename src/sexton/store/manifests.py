"""Manifests: the recipe of each digest's bytes, and the chunks that it makes stay.

A manifest stays while an artifact of a run has its digest, or an open upload claims it. Whoever locks several takes
them in the order of their digests.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec
import zstandard
from sqlalchemy import Connection, bindparam, delete, select, update

from sexton import errors
from sexton.model.artifacts import Manifest
from sexton.store import chunks, schema
from sexton.store.database import Tx, some

_t = schema.manifests.c
_edges = schema.manifest_chunks.c
_DIGESTS = _t.digest.in_(bindparam("digests", expanding=True))
_LOCK = select(_t.id, _t.digest, _t.size, _t.key, _t.condemned_at).where(_DIGESTS).order_by(_t.digest)
_LOCK = _LOCK.with_for_update(key_share=True)
_REVIVE = update(schema.manifests).where(_t.id.in_(bindparam("ids", expanding=True))).values(condemned_at=None)
_DAMAGED = (
    select(_t.digest)
    .distinct()
    .join(schema.manifest_chunks, _edges.manifest == _t.id)
    .join(schema.chunks, schema.chunks.c.id == _edges.chunk)
    .where(schema.chunks.c.damaged_at.is_not(None), _DIGESTS)
)
_REPLACE = update(schema.manifests).where(_t.id == bindparam("manifest"))
_KEEP = 'ON CONFLICT ("digest") DO UPDATE SET "condemned_at" = NULL'
"""The row is locked either way, so it can not go meanwhile."""


def add(tx: Tx, upload: str, key: str, manifest: Manifest) -> None:
    """Keep a manifest, whose object is at `key`, and claim it for the upload. A digest that is here whole keeps its
    recipe; a damaged one gets this.

    Raises `ChunksMissing` unless the upload pins each of its chunks.
    """
    row = (manifest.digest, manifest.size, key, tx.now, None, _encode(manifest))
    tx.insert(schema.manifests, [row], _KEEP)
    here = tx.connection.execute(_LOCK, {"digests": [manifest.digest]}).one()
    numbers = chunks.pinned(tx, upload, manifest.hashes)
    missing = len(manifest.hashes) - len(numbers)
    if missing:
        raise errors.ChunksMissing(count=missing, digest=manifest.digest)
    if here.key == key:
        _name(tx, here.id, numbers)
    elif damaged(tx.connection, [manifest.digest]):
        tx.connection.execute(delete(schema.manifest_chunks).where(_edges.manifest == here.id))
        again = {"size": manifest.size, "key": key, "body": _encode(manifest)}
        tx.connection.execute(_REPLACE.values(**again), {"manifest": here.id})
        _name(tx, here.id, numbers)
        _doom(tx, here.key)
    else:
        _doom(tx, key)
    tx.ensure(schema.claims, [(upload, here.id)])


def store(tx: Tx, key: str, manifest: Manifest, numbers: Mapping[bytes, int]) -> None:
    """Keep a manifest whose object is at `key` and whose chunks have these numbers; a digest that is here stays."""
    row = (manifest.digest, manifest.size, key, tx.now, None, _encode(manifest))
    tx.insert(schema.manifests, [row], _KEEP)
    here = tx.connection.execute(_LOCK, {"digests": [manifest.digest]}).one()
    if here.key == key:
        _name(tx, here.id, numbers)


def _name(tx: Tx, manifest: int, numbers: Mapping[bytes, int]) -> None:
    """Make the chunks stay: in the order of their hashes, as the foreign key locks each."""
    tx.ensure(schema.manifest_chunks, [(manifest, number) for _, number in sorted(numbers.items())])


def _doom(tx: Tx, key: str) -> None:
    tx.ensure(schema.doomed, [(key, tx.now)])


def claim(tx: Tx, upload: str, digests: Iterable[str]) -> list[str]:
    """Let manifests stay while the upload is open: those that are here whole, which are given."""
    claimed: list[str] = []
    for part in some(sorted(set(digests))):
        numbers = _held(tx, part)
        broken = damaged(tx.connection, numbers)
        whole = {digest: number for digest, (number, _) in numbers.items() if digest not in broken}
        tx.ensure(schema.claims, [(upload, number) for number in whole.values()])
        claimed += whole
    return claimed


def require(tx: Tx, digests: Iterable[str]) -> dict[str, int]:
    """Lock manifests that records are about to name, and give their sizes. Raises `BlobNotFound` for the first that
    is not here."""
    sizes: dict[str, int] = {}
    for part in some(sorted(set(digests))):
        found = _held(tx, part)
        sizes |= {digest: size for digest, (_, size) in found.items()}
        for digest in part:
            if digest not in found:
                raise errors.BlobNotFound(digest=digest)
    return sizes


def _held(tx: Tx, digests: list[str]) -> dict[str, tuple[int, int]]:
    """The numbers and sizes of those manifests that are here, locked and no longer condemned."""
    found = tx.connection.execute(_LOCK, {"digests": digests}).all()
    condemned = [row.id for row in found if row.condemned_at is not None]
    if condemned:
        tx.connection.execute(_REVIVE, {"ids": condemned})
    return {row.digest: (row.id, row.size) for row in found}


def damaged(connection: Connection, digests: Collection[str]) -> set[str]:
    """Those of the digests whose manifest names a damaged chunk."""
    return {one for part in some(digests) for one in connection.scalars(_DAMAGED, {"digests": part})}


def read(connection: Connection, digest: str) -> Manifest:
    """The recipe of a digest's bytes. Raises `BlobNotFound`."""
    body = connection.scalar(select(_t.body).where(_t.digest == digest))
    if body is None:
        raise errors.BlobNotFound(digest=digest)
    return _decode(zstandard.decompress(body))


def _encode(manifest: Manifest) -> bytes:
    return zstandard.compress(msgspec.msgpack.encode(manifest), level=1)


_decode = msgspec.msgpack.Decoder(Manifest).decode
