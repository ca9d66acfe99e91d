"""The examples in docs/spec are what this version writes and reads: the released formats, byte for byte."""

import math
import re
import struct

import msgspec
import pytest

from sexton.journal import segment
from sexton.model import records
from tests import project


def _blocks(document: str, kind: str) -> list[list[str]]:
    text = project.document(document)
    return [block.splitlines() for block in re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


RECORDS = _blocks("spec/records.md", "record")


def test_every_record_type_has_an_example() -> None:
    assert {msgspec.json.decode(json)["t"] for json, _ in RECORDS} == records.RECORD_TYPES.keys()


@pytest.mark.parametrize(("json", "hexadecimal"), RECORDS)
def test_a_record_is_written_and_read_as_specified(json: str, hexadecimal: str) -> None:
    record = records.decode(bytes.fromhex(hexadecimal))
    assert isinstance(record, records.Record)
    assert record == msgspec.json.decode(json, type=type(record))
    assert records.encode(record).hex() == hexadecimal


def test_a_batch_is_read_and_written_as_specified() -> None:
    ((hexadecimal,),) = _blocks("spec/records.md", "batch")
    batch = msgspec.msgpack.decode(bytes.fromhex(hexadecimal), type=records.Batch)
    assert (batch.writer, batch.epoch, batch.first, batch.count, batch.damaged) == ("c0ffee000000", 0, 10, 4, 1)
    ((offset, tag),) = batch.records
    assert (offset, records.decode(tag)) == (0, records.Tag(at=1795527834000000004, key="tier", value="passed-eval"))
    (points,) = batch.points
    assert points.keys == ["loss", ("acc", '{"split":"val"}')]
    loss, accuracy = struct.unpack("<2d", points.values)
    assert loss == 0.5
    assert math.isnan(accuracy)
    assert msgspec.msgpack.encode(batch).hex() == hexadecimal


def test_frames_are_read_as_specified() -> None:
    data = b"".join(bytes.fromhex(hexadecimal) for (hexadecimal,) in _blocks("spec/journal.md", "frame"))
    tag, shape, stepped, timed, plain = segment.scan(data)
    assert [frame.sequence for frame in (tag, shape, stepped, timed, plain)] == [3, 4, 5, 6, 7]
    assert records.decode(tag.payload[1:]) == records.Tag(at=1795527834000000004, key="tier", value="passed-eval")
    assert segment.decode_shape(shape.payload) == (0, ["loss", ("acc", '{"split":"val"}')])
    rows = segment.RowShape(0, 2)
    assert rows.struct(17).unpack(stepped.payload)[:5] == (17, 0, 1795527834000000021, 7, 0.5)
    assert rows.struct(22).unpack(timed.payload)[1:6] == (0, 1795527834000000022, 0.25, 1795527833999999996, 0.5)
    assert rows.struct(16).unpack(plain.payload)[5:] == (0.25,)


def test_frames_are_written_as_specified() -> None:
    for (hexadecimal,) in _blocks("spec/journal.md", "frame"):
        (frame,) = segment.scan(bytes.fromhex(hexadecimal))
        assert segment.frame(frame.sequence, frame.payload).hex() == hexadecimal
