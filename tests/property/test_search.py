"""The two meanings of a query, SQL and a function of one run, are one; and no text is read as something else."""

import random
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sexton import errors
from sexton.search import literals
from sexton.search.compile import text_value, where
from sexton.search.evaluate import matches
from sexton.search.fields import Field
from sexton.search.grammar import parse, parse_sorts
from sexton.search.meaning import CONDITIONS, DEPTH
from sexton.search.tree import (
    EVERYTHING,
    Among,
    Compare,
    Contains,
    Known,
    Like,
    Not,
    Query,
    Term,
    fold,
    text_of,
    unparse,
)

NOW = 1_790_000_000 * 10**9
Run = Mapping[str, float | str]

PARAMS = [Field("params", name) for name in ("lr", "a b", 'q"`', "lr.min")]
METRICS = [Field("metrics", "loss"), Field("metrics", "loss", "min"), Field("metrics", "loss.min")]
TAGS = [Field("tags", "best"), Field("tags", "ünï/x.y-z")]
TEXTS = [Field("", name) for name in ("state", "name", "note")]
NUMBERS = [Field("", name) for name in ("exit_code", "seconds", "bytes", "cost")]
TIMES = [Field("", "created"), Field("", "finished")]
AGE = Field("", "age")
STORED = [*PARAMS, *METRICS, *TAGS, *TEXTS, *NUMBERS, *TIMES]

WORDS = [
    *("", "a", "A", "ab", "abcab", "it's", '"', "`", "a%b", "a_b", "\\", "true", "killed", "äÖ", "ÄÖ", "İi", "ΣΑΣ"),
    *("σας", "\U0001f642", "e\u0301", "0.1", "10", "10.0", "1e-05", "NaN", "nan", "Infinity", "-Infinity", "1e+16"),
]
words = st.sampled_from(WORDS) | st.text("aAb%_'\"ÄäΣ ", max_size=6)
numbers = (
    st.sampled_from(
        [
            float("nan"),
            float("inf"),
            0.0,
            -0.0,
            0.1,
            1.0,
            10.0,
            1e-05,
            1e15,
            1e16,
            2.0**53,
            86400.0,
            2e9,
            2.0**31,
            1e300,
        ]
    )
    | st.floats()
)
moments = st.sampled_from([NOW / 1e9, NOW / 1e9 - 86400]) | st.integers(-(2**50), 2**54).map(lambda us: us / 1e6)


def _stored(field: Field) -> st.SearchStrategy[float | str]:
    """What a run can have there."""
    match field.kind:
        case "any":
            return words | numbers
        case "text":
            return words | st.sampled_from(["line\nline", "a\x00b"])
        case "time":
            return moments
        case _:
            return numbers


runs = st.lists(
    st.fixed_dictionaries({}, optional={field.key: _stored(field) for field in STORED}), min_size=1, max_size=8
)


def _condition(field: Field) -> st.SearchStrategy[Term]:
    """What a query can say of a field."""
    values = moments if field.kind == "time" else numbers.map(lambda number: number + 0.0)  # -0 is read as 0
    texts = words.map(str.lower) if field.name == "state" else words
    known = st.just(Known(field))
    equal: list[st.SearchStrategy[Any]] = [values] if field.kind != "text" else []
    textual: list[st.SearchStrategy[Term]] = []
    if field.kind in ("any", "text"):
        equal.append(texts)
        textual = [
            st.builds(Like, st.just(field), texts, st.booleans()),
            st.builds(Contains, st.just(field), texts),
        ]
    either = st.one_of(equal)
    ordered = either.filter(lambda value: value == value)
    among = [] if field.kind == "time" else [st.builds(Among, st.just(field), st.lists(either, min_size=1).map(tuple))]
    return st.one_of(
        known,
        st.builds(Compare, st.just(field), st.sampled_from(["=", "!="]), either),
        st.builds(Compare, st.just(field), st.sampled_from(["<", "<=", ">", ">="]), ordered),
        *among,
        *textual,
    )


conditions = st.one_of([_condition(field) for field in (*STORED, AGE)])
terms: st.SearchStrategy[Term] = st.recursive(
    conditions,
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: literals.both(tuple(some))),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: literals.either(tuple(some))),
    ),
    max_leaves=6,
)
queries = terms.map(lambda term: Query(term, NOW / 1e9))


class Tables:
    """The relations of the index, with other runs in them for each example."""

    def __init__(self) -> None:
        self._connection = duckdb.connect()
        self._connection.execute("CREATE TABLE num(key VARCHAR, run UINTEGER, value DOUBLE)")
        self._connection.execute("CREATE TABLE txt(key VARCHAR, run UINTEGER, value VARCHAR)")
        self._connection.execute("CREATE TABLE runs(run UINTEGER)")

    def fill(self, some: list[Run]) -> None:
        self._connection.execute("DELETE FROM num; DELETE FROM txt; DELETE FROM runs")
        cells = [(key, run, value) for run, one in enumerate(some) for key, value in one.items()]
        for table, kind, of in (("num", float, "DOUBLE"), ("txt", str, "VARCHAR")):
            columns = zip(*(cell for cell in cells if isinstance(cell[2], kind)), strict=True)
            insert = f"INSERT INTO {table} SELECT unnest(?::VARCHAR[]), unnest(?::UINTEGER[]), unnest(?::{of}[])"
            self._connection.execute(insert, [list(column) for column in columns] or [[], [], []])
        self._connection.execute("INSERT INTO runs SELECT unnest(range(?))", [len(some)])

    def find(self, query: Query) -> list[int]:
        text, params = where(query)
        return sorted(row[0] for row in self.rows(text, params))

    def rows(self, text: str, params: list[Any]) -> list[Any]:
        return self._connection.execute(text, params).fetchall()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def tables() -> Iterator[Tables]:
    opened = Tables()
    yield opened
    opened.close()


@settings(max_examples=110, deadline=None)
@given(some=runs, asked=st.lists(queries, min_size=20, max_size=20))
def test_sql_finds_the_runs_that_evaluate_finds(tables: Tables, some: list[Run], asked: list[Query]) -> None:
    tables.fill(some)
    for query in asked:
        expected = [number for number, run in enumerate(some) if matches(query, run)]
        assert tables.find(query) == expected, unparse(query)


@settings(max_examples=1_000, deadline=None)
@given(query=queries)
def test_a_tree_is_spelled_and_read_again_as_the_same_tree(query: Query) -> None:
    text = unparse(query)
    again = parse(text, NOW)
    assert repr(again) == repr(query)  # by repr, because NaN is not itself
    assert unparse(again) == text


def test_numbers_are_spelled_alike_in_sql_and_here(tables: Tables) -> None:
    chance = random.Random(4)
    some = [chance.uniform(-1, 1) * 10 ** chance.randint(-300, 300) for _ in range(5_000)]
    some += [float(chance.randint(-(10**places), 10**places)) for places in range(1, 20) for _ in range(100)]
    some += [round(chance.random(), places) for places in range(10) for _ in range(100)]
    some += [0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1e15, -1e15, 1e15 - 1, 5e-324]
    spelled = tables.rows(f"SELECT {text_value('x')} FROM (SELECT unnest(?::DOUBLE[]) AS x)", [some])
    assert [row[0] for row in spelled] == [text_of(number) for number in some]


def test_text_is_folded_alike_in_sql_and_here(tables: Tables) -> None:
    characters = [chr(code) for code in range(1, 0x30000) if not 0xD800 <= code < 0xE000] + WORDS
    found = tables.rows("SELECT lower(c) FROM (SELECT unnest(?::VARCHAR[]) AS c)", [characters])
    assert {one: row[0] for one, row in zip(characters, found, strict=True) if row[0] != fold(one)} == {}


def test_every_short_pattern_fits_the_same_texts_in_sql_and_here(tables: Tables) -> None:
    texts = ["".join(some) for length in range(5) for some in product("ab", repeat=length)]
    patterns = ["".join(some) for length in range(5) for some in product("ab%_", repeat=length)]
    asked = "SELECT t, p FROM (SELECT unnest(?::VARCHAR[]) AS t), (SELECT unnest(?::VARCHAR[]) AS p) WHERE t LIKE p"
    tag = Field("tags", "x")
    fits = {(t, p) for p in patterns for t in texts if matches(Query(Like(tag, p), 0.0), {tag.key: t})}
    assert fits == set(tables.rows(asked, [texts, patterns]))


# ------------------------------------------------------------------------------------------------------- broken text

VALID = [
    "metrics.val/acc > 0.95 and (tags.baseline or params.model in ('svm','gbt')) and user = 'ada' and age < 30d",
    'params."learning rate" = "0.1" AND metrics.`f1 score` >= .5e-3 or not tags.`a``b` like \'x%\'',
    "state in ('failed', 'killed') and created >= 2026-11-01T10:00Z and seconds between 10min and 3h",
    "bytes > 2GiB or cost >= $5 and note contains 'it''s' and hypothesis is not null",
    "metrics.loss.min = nan or metrics.loss != -inf and not (params.x is null or params.y = true)",
    "attributes.start_time >= 1664067852747 and created = 2026-02-28 and run_id not in ('a', \"b\")",
    "name not ilike '%tmp%' and name not contains 'x' and exit_code <> 0 and params.seed == 7",
]
PIECES = [
    *" ()'\"`,.-%_=<>!$/\\;*\n\t\x00\x1b\ud800\u202e\U0001f642é0919aeTZ:+",
    *(" and ", " or ", " not ", " in ", " is ", "null", "nan", "between", "--", "/*", "'; DROP TABLE runs; --"),
    *("metrics.", "params.x", "tags.", "2026-99-99", "1e999", "9999-12-31", "30d", "::", "? ", "$1", "0x10"),
]


def _broken(chance: random.Random) -> str:
    text = chance.choice(VALID)
    for _ in range(chance.randint(1, 4)):
        at, to = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        text = chance.choice(
            [
                text[:at] + text[at + 1 :],
                text[:at] + chance.choice(PIECES) + text[at:],
                text[:at] + chance.choice(PIECES) + text[at + 1 :],
                text[:at] + text[to:],
                text[:to] + text[at:],
                text[:at] + text[at:to][::-1] + text[to:],
            ]
        )
    return text


def test_broken_queries_are_refused_or_mean_what_they_say(tables: Tables) -> None:
    """5,000 of them: each is refused, or is a tree that is spelled and read as itself and whose SQL runs and agrees."""
    some: list[Run] = [
        {"params.x": "1", "metrics.loss": 0.5, "state": "failed", "created": 1.79e9, "note": "it's"},
        {"params.model": "svm", "metrics.val/acc": 0.97, "user": "ada", "created": NOW / 1e9 - 60, "tags.baseline": ""},
        {},
    ]
    tables.fill(some)
    chance = random.Random(44)
    refused = 0
    for _ in range(5_000):
        text = _broken(chance)
        try:
            query = parse(text, NOW)
        except errors.BadQuery as bad:
            refused += 1
            column = bad.fields["column"]
            assert isinstance(column, int)
            assert 1 <= column <= len(text) + 1
            str(bad).encode()
            continue
        assert repr(parse(unparse(query), NOW)) == repr(query), text
        assert tables.find(query) == [number for number, run in enumerate(some) if matches(query, run)], text
    assert 2_500 < refused < 5_000


def test_the_greatest_queries_that_are_read_can_be_asked(tables: Tables) -> None:
    some: list[Run] = [{"metrics.x": 0.5}, {"metrics.x": 5.0}]
    tables.fill(some)
    wide = " or ".join(f"metrics.x > {number}" for number in range(1, CONDITIONS + 1))
    deep = "not (" * (DEPTH // 2) + "metrics.x > 1" + ")" * (DEPTH // 2)
    nested = "metrics.x > 1"
    for level in range(DEPTH - 1):
        nested = f"({nested}) {'or' if level % 2 else 'and'} metrics.x > {level}"
    many = f"metrics.x in ({', '.join(str(number) for number in range(10_000))})"
    for text in (wide, deep, many):
        assert tables.find(parse(text, NOW)) == [1]
    query = parse(nested, NOW)
    assert tables.find(query) == [number for number, run in enumerate(some) if matches(query, run)]


def test_an_empty_query_finds_every_run(tables: Tables) -> None:
    tables.fill([{}, {"metrics.x": 1.0}])
    query = parse(" \n ", NOW)
    assert query.term == EVERYTHING
    assert unparse(query) == ""
    assert tables.find(query) == [0, 1]
    assert matches(query, {})
    assert parse_sorts("") == ()


@pytest.mark.parametrize("operator", ["<", "<=", ">", ">="])
def test_nan_has_no_order_in_sql(tables: Tables, operator: str) -> None:
    tables.fill([{"metrics.x": float("nan")}, {}])
    assert tables.find(parse(f"metrics.x {operator} 0", NOW)) == []
    assert tables.find(parse(f"not metrics.x {operator} 0", NOW)) == [0]
