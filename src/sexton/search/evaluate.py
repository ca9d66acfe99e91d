"""A query on one run: yes or no, with the answers that the SQL of `compile` gives.

Three-valued: a condition on a value that the run does not have is None, and only what is True is found.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sexton.search.fields import Field
from sexton.search.tree import (
    Among,
    And,
    Compare,
    Contains,
    Known,
    Like,
    Not,
    Operator,
    Or,
    Query,
    Term,
    Value,
    fold,
    text_of,
)

View = Mapping[str, float | str | None]
"""A run: its values by `Field.key`. A missing one and None are the same."""


def matches(query: Query, view: View) -> bool:
    """Whether the query finds the run."""
    return _holds(query.term, view, query.now) is True


def _holds(term: Term, view: View, now: float) -> bool | None:
    match term:
        case Not(inner):
            return _negation(_holds(inner, view, now))
        case And(terms):
            return _all(_holds(one, view, now) for one in terms)
        case Or(terms):
            return _negation(_all(_negation(_holds(one, view, now)) for one in terms))
        case Known(field):
            return view.get(field.key) is not None
        case _:
            value = _value(term.field, view, now)
            return None if value is None else _test(term, value)


def _negation(held: bool | None) -> bool | None:
    return None if held is None else not held


def _all(held: Iterable[bool | None]) -> bool | None:
    found = list(held)
    return False if False in found else None if None in found else True


def _value(field: Field, view: View, now: float) -> Value | None:
    value = view.get(field.key)
    return now - value if field == _AGE and isinstance(value, float) else value


_AGE = Field("", "age")


def _test(term: Compare | Among | Like | Contains, value: Value) -> bool | None:
    match term:
        case Compare(_, "=", sought):
            return _equal(value, sought)
        case Compare(_, "!=", sought):
            return not _equal(value, sought)
        case Among(_, values):
            return any(_equal(value, one) for one in values)
        case Compare(_, order, float(sought)):
            return _ORDER[order](value, sought) if isinstance(value, float) else None
        case Compare(_, order, sought):
            return _ORDER[order](_text(value), sought)
        case Like(_, pattern, True):
            return _like(fold(_text(value)), fold(pattern))
        case Like(_, pattern):
            return _like(_text(value), pattern)
        case Contains(_, text):
            return fold(text) in fold(_text(value))


_ORDER: dict[Operator, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _equal(value: Value, sought: Value) -> bool:
    if isinstance(value, float) and isinstance(sought, float):
        return value == sought or (math.isnan(value) and math.isnan(sought))
    return isinstance(sought, str) and _text(value) == sought


def _text(value: Value) -> str:
    return value if isinstance(value, str) else text_of(value)


def _like(text: str, pattern: str) -> bool:
    """Whether the whole text fits: what stands between the `%` is found piece after piece, as early as can be, so that
    no pattern takes longer than text times pattern."""
    first, *rest = (re.compile(re.escape(piece).replace("_", "."), re.DOTALL) for piece in pattern.split("%"))
    if not rest:
        return first.fullmatch(text) is not None
    found = first.match(text)
    for piece in rest[:-1]:
        if found is None:
            return False
        found = piece.search(text, found.end())
    if found is None:
        return False
    last = len(text) - (len(pattern) - pattern.rfind("%") - 1)  # a character of a pattern is one of the text
    return last >= found.end() and rest[-1].match(text, last) is not None
