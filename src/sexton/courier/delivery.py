"""Delivering one journal: what to send next, and what to remember once the store has acknowledged it.

Blobs go before the batch that names them; the cursor moves after the acknowledgement; a private copy of a file goes
after the cursor. Killed between any two of these, the same is sent again and has no second effect.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from sexton.blobs import local as blobs
from sexton.courier.batches import batch
from sexton.journal import reader
from sexton.journal.journal import identity_of
from sexton.journal.reader import EpochReader, Piece, Progress
from sexton.model import records
from sexton.model.records import Artifact, Batch, Finished, Saved, Started, Trouble

PutBlob = Callable[[str, Path], None]
"""Stores a file under its digest, unless the store has it."""


class Parcel(msgspec.Struct):
    """A batch, and what its acknowledgement means for the journal."""

    epoch: int
    batch: Batch
    progress: Progress
    files: list[Path]


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
        self.cursor.save(self.folder)
        for parcel in parcels:
            EpochReader(self.folder, parcel.epoch, parcel.progress.position).drop_read()
            for file in parcel.files:
                file.unlink(missing_ok=True)

    def end(self, epoch: int) -> None:
        """Remember that a session is over, so that nobody asks for its process again."""
        progress = self.progress(epoch)
        self.cursor.epochs[epoch] = Progress(progress.position, progress.started, ended=True)
        self.cursor.save(self.folder)

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

        def exchange(body: bytes) -> bytes:
            record = records.decode(body)
            if isinstance(record, Started):
                after.started = record
            elif isinstance(record, Finished) and record.epoch is None:
                after.ended = True
            elif isinstance(record, Saved):
                file = self.folder / "files" / Path(record.file).name
                files.append(file)
                return records.encode(_kept(record, file, put_blob))
            return body

        made = batch(self.identity.run, self.identity.writer, epoch, piece, exchange)
        return Parcel(epoch, made, after, files)


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
    """Remove what a courier that was killed while discarding left."""
    for gone in spool.glob(".*.delivered"):
        shutil.rmtree(gone, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a journal that was delivered to the end; one that somebody has just begun to write again stays.

    The folder is renamed first: a process that opens the journal now finds none and begins a new one.
    """
    seen = reader.epochs(folder)
    gone = folder.with_name(f".{folder.name}.delivered")
    with contextlib.suppress(OSError):
        folder.rename(gone)
        if reader.epochs(gone) == seen:
            shutil.rmtree(gone, ignore_errors=True)
        else:
            gone.rename(folder)
