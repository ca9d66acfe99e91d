"""Who wrote a run: its sessions, and which of their records have been received.

The received ranges are what makes delivery idempotent: a record is (run, writer, epoch, sequence), and one whose
sequence number lies in a range has had its effect.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from sqlalchemy import bindparam, select

from sexton.store import schema
from sexton.store.database import Tx, some

Range = tuple[int, int]
"""From the first on, up to but without the second."""


class Place(NamedTuple):
    """Where a record stands in the log of its run. Places compare as the log is ordered."""

    at: int
    writer: str
    epoch: int
    seq: int


@dataclass(slots=True)
class Session:
    """One writer's epoch, and the disjoint, ascending ranges of what was received from it."""

    id: int
    run: str
    writer: str
    epoch: int
    received: list[Range]
    changed: bool = False

    def place(self, at: int, seq: int) -> Place:
        """Where its record `seq` stands."""
        return Place(at, self.writer, self.epoch, seq)

    def take(self, first: int, end: int) -> list[Range]:
        """Receive `first` up to `end`; those parts of it that are new."""
        fresh, self.received = added(self.received, first, end)
        self.changed = self.changed or bool(fresh)
        return fresh


def added(ranges: Sequence[Range], first: int, end: int) -> tuple[list[Range], list[Range]]:
    """The parts of `first` up to `end` that are in none of the ranges, and the ranges with it added."""
    fresh, merged, here = [], [], first
    low, high = first, end
    later = []
    for start, stop in ranges:
        if stop < first:
            merged.append((start, stop))
        elif start > end:
            later.append((start, stop))
        else:
            if here < start:
                fresh.append((here, start))
            here = max(here, stop)
            low, high = min(low, start), max(high, stop)
    if here < end:
        fresh.append((here, end))
    return fresh, [*merged, (low, high), *later]


class Sessions:
    """The sessions of the runs that a transaction holds."""

    def __init__(self, tx: Tx, runs: Iterable[str]) -> None:
        self.by_id: dict[int, Session] = {}
        self._by_key: dict[tuple[str, str, int], Session] = {}
        self._load(tx, runs)

    def of(self, run: str, writer: str, epoch: int) -> Session:
        """The session, which `open` has made sure of."""
        return self._by_key[run, writer, epoch]

    def open(self, tx: Tx, keys: Iterable[tuple[str, str, int]]) -> None:
        """Make sure that there is a session for each (run, writer, epoch)."""
        missing = sorted({key for key in keys if key not in self._by_key})
        if missing:
            nothing = encode_ranges([])
            tx.insert(schema.sessions, [(*key, nothing) for key in missing])
            self._load(tx, {run for run, _, _ in missing})

    def save(self, tx: Tx) -> None:
        """Keep what was received."""
        changed = [session for session in self.by_id.values() if session.changed]
        tx.update(schema.sessions, ("received",), [(encode_ranges(s.received), s.id) for s in changed])

    def _load(self, tx: Tx, runs: Iterable[str]) -> None:
        for part in some(runs):
            for number, run, writer, epoch, received in tx.connection.execute(_OF_RUNS, {"runs": part}).all():
                if number not in self.by_id:
                    session = Session(number, run, writer, epoch, decode_ranges(received))
                    self._by_key[run, writer, epoch] = self.by_id[number] = session


_OF_RUNS = select(schema.sessions).where(schema.sessions.c.run.in_(bindparam("runs", expanding=True)))
encode_ranges = msgspec.msgpack.encode
decode_ranges = msgspec.msgpack.Decoder(list[Range]).decode
