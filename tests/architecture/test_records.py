"""Every record type is specified: docs/spec/records.md has its tag and each of its fields."""

import re

import msgspec
import pytest

from sexton.model.records import RECORD_TYPES, Record
from tests import project


def _section(tag: str) -> str:
    """The part of the specification under the heading that names the tag."""
    heading = rf"^(#+)[^\n]*`{re.escape(tag)}`[^\n]*\n(.*?)(?=^#|\Z)"
    found = re.search(heading, project.document("spec/records.md"), re.DOTALL | re.MULTILINE)
    assert found, f"docs/spec/records.md has no heading with `{tag}`"
    return found[2]


@pytest.mark.parametrize("tag", sorted(RECORD_TYPES))
def test_every_record_type_and_its_fields_are_specified(tag: str) -> None:
    section = _section(tag)
    fields = {field.encode_name for field in msgspec.structs.fields(RECORD_TYPES[tag])} - {"at"}
    assert not {name for name in fields if f"`{name}`" not in section}


def test_every_record_type_may_enter() -> None:
    assert set(RECORD_TYPES.values()) == set(Record.__subclasses__())
