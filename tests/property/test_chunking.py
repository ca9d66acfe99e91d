"""Whatever bytes a file has, its pieces are the file, and what a pack was given comes out of it."""

import io

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sexton.blobs import packs
from sexton.blobs.chunking import split
from sexton.blobs.hashing import hash_of_bytes
from sexton.model.artifacts import CHUNK_BYTES
from tests.golden import chunks

FILES = [chunks.checkpoint(name) for name in chunks.CHECKPOINTS]
NOISE = chunks.noise(1 << 20)

patches = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=12)), max_size=6)


def _patched(data: bytes, changes: list[tuple[float, bytes]], heads: bool) -> bytes:
    """With bytes changed: near its ends, where formats keep what they say about themselves, or anywhere."""
    edited = bytearray(data)
    for where, change in changes:
        near = int(where * 4096)
        at = (near if near < 2048 else len(data) - near + 2048) if heads else int(where * len(data))
        edited[at : at + len(change)] = change
    return bytes(edited)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.sampled_from(FILES), patches, st.booleans(), st.floats(0.6, 1), st.binary(max_size=50))
def test_a_checkpoint_with_any_damage_is_the_sum_of_its_pieces(
    data: bytes, changes: list[tuple[float, bytes]], heads: bool, part: float, tail: bytes
) -> None:
    damaged = _patched(data, changes, heads)
    damaged = damaged[: int(part * len(damaged))] + tail
    pieces = [piece.data for piece in split(io.BytesIO(damaged), len(damaged))]
    assert b"".join(pieces) == damaged
    assert all(0 < len(piece) <= CHUNK_BYTES for piece in pieces)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 20), st.integers(0, 1 << 19), st.binary(min_size=1, max_size=100))
def test_an_insertion_changes_few_pieces(cut: int, start: int, inserted: bytes) -> None:
    before = NOISE[start:]
    at = min(cut, len(before))
    after = before[:at] + inserted + before[at:]
    old, new = ({hash_of_bytes(p.data) for p in split(io.BytesIO(data), len(data))} for data in (before, after))
    assert len(new - old) <= 4


chunk = st.tuples(
    st.binary(min_size=1, max_size=300), st.integers(1, 2000), st.booleans(), st.sampled_from((0, 2, 4, 8))
)


@settings(max_examples=60, deadline=None)
@given(st.lists(chunk, max_size=12))
def test_what_is_packed_comes_out(given_chunks: list[tuple[bytes, int, bool, int]]) -> None:
    file = io.BytesIO()
    pack = packs.PackWriter(file)
    data = {}
    for pattern, times, noisy, width in given_chunks:
        one = pattern * times if not noisy else pattern + NOISE[: times * 50]
        key = hash_of_bytes(one)
        if key not in data:
            data[key] = one
            pack.add(key, one, width)
    entries, whole = pack.finish()
    stored = file.getvalue()
    assert hash_of_bytes(stored) == whole
    assert packs.read_footer(lambda start, end: stored[start:end], len(stored)) == entries
    found = {e.hash: packs.unpack(e, stored[e.offset : e.offset + e.stored]) for e in entries}
    assert found == data
