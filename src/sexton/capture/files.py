"""Private copies of files: bytes as they were at one moment, taken without keeping whoever saves them waiting.

A copy is a clone where the file system can make one. Else a small file is copied, and a large one gets a hard link at
once (`NAME.link`), which `settle` replaces by a copy later. Until then the link stands for the file as long as that is
as it was seen: size and time of change tell. So no copy is ever torn: it is whole, or known to be of no use. What is
copied keeps its holes. Knows no journal.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import msgspec

from sexton import errors
from sexton.model.artifacts import is_safe

INLINE_BYTES = 16 << 20
"""Of one file or folder, so many bytes are copied while the caller waits."""
INLINE_FILES = 1_000

_SLICE = 64 << 20  # copied between two pauses
_PIECE = 1 << 20
_CLONE = 0x40049409  # FICLONE
_NO_CLONE = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EBADF}
_NO_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
_LIST = "list"


class Seen(NamedTuple):
    """By what a file's change is known."""

    size: int
    mtime: int

    @classmethod
    def of(cls, descriptor: int) -> Self:
        """The open file as it is now."""
        status = os.fstat(descriptor)
        return cls(status.st_size, status.st_mtime_ns)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A file of a folder. Its copy has its place in the list for a name."""

    path: str
    size: int
    mtime: int


class Taken(NamedTuple):
    """What was taken: bytes, files and the like for the record of it; and the copies that `settle` must finish."""

    size: int
    mtime: int
    pending: list[tuple[Path, Seen]]


Tell = Callable[[str], None]


# ------------------------------------------------------------------------------------------------------------- taking


def take(source: Path, target: Path) -> Taken:
    """Make `target` a private copy of a file. Raises `FileChanged`, `OSError`."""
    seen, linked = _take(source, target, INLINE_BYTES)
    return Taken(*seen, [(target, seen)] if linked else [])


def take_folder(source: Path, target: Path, tell: Tell) -> Taken:
    """Make `target` a folder with a private copy of each file below `source`, and their list. What is left out, because
    it is no file, is told. Raises `InvalidName`, `FileChanged`, `OSError`: then nothing of it is of use."""
    target.mkdir(mode=0o700)
    entries: list[Entry] = []
    pending: list[tuple[Path, Seen]] = []
    inline = INLINE_BYTES
    for path, file in sorted(_walk(source, tell), key=lambda found: found[0].encode()):
        copy = target / str(len(entries))
        seen, linked = _take(file, copy, inline if len(entries) < INLINE_FILES else -1)
        if linked:
            pending.append((copy, seen))
        else:
            inline -= seen.size
        entries.append(Entry(path, *seen))
    (target / _LIST).write_bytes(msgspec.msgpack.encode(entries))
    return Taken(sum(entry.size for entry in entries), 0, pending)


def entries_of(target: Path) -> list[Entry]:
    """The list of a folder that was taken. Raises `OSError`, `msgspec.DecodeError`."""
    return msgspec.msgpack.decode((target / _LIST).read_bytes(), type=list[Entry])


def settle(target: Path, seen: Seen, pause: Callable[[], None]) -> bool:
    """Replace a link by a copy; called again, go on. False where the file was changed, so that only who had read it in
    time has its bytes. `pause` is called now and then. Raises `OSError`."""
    draft = _beside(target, "part")
    try:
        source = os.open(_beside(target, "link"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # whoever waited for the bytes has them
        return True
    try:
        with _created(draft) as copy:
            _copy(source, copy, seen.size, pause)
        if Seen.of(source) != seen:
            draft.unlink(missing_ok=True)
            return False
        with contextlib.suppress(FileNotFoundError):  # discarded meanwhile
            draft.replace(target)
            _unlink_or(_beside(target, "link"), otherwise=target)
    finally:
        os.close(source)
    return True


# ------------------------------------------------------------------------------------------------------------ reading


def open_taken(target: Path) -> tuple[BinaryIO, bool]:
    """The bytes that were taken, and whether they are a link's: to be believed only where the file is, once it was
    read, still as it was seen. Raises `FileNotFoundError`, `OSError`."""
    try:
        return target.open("rb"), False
    except FileNotFoundError:
        with contextlib.suppress(FileNotFoundError):
            return _beside(target, "link").open("rb"), True
        return target.open("rb"), False  # settled between the two looks


def is_there(target: Path) -> bool:
    """Whether `open_taken` finds something."""
    return target.exists() or _beside(target, "link").exists()


def discard(target: Path) -> None:
    """Remove what was taken, in this order: a copy that is being made then finds that nobody waits for it."""
    if target.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        return
    for path in (_beside(target, "link"), _beside(target, "part"), target):
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------- inside


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f"{target.name}.{what}")


def _take(source: Path, target: Path, inline: int) -> tuple[Seen, bool]:
    """A private copy, or a link (True) of what is larger than `inline` bytes."""
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not keep us
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        seen = Seen.of(descriptor)
        if _cloned(descriptor, target):
            return seen, False
        if seen.size > inline and _linked(descriptor, source, target):
            return seen, True
        return _copied(descriptor, target, source), False
    finally:
        os.close(descriptor)


def _cloned(source: int, target: Path) -> bool:
    try:
        with _created(target) as copy:
            fcntl.ioctl(copy, _CLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def _linked(source: int, path: Path, target: Path) -> bool:
    link = _beside(target, "link")
    try:
        os.link(os.path.realpath(path), link)  # a link to a symbolic link would be no link to the file
    except OSError:  # another file system, or somebody else's file
        return False
    if os.path.samestat(os.stat(link, follow_symlinks=False), os.fstat(source)):
        return True
    link.unlink()
    return False


def _copied(source: int, target: Path, path: Path) -> Seen:
    for _ in range(2):
        seen = Seen.of(source)
        with _created(target) as copy:
            _copy(source, copy, seen.size, lambda: None)
        if Seen.of(source) == seen:
            return seen
    target.unlink()
    raise errors.FileChanged(path=path)


@contextlib.contextmanager
def _created(target: Path) -> Iterator[int]:
    """A new file of ours, which does not outlive a failure."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _copy(source: int, copy: int, size: int, pause: Callable[[], None]) -> None:
    """Copy the data of the first `size` bytes; where there is none, the copy has a hole too."""
    since = 0
    for start, end in _extents(source, size):
        at = start
        while at < end and (done := _copy_some(source, copy, at, min(end - at, _SLICE))):
            at, since = at + done, since + done
            if since >= _SLICE:
                since = 0
                pause()
    os.ftruncate(copy, size)


def _copy_some(source: int, copy: int, start: int, count: int) -> int:
    """Copy some of `count` bytes in place: how many; 0 at the end of the file."""
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, copy, count, start, start)
        except OSError as error:
            if error.errno not in _NO_RANGE:
                raise
    return os.pwrite(copy, os.pread(source, min(count, _PIECE), start), start)


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, from beginning to end."""
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
            at = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # this file system does not tell
                yield at, size
            return
        yield start, min(at, size)


def _unlink_or(path: Path, otherwise: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        otherwise.unlink(missing_ok=True)


def _walk(folder: Path, tell: Tell) -> Iterator[tuple[str, Path]]:
    """The files below a folder, with their paths in it. Links to files are files; links to folders are not followed,
    since they may lead anywhere, or round and round."""
    waiting = [(folder, "")]
    while waiting:
        here, prefix = waiting.pop()
        with os.scandir(here) as found:
            for entry in found:
                path = _checked(prefix + entry.name, folder)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((here / entry.name, f"{path}/"))
                elif entry.is_dir():
                    tell(f"{path} in {folder} is a link to a folder, which is not followed")
                elif entry.is_file():
                    yield path, here / entry.name
                elif entry.is_symlink():
                    raise FileNotFoundError(errno.ENOENT, f"the link {path} leads nowhere")
                else:
                    tell(f"{path} in {folder} is no file")


def _checked(path: str, folder: Path) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path)
        raise errors.InvalidName(what=f"A file in {folder}", name=shown, reason="it is not UTF-8") from None
    if not is_safe(path):
        reason = "on some system it would lead out of the folder"
        raise errors.InvalidName(what=f"A file in {folder}", name=path, reason=reason)
    return path
