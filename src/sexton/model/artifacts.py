"""Artifacts as bytes: chunks, the manifests that say how files are made of them, and the packs that hold them.

A chunk is bytes named by their BLAKE3 hash. A manifest is the recipe of an artifact, a file or a folder: which chunks,
one after the other, are each of its files. A pack is a stored object with the encoded chunks of one upload and class.
"""

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from sexton import errors

HASH_BYTES = 32
PREFIX = "b3:"
_DIGEST = re.compile(r"b3:[0-9a-f]{64}")

CHUNK_BYTES = 4 << 20
"""No chunk is larger."""

PACK_BYTES = 128 << 20
"""No pack is larger."""

DOUBTS = 100
"""So many chunks can be doubted at once: for each, a pack is read."""

READ_LIMIT = 16 << 20
"""No more bytes of a pack are read at once."""

PackClass = Literal["weights", "optimizer", "other"]
"""What the chunks of a pack have in common, so that one kind of them can be let go by whole packs."""

CLASSES: tuple[PackClass, ...] = ("weights", "optimizer", "other")


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """Bytes as a manifest names them. An empty `hash` is a gap: `size` zero bytes where there were others, which were
    let go on purpose (see `Manifest.shed`)."""

    hash: bytes
    size: int


class File(msgspec.Struct, frozen=True, array_like=True):
    """A file of an artifact: its chunks, as places in `Manifest.chunks`, in the order of its bytes."""

    path: str
    """Relative, with `/`; empty where the artifact is this one file."""
    size: int
    digest: str
    """Of the bytes that reading it gives."""
    chunks: list[int]


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The recipe of an artifact. `digest` is that of the file, or of the list of files where it is a folder."""

    digest: str
    size: int
    """Bytes of all files together."""
    chunks: list[Chunk]
    """Each once."""
    files: list[File]
    """A folder's in the order of their paths as UTF-8."""
    shed: list[PackClass] = []
    """Classes that were let go: what was theirs reads as zero bytes."""
    version: int = 1

    @property
    def hashes(self) -> list[bytes]:
        """Those of the chunks that are stored, each once."""
        return [chunk.hash for chunk in self.chunks if chunk.hash]


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """A chunk in a pack: `stored` bytes from `offset`, from which `codec` gives `size` bytes with this hash."""

    hash: bytes
    offset: int
    stored: int
    size: int
    codec: int


class Where(msgspec.Struct, frozen=True, array_like=True):
    """Where a stored chunk is: the pack's number in this store, and its place there."""

    pack: int
    chunk: Packed


class Upload(msgspec.Struct, frozen=True):
    """The right to add bytes to a store. What it pins stays until it is closed, or its lease has run out and a
    collection has ended it; each verb in its name renews the lease, by the clock of the store."""

    id: str
    lease_seconds: float


def text_of(digest: bytes) -> str:
    """A hash as text."""
    return PREFIX + digest.hex()


def hash_of(digest: str) -> bytes:
    """The hash in a digest's text. Raises `InvalidValue`."""
    if not _DIGEST.fullmatch(digest):
        raise errors.InvalidValue(what="A digest", value=repr(digest), reason="it is b3: and 64 hexadecimal digits")
    return bytes.fromhex(digest[len(PREFIX) :])


def flaw(manifest: Manifest) -> str | None:
    """What is wrong with a manifest that came from elsewhere; None where nothing is."""
    return next(_flaws(manifest), None)


def _flaws(manifest: Manifest) -> Iterator[str]:
    if manifest.version != 1:
        yield f"it has version {manifest.version}, and this is written by a newer Sexton"
    if not _DIGEST.fullmatch(manifest.digest):
        yield "its digest is none"
    if any(len(chunk.hash) not in (0, HASH_BYTES) or not 0 < chunk.size <= CHUNK_BYTES for chunk in manifest.chunks):
        yield "a chunk has no hash or no size that a chunk can have"
    if len({chunk.hash for chunk in manifest.chunks if chunk.hash}) < len(manifest.hashes):
        yield "a chunk is listed twice"
    paths = [file.path for file in manifest.files]
    if paths != [""] and (len(set(paths)) < len(paths) or not all(map(is_safe, paths))):
        yield "the path of a file is taken twice, or leads out of the folder"
    places = range(len(manifest.chunks))
    for file in manifest.files:
        if not all(place in places for place in file.chunks) or not _DIGEST.fullmatch(file.digest):
            yield f"the file {file.path!r} is made of chunks that are not listed"
        elif sum(manifest.chunks[place].size for place in file.chunks) != file.size:
            yield f"the chunks of the file {file.path!r} are not as long as it is"
    if sum(file.size for file in manifest.files) != manifest.size:
        yield "its files are not as long as it says"


def is_safe(path: str) -> bool:
    """Whether a file of that path lies in the folder that it is relative to, on any system."""
    parts = path.split("/")
    return not ("\\" in path or "\x00" in path or ":" in parts[0]) and not {"", ".", ".."} & set(parts)
