"""How a chunk's bytes are stored, as docs/spec/packs.md lays down: as they are, by zstd, or with the bytes of its
numbers sorted by their place first, which sets exponents beside exponents and so makes floats compressible.

What was encoded decodes to the same bytes; what was damaged or forged raises, and never takes more memory than a chunk
is large. Whether the bytes are the right ones only their hash can say, which is not asked here.
"""

import struct
import threading
from typing import Final

import numpy as np
import zstandard
from numcodecs import blosc  # type: ignore[import-untyped]  # it has no types

from sexton import errors
from sexton.model.artifacts import CHUNK_BYTES

RAW: Final = 0
ZSTD: Final = 1
CODECS: Final = {0: ZSTD, 2: 2, 4: 3, 8: 4}
"""The codec for numbers of so many bytes; 0 is for what are no numbers."""

_WIDTHS = {codec: width for width, codec in CODECS.items() if width}
_LEVEL = 1
_BLOCK = 1 << 20  # bytes that are shuffled together: in small blocks, exponents are too few for a code of their own
_GAIN = 0.97  # what is stored must be smaller than this part of the bytes, or the time to decode it is not worth it

_BLOSC = struct.Struct("<BBBBIII")  # format, format of zstd, flags, width, size, block, stored
_SHUFFLED, _UNSPLIT = 0x81, 0x10  # flags: bytes shuffled, by zstd; a block is one stream, which blosc may choose

blosc.use_threads = False  # one core a chunk; and its pool of threads would not survive a fork


class _PerThread(threading.local):
    """Contexts of zstd, which are costly to make and belong to one thread at a time."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=_LEVEL).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _PerThread()


def encode(data: bytes, width: int) -> tuple[int, bytes]:
    """The codec and the bytes to store, of a chunk of numbers of `width` bytes (0: of anything else)."""
    stored = _encoded(data, width)
    return (CODECS[width], stored) if len(stored) < len(data) * _GAIN else (RAW, data)


def width_of(sample: bytes) -> int:
    """The width of unknown numbers: the one that tells most about a byte, the least where a larger one hardly does."""
    best, least = 0, float("inf")
    whole = np.frombuffer(sample, np.uint8, len(sample) & ~7)
    for width in CODECS:
        planes = whole.reshape(-1, width or 1).T
        bits = sum(map(_entropy, planes)) / len(planes)
        if bits < least * _GAIN:
            best, least = width, bits
    return best


def decode(codec: int, stored: bytes, size: int) -> bytes:
    """The `size` bytes that were encoded. Raises `IntegrityError`."""
    if not 0 <= size <= CHUNK_BYTES:
        raise _damaged(f"{size} bytes are no size that it can have")
    if codec == RAW:
        data = stored
    elif codec == ZSTD:
        data = _decompressed(stored, size)
    elif codec in _WIDTHS:
        data = _unshuffled(stored, _WIDTHS[codec], size)
    else:
        raise _damaged(f"this version of Sexton knows no codec {codec}")
    if len(data) != size:
        raise _damaged(f"its {size} bytes are stored as {len(data)}")
    return data


def _entropy(plane: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> float:
    """Bits that a byte takes, each by itself."""
    parts = np.bincount(plane) / max(1, len(plane))
    return float(-np.sum(parts * np.log2(parts, where=parts > 0, out=np.zeros_like(parts))))


def _encoded(data: bytes, width: int) -> bytes:
    if width == 0:
        return _zstd.compress(data)
    shuffled: bytes = blosc.compress(data, b"zstd", _LEVEL, blosc.SHUFFLE, _BLOCK, width)
    return shuffled


def _decompressed(stored: bytes, size: int) -> bytes:
    try:
        announced = zstandard.frame_content_size(stored)
        if announced != size:  # before anything is allocated
            raise _damaged(f"its {size} bytes are stored as {announced}")
        return _zstd.decompress(stored, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _damaged(str(error)) from None


def _unshuffled(stored: bytes, width: int, size: int) -> bytes:
    if len(stored) < _BLOSC.size:
        raise _damaged("it is cut off")
    _, _, flags, its_width, its_size, _, its_stored = _BLOSC.unpack_from(stored)
    if (flags & ~_UNSPLIT, its_width, its_size, its_stored) != (_SHUFFLED, width, size, len(stored)):
        raise _damaged("its head says another form or size than its place in the store")
    try:
        data: bytes = blosc.decompress(stored)
    except RuntimeError as error:
        raise _damaged(str(error)) from None
    return data


def _damaged(reason: str) -> errors.IntegrityError:
    return errors.IntegrityError(what="A chunk", reason=reason)
