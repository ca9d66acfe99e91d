"""What stands right of an operator: text, numbers with units, moments; and the condition that one makes with a field.

Owns units, dates and which values a kind of field can be compared with. A literal that does not fit raises `BadQuery`
with the column where it stands.
"""

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, NoReturn

from sexton import errors
from sexton.search.fields import Field, Kind
from sexton.search.tree import Among, And, Compare, Contains, Like, Operator, Or, Term, Value

Meant = Literal["text", "number", "seconds", "bytes", "dollars", "time"]

_UNITS: dict[str, tuple[Meant, float]] = {
    **dict.fromkeys(("ms",), ("seconds", 0.001)),
    **dict.fromkeys(("s", "sec"), ("seconds", 1)),
    **dict.fromkeys(("min", "m"), ("seconds", 60)),
    **dict.fromkeys(("h",), ("seconds", 3600)),
    **dict.fromkeys(("d",), ("seconds", 86400)),
    **dict.fromkeys(("w",), ("seconds", 7 * 86400)),
    **{unit + "b": ("bytes", 1000**power) for power, unit in enumerate(("", "k", "m", "g", "t", "p"))},
    **{unit + "ib": ("bytes", 1024**power) for power, unit in enumerate(("k", "m", "g", "t", "p"), 1)},
}
_NUMBER = re.compile(r"([+-]?)(\$?)([0-9.]+(?:[eE][+-]?[0-9]+)?)(.*)")
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?P<time>[Tt ][0-9]{2}:[0-9]{2}(?P<second>:[0-9]{2}(?P<fraction>\.[0-9]+)?)?(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = (int((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds()) for year in (2, 9999))
_MICRO = timedelta(microseconds=1)

EXPECTED: dict[Kind, str] = {
    "any": "a number, or text in quotes",
    "text": "text in quotes",
    "number": "a number",
    "seconds": "a duration such as 90s, 10min, 3h or 14d",
    "bytes": "a size such as 500MB or 2GiB",
    "dollars": "an amount such as $5",
    "time": "a date such as 2026-11-01 or 2026-11-01T10:00Z",
}


class Said(NamedTuple):
    """A literal, and where it stands."""

    column: int
    source: str
    kind: Meant
    value: Value
    end: float = math.nan
    """Where a moment ends: 2026-11-01 is a day long, 10:00 a minute."""


def wrong(column: int, reason: str) -> NoReturn:
    """Refuse the query because of what stands at the column, counted from 1."""
    raise errors.BadQuery(column=column, reason=reason)


# ---------------------------------------------------------------------------------------------------------- reading


def number(source: str, column: int) -> Said:
    """`3`, `-1e-3`, `14d`, `2GiB`, `$5`."""
    sign, dollar, digits, unit = _NUMBER.findall(source)[0]
    if unit and (dollar or unit.lower() not in _UNITS):
        wrong(column, f"{source} has no unit that is known: ms s min h d w, B kB MB GB TB KiB MiB GiB TiB, or $5")
    kind, size = _UNITS.get(unit.lower(), ("dollars" if dollar else "number", 1.0))
    value = float(sign + digits) * size + 0.0  # which makes 0 of -0
    if math.isinf(value):
        wrong(column, f"{source} is more than a number can be")
    return Said(column, source, kind, value)


def special(source: str, column: int) -> Said:
    """`nan`, `inf`, `-inf`, however they are written."""
    return Said(column, source, "number", float(source))


def text(source: str, column: int) -> Said:
    """Text between quotes of either sort; a quote inside is doubled."""
    return Said(column, source, "text", unquoted(source))


def unquoted(source: str) -> str:
    """What stands between the quotes."""
    return source[1:-1].replace(source[0] * 2, source[0])


def moment(source: str, column: int) -> Said:
    """A day, or a moment of one; UTC where it names no zone."""
    found = _DATE.fullmatch(source)
    if not found:
        wrong(column, f"expected {EXPECTED['time']}, not {source}")
    try:
        at = datetime.fromisoformat(source.upper())
        start = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH) // _MICRO
    except (ValueError, OverflowError):
        wrong(column, f"{source} is no day or time that there is")
    length = 0 if found["fraction"] else 1 if found["second"] else 60 if found["time"] else 86400
    return _at(start, start + length * 1_000_000, source, column)


def _at(start: int, end: int, source: str, column: int) -> Said:
    """Microseconds since 1970 as a literal."""
    if not _EARLIEST * 1_000_000 <= start < _LATEST * 1_000_000:
        wrong(column, f"{source} is out of range: the years go from 2 to 9998")
    return Said(column, source, "time", start / 1e6, end / 1e6)


# ------------------------------------------------------------------------------------------------------- conditions


def compare(field: Field, operator: Operator, said: Said) -> Term:
    """`field operator literal`."""
    if field.kind == "time":
        return _compare_time(field, operator, _moment_of(field, said))
    value = _fitting(field, said)
    if isinstance(value, float) and math.isnan(value) and operator not in ("=", "!="):
        wrong(said.column, "NaN is neither less nor more than a number; ask for = nan or != nan")
    return Compare(field, operator, value)


def among(field: Field, said: tuple[Said, ...]) -> Term:
    """`field in (literals)`."""
    if field.kind == "time":
        return either(tuple(compare(field, "=", one) for one in said))
    return Among(field, tuple(_fitting(field, one) for one in said))


def textual(field: Field, operator: str, said: Said) -> Term:
    """`field like|ilike|contains literal`."""
    if field.kind not in ("any", "text"):
        wrong(said.column, f"{operator} looks into text, and {field} is a number; use = != < <= > >=")
    if said.kind != "text":
        wrong(said.column, f"{operator} needs text: write '{said.source}' in quotes")
    value = str(_fitting(field, said))
    if operator == "contains":
        return Contains(field, value)
    if value.count("%") > _WILDCARDS:
        wrong(said.column, f"a pattern can have {_WILDCARDS} `%` at most")
    return Like(field, value, operator == "ilike")


_WILDCARDS = 10  # each more multiplies the time that a long text takes


def both(terms: tuple[Term, ...]) -> Term:
    """All of the terms, those of an And inside among them."""
    flat = [one for term in terms for one in (term.terms if isinstance(term, And) else (term,))]
    return flat[0] if len(flat) == 1 else And(tuple(flat))


def either(terms: tuple[Term, ...]) -> Term:
    """One of the terms, those of an Or inside among them."""
    flat = [one for term in terms for one in (term.terms if isinstance(term, Or) else (term,))]
    return flat[0] if len(flat) == 1 else Or(tuple(flat))


def _fitting(field: Field, said: Said) -> Value:
    """The literal's value, where the field's kind can have one like it."""
    kind = field.kind
    fits = said.kind == kind or (said.kind == "number" and kind not in ("text", "any"))
    if kind == "any":
        fits = said.kind != "time"
    elif kind == "number" and field.space:  # a metric may be seconds, bytes or dollars: nobody knows
        fits = said.kind not in ("text", "time")
    if not fits:
        wrong(said.column, f"{field} is compared with {EXPECTED[kind]}: {_instead(kind, said)}")
    return said.value.lower() if field == _STATE and isinstance(said.value, str) else said.value


_STATE = Field("", "state")  # MLflow says FINISHED


def _instead(kind: Kind, said: Said) -> str:
    if kind in ("text", "any"):
        return f"write '{said.source}' in quotes"
    if said.kind == "text":
        return f"write {said.value} without quotes" if _NUMBER.fullmatch(str(said.value)) else f"not with {said.source}"
    return f"not with {said.source}"


def _moment_of(field: Field, said: Said) -> Said:
    """The literal as a moment: a date, a date in quotes, or as MLflow has it, milliseconds since 1970."""
    if said.kind == "time":
        return said
    if isinstance(said.value, str):
        return moment(said.value, said.column)
    if said.kind == "number" and math.isfinite(said.value):
        at = round(said.value * 1000)
        return _at(at, at, said.source, said.column)
    hint = f"; for how long ago, write age < {said.source}" if said.kind == "seconds" else ""
    wrong(said.column, f"{field} is compared with {EXPECTED['time']}, not with {said.source}{hint}")


def _compare_time(field: Field, operator: Operator, said: Said) -> Term:
    """A day is all of it: `=` is within, `>` is after its end, `<=` is before its end."""
    start, end = said.value, said.end
    if start == end:
        return Compare(field, operator, start)
    since, until = Compare(field, ">=", start), Compare(field, "<", end)
    match operator:
        case "=":
            return And((since, until))
        case "!=":
            return Or((Compare(field, "<", start), Compare(field, ">=", end)))
        case ">":
            return Compare(field, ">=", end)
        case "<=":
            return until
        case _:
            return Compare(field, operator, start)
