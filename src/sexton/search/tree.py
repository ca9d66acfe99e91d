"""What a query says, as values: conditions on fields, joined by and, or, not.

A condition on a value that a run does not have is unknown, as in SQL: neither it nor its negation finds the run. Every
tree that `grammar` builds can be spelled by `unparse` and read again as the same tree.
"""

import math
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from sexton.search.fields import Field

Operator = Literal["=", "!=", "<", "<=", ">", ">="]
Value = float | str
Aggregation = Literal["count", "failure_rate", "mean", "sum", "min", "max", "median", "p95"]


class Compare(msgspec.Struct, frozen=True):
    """`field operator value`. NaN equals NaN and has no order; text is never equal to a number, but see `text_of`."""

    field: Field
    operator: Operator
    value: Value


class Among(msgspec.Struct, frozen=True):
    """The value is equal to one of these."""

    field: Field
    values: tuple[Value, ...]


class Like(msgspec.Struct, frozen=True):
    """The whole text fits the pattern: `%` is any text, `_` any one character. `fold` ignores case."""

    field: Field
    pattern: str
    fold: bool = False


class Contains(msgspec.Struct, frozen=True):
    """The text is somewhere in the value, in whatever case."""

    field: Field
    text: str


class Known(msgspec.Struct, frozen=True):
    """The run has a value for the field. Never unknown itself."""

    field: Field


class Not(msgspec.Struct, frozen=True):
    """The opposite; of unknown, unknown."""

    term: "Term"


class And(msgspec.Struct, frozen=True):
    """All of them. None at all is true."""

    terms: tuple["Term", ...]


class Or(msgspec.Struct, frozen=True):
    """One of them at least."""

    terms: tuple["Term", ...]


EVERYTHING = And(())
"""What an empty text says."""

Term = Compare | Among | Like | Contains | Known | Not | And | Or


class Query(msgspec.Struct, frozen=True):
    """A filter, and the moment (seconds since 1970) from which ages count."""

    term: Term
    now: float


class Sort(msgspec.Struct, frozen=True):
    """A sort key. Unknown comes last either way."""

    field: Field
    descending: bool = False


class Aggregate(msgspec.Struct, frozen=True):
    """A figure of a group of runs. `failure_rate` and a bare `count` are of no field."""

    function: Aggregation
    field: Field | None = None

    def __str__(self) -> str:
        return f"{self.function}({self.field})" if self.field else self.function


def text_of(number: float) -> str:
    """The text that a number is to an operator on text: `10`, `0.1`, `1e-05`, `NaN`, `Infinity`, as MLflow's params
    would have it."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return str(int(number)) if number.is_integer() and abs(number) < WHOLE else repr(number)


WHOLE = 1e15
"""From here on a number without a fraction is spelled with an exponent."""


def number_of(text: str) -> float | None:
    """The number whose text this is, if any."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if text_of(number) == text else None


def fold(text: str) -> str:
    """`text` in the lower case that DuckDB's `lower` gives it: a character at a time."""
    return text.replace("\u0130", "i").replace("\u03a3", "\u03c3").lower()


# ---------------------------------------------------------------------------------------------------- back to text


def unparse(query: Query) -> str:
    """The query as text, in its one canonical spelling. Ages stay ages: the text means the same next week."""
    return "" if query.term == EVERYTHING else _spell(query.term)


def _spell(term: Term) -> str:
    match term:
        case And(terms):
            return " and ".join(_operand(one, Or, And) for one in terms)
        case Or(terms):
            return " or ".join(_operand(one, Or) for one in terms)
        case Known(field):
            return f"{field}" if field.space == "tags" else f"{field} is not null"
        case Not(Known(field)):
            return f"{field} is null"
        case Not(inner):
            return f"not {_operand(inner, Or, And)}"
        case Compare(field, operator, value):
            return f"{field} {operator} {_value(field, value, operator)}"
        case Among(field, values):
            return f"{field} in ({', '.join(_value(field, value) for value in values)})"
        case Like(field, pattern, folded):
            return f"{field} {'ilike' if folded else 'like'} {_quoted(pattern)}"
        case Contains(field, text):
            return f"{field} contains {_quoted(text)}"


def _operand(term: Term, *bracketed: type[Term]) -> str:
    return f"({_spell(term)})" if isinstance(term, bracketed) else _spell(term)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _value(field: Field, value: Value, operator: str = "=") -> str:
    if isinstance(value, str):
        return _quoted(value)
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    match field.kind:
        case "time":
            return _moment(value, whole_day=operator in ("<", ">="))
        case "seconds":
            return _in_units(value, (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)))
        case "bytes":
            return _in_units(value, (("GB", 10**9), ("MB", 10**6), ("GiB", 2**30), ("MiB", 2**20), ("B", 1)))
        case "dollars":
            return f"-${text_of(-value)}" if value < 0 else f"${text_of(value)}"
        case _:
            return text_of(value)


def _moment(seconds: float, *, whole_day: bool) -> str:
    """With a fraction always, for without one it would be all of that second; a day where its beginning is meant."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(seconds * 1e6))
    if whole_day and moment.time() == datetime.min.time():
        return moment.date().isoformat()
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _in_units(value: float, units: tuple[tuple[str, int], ...]) -> str:
    """In the greatest unit that the value is a whole number of."""
    for unit, size in units:
        if value and value % size == 0 and abs(value) < WHOLE:
            return f"{int(value) // size}{unit}"
    return text_of(value)
