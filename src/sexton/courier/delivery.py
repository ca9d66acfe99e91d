"""Delivering one journal: what to send next, and what to remember once the store has acknowledged it.

Blobs go before the batch that names them; the cursor moves after the acknowledgement; a private copy of a file goes
after the cursor. Killed between any two of these, the same is sent again and has no second effect.
"""

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from sexton.blobs import local as blobs
from sexton.courier.batches import batch
from sexton.journal import reader
from sexton.journal.journal import identity_of
from sexton.journal.reader import EpochReader, Piece, Progress
from sexton.model import records
from sexton.model.records import ASSUMED, Artifact, Batch, Finished, Saved, Started, Trouble

PutBlob = Callable[[str, Path], None]
"""Stores a file under its digest, unless the store has it."""


class Parcel(msgspec.Struct):
    """A batch, and what its acknowledgement means for the journal: how far its epoch was delivered, which files are no
    longer needed, and which sessions an observer has closed."""

    epoch: int
    batch: Batch
    progress: Progress
    files: list[Path]
    closed: list[int]


class Delivery:
    """The journal of one run in the eyes of the courier. Raises `OSError`, `msgspec.DecodeError` for a folder that is
    not, or no longer, a journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity = identity_of(folder)
        self.cursor = reader.Cursor.load(folder)
        self._readers: dict[int, EpochReader] = {}

    def progress(self, epoch: int) -> Progress:
        """How far an epoch was delivered."""
        return self.cursor.epochs.get(epoch, Progress())

    def epochs(self) -> list[int]:
        """All epochs, delivered or not."""
        return sorted({*reader.epochs(self.folder), *self.cursor.epochs})

    def unread(self, epoch: int) -> Iterator[records.Record | records.Unknown]:
        """The records of an epoch that are not acknowledged yet, without moving on."""
        look = EpochReader(self.folder, epoch, self.progress(epoch).position)
        while (piece := look.read()) is not None:
            for frame in piece.frames:
                if frame.kind == 1:
                    yield records.decode(frame.payload[1:])

    def parcels(self, put_blob: PutBlob) -> Iterator[Parcel]:
        """The next piece of each epoch that has one. What `put_blob` raises leaves the journal where it was."""
        for epoch in reader.epochs(self.folder):
            at = self.progress(epoch).position
            at_hand = self._readers.setdefault(epoch, EpochReader(self.folder, epoch, at))
            at_hand.position = at
            piece = at_hand.read()
            if piece is not None:
                yield self._parcel(epoch, piece, put_blob)

    def acknowledge(self, parcels: list[Parcel]) -> None:
        """The store has committed these: move the cursor, then remove what is behind it."""
        for parcel in parcels:
            self.cursor.epochs[parcel.epoch] = parcel.progress
        for epoch in (epoch for parcel in parcels for epoch in parcel.closed):
            self._mark_ended(epoch)
        self.cursor.save(self.folder)
        for parcel in parcels:
            EpochReader(self.folder, parcel.epoch, parcel.progress.position).drop_read()
            for file in parcel.files:
                file.unlink(missing_ok=True)

    def end(self, epoch: int) -> None:
        """Remember that a session is over, so that nobody asks for its process again."""
        self._mark_ended(epoch)
        self.cursor.save(self.folder)

    def _mark_ended(self, epoch: int) -> None:
        progress = self.progress(epoch)
        self.cursor.epochs[epoch] = Progress(progress.position, progress.started, ended=True)

    def told_end(self, epoch: int) -> bool:
        """Whether what is not acknowledged yet tells the end of a session, by somebody who knew it: the session itself,
        or an observer before this one, whose courier was killed before it could remember."""
        return any(
            isinstance(record, Finished)
            and (each if record.epoch is None else record.epoch) == epoch
            and record.cause != ASSUMED
            for each in self.epochs()
            for record in self.unread(each)
        )

    def silent_since(self, epoch: int) -> int:
        """When the last bytes of an epoch were written, UTC ns."""
        times = (path.stat().st_mtime_ns for path in self.folder.glob(f"{epoch:06}.*.seg"))
        return max(times, default=0)

    @property
    def made_at(self) -> int:
        """When the journal was made, UTC ns."""
        return (self.folder / "journal.json").stat().st_mtime_ns

    @property
    def behind(self) -> bool:
        """Whether so much waits that the next turn should come at once."""
        folder = self.folder
        waiting = (EpochReader(folder, epoch, self.progress(epoch).position) for epoch in reader.epochs(folder))
        return any(one.pending > reader.READ_BYTES // 4 for one in waiting)

    @property
    def drained(self) -> bool:
        """Whether all that can be read is acknowledged."""
        return all(
            EpochReader(self.folder, epoch, self.progress(epoch).position).read() is None
            for epoch in reader.epochs(self.folder)
        )

    def _parcel(self, epoch: int, piece: Piece, put_blob: PutBlob) -> Parcel:
        before = self.progress(epoch)
        after = Progress(piece.after, before.started, before.ended)
        files: list[Path] = []
        closed: list[int] = []

        def exchange(body: bytes) -> bytes:
            record = records.decode(body)
            if isinstance(record, Started):
                after.started = record
            elif isinstance(record, Finished) and record.epoch is None:
                after.ended = record.cause != ASSUMED  # else its process is watched to its end
            elif isinstance(record, Finished) and record.epoch is not None:
                closed.append(record.epoch)
            elif isinstance(record, Saved):
                file = self.folder / "files" / Path(record.file).name
                files.append(file)
                return records.encode(_kept(record, file, put_blob))
            return body

        made = batch(self.identity.run, self.identity.writer, epoch, piece, exchange)
        return Parcel(epoch, made, after, files, closed)


def _kept(saved: Saved, file: Path, put_blob: PutBlob) -> records.Record:
    """Store the file's bytes: the artifact that is to be sent in place of the hand-over."""
    try:
        digest, size = blobs.digest(file), file.stat().st_size
    except FileNotFoundError:
        return Trouble(at=saved.at, kind="missing-file", count=1, reason=saved.name)
    put_blob(digest, file)
    return Artifact(
        at=saved.at,
        name=saved.name,
        digest=digest,
        size=size,
        kind=saved.kind,
        step=saved.step,
        metrics=saved.metrics,
    )


def tidy(spool: Path) -> None:
    """Finish what a courier that was killed while discarding had begun."""
    for leaving in spool.glob(".*.leaving"):
        with contextlib.suppress(OSError):  # its run has begun a new journal: later
            leaving.rename(leaving.with_name(leaving.name[1 : -len(".leaving")]))
    for delivered in spool.glob(".*.delivered"):
        shutil.rmtree(delivered, ignore_errors=True)


def discard(folder: Path, seen: Collection[int]) -> None:
    """Remove a journal whose sessions, `seen`, are over and delivered; one that has others by now stays.

    The folder is renamed first: a process that opens the journal now finds none and begins a new one.
    """
    leaving, delivered = (folder.with_name(f".{folder.name}.{word}") for word in ("leaving", "delivered"))
    with contextlib.suppress(OSError):
        folder.rename(leaving)
        if set(reader.epochs(leaving)) <= set(seen):
            leaving.rename(delivered)
            shutil.rmtree(delivered, ignore_errors=True)
        else:
            leaving.rename(folder)
