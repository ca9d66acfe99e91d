"""What was encoded decodes to the same bytes; what was not is refused before it takes memory."""

import struct
from contextlib import suppress

import numpy as np
import pytest
import zstandard

from sexton import errors
from sexton.blobs import codec
from sexton.model.artifacts import CHUNK_BYTES

NUMBERS = np.random.default_rng(7).normal(0, 0.02, 1 << 18)
KINDS = {2: "<f2", 4: "<f4", 8: "<f8"}


@pytest.mark.parametrize("width", [0, 2, 4, 8])
@pytest.mark.parametrize("size", [1, 3, 15, 16, 17, 127, 128, 129, 4096, 65_537, CHUNK_BYTES])
@pytest.mark.parametrize("fill", ["zeros", "noise", "floats"])
def test_bytes_of_any_size_come_back(size: int, width: int, fill: str) -> None:
    floats = NUMBERS.astype(KINDS.get(width, "<f4")).tobytes()
    whole = {"zeros": b"\0", "noise": np.random.default_rng(size).bytes(size), "floats": floats}[fill]
    data = (whole * (size // len(whole) + 1))[:size]
    kind, stored = codec.encode(data, width)
    assert len(stored) <= size
    assert codec.decode(kind, stored, size) == data


@pytest.mark.parametrize(("width", "most"), [(2, 0.9), (4, 0.86), (8, 0.95)])
def test_floats_get_smaller_by_sorting_their_bytes(width: int, most: float) -> None:
    data = NUMBERS.astype(KINDS[width]).tobytes()
    assert len(codec.encode(data, width)[1]) < most * len(data)
    assert len(codec.encode(data, width)[1]) < len(codec.encode(data, 0)[1])
    assert codec.width_of(data) == width


def test_what_gains_less_than_3_percent_is_stored_as_it_is() -> None:
    noise = np.random.default_rng(1).bytes(10_000)
    assert codec.encode(noise, 0) == (codec.RAW, noise)
    assert codec.encode(noise, 4) == (codec.RAW, noise)
    assert codec.encode(noise + bytes(250), 0)[0] == codec.RAW
    assert codec.encode(noise + bytes(500), 0)[0] == codec.ZSTD
    assert codec.width_of(noise) == 0


TEXT = b"epoch,loss\n" * 1000
STORED = {kind: codec.encode(TEXT, width)[1] for width, kind in codec.CODECS.items()}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("size", [0, len(TEXT) - 1, len(TEXT) + 1, CHUNK_BYTES + 1, -1])
def test_another_size_than_the_stored_bytes_announce_is_refused(kind: int, size: int) -> None:
    with pytest.raises(errors.IntegrityError, match=r"bytes are|another form or size"):
        codec.decode(kind, STORED[kind], size)


@pytest.mark.parametrize("kind", STORED)
def test_what_is_cut_off_or_longer_or_of_another_codec_is_refused(kind: int) -> None:
    stored = STORED[kind]
    for wrong in (*(stored[:end] for end in (0, 1, 8, 15, 16, 20, len(stored) - 1)), stored + b"\0", stored * 2):
        with pytest.raises(errors.IntegrityError):
            codec.decode(kind, wrong, len(TEXT))
    for other in {*STORED, codec.RAW, 5, 255, -1} - {kind}:
        with pytest.raises(errors.IntegrityError):
            codec.decode(other, stored, len(TEXT))


@pytest.mark.parametrize("kind", STORED)
def test_any_flipped_bit_is_refused_or_harmless_or_for_the_hash_to_find(kind: int) -> None:
    for place in range(len(STORED[kind]) * 8):
        forged = bytearray(STORED[kind])
        forged[place >> 3] ^= 1 << (place & 7)
        with suppress(errors.IntegrityError):
            assert len(codec.decode(kind, bytes(forged), len(TEXT))) == len(TEXT)


def test_a_bomb_takes_no_memory() -> None:
    bomb = zstandard.compress(bytes(1 << 30), level=1)
    with pytest.raises(errors.IntegrityError, match="stored as 1073741824"):
        codec.decode(codec.ZSTD, bomb, CHUNK_BYTES)
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(CHUNK_BYTES))
    with pytest.raises(errors.IntegrityError, match="stored as -1"):
        codec.decode(codec.ZSTD, silent, CHUNK_BYTES)
    head = struct.pack("<BBBBIII", 2, 1, 0x91, 4, 1 << 30, 1 << 20, 100)
    with pytest.raises(errors.IntegrityError, match="another form or size"):
        codec.decode(3, head + bytes(84), CHUNK_BYTES)
