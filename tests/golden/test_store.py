"""What any released version wrote, this one reads: stores as files, and the bytes that docs/spec/store.md gives."""

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zstandard

from sexton.store.columns import AXIS, Axis, decode_sheet, unpack
from sexton.store.database import FILE, open_database
from sexton.store.sessions import decode_ranges
from tests import project
from tests.golden import store

HERE = Path(__file__).parent


@pytest.mark.parametrize("golden", sorted(HERE.glob("store-*.db.zst")), ids=lambda path: path.name[:10])
def test_a_store_of_any_version_answers_as_it_did(golden: Path, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(zstandard.ZstdDecompressor().decompress(golden.read_bytes()))
    database = open_database(f"file:{tmp_path}", create=False)
    expected = msgspec.json.decode(golden.with_name(golden.name.replace(".db.zst", ".json")).read_bytes())
    assert store.answers(database) == expected
    database.close()


def _vector(kind: str) -> bytes:
    """The bytes in the one block of the specification that is marked so."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", project.document("spec/store.md"), re.DOTALL | re.MULTILINE)
    return bytes.fromhex(found)


def test_the_sheet_of_the_specification() -> None:
    sheet = decode_sheet(_vector("sheet"), rows=2, session=7)
    assert {name: sheet.axis[name].tolist() for name in AXIS} == {
        "at": [1000, 2000],
        "session": [7, 7],
        "seq": [4, 5],
        "kind": [1, 1],
        "step": [10, 11],
        "time": [1000, 2000],
    }
    assert sheet.values.tolist() == [[0.5, 0.25], [1.0, -np.inf]]


def test_the_block_of_the_specification() -> None:
    axis = Axis(_vector("axis"), rows=2)
    assert {name: axis[name].tolist() for name in AXIS} == {
        "at": [1000, 2000],
        "session": [7, 7],
        "seq": [4, 5],
        "kind": [0, 0],
        "step": [0, 0],
        "time": [1000, 2000],
    }
    assert unpack(_vector("column")).tolist() == [0.5, 0.25]


def test_the_received_ranges_of_the_specification() -> None:
    assert decode_ranges(_vector("received")) == [(0, 10), (12, 300)]
