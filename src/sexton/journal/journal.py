"""A run's local write-ahead log: a folder of segments that sessions append to.

    <spool>/<run>/journal.json              run, writer, store URL; written once
                  000000.000000.seg         epoch . segment
                  cursor.json               how far each epoch was delivered; written by the courier alone
                  files/                    private copies of files that were handed over

Every process that opens the journal gets an epoch of its own (by exclusive creation), and a forked child gets one at
its first append, so no two processes ever append to one file. When `append` returns, the bytes are in the kernel: they
survive the process. `sync` makes them survive the machine. A full or broken disk is counted, never raised.
"""

import contextlib
import errno
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import SupportsFloat
from zlib import crc32

import msgspec

from sexton import clock
from sexton.journal import segment
from sexton.journal.segment import FRAME, Key, RowShape
from sexton.model.records import Record, Trouble, encode
from sexton.model.values import clean_name, show

SEGMENT_BYTES = 16 << 20
MAX_SHAPES = 1_000  # a caller whose metrics differ at every call begins a new segment now and then

_NO_SEGMENT = 1 << 62  # as a size: over any limit, so that the next append opens a segment
_LAST_SEQUENCE = 1 << 31  # a new epoch begins with the segment after it: a frame has 32 bits for the number
_RECORD = bytes((segment.RECORD,))
_PLAIN_STEP = segment.ROW | segment.INT_STEP
_now, _write = clock.now, os.write  # a global is found faster than an attribute, and log() is counted in nanoseconds
_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has none


class Identity(msgspec.Struct, frozen=True):
    """What `journal.json` says: whose journal this is and which store its records go to."""

    run: str
    writer: str
    url: str
    blobs: str
    version: int = 1


def identify(folder: Path, identity: Identity) -> Identity:
    """Create the journal of a run on this host, or join it: the identity of whoever was first. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "journal.json"
    draft = folder / f".{identity.writer}.json"
    draft.write_bytes(msgspec.json.encode(identity))
    try:
        os.link(draft, path)  # unlike rename, never replaces what another process wrote
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return identity_of(folder)


def identity_of(folder: Path) -> Identity:
    """The identity of the journal in `folder`. Raises `OSError`, `msgspec.DecodeError`."""
    return msgspec.json.decode((folder / "journal.json").read_bytes(), type=Identity)


def segment_path(folder: Path, epoch: int, number: int) -> Path:
    """Where segment `number` of `epoch` is."""
    return folder / f"{epoch:06}.{number:06}.seg"


class Writer:
    """One process's appends to a run's journal. Thread-safe; a forked child goes on in an epoch of its own. A signal
    handler or finalizer may append in the middle of an append, or raise out of it.

    `opening(forked)` builds the record that each epoch begins with. `on_trouble(message)` is called once for each
    kind of disk failure; `lost` counts the records that could not be kept. Where there is no journal in `folder`, or no
    longer, one is made of what `identity()` gives.
    """

    def __init__(
        self,
        folder: Path,
        opening: Callable[[bool], Record],
        on_trouble: Callable[[str], None],
        identity: Callable[[], Identity] | None = None,
    ) -> None:
        self.folder = folder
        self._identity = identity
        self.lost = 0
        self.epoch = -1
        self.sequence = 0
        self._opening, self._on_trouble = opening, on_trouble
        self._told: set[int | None] = set()
        self._reported = 0
        self._forked = False
        self._unopened = False  # whether the epoch still lacks the record that it begins with
        self._lock = threading.RLock()
        self._fd = -1
        self._segment = -1
        self._size = _NO_SEGMENT
        self._at = 0
        self._dirty = False
        self._stale: list[int] = []  # full segments that are still to be synced
        self._shapes: dict[tuple[Key, ...], RowShape] = {}
        _writers.add(self)
        with self._lock:
            self._next_segment()

    def append(self, record: Record) -> bool:
        """Stamp the record with the time and append it. False where the disk did not take it."""
        with self._lock:
            self._notice_removal()
            if self._size > SEGMENT_BYTES and not self._next_segment():
                self.lost += 1
                return False
            return self._write(*self._stamped(record))

    def row(
        self,
        metrics: Mapping[Key, SupportsFloat],
        step: int | float | None = None,
        time: int | None = None,
    ) -> bool:
        """Append one point of each metric. Keys must be clean names; values must convert to float, or what the
        conversion raises (`struct.error`, `TypeError`, `ValueError`, ...) is raised and nothing is appended."""
        with self._lock:
            if self._size > SEGMENT_BYTES and not self._next_segment():
                self.lost += 1
                return False
            keys = tuple(metrics)
            shape = self._shapes.get(keys)
            if shape is None:
                shape = self._define(keys)
                if shape is None:
                    return False
            at = _now()
            if at <= self._at:
                at = self._at + 1
            self._at = at
            sequence = self.sequence
            if isinstance(step, int) and time is None:  # by far the most frequent call
                data = shape.pack_plain(
                    FRAME, shape.plain_size, sequence, _PLAIN_STEP, shape.id, at, step, *metrics.values()
                )
                data += crc32(data).to_bytes(4, "little")
            else:
                data = segment.frame(sequence, _row(shape, at, step, time, metrics.values()))
            return self._write(data, sequence)

    def sync(self) -> None:
        """Make all that was appended survive a power failure. Blocks nobody who appends."""
        with self._lock:
            self._notice_removal()
            fds, self._stale = self._stale, []
            if self._dirty and self._fd >= 0:
                try:
                    fds.append(os.dup(self._fd))
                    self._dirty = False
                except OSError as error:  # the process has too many files open: the next turn tries again
                    self._tell(error.errno, f"could not be made durable: {error.strerror}")
        for fd in fds:
            try:
                _fdatasync(fd)
            except OSError as error:
                self._tell(error.errno, f"could not be made durable: {error.strerror}")
            finally:
                os.close(fd)

    def close(self) -> None:
        """Sync and let go of the file. A later append opens a new segment of the same epoch."""
        self._report_lost()
        self.sync()
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd, self._size = -1, _NO_SEGMENT

    # ------------------------------------------------------------------------------------------------------- inside

    def _stamped(self, record: Record) -> tuple[bytes, int]:
        """The record's frame and number. Its time is now, but later than any before: it orders a session's records."""
        at = _now()
        record.at = self._at = at if at > self._at else self._at + 1
        sequence = self.sequence
        return segment.frame(sequence, _RECORD + encode(record)), sequence

    def _define(self, keys: tuple[Key, ...]) -> RowShape | None:
        """A new shape for rows of these keys; None where the disk did not take it."""
        if len(self._shapes) >= MAX_SHAPES and not self._next_segment():
            self.lost += 1
            return None
        _check(keys)
        shape = RowShape(len(self._shapes), len(keys))
        sequence = self.sequence
        if not self._write(segment.frame(sequence, segment.encode_shape(shape.id, list(keys))), sequence):
            return None  # a row of it could not be read, or be taken for one of the next shape with its number
        self._shapes[keys] = shape
        return shape

    def _write(self, data: bytes, sequence: int) -> bool:
        """Write the frame that was numbered `sequence`: the one place that writes. Called with the lock held.

        All is counted before the system call: as soon as that returns, a signal handler may raise, or log.
        """
        size = len(data)
        if size > segment.MAX_FRAME:
            limit = segment.MAX_PAYLOAD >> 20
            return self._failed(None, f"a record of {size >> 20} MiB is longer than the {limit} MiB that one may have")
        while self.sequence != sequence:  # a signal handler that interrupted us has logged meanwhile
            sequence = self.sequence
            data = segment.renumbered(data, sequence)
        self.sequence += 1
        self._size += size
        self._dirty = True
        try:
            written = _write(self._fd, data)
        except OSError as error:
            self._take_back(size)
            return self._failed(error.errno, error.strerror)
        if written != size:
            self._take_back(size)
            self._undo_half_frame()
            return self._failed(None, "it took only a part of a record, so it is full or over quota")
        return True

    def _take_back(self, size: int) -> None:
        self.sequence -= 1
        self._size -= size

    def _undo_half_frame(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._size = _NO_SEGMENT  # readers pass over the half frame; go on in a clean segment

    def _failed(self, number: int | None, reason: str | None) -> bool:
        self.lost += 1
        self._tell(number, f"does not take records: {reason}")
        return False

    def _tell(self, number: int | None, what: str) -> None:
        if number not in self._told:
            self._told.add(number)
            self._on_trouble(f"the journal {self.folder} {what}")

    def _report_lost(self) -> None:
        """Say in the journal itself what it could not keep, as soon as it can be written again."""
        lost = self.lost - self._reported
        if lost and self.append(Trouble(kind="lost", count=lost, reason="journal not writable")):
            self._reported += lost

    def _next_segment(self) -> bool:
        """Go on in a new file, and in a new epoch where this process has none yet. False where nothing can be written
        now; the next append tries again."""
        if not (self._unopened and self._fd >= 0):
            if self._fd >= 0:
                self._stale.append(self._fd)
            self._fd, self._shapes, self._size = -1, {}, _NO_SEGMENT
            try:
                fresh, self._fd = self._create()
            except OSError as error:
                self._tell(error.errno, f"can not be opened: {error.strerror}")
                return False
            if fresh:
                self.sequence, self._unopened = 0, True
            with contextlib.suppress(OSError):  # a reader does without the magic; the next write tells
                _write(self._fd, segment.MAGIC)
        self._size = os.lseek(self._fd, 0, os.SEEK_END)
        if self._unopened:
            if not self._write(*self._stamped(self._opening(self._forked))):
                self.lost -= 1  # it is not lost but still to come: without it nobody knows whose records these are
                self._size = _NO_SEGMENT
                return False
            self._unopened = False
        return True

    def _notice_removal(self) -> None:
        """Where the file at hand was removed, go on in a new one; else all until the next segment would be lost."""
        if self._fd < 0 or os.fstat(self._fd).st_nlink:
            return
        self._stale.append(self._fd)
        self._fd, self._size = -1, _NO_SEGMENT
        if not (self.folder / "journal.json").exists():  # else the gap shows when the others are read
            self.lost += self.sequence  # at most: what the courier had sent is safe
        self._tell(errno.ENOENT, "was removed while the run goes on; what was not delivered yet is lost")

    def _create(self) -> tuple[bool, int]:
        """A file that no other process has: whether it begins an epoch, and its descriptor. Raises `OSError`."""
        fresh = self.epoch < 0 or self.sequence > _LAST_SEQUENCE
        if self._identity is not None and not (self.folder / "journal.json").exists():
            identify(self.folder, self._identity())  # never made, or delivered and removed: another journal, so anew
            fresh = True
            self._sync_later(self.folder / "journal.json", self.folder.parent)
        epoch = _next_epoch(self.folder) if fresh else self.epoch
        number = 0 if fresh else self._segment + 1
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        while True:
            try:
                fd = os.open(segment_path(self.folder, epoch, number), flags, 0o600)
            except FileExistsError:
                epoch += fresh
                number += not fresh
            except FileNotFoundError:
                if self._identity is None or (self.folder / "journal.json").exists():
                    raise
                return self._create()  # removed while it was being opened: there is another to begin
            else:
                self.epoch, self._segment = epoch, number
                self._sync_later(self.folder)  # or a power failure may take the file with all that is in it
                return fresh, fd

    def _sync_later(self, *paths: Path) -> None:
        for path in paths:
            with contextlib.suppress(OSError):
                self._stale.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def _after_fork(self) -> None:
        """In the child: the parent's lock may be held for ever here, and its file is the parent's."""
        self._lock = threading.RLock()
        self._fd, self._stale = (
            -1,
            [],
        )  # the parent's; not closed, for a sync may be under way on a copy
        self._size, self._shapes = _NO_SEGMENT, {}
        self.epoch, self.sequence, self._forked, self._unopened = -1, 0, True, False
        self.lost = self._reported = 0


def _check(keys: tuple[Key, ...]) -> None:
    """Raises `ValueError` for what are no keys of a row."""
    if not keys:
        raise ValueError("there are no metrics")
    for key in keys:
        name, context = (key, "{}") if isinstance(key, str) else key
        if clean_name(name) != name:
            raise ValueError(f"{show(name)} is not a clean name")
        if clean_name(context) != context or context[0] != "{":
            raise ValueError(f"{show(context)} is not a context")


def _row(
    shape: RowShape, at: int, step: int | float | None, time: int | None, values: Iterable[SupportsFloat]
) -> bytes:
    """A row of any kind: without step, with a fractional one, or with the caller's time."""
    exact: int | float
    if step is None:
        kind, exact = segment.NO_STEP, 0
    elif hasattr(step, "__index__"):  # int, and numpy's
        kind, exact = segment.INT_STEP, step.__index__()
    else:
        kind, exact = segment.FLOAT_STEP, step.__float__()  # which text has not, though float() reads it
        if not math.isfinite(exact):
            raise ValueError(f"{exact} is not a step")
    kind |= segment.ROW | (0 if time is None else segment.TIMED)
    times = () if time is None else (time,)
    return shape.struct(kind).pack(kind, shape.id, at, exact, *times, *values)


def _next_epoch(folder: Path) -> int:
    try:
        taken = [int(path.name[:6]) for path in folder.glob("[0-9]*.[0-9]*.seg")]
    except OSError:
        return 0
    return max(taken, default=-1) + 1


_writers: "weakref.WeakSet[Writer]" = weakref.WeakSet()


def _forked() -> None:
    for writer in list(_writers):
        writer._after_fork()


os.register_at_fork(after_in_child=_forked)
