"""Keeps what a command printed within bounds: the beginning, and the last of each stream.

Invariant: for each stream the bytes of its pieces and their `skipped` counts add up to every byte that was fed, in
order. Reads no clock and writes no file: whoever feeds it also calls `flush` and records the pieces.
"""

from collections.abc import Iterator

import msgspec

MIB = 1 << 20
PIECE_BYTES = 64 << 10


class Piece(msgspec.Struct, frozen=True):
    """Bytes of `stream` from byte `offset` on; or, with `skipped`, a gap of that many bytes that were not kept."""

    stream: str
    offset: int
    data: bytes
    skipped: int = 0


class _Stream:
    def __init__(self) -> None:
        self.recorded = 0
        self.pending = bytearray()
        self.skipped = 0
        self.tail = bytearray()


class Console:
    """Keeps the first `head_bytes` of all streams together, then the last `tail_bytes` of each stream."""

    def __init__(self, head_bytes: int = 4 * MIB, tail_bytes: int = MIB) -> None:
        self._room = head_bytes
        self._tail_bytes = tail_bytes
        self._streams: dict[str, _Stream] = {}

    def feed(self, stream: str, data: bytes) -> list[Piece]:
        """Takes what was printed next; gives the pieces that are large enough to be recorded now."""
        kept = self._streams.setdefault(stream, _Stream())
        head, rest = data[: self._room], data[self._room :]
        self._room -= len(head)
        kept.pending += head
        kept.tail += rest
        excess = max(0, len(kept.tail) - self._tail_bytes)
        kept.skipped += excess
        del kept.tail[:excess]
        return _recorded(stream, kept) if len(kept.pending) >= PIECE_BYTES else []

    def flush(self) -> list[Piece]:
        """Every byte of the head not given back yet. Call it about twice a second, so that a reader can follow."""
        return [piece for name, kept in self._streams.items() for piece in _recorded(name, kept)]

    def close(self) -> list[Piece]:
        """What is left: the rest of the head, then for each stream the gap, if there is one, and its last bytes."""
        pieces = self.flush()
        for name, kept in self._streams.items():
            if kept.skipped:
                pieces.append(Piece(name, kept.recorded, b"", kept.skipped))
            pieces += _cut(name, kept.recorded + kept.skipped, bytes(kept.tail))
        self._streams.clear()
        return pieces


def _recorded(name: str, kept: _Stream) -> list[Piece]:
    pieces = list(_cut(name, kept.recorded, bytes(kept.pending)))
    kept.recorded += len(kept.pending)
    kept.pending.clear()
    return pieces


def _cut(name: str, offset: int, data: bytes) -> Iterator[Piece]:
    """Pieces of a size that any journal takes."""
    for start in range(0, len(data), PIECE_BYTES):
        yield Piece(name, offset + start, data[start : start + PIECE_BYTES])
