"""From text to tree: filters, sort orders, lists of fields, aggregates.

Every text is either read or refused with `BadQuery`, which points at the column and says what was expected there. What
a text may cost is bounded: its length here, its nesting and conditions in `meaning`. The grammar is `query.lark`; it
and its library are loaded by the first text that is not empty.
"""

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, get_args

from sexton import errors
from sexton.search.fields import Field
from sexton.search.literals import wrong
from sexton.search.meaning import DEPTH, TOO_DEEP, Meaning
from sexton.search.tree import EVERYTHING, Aggregate, Query, Sort

if TYPE_CHECKING:
    from lark import Lark
    from lark.exceptions import UnexpectedInput

LENGTH = 100_000
"""Characters that a text may have."""


def parse(text: str, now: int) -> Query:
    """The filter that `text` says; an empty one finds every run. `now` (UTC ns) is where ages count from. Raises
    `BadQuery`."""
    return Query(_read(text, "query") if text.strip() else EVERYTHING, now / 1e9)


def parse_sorts(text: str) -> tuple[Sort, ...]:
    """Sort keys: `-metrics.acc, created`, or as MLflow has it, `metrics.acc DESC`. Raises `BadQuery`."""
    return tuple(_read(text, "sorts")) if text.strip() else ()


def parse_fields(text: str) -> tuple[Field, ...]:
    """Fields to group by or to show: `params.model, params.lr`. Raises `BadQuery`."""
    return tuple(_read(text, "fields")) if text.strip() else ()


def parse_aggregates(text: str) -> tuple[Aggregate, ...]:
    """Figures of groups: `count, failure_rate, mean(metrics.acc), sum(cost)`. Raises `BadQuery`."""
    return tuple(_read(text, "aggregates")) if text.strip() else ()


Start = Literal["query", "sorts", "fields", "aggregates"]


def _read(text: str, start: Start) -> Any:
    from lark.exceptions import UnexpectedInput

    try:
        _check(text)
        return _lark().parse(text, start=start)
    except errors.BadQuery as bad:
        bad.fields["caret"] = _caret(text, int(str(bad.fields["column"])))
        raise
    except UnexpectedInput as stop:
        column = _column(text, stop)
        raise errors.BadQuery(column=column, reason=_reason(text, stop, column), caret=_caret(text, column)) from None


_UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def _check(text: str) -> None:
    if len(text) > LENGTH:
        wrong(LENGTH + 1, f"a query has {LENGTH:,} characters at most, and this one {len(text):,}")
    if found := _UNUSABLE.search(text):
        wrong(found.start() + 1, f"the control character U+{ord(found[0]):04X} can not stand in a query")
    depth = 0
    for mark in _NESTING.finditer(text):
        depth += {"(": 1, ")": -1}.get(mark[0], 0)
        if depth > DEPTH or mark["nots"]:
            wrong(mark.start() + 1, TOO_DEEP)


_NESTING = re.compile(rf"'[^']*'|\"[^\"]*\"|`[^`]*`|[()]|(?P<nots>(?:\bnot\s+){{{DEPTH + 1}}})", re.IGNORECASE)
"""Brackets outside quotes, and too many `not`. Looked at beforehand, because saying what a text that nests 10,000 deep
could go on with takes seconds."""


@cache
def _lark() -> "Lark":
    from lark import Lark

    grammar = (files(__package__) / "query.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", start=list(get_args(Start)), transformer=Meaning(), maybe_placeholders=True)


# ------------------------------------------------------------------------------------------------ what was expected

_EXPECTED = {
    "NUMBER": "a value (text in quotes, a number, a date)",
    "OPERATOR": "an operator (= != < <= > >= in like ilike contains between is)",
    "FUNCTION": "count, failure_rate, or mean sum min max median p95 with a field in brackets",
    "FIELD": "a field such as metrics.acc, params.lr, tags.best or state",
    "OPEN": "`(`",
    "_AND": "`and`",
    "_OR": "`or`",
    "_IN": "`in`, `like`, `ilike`, `contains` or `between`",
    "_NULL": "`null` or `not null`",
    "DIRECTION": "`asc` or `desc`",
    "COMMA": "`,`",
    "RPAR": "`)`",
    "$END": "the end",
}
"""Words for what the grammar could go on with. Of these, the first that is possible hides those it makes needless."""

_HIDES = {
    "NUMBER": ("FIELD",),
    "OPERATOR": ("_AND", "_OR", "_IN", "RPAR", "$END"),
    "FUNCTION": ("FIELD",),
    "FIELD": ("OPEN", "MINUS"),
}


def _column(text: str, stop: "UnexpectedInput") -> int:
    """Where reading stopped, from 1. The end of the text is after its last character that is not a space."""
    token = getattr(stop, "token", None)
    at = len(text.rstrip()) if token is not None and token.type == "$END" else stop.pos_in_stream
    return (at or 0) + 1


def _reason(text: str, stop: "UnexpectedInput", column: int) -> str:
    possible = set(getattr(stop, "accepts", None) or getattr(stop, "allowed", None) or ())
    hidden = {name for one in possible for name in _HIDES.get(one, ())}
    words = [words for name, words in _EXPECTED.items() if name in possible - hidden]
    found = text[column - 1 : column]
    if not found.strip():
        return f"the query ends here; expected {_listed(words)}"
    if found in "'\"`" and found not in text[column:]:
        return f"the quote {found} is not closed"
    return f"expected {_listed(words)}"


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)


_WIDTH = 60


def _caret(text: str, column: int) -> str:
    """The text around the column on a line of its own, and below it a caret. What a terminal would not show as one
    character is shown as a replacement."""
    line = _UNUSABLE.sub("\ufffd", re.sub(r"\s", " ", text))
    start = max(0, min(column - 1 - _WIDTH // 2, len(line) - _WIDTH))
    shown = line[start : start + _WIDTH]
    return f"\n  {shown.rstrip()}\n  {' ' * (column - 1 - start)}^\n"
