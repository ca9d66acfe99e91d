"""How metric points are kept as bytes: sheets as they arrive, blocks once compacted. Pure; `docs/spec/store.md` is the
norm. Every number comes back bit for bit.

A row is one log call: its place in the log (at, session, seq), its step, its time, and a value of each metric. A sheet
holds the rows of one call of ingest that have the same metrics. A block holds up to 16,384 rows in log order: its axis
once, and the values of each metric by themselves.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

BLOCK_ROWS = 16_384

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NO_STEP, INT_STEP, FLOAT_STEP, TIMED = 0, 1, 2, 4
KINDS = {"none": NO_STEP, "int": INT_STEP, "float": FLOAT_STEP}

AXIS = ("at", "session", "seq", "kind", "step", "time")
"""What a row has besides its values, each as int64: `step` is the bits of a float64 where `kind` is FLOAT_STEP."""

_config = ChunkConfig(compression_level=4)  # 8 is twice as slow for 1 % less
_compress = zstandard.ZstdCompressor(level=-1)  # a third of the time of level 1 where rows are few, as they mostly are
_decompress = zstandard.ZstdDecompressor()


def pack(numbers: NDArray[Any]) -> bytes:
    """At least one int64 or float64, compressed."""
    return bytes(standalone.simple_compress(np.ascontiguousarray(numbers), _config))


def unpack(data: bytes) -> NDArray[Any]:
    """What `pack` was given."""
    numbers: NDArray[Any] = standalone.simple_decompress(data)
    return numbers


class Sheet(msgspec.Struct):
    """Rows that have the same metrics: the axis, and the values with a row for each metric."""

    axis: Mapping[str, Ints]
    values: Floats

    @property
    def rows(self) -> int:
        return int(self.values.shape[1])


def encode_sheet(at: Ints, seq: Ints, kind: int, steps: Ints | None, times: Ints | None, values: Floats) -> bytes:
    """A sheet of one session's rows, in log order: a byte for what it has, then zstd of the plain arrays."""
    arrays = [array.tobytes() for array in (at, seq, steps, times) if array is not None]
    flags = kind | (0 if times is None else TIMED)
    return bytes((flags,)) + _compress.compress(b"".join((*arrays, values.tobytes())))


def decode_sheet(data: bytes, rows: int, session: int) -> Sheet:
    """What `encode_sheet` was given."""
    kind, timed = data[0] & 3, data[0] & TIMED
    plain = np.frombuffer(_decompress.decompress(memoryview(data)[1:]), "<i8")
    whole = len(plain) // rows
    table = plain.reshape(whole, rows)
    here = 2 + (kind != NO_STEP) + bool(timed)
    at = table[0]
    axis = {
        "at": at,
        "session": np.full(rows, session),
        "seq": table[1],
        "kind": np.full(rows, kind),
        "step": table[2] if kind else np.zeros(rows, np.int64),
        "time": table[here - 1] if timed else at,
    }
    return Sheet(axis, table[here:].view(np.float64))


def encode_axis(axis: Mapping[str, Ints]) -> bytes:
    """The axis of a block. Rows without steps, or without times of their own, cost nothing for it."""
    arrays = dict(axis)
    if not arrays["kind"].any():
        del arrays["kind"], arrays["step"]
    if np.array_equal(arrays["time"], arrays["at"]):
        del arrays["time"]
    return msgspec.msgpack.encode({name: pack(array) for name, array in arrays.items()})


class Axis(Mapping[str, Ints]):
    """An encoded axis; each of its arrays is decoded when it is first asked for."""

    def __init__(self, data: bytes, rows: int) -> None:
        self._packed = msgspec.msgpack.decode(data, type=dict[str, bytes])
        self._known: dict[str, Ints] = {}
        self._rows = rows

    def __getitem__(self, name: str) -> Ints:
        if name not in self._known:
            self._known[name] = self._unpacked(name)
        return self._known[name]

    def _unpacked(self, name: str) -> Ints:
        packed = self._packed.get(name)
        if packed is not None:
            return unpack(packed)
        return self["at"] if name == "time" else np.zeros(self._rows, np.int64)

    def __iter__(self) -> Any:
        return iter(AXIS)

    def __len__(self) -> int:
        return len(AXIS)


def log_order(at: Ints, writer: Ints, seq: Ints) -> Ints:
    """The permutation that puts rows into log order; `writer` ranks their sessions by (writer, epoch)."""
    return np.lexsort((seq, writer, at))


def is_ordered(axes: Sequence[Mapping[str, Ints]]) -> bool:
    """Whether the rows of all axes, one after another, have ascending times, hence are in log order."""
    times = [axis["at"] for axis in axes]
    within = all(bool((at[1:] > at[:-1]).all()) for at in times)
    return within and all(one[-1] < other[0] for one, other in pairwise(times))


def picked(axes: Sequence[Mapping[str, Ints]], name: str, rows: Ints) -> Ints:
    """These rows, which ascend, of one array over several axes, without making one array of all."""
    starts = np.cumsum([0, *(len(axis["at"]) for axis in axes)])
    parts = np.split(rows, np.searchsorted(rows, starts[1:-1]))
    return np.concatenate([axis[name][part - start] for axis, part, start in zip(axes, parts, starts, strict=False)])


def joined(axes: Sequence[Mapping[str, Ints]], name: str) -> Ints:
    """One array of the axis over several sheets."""
    return axes[0][name] if len(axes) == 1 else np.concatenate([axis[name] for axis in axes])


def thin(values: Floats, points: int) -> Ints:
    """The places of at most `points` values that show the shape of all: of equal buckets the least, the greatest and
    the last. NaN is nobody's least or greatest, but may be last."""
    count = len(values)
    if count <= points:
        return np.arange(count)
    width = -(-count // max(points // 3, 1))
    buckets = -(-count // width)
    table = np.pad(values, (0, buckets * width - count), mode="edge").reshape(buckets, width)
    starts = np.arange(buckets) * width
    hollow = np.isnan(table)
    low, high = (np.where(hollow, np.inf, table), np.where(hollow, -np.inf, table)) if hollow.any() else (table, table)
    least, greatest = starts + low.argmin(axis=1), starts + high.argmax(axis=1)
    last = np.minimum(starts + width, count) - 1
    return np.unique(np.minimum(np.concatenate((least, greatest, last)), count - 1))
