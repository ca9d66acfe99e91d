"""Objects as files of a folder: what is under its key is whole and survives a power failure.

An object gets its name by a hard link, once its bytes are synced, so that a process that is killed leaves a draft or
nothing, and two that race for a key leave the object of one. Then the folders on the way are synced. The disk's errors
are `Unavailable` and name the folder.
"""

import errno
import io
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from sexton import clock, errors
from sexton.blobs.keys import Stored, checked, folder_of, holds, is_key

DRAFTS = ".drafts"
DRAFT_NS = 24 * 3600 * clock.SECOND
"""A draft that has not changed for so long belongs to nobody."""

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK}
"""Another disk, a file that is not ours, or one with too many names."""

_COPY = 1 << 20
_TRIES = 100
"""Of a put whose folder is removed as empty, by a delete, before the object is in it."""


class Folder:
    """The objects in a folder of this machine, which is made when the first one is put."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"file:{path}"

    def put(self, key: str, path: Path) -> None:
        """See `Place.put`. On one disk nothing is copied: the object and `path` are then the same file."""
        target = self._path(key)
        with path.open("rb") as file, self._disk():
            os.utime(file.fileno())  # the object is as old as its name, not as the bytes
            os.fsync(file.fileno())
            try:
                self._name(path, target, file)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                file.seek(0)
                with self._draft(file) as draft:
                    self._name(draft, target, file)

    def put_bytes(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """See `Place.put_bytes`."""
        target = self._path(key)
        with self._disk(), self._draft(io.BytesIO(data)) as draft:
            if replace:
                self._make(target.parent)
                draft.replace(target)
                self._sync(target.parent)
            else:
                self._name(draft, target, io.BytesIO(data))

    def read(self, key: str, start: int, end: int) -> bytes:
        """See `Place.read`."""
        with self._disk(), self._found(key), self._path(key).open("rb", buffering=0) as file:
            file.seek(start)
            data = b"".join(iter(lambda: file.read(max(0, end - file.tell())), b""))
        if len(data) < end - start:
            raise errors.IntegrityError(what=key, reason=f"it ends after {start + len(data)} bytes, before {end}")
        return data

    def size(self, key: str) -> int:
        """See `Place.size`."""
        with self._disk(), self._found(key):
            found = self._path(key).stat()
            if not stat.S_ISREG(found.st_mode):
                raise FileNotFoundError
            return found.st_size

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `Place.list`."""
        start = folder_of(prefix)
        with self._disk():
            yield from _objects(self.path / start, f"{start}/" if start else "")

    def delete(self, keys: Sequence[str]) -> None:
        """See `Place.delete`. Folders that are empty then go too."""
        paths = [self._path(key) for key in keys]
        with self._disk():
            for path in paths:
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
            for folder in sorted({path.parent for path in paths}, reverse=True):
                self._prune(folder)

    def sign(self, method: Literal["GET", "PUT"], key: str, seconds: int) -> None:
        """Files have no addresses for others."""

    def tidy(self) -> None:
        """Remove the drafts of processes that were killed. Raises `Unavailable`."""
        with self._disk(), suppress(FileNotFoundError):
            for draft in (self.path / DRAFTS).iterdir():
                with suppress(FileNotFoundError):
                    if clock.now() - draft.stat().st_mtime_ns > DRAFT_NS:
                        draft.unlink()

    def _path(self, key: str) -> Path:
        return self.path / checked(key)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """What the disk refuses, told with the name of the folder."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise errors.Unavailable(what=f"The folder of stored bytes {self.path}", reason=reason) from error

    @contextmanager
    def _found(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise errors.BlobNotFound(digest=key) from None

    @contextmanager
    def _draft(self, source: BinaryIO) -> Iterator[Path]:
        """A synced copy under no key."""
        self._make(self.path / DRAFTS)
        descriptor, name = tempfile.mkstemp(dir=self.path / DRAFTS)  # O_EXCL, 0600
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                while piece := source.read(_COPY):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def _name(self, draft: Path, target: Path, file: BinaryIO) -> None:
        """Give the synced bytes of `draft`, which are those of `file`, the name `target`."""
        made = self._link(draft, target)
        if not made:
            key, size = str(target.relative_to(self.path)), file.seek(0, os.SEEK_END)
            file.seek(0)
            if not holds(self, key, file, size):
                raise errors.KeyTaken(key=key, place=self.url)
        try:
            self._sync(target.parent)
        except OSError:
            if made:  # a disk tells only once that it failed: who tries again must not find an object and believe it
                target.unlink(missing_ok=True)
            raise

    def _link(self, draft: Path, target: Path, tries: int = _TRIES) -> bool:
        """Whether the name was free."""
        try:
            self._make(target.parent)
            os.link(draft, target)  # unlike a rename, never replaces what is there
        except FileExistsError:
            return False
        except FileNotFoundError:
            if not tries or not draft.exists():
                raise
            return self._link(draft, target, tries - 1)
        return True

    def _make(self, folder: Path) -> None:
        """Make the folder, and those above it durable if they are new and outside of the place."""
        missing = [above for above in (self.path, *self.path.parents) if not above.exists()]
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        for above in missing:
            _fsync(above.parent)

    def _sync(self, folder: Path) -> None:
        """Make durable what is in a folder of the place, and its own way there, whoever of those who race made it."""
        while folder != self.path:
            _fsync(folder)
            folder = folder.parent
        _fsync(self.path)

    def _prune(self, folder: Path) -> None:
        """Sync a folder after its files were unlinked; while one is empty, remove it and go on with that above."""
        while folder.is_relative_to(self.path):
            with suppress(FileNotFoundError, NotADirectoryError):
                _fsync(folder)
            if folder == self.path:
                return
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:  # not empty
                return
            folder = folder.parent


def _objects(folder: Path, prefix: str) -> Iterator[Stored]:
    """Those in a folder, in the order of their keys; what vanishes meanwhile is left out, or not."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name + "/" * entry.is_dir(follow_symlinks=False), entry) for entry in found)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, entry in entries:
        if not is_key(prefix + entry.name):
            continue
        if name.endswith("/"):
            yield from _objects(folder / entry.name, prefix + name)
            continue
        with suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                yield Stored(prefix + name, status.st_size, status.st_mtime_ns)


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
