"""BLAKE3, the one hash that names bytes. Knows no place where they are."""

from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from sexton.model.artifacts import text_of

_READ = 1 << 20


def hash_of_bytes(data: bytes | bytearray | memoryview) -> bytes:
    """The 32 bytes that name these."""
    return blake3(data).digest()


def hasher() -> blake3:
    """For bytes that come in pieces: `update(piece)`, then `digest()` once."""
    return blake3()


def digest(path: Path) -> str:
    """The digest, as text, of a file's bytes. Raises `OSError`."""
    with path.open("rb") as file:
        return digest_of(file)


def digest_of(file: BinaryIO) -> str:
    """The digest of all bytes of an open file. Raises `OSError`."""
    whole = hasher()
    file.seek(0)
    while data := file.read(_READ):
        whole.update(data)
    return text_of(whole.digest())
