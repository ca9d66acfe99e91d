"""Reading stored bytes: recipe, places, ranges of packs. Whoever reads a chunk checks its hash."""

from collections.abc import Sequence

from sexton import errors
from sexton.blobs.places import Place
from sexton.model.artifacts import Manifest, Where, hash_of
from sexton.store import chunks, manifests
from sexton.store.database import Database


def manifest(database: Database, digest: str) -> Manifest:
    """The recipe of an artifact. Raises `BlobNotFound`, `InvalidValue` for what is no digest."""
    hash_of(digest)
    with database.read() as connection:
        return manifests.read(connection, digest)


def locate(database: Database, hashes: Sequence[bytes]) -> list[Where]:
    """Where those of the chunks are that are stored and not damaged."""
    with database.read() as connection:
        return chunks.locate(connection, hashes)


def read_pack(database: Database, place: Place, pack: int, start: int, end: int) -> bytes:
    """Bytes of a pack. Raises `BlobNotFound`, and `IntegrityError` where it is shorter."""
    if not 0 <= start <= end:
        raise errors.InvalidValue(what="A range of bytes", value=f"{start} to {end}", reason="it has no end before it")
    with database.read() as connection:
        key = chunks.key_of(connection, pack)
    if key is None:
        raise errors.BlobNotFound(digest=f"of pack {pack}")
    return place.read(key, start, end)
