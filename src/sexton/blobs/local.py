"""Whole files by their BLAKE3 digest, in a folder: `b3:abcdef...` is `ab/cdef...`.

A file under its final name is whole, durable and what its digest says: it is written as a draft under another name,
hashed on the way, synced, and only then linked into place. Nothing is ever overwritten. A digest is the only thing that
leads to a path, so no name that a client chose can.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from blake3 import blake3

from sexton import errors

CHUNK = 1 << 20

_DIGEST = re.compile(r"b3:([0-9a-f]{2})([0-9a-f]{62})")


def digest(path: Path) -> str:
    """The digest of a file's bytes. Raises `OSError`."""
    with path.open("rb") as file:
        return f"b3:{hashlib.file_digest(file, blake3).hexdigest()}"  # type: ignore[arg-type]  # typed for hashlib's own


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of an open file, a piece at a time."""
    while piece := file.read(CHUNK):
        yield piece


class Draft:
    """A file on its way to `path`, unseen until `keep`. Leaving the `with` block before that leaves nothing behind."""

    def __init__(self, path: Path, digest: str, *, replace: bool) -> None:
        self._target, self._digest, self._replace = path, digest, replace
        self._hash = blake3()
        descriptor, draft = tempfile.mkstemp(prefix=".sexton-", dir=path.parent)  # O_EXCL, 0600
        self._file, self._path = os.fdopen(descriptor, "wb", buffering=0), Path(draft)

    def write(self, data: bytes) -> None:
        """Append bytes. Raises `OSError`."""
        self._hash.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def keep(self) -> None:
        """Make the file durable under its name; without `replace`, one that has the name already stays.

        Raises `DigestMismatch` where the bytes are not what was announced, `OSError`.
        """
        actual = f"b3:{self._hash.hexdigest()}"
        if actual != self._digest:
            raise errors.DigestMismatch(expected=self._digest, actual=actual)
        os.fsync(self._file.fileno())
        if self._replace:
            self._path.replace(self._target)
        else:
            with suppress(FileExistsError):
                os.link(self._path, self._target)  # unlike a rename, never replaces what is there
        _sync_folder(self._target.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def save(digest: str, pieces: Iterable[bytes], path: Path) -> None:
    """Write bytes to `path`, which then has exactly those of `digest`, or is as it was.

    Raises `IntegrityError` where the bytes are others, `OSError`.
    """
    with Draft(path, digest, replace=True) as draft:
        for piece in pieces:
            draft.write(piece)
        try:
            draft.keep()
        except errors.DigestMismatch as error:
            reason = f"what came from the store are the bytes {error.fields['actual']}"
            raise errors.IntegrityError(what=digest, reason=reason) from None


class Blobs:
    """The stored files of one folder. Every verb raises `InvalidValue` for what is no digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, digest: str) -> bool:
        """Whether the bytes are here."""
        return self._path(digest).exists()

    def open(self, digest: str) -> BinaryIO:
        """The stored file; whoever takes its bytes elsewhere verifies them there. Raises `BlobNotFound`."""
        try:
            return self._path(digest).open("rb")
        except FileNotFoundError:
            raise errors.BlobNotFound(digest=digest) from None

    @contextmanager
    def draft(self, digest: str) -> Iterator[Draft]:
        """Receive the bytes of `digest`. Raises `Unavailable` where the disk does not take them."""
        path = self._path(digest)
        try:
            if not path.parent.is_dir():
                self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
                path.parent.mkdir(mode=0o700, exist_ok=True)
                _sync_folder(self.folder)
            with Draft(path, digest, replace=False) as draft:
                yield draft
        except OSError as error:
            reason = error.strerror or str(error)
            raise errors.Unavailable(what=f"The folder of stored bytes {self.folder}", reason=reason) from error

    def put(self, digest: str, pieces: Iterable[bytes]) -> None:
        """Store bytes. Raises `DigestMismatch`, `Unavailable`."""
        if self.has(digest):
            return
        with self.draft(digest) as draft:
            for piece in pieces:
                draft.write(piece)
            draft.keep()

    def get(self, digest: str, path: Path) -> None:
        """Copy stored bytes to `path`, or leave it as it was. Raises `BlobNotFound`, `IntegrityError`, `OSError`."""
        with self.open(digest) as file:
            save(digest, chunks(file), path)

    def _path(self, digest: str) -> Path:
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise errors.InvalidValue(what="A digest", value=repr(digest), reason="it is b3: and 64 hexadecimal digits")
        return self.folder / match[1] / match[2]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
