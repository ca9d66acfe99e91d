"""Files and functions stay small enough to be read in one go, and are named after what they hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests import project

LINES_IN_FILE = 500
LINES_IN_FUNCTION = 60
NAMES_THAT_SAY_NOTHING = {
    *("base", "common", "core", "handler", "helpers", "manager", "misc", "processor", "service"),
    *("util", "utils", "helper", "handlers", "managers", "services", "processors"),
}
PYTHON = [path for path in project.files(".py") if path.parts[0] != "docs"]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(project.text(path))):
        if isinstance(node, Function):
            yield node


def _length(function: Function) -> int:
    """Lines of a function without its decorators and its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_a_file_is_at_most_500_lines() -> None:
    lines = {str(path): len(project.text(path).splitlines()) for path in PYTHON}
    long = {path: count for path, count in lines.items() if count > LINES_IN_FILE}
    assert not long, "split each by what it holds"


def test_a_function_is_at_most_60_lines() -> None:
    lengths = {f"{path}:{f.name}": _length(f) for path in PYTHON for f in _functions(path)}
    long = {name: count for name, count in lengths.items() if count > LINES_IN_FUNCTION}
    assert not long, "name the steps of each as functions of their own"


def test_modules_are_named_after_what_they_hold() -> None:
    vague = [str(p) for p in PYTHON if NAMES_THAT_SAY_NOTHING & {p.stem, *p.parent.parts}]
    assert not vague, "name each after its noun, or put its functions where their noun lives"
