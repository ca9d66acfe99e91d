"""The journal: cut, edited or read in any pieces, what is whole is read, nothing is invented, and losses show."""

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sexton import errors
from sexton.journal import journal, segment
from sexton.journal.journal import Identity, Writer, segment_path
from sexton.journal.reader import EpochReader, Piece, Position, backlog
from sexton.journal.segment import Frame
from sexton.model import records

RUN = "0123456789ab"
FEW_BYTES = 90  # of a segment, where a test wants many


def _writer(folder: Path) -> Writer:
    troubles: list[str] = []
    writer = Writer(
        folder / RUN,
        lambda _forked: records.Started(experiment="e"),
        troubles.append,
        lambda: Identity(RUN, "w", "file:/nowhere", "file:/nowhere"),
    )
    assert not troubles
    return writer


def _log_all_kinds(writer: Writer, count: int = 12) -> None:
    """Records, rows of several shapes and of every kind, in a fixed order."""
    for number in range(count):
        match number % 6:
            case 0:
                writer.append(records.Note(text="n" * number))
            case 1:
                writer.row({"loss": 0.5 * number, ("acc", '{"split":"val"}'): float("nan")}, number)
            case 2:
                writer.row({"lr": 1e-3}, number / 2)
            case 3:
                writer.row({"loss": float("inf")}, None, 5)
            case 4:
                writer.row({"loss": -0.0, ("acc", '{"split":"val"}'): 1.0}, None)
            case _:
                writer.append(records.Tag(key="k", value="SX"))


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _pieces(folder: Path, limit: int = 1 << 20, at: Position | None = None, epoch: int = 0) -> Iterator[Piece]:
    reader = EpochReader(folder / RUN, epoch, at or Position())
    while (piece := reader.read(limit)) is not None:
        yield piece


def _frames(folder: Path, limit: int = 1 << 20, at: Position | None = None, epoch: int = 0) -> list[Frame]:
    return [frame for piece in _pieces(folder, limit, at, epoch) for frame in piece.frames]


def _content(frames: list[Frame]) -> list[tuple[int, bytes]]:
    """Without where they end, which an edit moves."""
    return [(frame.sequence, frame.payload) for frame in frames]


def _missing(folder: Path) -> int:
    return sum(piece.count - len(piece.frames) for piece in _pieces(folder))


@pytest.fixture(scope="module")
def whole() -> bytes:
    """One segment with every kind of frame."""
    with _folder() as folder:
        writer = _writer(folder)
        _log_all_kinds(writer)
        writer.close()
        return segment_path(folder / RUN, 0, 0).read_bytes()


def _with_segment(folder: Path, data: bytes, epoch: int = 0, number: int = 0) -> None:
    (folder / RUN).mkdir(exist_ok=True)
    segment_path(folder / RUN, epoch, number).write_bytes(data)


# ----------------------------------------------------------------------------------------------------- cut and edited


def test_what_was_written_is_read(tmp_path: Path, whole: bytes) -> None:
    _with_segment(tmp_path, whole)
    frames = _frames(tmp_path)
    assert [frame.sequence for frame in frames] == list(range(len(frames)))
    assert len(frames) == 12 + 3 + 1  # what was logged, the shapes, the beginning
    assert frames[-1].end == len(whole)


def test_a_journal_cut_anywhere_is_a_beginning_of_it(tmp_path: Path, whole: bytes) -> None:
    all_frames = list(segment.scan(whole))
    for cut in range(len(whole)):
        _with_segment(tmp_path, whole[:cut])
        assert _frames(tmp_path) == [frame for frame in all_frames if frame.end <= cut]


def test_any_altered_byte_costs_only_the_frame_it_is_in_and_shows(tmp_path: Path, whole: bytes) -> None:
    all_frames = list(segment.scan(whole))
    begins = [len(segment.MAGIC), *(frame.end for frame in all_frames)]
    for place in range(len(whole)):
        edited = bytearray(whole)
        edited[place] ^= random.Random(place).randrange(1, 256)
        _with_segment(tmp_path, bytes(edited))
        spared = [f for f, begin in zip(all_frames, begins, strict=False) if not begin <= place < f.end]
        assert _frames(tmp_path) == spared
        at_the_end = place >= begins[-2]  # nothing comes after it that could show a gap
        assert _missing(tmp_path) == len(all_frames) - len(spared) - at_the_end


@given(st.data())
@settings(max_examples=150)
def test_whatever_is_removed_or_inserted_the_rest_is_read(whole: bytes, data: st.DataObject) -> None:
    all_frames = list(segment.scan(whole))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 120)))
    copied = data.draw(st.integers(0, len(whole)))
    inserted = data.draw(
        st.binary(max_size=40)
        | st.sampled_from([segment.FRAME, segment.FRAME * 20, segment.MAGIC, b"SX\xff\xff\xff\x03" * 4])
        | st.just(whole[copied : copied + 150])
    )
    begins = [len(segment.MAGIC), *(frame.end for frame in all_frames)]
    pairs = list(zip(all_frames, begins, strict=False))
    spared = [frame for frame, begin in pairs if frame.end <= start or begin >= end]
    with _folder() as folder:
        _with_segment(folder, whole[:start] + inserted + whole[end:])
        found = _content(_frames(folder))
    assert set(found) <= set(_content(all_frames))
    assert [sequence for sequence, _ in found] == sorted({sequence for sequence, _ in found})
    foreseen = whole[copied : copied + 150] == inserted and copied > start
    if not foreseen:  # a copy of what comes later stands for it, and what lies between is passed over
        assert set(_content(spared)) <= set(found)


@given(st.integers(1, 400), st.integers(0, 15))
@settings(max_examples=40)
def test_it_is_read_the_same_in_pieces_of_any_size_from_any_position(whole: bytes, limit: int, after: int) -> None:
    with _folder() as folder:
        _with_segment(folder, whole)
        frames = _frames(folder)
        positions = [piece.after for piece in _pieces(folder, 1)]
        assert _content(_frames(folder, limit)) == _content(frames)
        at = positions[after % len(positions)]
        rest = list(_pieces(folder, limit, at))
        assert [f.payload for p in rest for f in p.frames] == [f.payload for f in frames if f.sequence >= at.sequence]
        for piece in rest:
            for frame in piece.frames:
                if frame.kind & segment.ROW:
                    assert int.from_bytes(frame.payload[1:5], "little") in piece.shapes


def test_a_record_that_holds_a_journal_is_one_record(tmp_path: Path, whole: bytes) -> None:
    """As of a command that printed one: its frames are not ours, wherever a read happens to end."""
    printed = records.Console(stream="stdout", offset=0, data=whole)
    data = segment.frame(0, b"\x01" + records.encode(printed)) + segment.frame(1, b"\x01\x80")
    _with_segment(tmp_path, data)
    for limit in range(1, len(data)):
        frames = _frames(tmp_path, limit)
        assert [frame.sequence for frame in frames] == [0, 1]
        assert records.decode(frames[0].payload[1:]) == printed


def test_a_segment_of_another_version_says_so(tmp_path: Path) -> None:
    _with_segment(tmp_path, b"SXJRNL2\n" + b"frames of a form that is not known here" * 10)
    with pytest.raises(errors.IntegrityError, match="version 2"):
        _frames(tmp_path)


# --------------------------------------------------------------------------------------------------------- segments


def test_segments_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", FEW_BYTES)
    writer = _writer(tmp_path)
    _log_all_kinds(writer, 50)
    writer.close()
    assert len(list(tmp_path.rglob("*.seg"))) > 10
    frames = _frames(tmp_path)
    assert [frame.sequence for frame in frames] == list(range(writer.sequence))
    assert _named_values(tmp_path) == _expected_values(50)


def test_each_segment_can_be_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a segment that was removed, or is damaged throughout, costs nothing but itself."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", FEW_BYTES)
    writer = _writer(tmp_path)
    _log_all_kinds(writer, 50)
    writer.close()
    all_frames = _content(_frames(tmp_path))
    last = len(list(tmp_path.rglob("*.seg"))) - 1
    lost = {number: set(_content(list(segment.scan(segment_path(tmp_path / RUN, 0, number).read_bytes()))))
            for number in (0, 3, 4, last)}  # fmt: skip
    for number in lost:
        segment_path(tmp_path / RUN, 0, number).unlink()
    gone = set().union(*lost.values())
    assert _content(_frames(tmp_path)) == [content for content in all_frames if content not in gone]
    assert _missing(tmp_path) == len(gone) - len(lost[last])


def test_more_shapes_than_a_segment_takes(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    for number in range(2 * journal.MAX_SHAPES + 5):
        writer.row({f"metric {number}": float(number)}, number)
    writer.row({"metric 0": -1.0}, 0)
    writer.close()
    assert len(list(tmp_path.rglob("*.seg"))) == 3
    assert _named_values(tmp_path) == [
        *([(f"metric {n}", float(n))] for n in range(2 * journal.MAX_SHAPES + 5)),
        [("metric 0", -1.0)],
    ]


def test_a_row_of_very_many_metrics(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    assert writer.row({f"m{number}": 1.0 for number in range(200_000)}, 0)
    writer.append(records.Note(text="after"))
    writer.close()
    (row,) = _named_values(tmp_path)
    assert len(row) == 200_000
    assert row[-1] == ("m199999", 1.0)


class _Overtaken(EpochReader):
    """A reader that a writer overtakes, between the look at a segment and the look for the next."""

    def __init__(self, folder: Path, epoch: int, position: Position, writer: Writer) -> None:
        super().__init__(folder, epoch, position)
        self.writer = writer

    def _bytes(self, limit: int) -> tuple[bytes, bytes]:
        read = super()._bytes(limit)
        if not read[1]:
            for number in range(3):
                self.writer.append(records.Note(text=f"{number}" * FEW_BYTES))
        return read


def test_what_is_written_while_reading_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", FEW_BYTES)
    writer = _writer(tmp_path)
    reader = _Overtaken(tmp_path / RUN, 0, Position(), writer)
    found: list[int] = []
    while len(found) < 20:
        piece = reader.read()
        found += [frame.sequence for frame in piece.frames] if piece else []
    assert found == list(range(len(found)))
    writer.close()


def test_what_waits_is_counted_until_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", FEW_BYTES)
    writer = _writer(tmp_path)
    _log_all_kinds(writer, 20)
    reader = EpochReader(tmp_path / RUN, 0, Position())
    (waiting,) = backlog(tmp_path)
    assert (waiting.run, waiting.bytes) == (RUN, reader.pending)
    while reader.read() is not None:
        pass
    assert reader.pending == 0
    reader.drop_read()
    assert [path.name for path in tmp_path.rglob("*.seg")] == [f"000000.{reader.position.segment:06}.seg"]
    writer.close()


def test_a_new_epoch_begins_before_the_numbers_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = _writer(tmp_path)
    monkeypatch.setattr(writer, "sequence", 1 << 31)
    writer.row({"loss": 1.0}, 1)
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 10)
    writer.row({"loss": 2.0}, 2)
    writer.row({"loss": 3.0}, 3)
    writer.close()
    assert [frame.sequence for frame in _frames(tmp_path)] == [0, 1 << 31, (1 << 31) + 1]
    assert [frame.sequence for frame in _frames(tmp_path, epoch=1)] == list(range(1 + 4))
    assert isinstance(records.decode(_frames(tmp_path, epoch=1)[0].payload[1:]), records.Started)


# ------------------------------------------------------------------------------------------------------ what is kept


def _rows(folder: Path) -> Iterator[tuple[Piece, Frame]]:
    for piece in _pieces(folder):
        for frame in piece.frames:
            if frame.kind & segment.ROW:
                yield piece, frame


def _named_values(folder: Path) -> list[list[tuple[segment.Key, float]]]:
    named = []
    for piece, frame in _rows(folder):
        keys = piece.shapes[int.from_bytes(frame.payload[1:5], "little")]
        fields = segment.RowShape(0, len(keys)).struct(frame.kind).unpack(frame.payload)
        named.append(list(zip(keys, fields[-len(keys) :], strict=True)))
    return [[(key, round(value, 6) if value == value else None) for key, value in row] for row in named]  # type: ignore[misc]  # each row has its keys


def _expected_values(count: int) -> list[list[tuple[segment.Key, float | None]]]:
    acc: segment.Key = ("acc", '{"split":"val"}')
    rows: dict[int, list[tuple[segment.Key, float | None]]] = {}
    for number in range(count):
        match number % 6:
            case 1:
                rows[number] = [("loss", 0.5 * number), (acc, None)]
            case 2:
                rows[number] = [("lr", 1e-3)]
            case 3:
                rows[number] = [("loss", float("inf"))]
            case 4:
                rows[number] = [("loss", 0.0), (acc, 1.0)]
    return list(rows.values())


NUMBERS = st.floats() | st.integers(-(2**53), 2**53) | st.booleans()
STEPS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(NUMBERS, STEPS, st.none() | st.integers(-(2**63), 2**63 - 1)), max_size=20))
@settings(max_examples=50)
def test_numbers_steps_and_times_are_exact(rows: list[tuple[float, float | None, int | None]]) -> None:
    with _folder() as folder:
        writer = _writer(folder)
        for value, step, time in rows:
            assert writer.row({"x": value, "y": 1.0}, step, time)
        writer.close()
        found = []
        for _, frame in _rows(folder):
            kind, _, _, step, *more = segment.RowShape(0, 2).struct(frame.kind).unpack(frame.payload)
            time = more.pop(0) if kind & segment.TIMED else None
            found.append((repr(float(more[0])), None if kind & 3 == segment.NO_STEP else repr(step), time))
    assert found == [(repr(float(v)), None if s is None else repr(s), t) for v, s, t in rows]


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=30))
@settings(max_examples=50)
def test_a_clock_that_goes_back_keeps_the_order(ticks: list[int]) -> None:
    with _folder() as folder, pytest.MonkeyPatch.context() as patch:
        stamps = iter([0, *ticks])
        patch.setattr(journal, "_now", lambda: next(stamps))
        writer = _writer(folder)
        for number, _ in enumerate(ticks):
            if number % 2:
                writer.row({"x": 1.0}, number)
            else:
                writer.append(records.Note(text=""))
        frames = [frame for frame in _frames(folder) if frame.kind != segment.SHAPE]
        times = []
        for frame in frames:
            record = records.decode(frame.payload[1:])
            times.append(
                record.at
                if isinstance(record, records.Record)
                else segment.RowShape(0, 1).struct(frame.kind).unpack(frame.payload)[2]
            )
        writer.close()
    assert times == sorted(set(times))
    assert all(time >= tick for time, tick in zip(times[1:], ticks, strict=True))


@pytest.mark.parametrize(
    "keys",
    [
        (),
        ("a\n",),
        ("x" * 2_000,),
        (1,),
        (b"a",),
        ("a", ("b", "c", "d")),
        (("a", "b"),),
        (("a",),),
        (("a", "{" * 2_000),),
    ],
)
def test_what_are_no_keys_is_refused_and_leaves_nothing(tmp_path: Path, keys: tuple[segment.Key, ...]) -> None:
    writer = _writer(tmp_path)
    with pytest.raises((TypeError, ValueError)):
        writer.row(dict.fromkeys(keys, 1.0), 1)
    assert writer.row({"good": 2.0}, 1)
    writer.close()
    assert _named_values(tmp_path) == [[("good", 2.0)]]
    assert _missing(tmp_path) == 0


@pytest.mark.parametrize("step", [float("nan"), float("inf"), 2**63, -(2**63) - 1, "x", object()])
def test_what_is_no_step_is_refused_and_leaves_nothing(tmp_path: Path, step: float) -> None:
    writer = _writer(tmp_path)
    writer.row({"good": 1.0}, 1)
    with pytest.raises(Exception, match=r".*"):
        writer.row({"good": 2.0}, step)
    writer.row({"good": 3.0}, 1)
    writer.close()
    assert [row[0][1] for row in _named_values(tmp_path)] == [1.0, 3.0]
    assert _missing(tmp_path) == 0


def test_a_record_that_no_frame_holds_is_told_and_counted(tmp_path: Path) -> None:
    troubles: list[str] = []
    writer = Writer(
        tmp_path / RUN, lambda _: records.Started(), troubles.append, lambda: Identity(RUN, "w", "file:/", "file:/")
    )
    assert not writer.append(records.Note(text="x" * (segment.MAX_PAYLOAD + 1)))
    assert writer.append(records.Note(text="x" * (segment.MAX_PAYLOAD - 100)))
    writer.close()
    assert writer.lost == 1
    assert "30 MiB" in troubles[0]
    kept = [records.decode(frame.payload[1:]) for frame in _frames(tmp_path)]
    assert [type(record).__name__ for record in kept] == ["Started", "Note", "Trouble"]
    assert kept[2] == records.Trouble(at=kept[2].at, kind="lost", count=1, reason=kept[2].reason)  # type: ignore[union-attr]  # fails above if it is another
