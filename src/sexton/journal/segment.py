"""The bytes of a segment: an 8-byte magic, then frames. Pure; `docs/spec/journal.md` is the norm.

Frame = `SX` · u32 payload length · u32 sequence · payload · u32 CRC-32 of all before it, little-endian. Payload byte 0
is its kind:

  1        a record (msgpack follows)
  2        a shape: msgpack `[id, [key, ...]]`; rows name their keys by it, within the same segment
  16..22   a row: kind = 16 + step kind (0 none, 1 int64, 2 float64) + 4 where a time is given; then u32 shape id,
           i64 at, 8-byte step, i64 time if given, float64 values in the shape's order
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

import msgspec

MAGIC = b"SXJRNL1\n"
HEAD = struct.Struct("<2sII")
FRAME = b"SX"
CRC_SIZE = 4
MAX_PAYLOAD = 30 << 20  # with its names a row is twice as long in a batch, of which a server takes 64 MiB
MAX_FRAME = HEAD.size + MAX_PAYLOAD + CRC_SIZE

RECORD, SHAPE, ROW = 1, 2, 16
NO_STEP, INT_STEP, FLOAT_STEP, TIMED = 0, 1, 2, 4

Key = str | tuple[str, str]
"""A metric's name, or its name and context."""

_shape = msgspec.msgpack.Decoder(tuple[int, list[Key]])


class Frame(NamedTuple):
    """A whole, undamaged frame: its sequence number, kind, payload (kind byte included), and where it ends."""

    sequence: int
    kind: int
    payload: bytes
    end: int


class RowShape:
    """The packers of rows that have the same metrics."""

    __slots__ = ("_structs", "count", "id", "pack_plain", "plain_size")

    def __init__(self, number: int, count: int) -> None:
        self.id = number
        self.count = count
        self._structs: dict[int, struct.Struct] = {}
        plain = self.struct(ROW | INT_STEP)
        self.plain_size = plain.size
        # Head and payload in one go: this is what each ordinary log() call runs.
        self.pack_plain = struct.Struct(HEAD.format + plain.format[1:]).pack

    def struct(self, kind: int) -> struct.Struct:
        found = self._structs.get(kind)
        if found is None:
            step = "d" if kind & FLOAT_STEP else "q"
            time = "q" if kind & TIMED else ""
            found = self._structs[kind] = struct.Struct(f"<BIq{step}{time}{self.count}d")
        return found


def frame(sequence: int, payload: bytes) -> bytes:
    """`payload` as the bytes of one frame."""
    data = HEAD.pack(FRAME, len(payload), sequence) + payload
    return data + crc32(data).to_bytes(CRC_SIZE, "little")


def encode_shape(number: int, keys: list[Key]) -> bytes:
    """The payload that tells the keys of rows."""
    return bytes((SHAPE,)) + msgspec.msgpack.encode((number, keys))


def decode_shape(payload: bytes) -> tuple[int, list[Key]]:
    """The shape's id and keys. Raises `msgspec.DecodeError` for a payload that a newer version wrote differently."""
    return _shape.decode(memoryview(payload)[1:])


def renumbered(data: bytes, sequence: int) -> bytes:
    """The frame `data` with another sequence number."""
    return frame(sequence, data[HEAD.size : -CRC_SIZE])


def scan(data: bytes, start: int = 0, *, goes_on: bool = False) -> Iterator[Frame]:
    """The undamaged frames of `data` from `start` on. Damaged bytes are passed over to the next undamaged frame: what
    is missing shows as a gap in the sequence. Stops at the last undamaged frame; what follows may still be written.

    With `goes_on`, where `data` is only the beginning, it also stops at a frame that may end beyond it: a frame may
    hold what looks like frames, such as the console output of a command that printed a journal.
    """
    position, size = start, len(data)
    view = memoryview(data)
    while position + HEAD.size <= size:
        magic, length, sequence = HEAD.unpack_from(data, position)
        if magic == FRAME and 0 < length <= MAX_PAYLOAD:
            body, end = position + HEAD.size, position + HEAD.size + length + CRC_SIZE
            if end <= size:
                crc = crc32(view[position : end - CRC_SIZE])
                if crc == int.from_bytes(view[end - CRC_SIZE : end], "little"):
                    yield Frame(sequence, data[body], data[body : end - CRC_SIZE], end)
                    position = end
                    continue
            elif goes_on:
                return
        position = data.find(FRAME, position + 1)
        if position < 0:
            return
