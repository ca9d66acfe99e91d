"""What differs between two runs."""

import math
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sexton.cli import text
from sexton.cli.render import GAP, Column, Screen, Span
from sexton.model.runs import Detail
from sexton.model.values import flatten, unspell

Sides = dict[str, Any]
"""`a` and `b` with their values; one that has none is left out."""


class Difference(msgspec.Struct, frozen=True):
    """Two runs and, by name, what each has where they are not the same."""

    a: str
    b: str
    run: dict[str, Sides]
    params: dict[str, Sides]
    metrics: dict[str, Sides]
    tags: dict[str, Sides]
    code: dict[str, Sides]
    machine: dict[str, Sides]


FIELDS = (
    *("project", "experiment", "name", "state", "cause", "exit_code", "signal", "message", "user", "host", "cwd"),
    *("argv", "task", "hypothesis", "sweep", "parent", "outcome", "takeaway", "cpu_seconds", "max_rss"),
)
"""Fields of a run that are worth comparing; ids and times always differ."""


def between(a: Detail, b: Detail, *, everything: bool) -> Difference:
    """What `a` and `b` have that the other has not, or has otherwise; with `everything` also what is the same."""

    def sides(part: Callable[[Detail], Mapping[str, Any]]) -> dict[str, Sides]:
        left, right = part(a), part(b)
        found = {}
        for key in [*left, *(key for key in right if key not in left)]:
            sides = {side: values[key] for side, values in (("a", left), ("b", right)) if key in values}
            if everything or len(sides) < 2 or sides["a"] != sides["b"]:
                found[key] = sides
        return found

    return Difference(
        a=a.run.id,
        b=b.run.id,
        run=sides(_fields),
        params=sides(lambda detail: detail.run.params),
        metrics=sides(lambda detail: detail.run.metrics),
        tags=sides(lambda detail: detail.run.tags),
        code=sides(lambda detail: _facts(detail, "code")),
        machine=sides(lambda detail: _facts(detail, "machine")),
    )


def _fields(detail: Detail) -> dict[str, Any]:
    said = {name: getattr(detail.run, name) for name in FIELDS}
    said["seconds"] = detail.run.seconds
    return {name: value for name, value in said.items() if value not in (None, ())}


def _facts(detail: Detail, section: str) -> dict[str, Any]:
    facts = detail.captured.get(section)
    return {key: value for key, value in flatten(facts).items() if value is not None} if isinstance(facts, dict) else {}


# --------------------------------------------------------------------------------------------------------- for people


def print_difference(found: Difference) -> None:
    """The differences, part by part."""
    screen = Screen()
    parts = {
        "params": _rows(found.params, text.param),
        "metrics": _metric_rows(found.metrics),
        "tags": _rows(found.tags, lambda value: text.plain(value) or "(set)"),
        "run": [row for name, sides in found.run.items() for row in _rows({name: sides}, _WRITTEN.get(name, _plain))],
        "code": _rows(found.code, _plain),
        "machine": _rows(found.machine, _plain),
    }
    heads = text.short_ids([found.a, found.b])
    for title, rows in parts.items():
        if rows:
            screen.heading(title)
            columns = [
                Column("", [row[0] for row in rows], most=32, style="dim"),
                Column(heads[found.a], [row[1] for row in rows], most=60),
                Column(heads[found.b], [row[2] for row in rows], most=60),
                *([Column("change", [row[3] for row in rows])] if title == "metrics" else []),
            ]
            screen.table(columns, indent=GAP)
    if not any(parts.values()):
        screen.line("Nothing differs but when they ran.")


Row = tuple[str, str, str, Span]


def _rows(found: dict[str, Sides], written: Callable[[Any], str]) -> list[Row]:
    def side(sides: Sides, name: str) -> str:
        return written(sides[name]) if name in sides else text.UNKNOWN

    return [(text.plain(name), side(sides, "a"), side(sides, "b"), Span("")) for name, sides in found.items()]


def _metric_rows(found: dict[str, Sides]) -> list[Row]:
    rows = []
    for name, sides in found.items():
        a, b = sides.get("a"), sides.get("b")
        left, right = (None if side is None else text.headline(side) for side in (a, b))
        direction = next((side.direction for side in (a, b) if side and side.direction), None)
        title = text.plain(name) + {"max": " ↑ best", "min": " ↓ best", None: " last"}[direction]
        rows.append((title, *_told_apart(left, right), _change(left, right, direction)))
    return rows


def _told_apart(a: float | str | None, b: float | str | None) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to see that they differ."""
    short = text.number(a), text.number(b)
    if short[0] == short[1] and a != b:
        return str(a), str(b)
    return short


def _change(a: float | str | None, b: float | str | None, direction: str | None) -> Span:
    if a is None or b is None:
        return Span(text.UNKNOWN)
    change = unspell(b) - unspell(a)
    if math.isnan(change):
        return Span(text.UNKNOWN)
    of = f" ({_percent(100 * change / abs(unspell(a)))})" if unspell(a) and math.isfinite(change) else ""
    if direction is None or change == 0:
        return Span(f"{change:+.5g}{of}")
    better = (change > 0) == (direction == "max")
    return Span(f"{change:+.5g}{of} {'better' if better else 'worse'}", "green" if better else "red")


def _percent(share: float) -> str:
    return f"{share:+.1f}%" if abs(share) >= 0.1 else f"{share:+.1g}%"


def _plain(value: Any) -> str:
    return text.plain(value)


_WRITTEN: dict[str, Callable[[Any], str]] = {
    "argv": lambda value: text.plain(shlex.join(value)),
    "seconds": text.duration,
    "cpu_seconds": text.duration,
    "max_rss": text.size,
}
