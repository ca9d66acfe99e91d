"""Records: what one version writes another reads, and no bytes, however wrong, stop the reader."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.model import records
from sexton.model.records import Record, Unknown


class Novelty(msgspec.Struct, kw_only=True, tag_field="t", tag="novelty"):
    """A record of a newer version."""

    at: int = 0
    body: str = ""


class Annotated(msgspec.Struct, kw_only=True, tag_field="t", tag="note"):
    """A note as a newer version writes it: with a field that this one does not know."""

    at: int = 0
    text: str
    colour: str = "red"


SAMPLES: list[Record] = [
    records.Started(at=1, process=records.Process(1, 2, "b", "h"), argv=("a", "b"), experiment="e"),
    records.Params(at=2, params={"lr": "0.1"}),
    records.Tag(at=3, key="k", value=None),
    records.Console(at=4, stream="stderr", offset=7, data=b"\xff\x00", skipped=2),
    records.Usage(at=5, method="psutil", cpu_seconds=0.5, gpus=({"index": 0},)),
    records.Finished(at=6, state="killed", epoch=3, signal=9),
    records.Captured(at=7, section="code", facts={"deep": [{"x": None}]}),
]


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_records_come_back(record: Record) -> None:
    assert records.decode(records.encode(record)) == record


def test_a_type_of_a_newer_version_is_kept_as_it_came() -> None:
    body = msgspec.msgpack.encode(Novelty(at=5, body="x"))
    assert records.decode(body) == Unknown("novelty", body)


def test_a_field_of_a_newer_version_is_passed_over() -> None:
    assert records.decode(msgspec.msgpack.encode(Annotated(at=5, text="x"))) == records.Note(at=5, text="x")


def test_a_known_type_of_an_unknown_form_is_kept_as_it_came() -> None:
    body = msgspec.msgpack.encode({"t": "note", "at": 5, "text": 7})
    assert records.decode(body) == Unknown("note", body)


def _nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x81\xa1t",
        b"\x81\xa1t\xa4note",
        b"\x81\xa1t\xa1\xff",
        b"\x81\xa1t\x07",
        b"\x90",
        b"\x83\xa1t\xa8captured\xa7section\xa1x\xa5facts\x81\xa1a" + _nested(100_000),
        b"\x82\xa5extra" + _nested(100_000) + b"\xa1t\xa4note",
        msgspec.msgpack.encode({"t": "note", "at": 2**64 - 1, "text": "x"}),
    ],
    ids=range(10),
)
def test_what_is_no_record_is_unknown(body: bytes) -> None:
    told = records.decode(body)
    assert isinstance(told, Unknown | records.Note)
    if isinstance(told, Unknown):
        assert told.body == body


@given(st.binary())
def test_no_bytes_raise(body: bytes) -> None:
    records.decode(body)
    records.decode(msgspec.Raw(body))


@given(st.sampled_from(SAMPLES), st.data())
def test_no_edit_of_a_record_raises(record: Record, data: st.DataObject) -> None:
    body = bytearray(records.encode(record))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    records.decode(bytes(body))


LONE = "lone \ud800 surrogate"


@pytest.mark.parametrize(
    "record",
    [
        records.Note(text=LONE),
        records.Started(argv=("train.py", LONE), cwd=LONE, hypothesis=LONE),
        records.Finished(state="failed", message=LONE, traceback=LONE),
        records.Captured(section="code", facts={LONE: [LONE]}),
        records.Tag(key="k", value=LONE),
        records.Console(stream="stdout", offset=0, data=b"\xed\xa0\x80"),
    ],
    ids=lambda record: type(record).__name__,
)
def test_text_in_no_encoding_is_kept_with_a_mark_where_it_was(record: Any) -> None:
    back = records.decode(records.encode(record))
    assert type(back) is type(record)
    if isinstance(back, records.Note):
        assert back.text == "lone ? surrogate"
    if isinstance(back, records.Console):
        assert back == record
