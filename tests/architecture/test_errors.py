"""Every error can be looked up: docs/errors.md has its code, and says what to do."""

import re
from collections.abc import Iterator

from sexton import errors
from tests import project


def _classes(cls: type[errors.SextonError] = errors.SextonError) -> Iterator[type[errors.SextonError]]:
    yield cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _classes(child)


def test_every_error_is_documented_with_its_code() -> None:
    documented = set(re.findall(r"`([a-z_]+)`", project.document("errors.md")))
    missing = {cls.code: cls.__name__ for cls in _classes() if cls.code not in documented}
    assert not missing


def test_every_documented_code_exists() -> None:
    rows = re.findall(r"^\|\s*`([a-z_]+)`\s*\|", project.document("errors.md"), re.MULTILINE)
    assert rows, "docs/errors.md lists the errors in a table whose first column is the code"
    assert set(rows) <= {cls.code for cls in _classes()}


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in _classes()]
    assert len(codes) == len(set(codes))


def test_the_tree_at_the_top_of_the_module_is_the_tree() -> None:
    drawn = set(re.findall(r"\b[A-Z]\w+", (errors.__doc__ or "").split("\n\n")[1]))
    assert drawn == {cls.__name__ for cls in _classes()}
