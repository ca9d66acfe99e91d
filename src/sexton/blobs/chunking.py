"""How a file becomes chunks: along its tensors where its format is known, else along its content, so that what two
files have in common they share, wherever it lies in them.

The pieces in their order are the file, byte for byte, whatever is in it. Equal bytes are cut equally by every version
of Sexton (golden vectors keep watch); a cut elsewhere costs sharing, never bytes. Memory is bounded, by some tens of
megabytes for any file. See docs/spec/packs.md and, for why these sizes, docs/decisions/chunks.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from typing import BinaryIO, NamedTuple

from pyfastcdc import FastCDC

from sexton import errors
from sexton.blobs import tensors
from sexton.model.artifacts import CHUNK_BYTES, PackClass

ATOM = 64 << 10
"""A smaller file is one chunk, whatever it is."""

WHOLE = 256 << 10
"""What is no tensor is one chunk up to this size."""

OPTIMIZER = (
    "optimizer.*", "optimizers.*", "optimizer_state*", "optim.*", "optim_state*", "opt_state*",
    "*.optimizer.state.*", "*.optimizer_state*",
    "*exp_avg*", "*momentum_buffer*", "*square_avg*", "*acc_delta*",
)  # fmt: skip
"""What the state of an optimizer is called in the checkpoints of torch and what is built on it. As narrow as can be:
what counts as an optimizer's may be let go, and a part of a model must not."""

_cut = FastCDC(64 << 10, min_size=16 << 10, max_size=256 << 10, normalized_chunking=1, seed=0)  # frozen
_COMPRESSED = re.compile(
    rb"\x89PNG|\xff\xd8\xff|GIF8|....ftyp|RIFF....WEBP|\x1a\x45\xdf\xa3|OggS|fLaC|ID3"  # images, videos, sounds
    rb"|\x1f\x8b\x08|\x28\xb5\x2f\xfd|\xfd7zXZ\0|BZh|7z\xbc\xaf\x27\x1c|\x04\x22\x4d\x18|PK\x03\x04....\x08\0",
    re.DOTALL,
)


class Piece(NamedTuple):
    """Bytes of a file that become one chunk."""

    data: bytes
    width: int
    """Bytes of one of its numbers, where it is of a tensor; else 0."""
    kind: PackClass


@dataclass(frozen=True)
class Rules:
    """Which tensors are an optimizer's: those whose name, `.` between its parts, fits one of the usual patterns or one
    of these, with `*`, `?` and `[...]` as in file names."""

    optimizer: tuple[str, ...] = ()

    def kind_of(self, tensor: tensors.Tensor) -> PackClass:
        """The class of a tensor."""
        return "optimizer" if self._optimizer.match(tensor.name) else tensor.kind

    @cached_property
    def _optimizer(self) -> re.Pattern[str]:
        return re.compile("|".join(map(translate, OPTIMIZER + self.optimizer)))


def split(file: BinaryIO, size: int, rules: Rules = Rules()) -> Iterator[Piece]:
    """The first `size` bytes of a seekable file, which are all it has, as pieces of at most `CHUNK_BYTES`, none empty.

    Raises `IntegrityError` where the file turns out shorter, `OSError`.
    """
    found = tensors.find(file, size) if size >= ATOM else []
    file.seek(0)
    if not found and size >= WHOLE and _COMPRESSED.match(file.read(16)):
        file.seek(0)
        yield from _even(file, size, 0, "other")
        return
    file.seek(0)
    at = 0
    for tensor in found:
        yield from _loose(file, tensor.start - at)
        yield from _even(file, tensor.end - tensor.start, tensor.width, rules.kind_of(tensor))
        at = tensor.end
    yield from _loose(file, size - at)


def _even(file: BinaryIO, size: int, width: int, kind: PackClass) -> Iterator[Piece]:
    for start in range(0, size, CHUNK_BYTES):
        yield Piece(_read(file, min(CHUNK_BYTES, size - start)), width, kind)


def _loose(file: BinaryIO, size: int) -> Iterator[Piece]:
    if size < WHOLE:
        yield from _even(file, size, 0, "other")
        return
    part = _Part(file, size)
    for chunk in _cut.cut_stream(part):
        yield Piece(bytes(chunk.data), 0, "other")


class _Part:
    """The next `size` bytes of a file, as the chunker reads them."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def readinto(self, into: memoryview) -> int:
        wanted = min(len(into), self._left)
        got = self._file.readinto(into[:wanted])  # type: ignore[attr-defined]  # typing.IO lacks it
        if wanted and not got:
            raise _changed(self._left)
        self._left -= got
        return int(got)


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise _changed(size - len(data))
    return data


def _changed(missing: int) -> errors.IntegrityError:
    return errors.IntegrityError(what="A file", reason=f"it was changed while it was read: {missing} bytes are missing")
