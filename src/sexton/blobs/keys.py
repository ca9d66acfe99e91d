"""What an object in a place is called, and what can be known of it without reading it.

A key is parts of small letters, digits, dots and hyphens with `/` between them. Such a key means the same in a folder
and in a bucket, and leads out of neither.
"""

import re
from typing import BinaryIO, Protocol

import msgspec

from sexton import errors

_KEY = re.compile(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*")
_LONGEST = 500
_PIECE = 1 << 20


class Stored(msgspec.Struct, frozen=True):
    """An object as a place lists it."""

    key: str
    size: int
    """Bytes."""
    modified_at: int
    """UTC nanoseconds, by the clock of the place."""


class Readable(Protocol):
    """The part of a place that tells what a key has."""

    def read(self, key: str, start: int, end: int) -> bytes: ...

    def size(self, key: str) -> int: ...


def is_key(text: str) -> bool:
    """Whether an object can be called that."""
    return len(text) <= _LONGEST and _KEY.fullmatch(text) is not None


def checked(key: str) -> str:
    """The key, which is one. Raises `InvalidName`."""
    if not is_key(key):
        reason = (
            "it is parts of a-z, 0-9, dots and hyphens, each beginning with a letter or a digit, with / between them"
        )
        raise errors.InvalidName(what="The key", name=key, reason=reason)
    return key


def folder_of(prefix: str) -> str:
    """The prefix of a listing, which is whole parts of keys or none. Raises `InvalidName`."""
    prefix = prefix.rstrip("/")
    return checked(prefix) if prefix else ""


def holds(place: Readable, key: str, file: BinaryIO, size: int) -> bool:
    """Whether the object has exactly the `size` bytes of an open file. Raises what `read` does."""
    if place.size(key) != size:
        return False
    ranges = ((at, min(at + _PIECE, size)) for at in range(0, size, _PIECE))
    return all(place.read(key, *ends) == file.read(ends[1] - ends[0]) for ends in ranges)
