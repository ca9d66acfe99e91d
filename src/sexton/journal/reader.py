"""Reading journals while they grow: what the courier needs to deliver each record once and in order.

A reader never changes a segment. Where it stands is a `Position`, kept in `cursor.json` only after the store has
acknowledged what lies before it; segments wholly before it may be removed.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from sexton import errors
from sexton.journal import segment
from sexton.journal.journal import identity_of, segment_path
from sexton.journal.segment import Frame, Key
from sexton.model.records import Started

READ_BYTES = 1 << 20


class Position(msgspec.Struct, frozen=True):
    """The next unread byte of an epoch, and the sequence number expected there."""

    segment: int = 0
    offset: int = 0
    sequence: int = 0


class Owed(msgspec.Struct, frozen=True):
    """A record that was passed over: it is delivered once the bytes that it hands over are stored."""

    sequence: int
    body: bytes
    size: int
    """Bytes that it hands over."""
    at: Position
    """Not after it: whatever was written before this is another's."""


class Progress(msgspec.Struct, omit_defaults=True):
    """How far one epoch was delivered, and what its delivered records said about the session."""

    position: Position = Position()
    started: Started | None = None
    ended: bool = False
    owed: list[Owed] = []
    """In the order of their numbers."""

    def reached(self, sequence: int) -> bool:
        """Whether all records with lower numbers are delivered."""
        return self.position.sequence >= sequence and all(one.sequence >= sequence for one in self.owed)

    @property
    def behind(self) -> Position:
        """What lies before this is delivered, and will not be asked for again whatever becomes of the cursor."""
        return self.owed[0].at if self.owed else self.position


class Cursor(msgspec.Struct):
    """What `cursor.json` says."""

    epochs: dict[int, Progress] = {}

    @classmethod
    def load(cls, folder: Path) -> "Cursor":
        """The cursor of a journal; an unreadable one starts over, which costs time and nothing else."""
        try:
            return msgspec.json.decode((folder / "cursor.json").read_bytes(), type=cls, strict=False)
        except (OSError, msgspec.DecodeError):
            return cls()

    def save(self, folder: Path) -> None:
        """Replace `cursor.json`. Needs no sync: an older cursor only sends again what the store knows."""
        draft = folder / ".cursor.json"
        draft.write_bytes(msgspec.json.encode(self))
        draft.replace(folder / "cursor.json")


def epochs(folder: Path) -> list[int]:
    """The epochs that have a segment here."""
    return sorted({int(path.name[:6]) for path in folder.glob("[0-9]*.[0-9]*.seg")})


def runs(spool: Path) -> list[Path]:
    """The journals of a spool."""
    return sorted(path.parent for path in spool.glob("[!.]*/journal.json"))


class Backlog(msgspec.Struct, frozen=True):
    """What of a journal the store has not acknowledged: bytes of records, and of files that they hand over."""

    run: str
    url: str
    bytes: int


def backlog(spool: Path) -> list[Backlog]:
    """The journals of a spool that hold records the store has not acknowledged."""
    found = []
    for folder in runs(spool):
        cursor = Cursor.load(folder)
        try:
            identity = identity_of(folder)
            waiting = sum(
                EpochReader(folder, epoch, cursor.epochs.get(epoch, Progress()).position).pending
                for epoch in epochs(folder)
            )
            waiting += sum(len(one.body) + one.size for progress in cursor.epochs.values() for one in progress.owed)
        except (OSError, msgspec.DecodeError):  # just delivered and removed
            continue
        if waiting:
            found.append(Backlog(identity.run, identity.url, waiting))
    return found


def ends(folder: Path) -> dict[int, Position]:
    """By epoch: where its last segment ends now."""
    found: dict[int, Position] = {}
    for path in sorted(folder.glob("[0-9]*.[0-9]*.seg")):
        found[int(path.name[:6])] = Position(int(path.name[7:13]), _size(path))
    return found


def reached(folder: Path, goal: dict[int, Position]) -> bool:
    """Whether the store has acknowledged what was there when `goal` was taken by `ends`."""
    cursor = Cursor.load(folder)
    if not (folder / "journal.json").exists():  # delivered to the end, and removed
        return True
    at = {epoch: cursor.epochs.get(epoch, Progress()).behind for epoch in goal}
    return all((at[epoch].segment, at[epoch].offset) >= (end.segment, end.offset) for epoch, end in goal.items())


class Piece(msgspec.Struct):
    """Frames read from one epoch: of one segment, hence of one set of shapes."""

    first: int
    """Sequence number of the first record it covers, whether or not that could be read."""
    after: Position
    """Where to go on once this was delivered."""
    frames: list[Frame]
    shapes: dict[int, list[Key]]

    @property
    def count(self) -> int:
        return self.after.sequence - self.first

    def without(self, sequences: Iterable[int]) -> "Iterator[Piece]":
        """What lies before, between and after these records, which are some of it."""
        first, rest = self.first, self.frames
        for sequence in sorted(sequences):
            before = [frame for frame in rest if frame.sequence < sequence]
            rest = [frame for frame in rest if frame.sequence > sequence]
            if sequence > first:
                yield Piece(first, msgspec.structs.replace(self.after, sequence=sequence), before, self.shapes)
            first = sequence + 1
        if self.after.sequence > first:
            yield Piece(first, self.after, rest, self.shapes)


class EpochReader:
    """Reads one epoch from a position on."""

    def __init__(self, folder: Path, epoch: int, position: Position) -> None:
        self.folder, self.epoch, self.position = folder, epoch, position
        self._shapes: dict[int, list[Key]] = {}
        self._shapes_of = -1

    def read(self, limit: int = READ_BYTES) -> Piece | None:
        """The next frames, about `limit` bytes of them; None where there are none yet. Advances the position.

        Raises `IntegrityError` for a segment of another format, `OSError`.
        """
        asked = limit
        while True:
            later = self._later()  # asked first: what is written after the answer is not passed over
            head, data = self._bytes(limit)
            goes_on = len(data) == limit and limit < 2 * segment.MAX_PAYLOAD
            found = list(segment.scan(data, goes_on=goes_on))
            if found:
                piece = self._piece([f for number, f in enumerate(found) if number == 0 or f.end <= asked])
                if piece.frames:
                    return piece
            elif goes_on:
                limit *= 4  # one frame is longer than what was read, or damage goes on beyond it
            elif self._foreign(head):
                reason = f"it has version {head[6:7].decode()} and this Sexton reads 1; upgrade Sexton here"
                raise errors.IntegrityError(what=f"The journal {self._path}", reason=reason)
            elif later:
                self.position = Position(later[0], 0, self.position.sequence)
            else:
                return None

    @property
    def pending(self) -> int:
        """Bytes of the epoch that were not read: a record being written, a torn one, or work to do."""
        numbers = [self.position.segment, *self._later()]
        offsets = [self.position.offset, *[0] * len(numbers)]
        return sum(
            max(_size(segment_path(self.folder, self.epoch, number)) - (offset or len(segment.MAGIC)), 0)
            for number, offset in zip(numbers, offsets, strict=False)
        )

    def drop_read(self) -> None:
        """Remove the segments wholly before the position. Only for what was acknowledged."""
        for number in self._segments():
            if number < self.position.segment:
                segment_path(self.folder, self.epoch, number).unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return segment_path(self.folder, self.epoch, self.position.segment)

    def _segments(self) -> list[int]:
        return sorted(int(path.name[7:13]) for path in self.folder.glob(f"{self.epoch:06}.[0-9]*.seg"))

    def _later(self) -> list[int]:
        """The segments after the one at hand. One that is missing between them was removed by somebody."""
        return [number for number in self._segments() if number > self.position.segment]

    def _foreign(self, head: bytes) -> bool:
        """Whether the segment says that it is of another version. One damaged byte may say so too, so it counts only
        where no frame of this version is found."""
        version = head[6:7] if head[:6] == segment.MAGIC[:6] else b""
        return self.position.offset == 0 and version.isdigit() and version != segment.MAGIC[6:7]

    def _bytes(self, limit: int) -> tuple[bytes, bytes]:
        """The segment's magic, and up to `limit` bytes from the position on; nothing of a segment that is gone."""
        try:
            with self._path.open("rb") as file:
                head = file.read(len(segment.MAGIC))
                if self._shapes_of != self.position.segment:
                    self._shapes, self._shapes_of = self._earlier_shapes(), self.position.segment
                file.seek(self.position.offset)
                return head, file.read(limit)
        except FileNotFoundError:
            return b"", b""

    def _earlier_shapes(self) -> dict[int, list[Key]]:
        """The shapes that frames before the position defined; needed when reading starts inside a segment."""
        if self.position.offset == 0:
            return {}
        with self._path.open("rb") as file:
            data = file.read(self.position.offset)
        return dict(_shapes(segment.scan(data)))

    def _piece(self, found: list[Frame]) -> Piece:
        """What is new of the frames that were found. A sequence number at or below one before it is a copy of what was
        read already, such as a damaged disk may show; it is passed over."""
        first = expected = self.position.sequence
        frames = []
        for frame in found:
            if frame.sequence >= expected:
                frames.append(frame)
                expected = frame.sequence + 1
        self._shapes |= dict(_shapes(frames))
        self.position = Position(self.position.segment, self.position.offset + found[-1].end, expected)
        return Piece(first, self.position, frames, dict(self._shapes))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _shapes(frames: "Iterator[Frame] | list[Frame]") -> Iterator[tuple[int, list[Key]]]:
    for frame in frames:
        if frame.kind == segment.SHAPE:
            try:
                yield segment.decode_shape(frame.payload)
            except msgspec.DecodeError:
                continue
