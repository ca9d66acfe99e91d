"""Where the tensors are in a file of a format that stores them as they are in memory: safetensors, the zip of
`torch.save`, `.npy` and uncompressed `.npz`.

Heads of such files are read with limits and believed only as far as they agree with the file; of one that does not, no
tensor is told, and it is split like any other file. Nothing is unpickled. What a tensor is called decides its class
alone, never which bytes are stored.
"""

import re
import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from sexton.blobs import codec, pickles
from sexton.model.artifacts import PackClass

HEAD_BYTES = 2 << 20
"""A longer header, table of contents or pickle is not read."""

SMALL = 4 << 10
"""A smaller tensor is not worth a chunk of its own: it stays with what lies around it."""

SAMPLE_BYTES = 64 << 10
"""Of a tensor of unknown numbers, to find their width by trial."""

_SAFETENSORS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "C64": 4} | dict.fromkeys(
    ("F16", "BF16", "I16", "U16"), 2
)
_TORCH = {"DoubleStorage": 8, "LongStorage": 8, "ComplexDoubleStorage": 8} | {
    "FloatStorage": 4, "IntStorage": 4, "ComplexFloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2,
    "ShortStorage": 2, "CharStorage": 0, "ByteStorage": 0, "BoolStorage": 0,
}  # fmt: skip
_NUMPY = re.compile(rb"'descr': *'[<>|=]?([a-zA-Z])([0-9]{1,2})'")


class Tensor(NamedTuple):
    """A tensor's bytes in a file."""

    start: int
    end: int
    width: int
    """Bytes of one of its numbers, 0 where sorting them by place gains nothing."""
    name: str
    """As the file calls it; empty where it has no name."""
    kind: PackClass
    """What the format is for: checkpoints hold weights, arrays can be anything."""


class _Entry(msgspec.Struct):
    dtype: str
    data_offsets: tuple[int, int]


def find(file: BinaryIO, size: int) -> list[Tensor]:
    """The larger tensors of a file, in their order and apart from each other; none where it is of no format known here
    or does not keep to it. Moves the file's position."""
    try:
        found = sorted(tensor for tensor in _tensors(file, size) if tensor.end - tensor.start >= SMALL)
    except (ValueError, msgspec.MsgspecError, zipfile.BadZipFile, NotImplementedError, RecursionError, struct.error):
        return []
    ends = [0, *(tensor.end for tensor in found)]
    apart = all(before <= tensor.start for before, tensor in zip(ends, found, strict=False))
    return found if apart and ends[-1] <= size else []


def _tensors(file: BinaryIO, size: int) -> Iterator[Tensor]:
    head = _read(file, 0, min(size, 10))
    if head.startswith(b"PK\x03\x04"):
        return _zipped(file, size)
    if head.startswith(b"\x93NUMPY"):
        return _array(file, 0, size, "")
    if head[8:9] == b"{":
        return _safetensors(file, size)
    return iter(())


def _safetensors(file: BinaryIO, size: int) -> Iterator[Tensor]:
    (length,) = struct.unpack("<Q", _read(file, 0, 8))
    if length > HEAD_BYTES:
        return
    data = 8 + length
    for name, raw in msgspec.json.decode(_read(file, 8, length), type=dict[str, msgspec.Raw]).items():
        if name != "__metadata__":
            entry = msgspec.json.decode(raw, type=_Entry)
            start, end = entry.data_offsets
            if not 0 <= start <= end <= size - data:
                raise ValueError(f"the tensor {name!r} lies outside")
            yield Tensor(data + start, data + end, _SAFETENSORS.get(entry.dtype, 0), name, "weights")


def _array(file: BinaryIO, start: int, end: int, name: str) -> Iterator[Tensor]:
    """The one tensor of a `.npy` file that lies there, unless its items are objects."""
    head = _read(file, start, 12)
    long = head[6] > 1  # the version
    data = start + (12 + struct.unpack("<I", head[8:12])[0] if long else 10 + struct.unpack("<H", head[8:10])[0])
    if not start < data <= min(end, start + HEAD_BYTES):
        raise ValueError("the header is longer than the array")
    described = _NUMPY.search(_read(file, start, data - start))
    if described and (described[1] in b"fiuc"):
        width = int(described[2]) // (2 if described[1] == b"c" else 1)
        yield Tensor(data, end, width if width in codec.CODECS else 0, name, "other")


class _Window:
    """What `zipfile` may read of a file: little at once, and nothing outside."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._left = file, size, 2 * HEAD_BYTES

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self.tell(), self._size)[whence]
        if not 0 <= at <= self._size:
            raise ValueError("the archive points outside")
        return self._file.seek(at)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def read(self, length: int = -1) -> bytes:
        """Of the file's end `zipfile` asks for all there is."""
        length = min(length if length >= 0 else self._size, self._size - self.tell())
        self._left -= length
        if length > HEAD_BYTES or self._left < 0:
            raise ValueError("the table of contents is too long")
        return self._file.read(length)


def _zipped(file: BinaryIO, size: int) -> Iterator[Tensor]:
    with zipfile.ZipFile(_Window(file, size)) as archive:
        members = archive.infolist()
    stored = {member.filename: member for member in members if member.compress_type == zipfile.ZIP_STORED}
    stem = next((name.removesuffix("data.pkl") for name in stored if name.endswith("/data.pkl")), None)
    if stem is None:
        for name, member in stored.items():
            if name.endswith(".npy") and member.file_size >= SMALL:
                yield from _array(file, *_extent(file, member, size), name.removesuffix(".npy"))
        return
    known = _storages(file, stored[f"{stem}data.pkl"], size)
    for name, member in stored.items():
        folder, _, key = name.rpartition("/")
        if f"{folder}/" == f"{stem}data/" and member.file_size >= SMALL:
            start, end = _extent(file, member, size)
            kind, path = known.get(key, ("", ""))
            width = _TORCH.get(kind)
            if width is None:
                width = codec.width_of(_read(file, start, min(end - start, SAMPLE_BYTES)))
            yield Tensor(start, end, width, path, "weights")


def _extent(file: BinaryIO, member: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """Where the bytes of a stored member are."""
    head = _read(file, member.header_offset, 30) if 0 <= member.header_offset <= size - 30 else b""
    if head[:4] != b"PK\x03\x04":
        raise ValueError("there is no member where one should be")
    start = member.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
    return start, start + member.file_size


def _storages(file: BinaryIO, member: zipfile.ZipInfo, size: int) -> dict[str, tuple[str, str]]:
    """Type and name of each storage, by its key; none where the pickle says nothing."""
    start, end = _extent(file, member, size)
    if end - start > HEAD_BYTES:
        return {}
    try:
        return {key: (kind, path) for key, kind, path in pickles.storages(_read(file, start, end - start))}
    except ValueError:
        return {}


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it ends early")
    return data
