"""What may be asked of an index: the same answers as going through all runs in Python would give."""

import itertools
from collections import Counter
from collections.abc import Iterator
from math import nan
from typing import Any

import pytest

from sexton import clock, errors
from sexton.index import query
from sexton.index.query import Aggregate, Where
from sexton.index.snapshot import Index
from sexton.ingest import ingest
from sexton.model.records import Params, Tag
from sexton.model.values import encode_param
from sexton.store.database import open_database
from tests.batches import T0, new_run, points, records, started
from tests.indexes import Row, held

NOW = T0 + 60 * clock.SECOND
KEYS = ["metrics.acc", "params.p", "params.mixed", "name", "created", "nowhere"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """90 runs with many ties, two thirds of them in a segment, of which some have changed since."""
    folder = tmp_path_factory.mktemp("index")
    database = open_database(f"file:{folder}")
    index = Index(database, folder / "index")
    runs = [new_run() for _ in range(90)]
    for part in (runs[:60], runs[60:]):
        with database.write("me", NOW) as tx:
            for number, run in enumerate(part):
                facts = {"p": number % 4, "mixed": [number % 3, "x", "y", None][number % 4]}
                said: dict[str, str] = {"name": f"n{number % 5}"} if number % 3 else {}
                ingest(tx, [started(run, f"e{number % 2}", **said)])
                params = {key: encode_param(value) for key, value in facts.items()}
                tag = Tag(at=T0, key="t", value=f"it's {number % 10}?")
                ingest(tx, [records(run, Params(at=T0, params=params), tag, first=1)])
                if number % 5:
                    ingest(tx, [points(run, {"acc": [nan if number % 7 == 0 else number % 6 / 2]}, first=10)])
        index.refresh(NOW)
        if part is not runs[60:]:
            index.fold(NOW)
            index.refresh(NOW)
    with database.write("me", NOW) as tx:
        ingest(tx, [points(run, {"acc": [9.0]}, first=50) for run in runs[:30:4]])
    index.refresh(NOW)
    yield index
    index.close()
    database.close()


@pytest.fixture(scope="module")
def rows(index: Index) -> dict[str, Row]:
    return held(index)


WHERE: list[Where | None] = [
    None,
    ("SELECT run FROM num WHERE key = ? AND value > ? AND NOT isnan(value)", ["metrics.acc", 1.0]),
    ("SELECT run FROM txt WHERE key = ? AND value LIKE '%''s _?' AND key <> 'a?'", ["tags.t"]),
]


def passes(row: Row, where: Where | None) -> bool:
    number = None if where is None else WHERE.index(where)
    if number == 1:
        return isinstance(row.get("metrics.acc"), float) and row["metrics.acc"] > 1
    return True


def order(value: Any) -> tuple[int, Any]:
    """Numbers, then texts, then what is unknown."""
    if value is None or value == "(NaN)":
        return 2, 0
    return (1, value) if isinstance(value, str) else (0, value)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("limit", [7, 1000])
def test_pages_hold_every_run_once_in_order(
    index: Index, rows: dict[str, Row], key: str, descending: bool, where: Where | None, limit: int
) -> None:
    wanted = []
    for _, group in itertools.groupby(
        sorted(rows, key=lambda r: order(rows[r].get(key))[0]), lambda r: order(rows[r].get(key))[0]
    ):
        wanted += sorted(group, key=lambda r: (order(rows[r].get(key))[1], r), reverse=descending)
    wanted = [run for run in wanted if passes(rows[run], where)]
    found: list[str] = []
    after = None
    with index.reading() as duck:
        while True:
            page = query.search(duck, where, key, descending=descending, limit=limit, after=after)
            found += page.ids
            assert page.total == len(wanted)
            after = page.next
            if after is None:
                break
            assert len(page.ids) == limit
    assert found == wanted


def test_a_place_that_nobody_gave_is_refused(index: Index) -> None:
    with index.reading() as duck, pytest.raises(errors.InvalidValue):
        query.search(duck, None, "created", limit=3, after="nonsense")


def test_whole_rows_come_in_the_order_asked_for(index: Index, rows: dict[str, Row]) -> None:
    ids = [*sorted(rows)[::9], "000000000000"]
    with index.reading() as duck:
        found = query.hydrate(duck, ids)
    wanted = [{key: value for key, value in rows[run].items() if key[0] != "("} for run in ids[:-1]]
    assert [{key: "(NaN)" if value != value else value for key, value in row.items()} for row in found] == wanted


def test_groups_are_told_with_their_aggregates(index: Index, rows: dict[str, Row]) -> None:
    asked = [Aggregate("count"), Aggregate("mean", "metrics.acc"), Aggregate("max", "params.p")]
    groups: dict[Any, list[Row]] = {}
    for row in rows.values():
        groups.setdefault((row.get("params.mixed"), row.get("experiment")), []).append(row)
    with index.reading() as duck:
        found = query.group(duck, ["params.mixed", "experiment"], asked)
    told = {row[:2]: row[2:] for row in found}
    assert len(told) == len(found)
    assert told.keys() == groups.keys()
    assert [row[2] for row in found] == sorted((row[2] for row in found), reverse=True)
    for key, members in groups.items():
        known = [one["metrics.acc"] for one in members if isinstance(one.get("metrics.acc"), float)]
        count, mean, most = told[key]
        assert (count, most) == (len(members), max(one["params.p"] for one in members))
        assert mean == (pytest.approx(sum(known) / len(known)) if known else None)


def test_the_best_of_each_group(index: Index, rows: dict[str, Row]) -> None:
    wanted = []
    for group in sorted({row["params.p"] for row in rows.values()}):
        known = [r for r, row in rows.items() if row["params.p"] == group and isinstance(row.get("metrics.acc"), float)]
        known.sort(key=lambda run: (rows[run]["metrics.acc"], run), reverse=True)
        wanted += [(group, run) for run in known[:3]]
    with index.reading() as duck:
        assert query.top(duck, "params.p", "metrics.acc", 3) == wanted


def test_keys_and_values_are_counted(index: Index, rows: dict[str, Row]) -> None:
    keys = Counter(key for row in rows.values() for key in row if key[0] != "(")
    values = Counter(row["params.mixed"] for row in rows.values() if "params.mixed" in row)
    with index.reading() as duck:
        assert query.keys(duck) == sorted(keys.items())
        assert query.keys(duck, "params.") == [one for one in sorted(keys.items()) if one[0].startswith("params.")]
        assert dict(query.values(duck, "params.mixed")) == values


# ---------------------------------------------------------------------------------------------------------- users' SQL


def test_a_user_may_select_from_the_relations(index: Index) -> None:
    with index.reading() as duck:
        found = query.sql(duck, "SELECT count(*) AS n, 'x' AS x FROM runs; -- all of them")
    assert found == (["n", "x"], [(90, "x")], False)


def test_only_so_many_rows_are_taken(index: Index) -> None:
    with index.reading() as duck:
        found = query.sql(duck, "SELECT * FROM range(1000)", rows=10)
    assert (len(found.rows), found.cut) == (10, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELEC 1",
        "SELECT 1; SELECT 2",
        "DROP TABLE fresh.num",
        "INSERT INTO fresh.num VALUES ('a', 1, 1)",
        "DELETE FROM fresh.runs",
        "FROM query('DELETE FROM fresh.runs')",
        "SET memory_limit = '100GB'",
        "PRAGMA database_list",
        "ATTACH '/tmp/sexton-index-test.duckdb'",
        "COPY (SELECT 1) TO '/tmp/sexton-index-test.csv'",
        "EXPORT DATABASE '/tmp/sexton-index-test'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_json('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'https://example.org/a.parquet'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT getenv('HOME')",
        "SELECT * FROM enable_logging(storage='file')",
        "SELECT * FROM enable_logging()",
        "SELECT * FROM text",  # a variable of the Python that asks
    ],
)
def test_it_can_do_nothing_else(index: Index, text: str) -> None:
    with index.reading() as duck, pytest.raises(errors.UsageError):
        query.sql(duck, text)
    assert len(held(index)) == 90


def test_what_takes_too_long_is_ended(index: Index) -> None:
    endless = "SELECT count(*) FROM range(10000000000) AS a, range(1000) AS b WHERE a.range % 7 = b.range"
    with index.reading() as duck, pytest.raises(errors.UsageError, match="longer than"):
        query.sql(duck, endless, seconds=0.2)


def test_what_needs_too_much_memory_is_ended(index: Index) -> None:
    large = "SELECT list(a.range) FROM range(1000000000) AS a"
    with index.reading() as duck, pytest.raises(errors.UsageError, match="memory"):
        query.sql(duck, large, seconds=60)
    assert len(held(index)) == 90
