"""Adding bytes to a store: the protocol of docs/spec/deletion.md.

Objects are put before the rows that name them, under keys that are never used again: whatever is interrupted leaves an
object that nothing names, which a collection finds, and never a row without its object. Any verb may be repeated.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sexton import clock, errors
from sexton.blobs.hashing import digest, hash_of_bytes
from sexton.blobs.packs import read_footer
from sexton.blobs.places import Place, attach
from sexton.ingest import validate
from sexton.model.artifacts import CLASSES, HASH_BYTES, Manifest, PackClass, Packed, Upload, flaw, hash_of
from sexton.model.records import Batch
from sexton.model.values import short_id
from sexton.store import chunks, manifests, uploads, verify
from sexton.store.database import Database, patiently

LEASE_SECONDS = 900.0

RECEIPTS = "receipts"
"""Where a place has the records that name its artifacts, each as the batch that it came in."""


def open_upload(database: Database, place: Place, actor: str, lease_seconds: float = LEASE_SECONDS) -> Upload:
    """Open an upload into the place, which becomes this store's. Raises `ForeignPlace`,
    `Unavailable`."""
    with database.read() as connection:
        is_used = not verify.is_empty(connection)
    attach(place, database.store_id, is_used)
    upload = short_id(secrets.token_bytes(16), 20)

    def once() -> Upload:
        with database.write(actor) as tx:
            uploads.start(tx, upload, int(lease_seconds * clock.SECOND))
        return Upload(upload, lease_seconds)

    return patiently(once)


def pin(database: Database, actor: str, upload: str, hashes: Sequence[bytes]) -> list[bytes]:
    """Let those chunks stay that are here; the others are given. Raises `UploadClosed`, `InvalidValue`."""
    if any(len(one) != HASH_BYTES for one in hashes):
        raise errors.InvalidValue(what="A hash", value="what was sent", reason=f"it has {HASH_BYTES} bytes")

    def once() -> list[bytes]:
        with database.write(actor) as tx:
            uploads.hold(tx, upload)
            return chunks.pin(tx, upload, hashes)

    return patiently(once)


def put_pack(database: Database, place: Place, actor: str, upload: str, kind: PackClass, path: Path) -> None:
    """Store a pack, whose chunks stay while the upload is open. Whoever had it from elsewhere has verified it.

    Raises `UploadClosed`, `IntegrityError` for what is no pack, and what `Place.put` does.
    """
    if kind not in CLASSES:
        raise errors.InvalidValue(what="The class of a pack", value=repr(kind), reason=f"it is one of {CLASSES}")
    packed, size = _contents(path), path.stat().st_size
    key = f"packs/{kind}/{_next(database, actor, upload)}-{hash_of(digest(path)).hex()[:16]}.pack"
    place.put(key, path)

    def once() -> None:
        with database.write(actor) as tx:
            uploads.hold(tx, upload)
            chunks.add(tx, upload, key, kind, size, packed)

    patiently(once)


def commit_manifest(database: Database, place: Place, actor: str, upload: str, manifest: Manifest) -> None:
    """Store the recipe of an artifact, all of whose chunks the upload pins, and let it stay while the upload is open.

    Raises `ChunksMissing`, `UploadClosed`, `InvalidManifest`.
    """
    reason = flaw(manifest)
    if reason:
        raise errors.InvalidManifest(reason=reason)
    body = msgspec.json.encode(manifest)
    key = f"manifests/{_next(database, actor, upload)}-{hash_of_bytes(body).hex()[:16]}.json"
    place.put_bytes(key, body)

    def once() -> None:
        with database.write(actor) as tx:
            uploads.hold(tx, upload)
            manifests.add(tx, upload, key, manifest)

    patiently(once)


def keep_receipt(database: Database, place: Place, actor: str, upload: str, batch: Batch) -> None:
    """Put what the upload's manifests are for beside them, for when the database is lost.

    Raises `UploadClosed`, `InvalidRecord`.
    """
    validate(batch)
    body = msgspec.msgpack.encode(batch)
    place.put_bytes(f"{RECEIPTS}/{_next(database, actor, upload)}-{hash_of_bytes(body).hex()[:16]}.batch", body)


def claim(database: Database, actor: str, upload: str, digests: Sequence[str]) -> list[str]:
    """Let those manifests stay while the upload is open that are here whole, and give them.

    Raises `UploadClosed`, `InvalidValue` for what is no digest.
    """
    for one in digests:
        hash_of(one)

    def once() -> list[str]:
        with database.write(actor) as tx:
            uploads.hold(tx, upload)
            return manifests.claim(tx, upload, digests)

    return patiently(once)


def close_upload(database: Database, actor: str, upload: str) -> None:
    """End an upload: what it pinned and claimed stays no longer for its sake. Again is fine."""

    def once() -> None:
        with database.write(actor) as tx:
            uploads.end(tx, upload, "done")

    patiently(once)


def _next(database: Database, actor: str, upload: str) -> str:
    """The beginning of a key that no object had before: nothing is put once the upload is closed."""

    def once() -> str:
        with database.write(actor) as tx:
            return f"{upload}/{uploads.hold(tx, upload, objects=1)}"

    return patiently(once)


def _contents(path: Path) -> list[Packed]:
    with path.open("rb") as file:

        def read(start: int, end: int) -> bytes:
            file.seek(start)
            return file.read(end - start)

        return read_footer(read, path.stat().st_size, f"The pack {path.name}")
