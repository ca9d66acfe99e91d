"""Errors keep their meaning on their way: the same class, fields and message on the other side of HTTP or a process."""

import copy
import pickle
import re

import msgspec
import pytest

from sexton import errors
from sexton.errors import BY_CODE, SextonError

CLASSES: list[type[SextonError]] = [SextonError, *BY_CODE.values()]


def _fields(cls: type[SextonError]) -> dict[str, object]:
    return {name: f"the {name}" for name in re.findall(r"{(\w+)", cls.__doc__ or "")}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
class TestEach:
    def test_it_says_what_happened_with_its_fields(self, cls: type[SextonError]) -> None:
        text = str(cls(**_fields(cls)))
        assert text.endswith(".")
        assert "{" not in text
        for value in _fields(cls).values():
            assert str(value) in text

    def test_it_can_be_told_though_a_field_is_missing(self, cls: type[SextonError]) -> None:
        assert ("(unknown)" in str(cls())) == bool(_fields(cls))

    def test_it_is_rebuilt_from_what_travels(self, cls: type[SextonError]) -> None:
        error = cls(**_fields(cls))
        told = msgspec.json.decode(msgspec.json.encode(errors.wire(error)))["error"]
        assert (told["code"], told["message"], told["transient"]) == (cls.code, str(error), cls.transient)
        rebuilt = SextonError.rebuild(told["code"], told["fields"])
        assert type(rebuilt) is cls
        assert str(rebuilt) == str(error) or cls is SextonError

    def test_it_crosses_processes(self, cls: type[SextonError]) -> None:
        error = cls(**_fields(cls))
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(other) is cls
            assert (other.fields, str(other)) == (error.fields, str(error))


def test_a_code_of_a_newer_version_stays_readable() -> None:
    rebuilt = SextonError.rebuild("quota_exceeded", {"limit": 5})
    assert type(rebuilt) is SextonError
    assert "quota_exceeded" in str(rebuilt)
    assert "5" in str(rebuilt)


def test_fields_of_any_type_travel() -> None:
    told = errors.wire(errors.InvalidValue(what="x", value=object(), reason=None))
    assert msgspec.json.decode(msgspec.json.encode(told))["error"]["fields"]["reason"] is None


def test_braces_in_a_field_are_only_text() -> None:
    assert "{reason} {0}" in str(errors.InvalidName(what="name", name="{reason} {0}", reason="r"))


def test_they_are_the_builtin_kinds_that_callers_know() -> None:
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.NotFound, LookupError)
    assert issubclass(errors.Denied, PermissionError)


def test_only_what_may_pass_is_transient() -> None:
    assert {cls for cls in CLASSES if cls.transient} == {c for c in CLASSES if issubclass(c, errors.Unavailable)}
