"""Delivering one journal: what to send next, and what to remember once the store has acknowledged it.

A file that was handed over is owed: the records after it are not kept waiting, its own follows when its bytes are
stored. The cursor moves after the acknowledgement; a private copy of a file goes after the cursor. Killed between any
two of these, the same is sent again and has no second effect.
"""

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from sexton.capture import files
from sexton.courier.batches import Exchange, batch
from sexton.journal import reader
from sexton.journal.journal import identity_of
from sexton.journal.reader import EpochReader, Owed, Piece, Position, Progress
from sexton.model import records
from sexton.model.records import ASSUMED, Batch, Finished, Saved, Started


class Handover(NamedTuple):
    """A record that hands over a file, by its place in the spool."""

    folder: Path
    epoch: int
    sequence: int

    def copy(self, saved: Saved) -> Path | None:
        """Where the private copy is; None where only an address was handed over."""
        return self.folder / "files" / Path(saved.file).name if saved.file else None

    def batch(self, record: records.Record) -> Batch:
        """What is sent in its place, alone."""
        identity = identity_of(self.folder)
        body = msgspec.Raw(records.encode(record))
        return Batch(identity.run, identity.writer, self.epoch, self.sequence, 1, records=[(0, body)])


Store = Callable[[Handover, Saved], records.Record | None]
"""What to send in place of a hand-over, once its bytes are stored; None until then."""


class Parcel(msgspec.Struct):
    """Batches, and what their acknowledgement means for the journal: how far their epoch was delivered, which sessions
    an observer has closed, and which hand-overs are done."""

    epoch: int
    batches: list[Batch]
    progress: Progress
    closed: set[int] = msgspec.field(default_factory=set)
    done: list[tuple[Handover, Saved]] = msgspec.field(default_factory=list)


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

    def parcels(self) -> Iterator[Parcel]:
        """The next piece of each epoch that has one."""
        for epoch in reader.epochs(self.folder):
            at = self.progress(epoch).position
            at_hand = self._readers.setdefault(epoch, EpochReader(self.folder, epoch, at))
            at_hand.position = at
            piece = at_hand.read()
            if piece is not None:
                yield self._parcel(epoch, piece, at)

    def settled(self, store: Store) -> Iterator[Parcel]:
        """Of each epoch what was owed and can be sent now. What `store` raises leaves the rest as it was."""
        for epoch, progress in list(self.cursor.epochs.items()):
            parcel = Parcel(epoch, [], msgspec.structs.replace(progress, owed=list(progress.owed)))
            try:
                for owed in progress.owed:
                    self._settle(parcel, owed, store)
            finally:  # one that can't be sent does not keep back those before it
                if parcel.batches:
                    yield parcel

    def acknowledge(self, parcels: list[Parcel]) -> None:
        """The store has committed these: move the cursor, then remove what is behind it."""
        for parcel in parcels:
            self.cursor.epochs[parcel.epoch] = parcel.progress
        for epoch in (epoch for parcel in parcels for epoch in parcel.closed):
            self._mark_ended(epoch)
        self.cursor.save(self.folder)
        for parcel in parcels:
            EpochReader(self.folder, parcel.epoch, parcel.progress.behind).drop_read()
            for handover, saved in parcel.done:
                copy = handover.copy(saved)
                if copy is not None:
                    files.discard(copy)

    def end(self, epoch: int) -> None:
        """Remember that a session is over, so that nobody asks for its process again."""
        self._mark_ended(epoch)
        self.cursor.save(self.folder)

    def _mark_ended(self, epoch: int) -> None:
        self.cursor.epochs[epoch] = msgspec.structs.replace(self.progress(epoch), ended=True)

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
        return not any(progress.owed for progress in self.cursor.epochs.values()) and all(
            EpochReader(self.folder, epoch, self.progress(epoch).position).read() is None
            for epoch in reader.epochs(self.folder)
        )

    def _parcel(self, epoch: int, piece: Piece, at: Position) -> Parcel:
        before = self.progress(epoch)
        after = Progress(piece.after, before.started, before.ended, list(before.owed))
        parcel = Parcel(epoch, [], after)
        handed: dict[bytes, Saved] = {}

        def exchange(body: bytes) -> bytes | None:
            record = records.decode(body)
            if isinstance(record, Started):
                after.started = record
            elif isinstance(record, Finished) and record.epoch is None:
                after.ended = record.cause != ASSUMED  # else its process is watched to its end
            elif isinstance(record, Finished) and record.epoch is not None:
                parcel.closed.add(record.epoch)
            elif isinstance(record, Saved):
                handed[body] = record
                return None
            return body

        parcel.batches.append(self._batch(epoch, piece, exchange))
        if handed:  # what is owed must not be covered by what is sent without it
            owed = {frame.sequence: frame.payload[1:] for frame in piece.frames if frame.payload[1:] in handed}
            after.owed += [Owed(number, body, handed[body].size or 0, at) for number, body in owed.items()]
            parcel.batches = [self._batch(epoch, part, exchange) for part in piece.without(owed)]
        return parcel

    def _batch(self, epoch: int, piece: Piece, exchange: Exchange) -> Batch:
        return batch(self.identity.run, self.identity.writer, epoch, piece, exchange)

    def _settle(self, parcel: Parcel, owed: Owed, store: Store) -> None:
        """Add to the parcel what is owed, if it can be sent."""
        saved = records.decode(owed.body)
        body = owed.body
        if isinstance(saved, Saved):  # else a newer version's, which the store keeps as it is
            handover = Handover(self.folder, parcel.epoch, owed.sequence)
            record = store(handover, saved)
            if record is None:
                return
            parcel.done.append((handover, saved))
            body = records.encode(record)
        run, writer = self.identity.run, self.identity.writer
        parcel.batches.append(Batch(run, writer, parcel.epoch, owed.sequence, 1, records=[(0, msgspec.Raw(body))]))
        parcel.progress.owed.remove(owed)


PACKS = ".packs-"
"""Begins the names of folders in the spool where packs are made."""


def tidy(spool: Path) -> None:
    """Finish what a courier that was killed while discarding had begun; remove the packs it had begun."""
    for packs in spool.glob(f"{PACKS}*"):
        shutil.rmtree(packs, ignore_errors=True)
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
