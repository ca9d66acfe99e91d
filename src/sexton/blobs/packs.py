"""Packs: many encoded chunks in one stored object, whose footer says where each is, as docs/spec/packs.md lays down.

What is read from a pack lies where the footer says, back to back and within it, or the pack is refused as damaged,
with what is wrong about it. A pack is written once and never changed. Where packs are is not known here.
"""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import zstandard

from sexton import errors
from sexton.blobs import codec
from sexton.blobs.hashing import hash_of_bytes, hasher
from sexton.model.artifacts import CHUNK_BYTES, HASH_BYTES, PACK_BYTES, Packed, text_of

HEAD = b"SXPACK\x00\x01"
"""How a pack begins: what it is, and the version of its form."""
END = b"SXPKEND\x01"

PACK_CHUNKS = 1 << 16
"""No pack holds more, so that its footer stays small enough to be read at once."""

_TAIL = struct.Struct("<I8s8s")  # bytes of the footer, the first 8 of its BLAKE3, END
_ENTRY_BYTES = 64  # more than an entry of a footer ever takes, zstd's own bytes included
_FOOTER_BYTES = PACK_CHUNKS * _ENTRY_BYTES
_GLANCE = 64 << 10  # read from the end at once: most footers are in it, and each read of a bucket is a round trip

_footers: msgspec.msgpack.Decoder[list[Packed]] = msgspec.msgpack.Decoder(
    Annotated[list[Packed], msgspec.Meta(max_length=PACK_CHUNKS)]
)


class PackWriter:
    """A pack on its way into an empty file, which the caller syncs and closes. Raises `OSError`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hasher()
        self._entries: list[Packed] = []
        self.size = 0
        """Bytes written so far."""
        self._write(HEAD)

    def __len__(self) -> int:
        return len(self._entries)

    def has_room(self, size: int) -> bool:
        """Whether a chunk of `size` bytes fits in, however badly it compresses."""
        entries = len(self._entries) + 1
        return entries <= PACK_CHUNKS and self.size + size + (entries + 1) * _ENTRY_BYTES + _TAIL.size <= PACK_BYTES

    def add(self, hash: bytes, data: bytes, width: int) -> None:  # noqa: A002  # the word for it everywhere
        """Append a chunk that the pack does not have yet and has room for: bytes with this hash."""
        kind, stored = codec.encode(data, width)
        self._entries.append(Packed(hash=hash, offset=self.size, stored=len(stored), size=len(data), codec=kind))
        self._write(stored)

    def finish(self) -> tuple[list[Packed], bytes]:
        """Write the footer. The chunks that the pack has, and the hash of all its bytes."""
        footer = zstandard.compress(msgspec.msgpack.encode(self._entries), level=1)
        self._write(footer)
        self._write(_TAIL.pack(len(footer), hash_of_bytes(footer)[:8], END))
        return self._entries, self._hash.digest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)


def read_footer(read: Callable[[int, int], bytes], size: int, what: str = "A pack") -> list[Packed]:
    """The chunks of a pack of `size` bytes, in their order, by reading its end alone.

    `read(start, end)` gives bytes of it; `what` names it in the `IntegrityError` that is raised for a damaged one.
    """
    if not len(HEAD) + _TAIL.size <= size <= PACK_BYTES:
        raise _damaged(what, f"{size} bytes are no size that a pack can have")
    glance = read(max(0, size - _GLANCE), size)
    length, check, end = _TAIL.unpack(glance[-_TAIL.size :])
    if end != END:
        raise _damaged(what, "it does not end as a pack does")
    start = size - _TAIL.size - length
    if start < len(HEAD):
        raise _damaged(what, "its footer is longer than itself")
    held = length + _TAIL.size
    footer = glance[-held : -_TAIL.size] if held <= len(glance) else read(start, start + length)
    if hash_of_bytes(footer)[:8] != check:
        raise _damaged(what, "its footer is not what was written")
    entries = _entries(footer, what)
    for flaw in _flaws(entries, start):
        raise _damaged(what, flaw)
    return entries


def verify(path: Path) -> list[Packed]:
    """The chunks of a pack, each of which decodes to bytes with its hash. Raises `IntegrityError`, `OSError`."""
    what = f"The pack {path.name}"
    with path.open("rb") as file:

        def read(start: int, end: int) -> bytes:
            file.seek(start)
            data = file.read(end - start)
            if len(data) < end - start:
                raise _damaged(what, "it is cut off")
            return data

        entries = read_footer(read, os.fstat(file.fileno()).st_size, what)
        if read(0, len(HEAD)) != HEAD:
            raise _damaged(what, "it does not begin as a pack does")
        for entry in entries:
            unpack(entry, read(entry.offset, entry.offset + entry.stored), what)
    return entries


def unpack(entry: Packed, stored: bytes, what: str = "A pack") -> bytes:
    """The bytes of a chunk, from those that are stored for it. Raises `IntegrityError` where its hash is another."""
    name = text_of(entry.hash)
    try:
        data = codec.decode(entry.codec, stored, entry.size)
    except errors.IntegrityError as error:
        raise _damaged(what, f"the chunk {name} can not be decoded, for {error.fields['reason']}") from None
    if hash_of_bytes(data) != entry.hash:
        raise _damaged(what, f"the bytes of the chunk {name} are others")
    return data


def _entries(footer: bytes, what: str) -> list[Packed]:
    try:
        if not 0 <= zstandard.frame_content_size(footer) <= _FOOTER_BYTES:  # before anything is allocated
            raise _damaged(what, "its footer has no size that one can have")
        return _footers.decode(zstandard.decompress(footer))
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise _damaged(what, f"its footer can not be read: {error}") from None


def _flaws(entries: list[Packed], end: int) -> Iterator[str]:
    at = len(HEAD)
    for entry in entries:
        if len(entry.hash) != HASH_BYTES or not 0 < entry.stored <= entry.size <= CHUNK_BYTES:
            yield "a chunk in its footer has no hash or no size that a chunk can have"
        if entry.offset != at:
            yield f"a chunk in its footer is at {entry.offset}, where {at} is due"
        at += entry.stored
    if at != end:
        yield f"the chunks in its footer end at {at}, and it has chunks up to {end}"
    if len({entry.hash for entry in entries}) < len(entries):
        yield "a chunk is in its footer twice"


def _damaged(what: str, reason: str) -> errors.IntegrityError:
    return errors.IntegrityError(what=what, reason=reason)
