"""A query as SQL for the index: which runs it finds.

The relations are `num(key, run, value)`, `txt(key, run, value)` and `runs(run)`. A key of a run has one value at most,
in one of the first two, and every run that they have is in the third. Every text that a person wrote travels as a
parameter. The answers are those of `evaluate`: three-valued logic by pushing `not` down to the conditions, each of
which is then the set of runs for which it is true, or false; a run without the value is in neither.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from sexton.search.fields import Field
from sexton.search.tree import (
    EVERYTHING,
    WHOLE,
    Among,
    And,
    Compare,
    Contains,
    Known,
    Like,
    Not,
    Or,
    Query,
    Term,
    Value,
    fold,
    number_of,
)


class Sql(NamedTuple):
    """A piece of SQL and the parameters of its question marks, in order."""

    text: str
    params: list[Any]


def where(query: Query) -> tuple[str, list[Any]]:
    """A SELECT with the one column `run`, each at most once: the runs for which the query is true."""
    part = _EVERY if query.term == EVERYTHING else _part(query.term, True, query.now)
    if part.form == "test":
        return f"{_EVERY.text} WHERE {part.text}", part.params
    return _once(part), part.params


def text_value(column: str) -> str:
    """An expression for `tree.text_of` of a column of numbers."""
    return (
        f"CASE WHEN isnan({column}) THEN 'NaN' WHEN isinf({column})"
        f" THEN CASE WHEN {column} > 0 THEN 'Infinity' ELSE '-Infinity' END"
        f" WHEN trunc({column}) = {column} AND abs({column}) < {WHOLE:.0f}"
        f" THEN CAST(CAST({column} AS BIGINT) AS VARCHAR)"
        f" ELSE CAST({column} AS VARCHAR) END"
    )


class _Part(NamedTuple):
    """A term as SQL: a SELECT of its runs, each once (`set`) or some more often (`bag`), or a `test` of a run."""

    form: Literal["set", "bag", "test"]
    text: str
    params: list[Any]


_EVERY = _Part("set", "SELECT run FROM runs", [])


def _part(term: Term, wanted: bool, now: float) -> _Part:
    """The runs for which the term is true, or where not `wanted`, false."""
    match term:
        case Not(inner):
            return _part(inner, not wanted, now)
        case And(terms) | Or(terms):
            parts = [_part(one, wanted, now) for one in terms]
            return _all(parts) if isinstance(term, And) is wanted else _any(parts)
        case Known(field):
            text, params = _union([_rows(table, field) for table in _tables(field)])
            return _Part("set", text, params) if wanted else _Part("test", f"run NOT IN ({text})", params)
        case Compare(field, "!=", value):
            return _part(Compare(field, "=", value), not wanted, now)
        case _:
            return _Part("set", *_union(_sets(term, wanted, now)))


def _all(parts: list[_Part]) -> _Part:
    """Runs that are in every part. One part is where they are read from, so that not all runs there are need be."""
    source = next((part for form in ("set", "bag") for part in parts if part.form == form), None)
    tests = [part for part in parts if part is not source]
    text = " AND ".join(_test(part) for part in tests)
    params = _params(tests)
    if source is None:
        return _Part("test", f"({text})", params)
    return _Part("set", f"{_FROM} ({_once(source)}) WHERE {text}", [*source.params, *params])


def _any(parts: list[_Part]) -> _Part:
    """Runs that are in some part."""
    if any(part.form == "test" for part in parts):
        return _Part("test", f"({' OR '.join(_test(part) for part in parts)})", _params(parts))
    return _Part("bag", " UNION ALL ".join(part.text for part in parts), _params(parts))


def _test(part: _Part) -> str:
    return part.text if part.form == "test" else f"run IN ({part.text})"


def _once(part: _Part) -> str:
    return f"{_FROM_ONCE} ({part.text})" if part.form == "bag" else part.text


_FROM, _FROM_ONCE = "SELECT run FROM", "SELECT DISTINCT run FROM"


def _params(parts: list[_Part]) -> list[Any]:
    return [param for part in parts for param in part.params]


def _sets(term: Compare | Among | Like | Contains, wanted: bool, now: float) -> list[Sql]:
    """The runs for which the condition is true (or false), from each table that can have the value."""
    field = term.field
    match term:
        case Compare(_, "=", value):
            return _equal(field, (value,), wanted, now)
        case Among(_, values):
            return _equal(field, values, wanted, now)
        case Compare(_, operator, float(number)):
            column = _value("num", field, now)
            guard = " AND NOT isnan(value)" if operator in (">", ">=") else ""  # DuckDB has NaN above all numbers
            test = Sql(f"{column.text} {operator} ?{guard}", [*column.params, number])
            return [_rows("num", field, test, wanted)]
        case Compare(_, operator, text):
            return _texts(field, Sql(f"{{}} {operator} ?", [text]), wanted)
        case Like(_, pattern, True):
            return _texts(field, Sql("lower({}) LIKE ?", [fold(pattern)]), wanted)
        case Like(_, pattern):
            return _texts(field, Sql("{} LIKE ?", [pattern]), wanted)
        case Contains(_, text):
            return _texts(field, Sql("contains(lower({}), ?)", [fold(text)]), wanted)


def _texts(field: Field, test: Sql, wanted: bool) -> list[Sql]:
    """A test on text, `{}` being the value; a number is taken as its text."""
    values = {"txt": "value", "num": text_value("value")}
    return [_rows(t, field, Sql(test.text.format(values[t]), test.params), wanted) for t in _tables(field)]


def _equal(field: Field, values: Sequence[Value], wanted: bool, now: float) -> list[Sql]:
    """Equality without spelling any number of the table: a text that is a number's text asks for that number too."""
    texts = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if isinstance(value, float)]
    numbers += [number for text in texts if (number := number_of(text)) is not None]
    sets = []
    for table in _tables(field):
        sought: Sequence[Value] = numbers if table == "num" else texts
        if sought:
            column = _value(table, field, now)
            test = "= ?" if len(sought) == 1 else f"IN (SELECT unnest(?::{_TYPES[table]}[]))"
            params = [*column.params, sought[0] if len(sought) == 1 else list(sought)]
            sets.append(_rows(table, field, Sql(f"{column.text} {test}", params), wanted))
        elif not wanted:
            sets.append(_rows(table, field))
    return sets


_TYPES = {"num": "DOUBLE", "txt": "VARCHAR"}


def _tables(field: Field) -> tuple[str, ...]:
    """Where values of the field can be."""
    match field.kind:
        case "any":
            return "num", "txt"
        case "text":
            return ("txt",)
        case _:
            return ("num",)


def _value(table: str, field: Field, now: float) -> Sql:
    return Sql("(? - value)", [now]) if table == "num" and field == _AGE else Sql("value", [])


_AGE = Field("", "age")


def _rows(table: str, field: Field, test: Sql | None = None, wanted: bool = True) -> Sql:
    """The runs of one table that have the key and pass the test, or fail it."""
    if test is None:
        return Sql(_HAVE[table], [field.key])
    passes = test.text if wanted else f"NOT ({test.text})"
    return Sql(f"{_HAVE[table]} AND {passes}", [field.key, *test.params])


_HAVE = {"num": "SELECT run FROM num WHERE key = ?", "txt": "SELECT run FROM txt WHERE key = ?"}


def _union(sets: list[Sql]) -> Sql:
    """Sets of runs as one; no set at all is the empty one."""
    if not sets:
        return Sql(f"{_EVERY.text} WHERE false", [])
    return Sql(" UNION ALL ".join(one.text for one in sets), [p for one in sets for p in one.params])
