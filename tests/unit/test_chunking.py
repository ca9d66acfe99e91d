"""Whatever a file says about itself, its pieces are the file; tensors are found where they are; memory is bounded."""

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from sexton import errors
from sexton.blobs import chunking, pickles, tensors
from sexton.blobs.chunking import Piece, Rules, split
from sexton.model.artifacts import CHUNK_BYTES
from tests.golden import chunks

FLOATS = np.random.default_rng(7).normal(0, 0.02, 100_000).astype("<f4")
RAW = FLOATS.tobytes()
USUAL = Rules()


def _pieces(data: bytes, rules: Rules = USUAL) -> list[Piece]:
    """The pieces of a file, which together must be the file."""
    pieces = list(split(io.BytesIO(data), len(data), rules))
    assert b"".join(piece.data for piece in pieces) == data
    assert all(0 < len(piece.data) <= CHUNK_BYTES for piece in pieces)
    return pieces


def _kinds(data: bytes, rules: Rules = USUAL) -> list[tuple[str, int, int]]:
    return [(piece.kind, piece.width, len(piece.data)) for piece in _pieces(data, rules) if piece.width]


def _safetensors(header: object, data: bytes = RAW) -> bytes:
    head = header if isinstance(header, bytes) else msgspec.json.encode(header)
    return struct.pack("<Q", len(head)) + head + data


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _edited(data: bytes, mark: bytes, offset: int, code: str, value: int) -> bytes:
    """With a number changed, so many bytes after the first mark."""
    edited = bytearray(data)
    struct.pack_into(code, edited, data.index(mark) + offset, value)
    return bytes(edited)


def test_an_empty_file_has_no_pieces() -> None:
    assert _pieces(b"") == []


@pytest.mark.parametrize("size", [1, chunking.ATOM - 1, chunking.ATOM, chunking.WHOLE - 1])
def test_a_small_file_is_one_piece(size: int) -> None:
    assert len(_pieces(chunks.noise(size + 4)[:size])) == 1


@pytest.mark.parametrize("magic", [b"\x89PNG", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\0\0\0\x18ftypmp42"])
def test_what_is_compressed_already_is_cut_evenly(magic: bytes) -> None:
    sizes = [len(piece.data) for piece in _pieces(magic + chunks.noise(1 << 20) * 5)]
    assert sizes == [CHUNK_BYTES, (1 << 20) + len(magic)]


def test_a_large_tensor_is_cut_into_pieces_that_start_with_it() -> None:
    data = save({"a": np.tile(FLOATS, 30), "b": FLOATS})
    assert _kinds(data) == [("weights", 4, CHUNK_BYTES)] * 2 + [
        ("weights", 4, 12_000_000 - 2 * CHUNK_BYTES),
        ("weights", 4, 400_000),
    ]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "i8", "u4", "c8"])
def test_the_width_of_a_tensor_is_its_number_s(dtype: str) -> None:
    array, width = FLOATS.astype(dtype), 4 if dtype == "c8" else int(dtype[1])
    assert _kinds(save({"x": array})) == [("weights", width, array.nbytes)]
    for write in (np.save, np.savez):
        file = io.BytesIO()
        write(file, array)
        assert _kinds(file.getvalue()) == [("other", width, array.nbytes)]


def test_arrays_of_bytes_objects_or_in_a_compressed_archive_have_no_width() -> None:
    objects, compressed = io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([b"x" * 100, 1] * 2000, object), allow_pickle=True)
    np.savez_compressed(compressed, x=FLOATS)
    for data in (objects.getvalue() * 8, compressed.getvalue(), save({"x": np.tile(FLOATS, 2).view("u1")})):
        assert _kinds(data) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    {
        "model.layers.0.weight": "weights",
        "optimizer.state.0.exp_avg": "optimizer",
        "optimizer_state_dict.state.0.exp_avg_sq": "optimizer",
        "exp_avg.layers.0.weight": "optimizer",
        "layers.0.momentum_buffer": "optimizer",
        "module.optimizer.state.3.max_exp_avg_sq": "optimizer",
        "model.optimizer_head.weight": "weights",
        "model.state.0.weight": "weights",
        "ema.shadow.0": "weights",
        "teacher.layers.0": "weights",
    }.items(),
)
def test_the_class_of_a_tensor_is_told_from_its_name(name: str, kind: str) -> None:
    assert _kinds(save({name: FLOATS})) == [(kind, 4, FLOATS.nbytes)]


def test_the_user_s_patterns_are_added_to_the_usual_ones() -> None:
    rules = Rules(optimizer=("ema.*", "*.slow?"))
    names = {"a.slow1": "optimizer", "ema.x": "optimizer", "exp_avg": "optimizer", "x.ema.y": "weights"}
    for name, kind in names.items():
        assert _kinds(save({name: FLOATS}), rules)[0][0] == kind


def test_a_tensor_of_unknown_type_is_sorted_as_makes_it_smallest() -> None:
    data = _zip({"a/data.pkl": b"not a pickle", "a/data/0": RAW, "a/data/1": FLOATS.astype("f8").tobytes()})
    assert [(kind, size) for kind, width, size in _kinds(data) if width == 4] == [("weights", len(RAW))]
    assert [size for _, width, size in _kinds(data) if width == 8] == [2 * len(RAW)]


ENTRY = {"dtype": "F32", "shape": [100_000], "data_offsets": [0, 400_000]}
TORCH = _zip({"a/data.pkl": b"\x80\x02N.", "a/data/0": RAW, "a/data/1": RAW[::-1], "a/version": b"3"})


def _npy(header: bytes, version: int = 1) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + RAW


@pytest.mark.parametrize(
    "data",
    {
        "header longer than the file": struct.pack("<Q", 1 << 62) + b"{" + RAW,
        "header of 2 GiB": struct.pack("<Q", 1 << 31) + b"{" + RAW,
        "empty header": struct.pack("<Q", 0) + b"{" + RAW,
        "no JSON": _safetensors(b"{]"),
        "no UTF-8": _safetensors(b'{"\xff": 1}'),
        "a list": _safetensors([1]),
        "no entries": _safetensors({"a": 1}),
        "deep": _safetensors(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        "overlapping": _safetensors({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4096, 8192]}}),
        "twice": _safetensors({"a": ENTRY, "b": ENTRY}),
        "beyond": _safetensors({"a": {**ENTRY, "data_offsets": [0, 400_001]}}),
        "far beyond": _safetensors({"a": {**ENTRY, "data_offsets": [1 << 62, 1 << 63]}}),
        "backwards": _safetensors({"a": {**ENTRY, "data_offsets": [400_000, 0]}}),
        "before the file": _safetensors({"a": {**ENTRY, "data_offsets": [-8192, 400_000]}}),
        "half an offset": _safetensors({"a": {**ENTRY, "data_offsets": [0, 4000.5]}}),
        "an offset too many": _safetensors({"a": {**ENTRY, "data_offsets": [0, 1, 2]}}),
        "zip without an end": TORCH[:-22],
        "zip without a table": TORCH[:-60],
        "zip cut in the middle": TORCH[: len(TORCH) // 2],
        "zip with a comment that is cut": TORCH[:-2] + b"\xff\xff",
        "member beyond the end": _edited(TORCH, b"PK\1\2", 42, "<I", 0xFFFF_FFFE),
        "member that is no member": _edited(TORCH, b"PK\1\2", 42, "<I", 7),
        "members that overlap": _edited(TORCH, b"PK\1\2", 24, "<I", 500_000),
        "member longer than the file": TORCH.replace(struct.pack("<II", 400_000, 400_000), b"\xfe" * 8),
        "local head that lies": _edited(TORCH, b"PK\3\4", 28, "<H", 0xFFFF),
        "table beyond the end": _edited(TORCH, b"PK\5\6", 16, "<I", 0xFFFF_FFFE),
        "table of 4 GiB": _edited(TORCH, b"PK\5\6", 12, "<I", 0xFFFF_FFFE),
        "zip64 without its parts": _edited(TORCH, b"PK\1\2", 20, "<I", 0xFFFF_FFFF),
        "another compression": _edited(TORCH, b"PK\1\2", 10, "<H", 99),
        "array's head longer than it": b"\x93NUMPY\2\0\xff\xff\xff\xff" + RAW,
        "array without a head": _npy(b""),
        "array of unknown type": _npy(b"{'descr': '<Z9', }"),
        "array of huge numbers": _npy(b"{'descr': '<f99', }", 2),
        "member that is no array": _zip({"a.npy": RAW, "b.npy": b"\x93NUMPY\1\0\xff\xff" + RAW[:9000]}),
    }.values(),
)
def test_a_head_that_lies_is_not_believed(data: bytes) -> None:
    for longer in (data, data + RAW):
        _pieces(longer)


def test_tensors_that_overlap_are_not_told() -> None:
    data = _safetensors({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4096, 8192]}})
    assert _kinds(_safetensors({"a": ENTRY})) != []
    assert _kinds(data) == []


@pytest.mark.parametrize(
    "pickle",
    {
        "nothing": b"",
        "no end": b"\x80\x02N",
        "an empty stack": b"\x80\x020.",
        "no mark": b"\x80\x02u.",
        "a key without a value": b"\x80\x02}(X\1\0\0\0au.",
        "an unknown memo": b"\x80\x02h\7.",
        "a negative memo": b"g-1\n.",
        "itself in itself": b"\x80\x02]q\0h\0a.",
        "a huge number as key": b"\x80\x02}\x8b\xff\xff\x01\0" + b"\x7f" * 0x1FFFF + b"Ns.",
        "a storage of nothing": b"\x80\x02)Q.",
        "a storage of numbers": b"\x80\x02(K\1K\2K\3tQ.",
        "a storage without a type": b"\x80\x02(X\7\0\0\0storageNX\1\0\0\x000tQ.",
        "deep": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
        "many names of one": b"\x80\x02]q\0" + b"]q\1(h\0h\0eq\0" * 5_000 + b".",
        "a call": b"cos\nsystem\n(S'false'\ntR.",
    }.values(),
)
def test_a_pickle_is_read_or_refused_and_never_more(pickle: bytes) -> None:
    _pieces(_zip({"a/data.pkl": pickle, "a/data/0": RAW}))
    with suppress(ValueError):
        assert list(pickles.storages(pickle)) in ([], [("0", "", "")])


def test_a_pickle_longer_than_any_is_not_read() -> None:
    with pytest.raises(ValueError, match="too long"):
        list(pickles.storages(b"\x80\x02" + b"]" * (pickles.OPCODES + 1) + b"."))


def _sparse(folder: Path, head: bytes) -> Path:
    path = folder / "sparse"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(192 << 20)
    return path


def _entries(count: int) -> bytes:
    table = ",".join(f'"{n}":{{"dtype":"F32","data_offsets":[{4096 * n},{4096 * n + 4096}]}}' for n in range(count))
    return _safetensors(f"{{{table}}}".encode(), b"")


@pytest.mark.parametrize(
    "file",
    {
        "zeros": lambda folder: _sparse(folder, b""),
        "tensor": lambda folder: _sparse(folder, _safetensors({"a": {**ENTRY, "data_offsets": [0, 180 << 20]}}, b"")),
        "tensors": lambda folder: _sparse(folder, _entries(30_000)),
        "gzip": lambda folder: _sparse(folder, b"\x1f\x8b\x08\0"),
        "header": lambda folder: _sparse(folder, struct.pack("<Q", 100 << 20) + b"{"),
        "array": lambda folder: _sparse(folder, b"\x93NUMPY\2\0" + struct.pack("<I", 100 << 20)),
        "members": lambda folder: _written(folder, _table(80_000)),
        "pickle": lambda folder: _written(
            folder, _zip({"a/data.pkl": b"\x80\x02" + b"]" * pickles.OPCODES + b".", "a/data/0": RAW})
        ),
    }.values(),
)
def test_memory_is_bounded_whatever_the_file(file: Callable[[Path], Path], tmp_path: Path) -> None:
    path = file(tmp_path)
    size, seen = path.stat().st_size, 0
    with path.open("rb") as opened:
        tracemalloc.start()
        for piece in split(opened, size):
            seen += len(piece.data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seen == size
    assert peak < 32 << 20


def _table(count: int) -> bytes:
    """A zip's table of contents, of so many members."""
    member = struct.pack("<4s6H3I5H2I", b"PK\1\2", *(0,) * 9, 1, *(0,) * 6) + b"a"
    table = member * count
    return b"PK\3\4" + table + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, len(table), 4, 0)


def _written(folder: Path, data: bytes) -> Path:
    (folder / "file").write_bytes(data)
    return folder / "file"


@pytest.mark.parametrize("data", [b"x" * 1000, bytes(1 << 20), save({"a": np.tile(FLOATS, 30)})], ids=len)
def test_a_file_that_got_shorter_is_an_error_and_one_that_grew_is_read_as_far_as_it_was(data: bytes) -> None:
    with pytest.raises(errors.IntegrityError, match="changed while it was read"):
        list(split(io.BytesIO(data[:-10]), len(data)))
    assert b"".join(piece.data for piece in split(io.BytesIO(data + b"more"), len(data))) == data


class _Counting(io.BytesIO):
    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data

    def readinto(self, into: object, /) -> int:
        count = super().readinto(into)  # type: ignore[arg-type]  # typed for buffers
        self.bytes_read += count
        return count


@pytest.mark.parametrize("name", chunks.CHECKPOINTS)
def test_a_file_is_read_hardly_more_than_once(name: str) -> None:
    data = chunks.checkpoint(name)
    file = _Counting(data)
    list(split(file, len(data)))
    assert file.bytes_read < 1.2 * len(data) + tensors.SAMPLE_BYTES // 4


def test_the_storages_of_a_real_pickle_have_their_names() -> None:
    with zipfile.ZipFile(io.BytesIO(chunks.checkpoint("best.pt"))) as archive:
        found = {path: kind for _, kind, path in pickles.storages(archive.read("best/data.pkl"))}
    assert found["model.words.weight"] == "FloatStorage"
    assert found["model.norm.num_batches_tracked"] == "LongStorage"
    assert found["optimizer.state.0.exp_avg_sq"] == "FloatStorage"
    assert len(found) == 8 + 3 * 5
