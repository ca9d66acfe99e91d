"""BLAKE3, the one hash that names bytes. Knows no place where they are."""

import hashlib
from pathlib import Path

from blake3 import blake3

from sexton.model.artifacts import text_of


def hash_of_bytes(data: bytes | bytearray | memoryview) -> bytes:
    """The 32 bytes that name these."""
    return blake3(data).digest()


def hasher() -> blake3:
    """For bytes that come in pieces: `update(piece)`, then `digest()` once."""
    return blake3()


def digest(path: Path) -> str:
    """The digest, as text, of a file's bytes. Raises `OSError`."""
    with path.open("rb") as file:
        return text_of(hashlib.file_digest(file, hasher).digest())  # type: ignore[arg-type]  # typed for hashlib's own
