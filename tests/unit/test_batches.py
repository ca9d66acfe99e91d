"""What travels is what was logged: every number to its last bit, and what could not be read counted."""

import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest

from sexton.courier.batches import batch
from sexton.journal import segment
from sexton.journal.reader import Piece, Position
from sexton.journal.segment import Frame, Key, RowShape
from sexton.model import records
from sexton.model.records import Batch, Points

KEYS: list[Key] = ["loss", ("acc", '{"split":"val"}')]


def _row(
    sequence: int, values: list[float], step: float | None = None, time: int | None = None, shape: int = 0
) -> Frame:
    kind = segment.ROW | (segment.NO_STEP if time is None else segment.TIMED)
    if step is not None:
        kind |= segment.INT_STEP if type(step) is int else segment.FLOAT_STEP
    times = () if time is None else (time,)
    payload = RowShape(shape, len(values)).struct(kind).pack(kind, shape, 1000 + sequence, step or 0, *times, *values)
    return Frame(sequence, kind, payload, 0)


def _record(sequence: int, record: records.Record) -> Frame:
    return Frame(sequence, segment.RECORD, bytes((segment.RECORD,)) + records.encode(record), 0)


def _made(frames: list[Frame], first: int = 0, shapes: dict[int, list[Key]] | None = None) -> Batch:
    after = Position(0, 0, frames[-1].sequence + 1)
    return batch("run", "writer", 3, Piece(first, after, frames, {0: KEYS} if shapes is None else shapes), lambda b: b)


def _column(data: bytes, code: str) -> list[Any]:
    return list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))


def test_it_covers_what_the_piece_covers() -> None:
    made = _made([_row(7, [1.0, 2.0], 1), _row(9, [3.0, 4.0], 2)], first=5)
    assert (made.run, made.writer, made.epoch, made.first, made.count) == ("run", "writer", 3, 5, 5)
    assert made.damaged == 3  # 5, 6 and 8
    assert _column(made.points[0].seq, "I") == [2, 4]


def test_rows_become_columns_key_by_key() -> None:
    numbers = [0.1, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308]
    made = _made([_row(n, [value, float(n)], n) for n, value in enumerate(numbers)])
    (points,) = made.points
    assert points.keys == KEYS
    assert points.rows == len(numbers)
    assert points.values == struct.pack("<6d", *numbers) + struct.pack("<6d", *range(6))
    assert _column(points.at, "q") == [1000 + n for n in range(6)]
    assert (points.step_kind, _column(points.steps, "q"), points.times) == ("int", list(range(6)), b"")


def test_a_nan_keeps_its_bits() -> None:
    payload = bytearray(_row(0, [0.0, 0.0], 1).payload)
    payload[-8:] = b"\x01\x00\x00\x00\x00\x00\xf8\xff"
    (points,) = _made([Frame(0, payload[0], bytes(payload), 0)]).points
    assert points.values[8:] == b"\x01\x00\x00\x00\x00\x00\xf8\xff"


def test_rows_that_differ_in_kind_travel_apart() -> None:
    made = _made(
        [
            _row(0, [1.0, 1.0], 2**63 - 1),
            _row(1, [2.0, 2.0], 0.5),
            _row(2, [3.0, 3.0]),
            _row(3, [4.0, 4.0], 4, time=-5),
            _row(4, [5.0, 5.0], -(2**63)),
        ]
    )
    told = {(p.step_kind, bool(p.times)): p for p in made.points}
    assert _column(told["int", False].steps, "q") == [2**63 - 1, -(2**63)]
    assert _column(told["float", False].steps, "d") == [0.5]
    assert told["none", False].steps == b""
    assert _column(told["int", True].times, "q") == [-5]
    assert made.damaged == 0


def test_records_travel_as_they_are_and_shapes_not_at_all() -> None:
    note = _record(1, records.Note(at=5, text="x"))
    shape = Frame(0, segment.SHAPE, segment.encode_shape(0, KEYS), 0)
    made = _made([shape, note])
    assert [(offset, bytes(raw)) for offset, raw in made.records] == [(1, note.payload[1:])]
    assert (made.count, made.damaged, made.points) == (2, 0, [])


def test_rows_of_a_shape_that_was_damaged_are_counted() -> None:
    made = _made([_row(0, [1.0, 2.0], 1), _row(1, [1.0], 1, shape=7), _row(2, [1.0], 1, shape=7)])
    assert (made.damaged, len(made.points), made.points[0].rows) == (2, 1, 1)


def test_one_row_of_a_wrong_length_costs_only_itself() -> None:
    made = _made([_row(0, [1.0, 2.0], 1), _row(1, [1.0], 1), _row(2, [3.0, 4.0], 2)])
    assert made.damaged == 1
    assert _column(made.points[0].seq, "I") == [0, 2]


@pytest.mark.parametrize("kind", [0, 3, 15, 19, 23, 24, 48, 255])
def test_a_kind_of_a_newer_version_is_counted_and_not_misread(kind: int) -> None:
    strange = Frame(0, kind, bytes((kind,)) + _row(0, [1.0, 2.0], 1).payload[1:], 0)
    made = _made([strange, _row(1, [3.0, 4.0], 1)])
    assert made.damaged == 1
    assert [_column(p.seq, "I") for p in made.points] == [[1]]


def test_a_batch_comes_back_from_the_wire() -> None:
    made = _made([_row(0, [1.0, 2.0], 1), _record(1, records.Note(at=5, text="x")), _row(2, [1.0, 2.0])])
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Batch)
    assert (back.points, back.first, back.count) == (made.points, made.first, made.count)
    assert [(offset, bytes(raw)) for offset, raw in back.records] == [(o, bytes(r)) for o, r in made.records]
    assert isinstance(back.points[0], Points)
    assert np.frombuffer(back.points[0].values, "<f8").tolist() == [1.0, 2.0]
