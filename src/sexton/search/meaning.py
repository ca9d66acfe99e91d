"""What each rule of the grammar means: the tree, built as the text is read.

A reading is refused (`BadQuery`) as soon as it nests too deep or has too many conditions, so that nothing that walks
the tree afterwards, the database included, meets one that is too much for it.
"""

import re
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from sexton.search import literals
from sexton.search.fields import ATTRIBUTES, Field, find, find_path, part_of
from sexton.search.literals import Said, unquoted, wrong
from sexton.search.near import suggest
from sexton.search.tree import Aggregate, Aggregation, Known, Not, Operator, Sort, Term

if TYPE_CHECKING:
    from lark import Token

DEPTH = 100
"""Brackets and `not` inside each other."""

TOO_DEEP = f"brackets and `not` nest {DEPTH} deep at most"

CONDITIONS = 500
"""Conditions in one filter; a list after `in` is one."""


class Built(NamedTuple):
    """A term, how deep the text that said it nests, and how many conditions it has."""

    term: Term
    depth: int = 0
    conditions: int = 1


class Placed(NamedTuple):
    """A field, and where it stands."""

    field: Field
    column: int


class Meaning:
    """A method for each rule; it gets the meanings of the rule's parts. Called innermost first, without recursion.
    Keeps nothing, so that threads may share one."""

    def query(self, parts: list[Built]) -> Term:
        return parts[0].term

    def either(self, parts: list[Built]) -> Built:
        return _joined(literals.either(tuple(part.term for part in parts)), parts)

    def both(self, parts: list[Built]) -> Built:
        return _joined(literals.both(tuple(part.term for part in parts)), parts)

    def negation(self, parts: list[Any]) -> Built:
        token, built = parts
        return _deeper(token, Not(built.term), built)

    def bracket(self, parts: list[Any]) -> Built:
        token, built = parts
        return _deeper(token, built.term, built)

    def compare(self, parts: list[Any]) -> Built:
        (field, _), operator, said = parts
        return Built(literals.compare(field, _OPERATORS[operator.value], said))

    def among(self, parts: list[Any]) -> Built:
        (field, _), negated, *said = parts
        return _unless(negated, literals.among(field, tuple(said)))

    def between(self, parts: list[Any]) -> Built:
        (field, _), negated, low, high = parts
        terms = literals.compare(field, ">=", low), literals.compare(field, "<=", high)
        return _unless(negated, literals.both(terms))

    def textual(self, parts: list[Any]) -> Built:
        (field, _), negated, operator, said = parts
        return _unless(negated, literals.textual(field, operator.lower(), said))

    def null(self, parts: list[Any]) -> Built:
        (field, _), negated = parts
        return Built(Known(field) if negated else Not(Known(field)))

    def present(self, parts: list[Placed]) -> Built:
        ((field, column),) = parts
        if field.space != "tags":
            wrong(column + len(str(field)), f"expected an operator after {field}; only a tag can stand alone")
        return Built(Known(field))

    def sorts(self, parts: list[Sort]) -> tuple[Sort, ...]:
        return tuple(parts)

    def sort(self, parts: list[Any]) -> Sort:
        minus, (field, column), direction = parts
        if minus and direction:
            wrong(column, f"write either - before {field} or {direction} after it")
        descending = bool(minus) or (direction or "").lower() == "desc"
        return Sort(_CREATED, not descending) if field == _AGE else Sort(field, descending)

    def fields(self, parts: list[Placed]) -> tuple[Field, ...]:
        return tuple(field for field, _ in parts)

    def aggregates(self, parts: list[Aggregate]) -> tuple[Aggregate, ...]:
        return tuple(parts)

    def figure(self, parts: list["Token"]) -> Aggregate:
        (name,) = parts
        return _aggregate(name, None)

    def figure_of(self, parts: list[Any]) -> Aggregate:
        name, placed = parts
        return _aggregate(name, placed and placed.field)

    def field(self, parts: list["Token"]) -> Placed:
        (token,) = parts
        return Placed(_field(token), _column(token))

    def value(self, parts: list["Token"]) -> Said:
        (token,) = parts
        column, source = _column(token), token.value
        match token.type:
            case "NUMBER":
                return literals.number(source, column)
            case "SPECIAL":
                return literals.special(source, column)
            case "DATE":
                return literals.moment(source, column)
            case "TRUTH":
                return Said(column, source, "text", source.lower())
            case _:
                return literals.text(source, column)

    def bare_word(self, parts: list["Token"]) -> Said:
        (token,) = parts
        said = unquoted(token.value) if token.type == "BACKTICKED" else token.value
        wrong(_column(token), f"expected a value; if text is meant, write '{said}' in quotes")


_AGE, _CREATED = Field("", "age"), Field("", "created")
_OPERATORS: dict[str, Operator] = {
    "=": "=",
    "==": "=",
    "!=": "!=",
    "<>": "!=",
    "<": "<",
    "<=": "<=",
    ">": ">",
    ">=": ">=",
}
_FIGURES: dict[str, Aggregation] = {**{name: name for name in get_args(Aggregation)}, "avg": "mean"}
_QUOTED_NAME = re.compile(r"(\w+)\.(\".*\"|`.*`)(?:\.(\w+))?", re.DOTALL)


def _column(token: "Token") -> int:
    """Where the token begins, from 1 and through all lines."""
    return (token.start_pos or 0) + 1


def _joined(term: Term, parts: list[Built]) -> Built:
    conditions = sum(part.conditions for part in parts)
    if conditions > CONDITIONS:
        wrong(1, f"a query has {CONDITIONS} conditions at most; `in (...)` asks for many values at once")
    return Built(term, max(part.depth for part in parts), conditions)


def _deeper(token: "Token", term: Term, inner: Built) -> Built:
    if inner.depth >= DEPTH:
        wrong(_column(token), TOO_DEEP)
    return Built(term, inner.depth + 1, inner.conditions)


def _unless(negated: object, term: Term) -> Built:
    return Built(Not(term) if negated else term)


def _field(token: "Token") -> Field:
    """The field that a token names. Raises `BadQuery`."""
    source = token.value
    if token.type != "FIELD":
        field = find("", unquoted(source))
    elif quoted := _QUOTED_NAME.fullmatch(source):
        space, name, part = quoted.groups()
        field = find(space, unquoted(name))
        field = part_of(field, part) if field and part else field
    else:
        field = find_path(source)
    if field is None:
        wrong(_column(token), _unknown(source))
    return field


def _unknown(source: str) -> str:
    space, _, name = source.partition(".")
    if find(space, name or "x"):
        return f"expected a name after {space}, such as {space}.acc"
    meant = suggest(source, ATTRIBUTES)
    guess = " or ".join(meant) if meant else f"metrics.{source}, params.{source} or tags.{source}"
    return f"there is no field {source}; perhaps {guess}"


def _aggregate(name: "Token", field: Field | None) -> Aggregate:
    function, column = _FIGURES.get(name.lower()), _column(name)
    if function is None:
        meant = suggest(name.value, _FIGURES)
        wrong(column, f"there is no {name}; {f'perhaps {meant[0]}' if meant else 'there are ' + ' '.join(_FIGURES)}")
    alone = function in ("count", "failure_rate")
    if field is None and not alone:
        wrong(column, f"{function} needs a field: {function}(metrics.acc)")
    if field and function == "failure_rate":
        wrong(column, "failure_rate is of the runs of a group, not of a field")
    if field and not alone and (field.kind == "text" or field == _AGE):
        wrong(column, f"{function} is of numbers, and {field} is {'counted from now' if field == _AGE else 'text'}")
    return Aggregate(function, field)
