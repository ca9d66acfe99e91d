"""What a pack says is in it is there and is whole, or the pack is refused with what is wrong about it."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard

from sexton import errors
from sexton.blobs import packs
from sexton.blobs.hashing import digest, hash_of_bytes, hasher
from sexton.model.artifacts import PACK_BYTES, Packed, text_of

DATA = {hash_of_bytes(data): data for data in (b"x", b"some text " * 500, bytes(100_000), bytes(range(256)) * 40)}


def _pack() -> tuple[bytes, list[Packed], bytes]:
    file = io.BytesIO()
    pack = packs.PackWriter(file)
    for number, (key, data) in enumerate(DATA.items()):
        pack.add(key, data, (0, 2, 4, 8)[number])
    entries, whole = pack.finish()
    assert pack.size == len(file.getvalue())
    return file.getvalue(), entries, whole


WHOLE, ENTRIES, HASH = _pack()


def _footer(entries: list[Packed], end: int = 0) -> bytes:
    """The pack with another footer, that its check agrees with."""
    footer = zstandard.compress(msgspec.msgpack.encode(entries))
    chunks = WHOLE[: end or ENTRIES[-1].offset + ENTRIES[-1].stored]
    return chunks + footer + struct.pack("<I8s8s", len(footer), hash_of_bytes(footer)[:8], packs.END)


def test_every_chunk_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(WHOLE)
    assert packs.verify(path) == ENTRIES
    assert text_of(HASH) == digest(path)
    found = [packs.unpack(entry, WHOLE[entry.offset : entry.offset + entry.stored]) for entry in ENTRIES]
    assert found == list(DATA.values())


def test_only_the_end_of_a_pack_is_read_for_its_footer() -> None:
    file = io.BytesIO()
    pack = packs.PackWriter(file)
    for number in range(30_000):
        data = hash_of_bytes(number.to_bytes(4))
        pack.add(hash_of_bytes(data), data, 0)
    entries, _ = pack.finish()
    whole, reads = file.getvalue(), []

    def read(start: int, end: int) -> bytes:
        reads.append((start, end))
        return whole[start:end]

    assert packs.read_footer(read, len(whole)) == entries
    assert len(reads) == 2
    assert min(start for start, _ in reads) >= entries[-1].offset


def test_an_empty_pack_is_one(tmp_path: Path) -> None:
    path = tmp_path / "none.pack"
    with path.open("wb") as file:
        assert packs.PackWriter(file).finish()[0] == []
    assert packs.verify(path) == []


@pytest.mark.parametrize("size", [*range(30), *range(30, len(WHOLE), 97), len(WHOLE) - 1])
def test_a_pack_that_was_cut_off_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "torn.pack"
    path.write_bytes(WHOLE[:size])
    with pytest.raises(errors.IntegrityError, match=r"The pack torn\.pack is damaged: "):
        packs.verify(path)


def test_a_flipped_bit_is_found_where_it_matters(tmp_path: Path) -> None:
    path, missed = tmp_path / "flipped.pack", []
    for place in range(0, len(WHOLE) * 8, 7):
        forged = bytearray(WHOLE)
        forged[place >> 3] ^= 1 << (place & 7)
        path.write_bytes(forged)
        try:
            assert packs.verify(path) == ENTRIES
            missed.append(place)
        except errors.IntegrityError:
            pass
    assert len(missed) <= 6, "bits that no reader of the codecs' own formats looks at"


def _other(entry: int, **fields: object) -> list[Packed]:
    changed = msgspec.structs.replace(ENTRIES[entry], **fields)
    return [*ENTRIES[:entry], changed, *ENTRIES[entry + 1 :]]


@pytest.mark.parametrize(
    ("forged", "reason"),
    {
        "overlap": (lambda: _footer(_other(2, offset=ENTRIES[1].offset)), "where .* is due"),
        "gap": (lambda: _footer([*ENTRIES[:1], *ENTRIES[2:]]), "where .* is due"),
        "outside": (lambda: _footer(_other(3, offset=1 << 31)), "where .* is due"),
        "too long": (lambda: _footer(_other(3, stored=ENTRIES[3].size)), "the chunks in its footer end at"),
        "too few": (lambda: _footer(ENTRIES[:-1]), "the chunks in its footer end at"),
        "huge": (lambda: _footer(_other(3, size=1 << 40)), "no size that a chunk can have"),
        "negative": (lambda: _footer(_other(3, size=-1)), "no size that a chunk can have"),
        "no hash": (lambda: _footer(_other(0, hash=b"short")), "no hash"),
        "twice": (lambda: _footer([*ENTRIES, *_again()], len(WHOLE)), "twice"),
        "another codec": (lambda: _footer(_other(1, codec=9)), "knows no codec 9"),
        "another hash": (lambda: _footer(_other(1, hash=hash_of_bytes(b"lie"))), "are others"),
        "another size": (lambda: _footer(_other(1, size=ENTRIES[1].size + 1)), "can not be decoded"),
        "no list": (lambda: _raw(zstandard.compress(b"\xc0")), "can not be read"),
        "no msgpack": (lambda: _raw(zstandard.compress(b"\xc1")), "can not be read"),
        "many": (lambda: _raw(zstandard.compress(b"\xdd\xff\xff\xff\xff")), "can not be read"),
        "no zstd": (lambda: _raw(b"footer"), "can not be read"),
        "a bomb": (lambda: _raw(zstandard.compress(bytes(1 << 28))), "no size that one can have"),
        "longer than itself": (lambda: WHOLE[:-20] + b"\xff\xff\xff\x7f" + WHOLE[-16:], "longer than itself"),
        "another format": (lambda: WHOLE[:7] + b"\2" + WHOLE[8:], "does not begin"),
        "another end": (lambda: WHOLE[:-1] + b"\2", "does not end"),
        "another check": (lambda: WHOLE[:-9] + b"?" + WHOLE[-8:], "not what was written"),
    }.values(),
)
def test_a_forged_pack_is_refused_with_what_is_wrong(forged: Callable[[], bytes], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "forged.pack"
    path.write_bytes(forged())
    with pytest.raises(errors.IntegrityError, match=reason):
        packs.verify(path)


def _raw(footer: bytes) -> bytes:
    end = ENTRIES[-1].offset + ENTRIES[-1].stored
    return WHOLE[:end] + footer + struct.pack("<I8s8s", len(footer), hash_of_bytes(footer)[:8], packs.END)


def _again() -> list[Packed]:
    """A chunk that is in the pack already, made of the bytes of the first footer."""
    end = ENTRIES[-1].offset + ENTRIES[-1].stored
    return [Packed(ENTRIES[0].hash, end, len(WHOLE) - end, len(WHOLE) - end, 0)]


def test_a_pack_larger_than_any_is_refused_before_it_is_read() -> None:
    def read(start: int, end: int) -> bytes:
        raise AssertionError("nothing is to be read")

    with pytest.raises(errors.IntegrityError, match="no size that a pack can have"):
        packs.read_footer(read, PACK_BYTES + 1)


def test_a_pack_has_room_until_it_is_as_large_as_any_can_be(tmp_path: Path) -> None:
    path, size = tmp_path / "full.pack", 1 << 20
    with path.open("wb") as file:
        pack = packs.PackWriter(file)
        while pack.has_room(size):
            data = _noise(len(pack), size)
            pack.add(hash_of_bytes(data), data, 0)
        pack.finish()
    assert PACK_BYTES - 2 * size < path.stat().st_size <= PACK_BYTES


def test_a_pack_of_tiny_chunks_has_room_for_65_536() -> None:
    pack = packs.PackWriter(io.BytesIO())
    while pack.has_room(4):
        data = len(pack).to_bytes(4)
        pack.add(hash_of_bytes(data), data, 0)
    assert len(pack) == packs.PACK_CHUNKS == 1 << 16
    assert pack.size + len(pack) * 52 < PACK_BYTES


def _noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress."""
    noise = hasher()
    noise.update(seed.to_bytes(4))
    return noise.digest(size)
