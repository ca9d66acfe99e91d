"""Questions to the index: which runs and in which order, whole rows, groups, keys and values, and a user's own SQL.

A condition is SQL that finds the numbers of runs (`SELECT run ...`) and its parameters, as `search.compile` makes it.
Pages go on from the sort value and id of the last run before, so that a run that comes or goes shifts nothing: numbers
first, then texts, then the runs where it is unknown (or NaN). Knows nothing of the store.
"""

from collections.abc import Sequence
from threading import Timer
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sexton import errors
from sexton.model.values import bookmark, opened_at

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Duck

Where = tuple[str, Sequence[Any]]
"""SQL that finds `run`s, and its parameters."""

Row = dict[str, float | str]
"""What a run has: values by key."""


class Found(NamedTuple):
    """A page of ids, how many runs there are in all, and where the next page starts."""

    ids: list[str]
    total: int
    next: str | None


class Aggregate(NamedTuple):
    """What to tell of a group: how many runs, or something of a key's numbers (without a key: how many runs)."""

    what: Literal["count", "sum", "mean", "min", "max", "median"]
    key: str = ""


class Answer(NamedTuple):
    """What a user's SQL found; `cut` where there was more."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    cut: bool


class _Place(NamedTuple):
    kind: int
    value: Any
    id: str


_KINDS = (
    "SELECT run, value FROM (SELECT run, value FROM num WHERE key = $key AND NOT isnan(value))",
    "SELECT run, value FROM (SELECT run, value FROM txt WHERE key = $key)",
    """SELECT run, 0 AS value FROM (FROM runs ANTI JOIN (SELECT run FROM num WHERE key = $key AND NOT isnan(value)
        UNION ALL SELECT run FROM txt WHERE key = $key) USING (run))""",
)
"""Runs with a value to sort by: a number, a text, none."""


def search(
    duck: "Duck", where: Where | None, sort: str = "created", *, descending: bool = True, limit: int, after: str | None
) -> Found:
    """A page of the runs that pass, in the order of a key, ties by id. `after` is `next` of the page before. Raises
    `InvalidValue`."""
    place, wanted = opened_at(after, _Place), max(limit, 1) + 1
    passing = _find(duck, where)
    total = duck.execute(f"SELECT count(*) FROM {passing}").fetchall()[0][0]  # noqa: S608 - SQL of ours
    found: list[_Place] = []
    for kind, values in enumerate(_KINDS):
        if len(found) < wanted and (place is None or place.kind <= kind):
            start = place if place and place.kind == kind else None
            those = values if where is None else f"{values} SEMI JOIN found USING (run)"
            rows = _sorted(duck, those, sort, descending, wanted - len(found), start)
            found += [_Place(kind, *row) for row in rows]
    page = found[: wanted - 1]
    return Found([one.id for one in page], total, bookmark(page[-1]) if len(found) == wanted else None)


def hydrate(duck: "Duck", ids: Sequence[str]) -> list[Row]:
    """Whole rows, in the order of the ids; of those that are there."""
    listed = duck.execute("SELECT run, id FROM runs WHERE id IN (SELECT unnest($ids))", {"ids": list(ids)}).fetchall()
    rows: dict[int, Row] = {run: {} for run, _ in listed}
    those = _listed(rows)
    for table in ("num", "txt"):
        sql = f"SELECT run, key, value FROM {table} WHERE run IN ({those})"  # noqa: S608 - SQL of ours
        for run, key, value in duck.execute(sql).fetchall() if rows else ():
            rows[run][key] = value
    by_id = {one: rows[run] for run, one in listed}
    return [by_id[one] for one in ids if one in by_id]


def group(
    duck: "Duck", by: Sequence[str], aggregates: Sequence[Aggregate], where: Where | None = None
) -> list[tuple[Any, ...]]:
    """A row for each combination of the values of these keys, most runs first: the values, then the aggregates. A run
    without a value is in the group of None; numbers and texts are different values. NaN counts as unknown in sums."""
    columns, joins, told, parameters = [], [], [], {}
    for number, key in enumerate(by):
        for table in ("num", "txt"):
            known = _has(duck, table, key)  # most keys are in one of the two, and a join costs more than to look
            columns.append(f"{table}{number}.value" if known else "NULL")
            if known:
                joins.append(_value(table, number))
                parameters[f"key{number}"] = key
    for number, one in enumerate(aggregates, len(by)):
        value = f"num{number}.value"
        told.append(f"{_FUNCTIONS[one.what]}(CASE WHEN NOT isnan({value}) THEN {value} END)" if one.key else "count(*)")
        if one.key:
            joins.append(_value("num", number))
            parameters[f"key{number}"] = one.key
    places = ", ".join(str(number) for number in range(1, len(columns) + 1))
    rows = duck.execute(
        f"SELECT {', '.join([*columns, *told])} FROM {_find(duck, where)} AS passing {' '.join(joins)} "  # noqa: S608 - SQL of ours
        + (f"GROUP BY {places} ORDER BY count(*) DESC, {places}" if by else ""),
        parameters,
    ).fetchall()
    return [tuple(_merged(row[: len(columns)])) + row[len(columns) :] for row in rows]


def top(
    duck: "Duck", by: str, sort: str, count: int, *, descending: bool = True, where: Where | None = None
) -> list[tuple[Any, str]]:
    """The first runs of each group by the number of a key, ties by id: the group's value, and the id."""
    way = "DESC" if descending else "ASC"
    passing = _find(duck, where)
    sql = f"""WITH ranked AS (
            SELECT run, n.value AS number, t.value AS text, s.value AS value,
                rank() OVER (PARTITION BY n.value, t.value ORDER BY s.value {way}) AS place
            FROM {passing} JOIN (SELECT run, value FROM num WHERE key = $sort AND NOT isnan(value)) AS s USING (run)
            LEFT JOIN (SELECT run, value FROM num WHERE key = $by) AS n USING (run)
            LEFT JOIN (SELECT run, value FROM txt WHERE key = $by) AS t USING (run)
            QUALIFY place <= $count)
        SELECT number, text, id FROM ranked JOIN runs USING (run)
        QUALIFY row_number() OVER (PARTITION BY number, text ORDER BY value {way}, id {way}) <= $count
        ORDER BY number NULLS LAST, text NULLS LAST, value {way}, id {way}"""  # noqa: S608 - SQL of ours
    rows = duck.execute(sql, {"by": by, "sort": sort, "count": count}).fetchall()
    return [(number if text is None else text, run) for number, text, run in rows]


def keys(duck: "Duck", prefix: str = "", limit: int | None = None) -> list[tuple[str, int]]:
    """The keys that begin with the prefix, and in how many runs each is."""
    sql = """SELECT key, sum(runs)::BIGINT AS runs FROM keys WHERE starts_with(key, $prefix)
        GROUP BY key HAVING runs > 0 ORDER BY key"""
    found = duck.execute(sql if limit is None else f"{sql} LIMIT {int(limit)}", {"prefix": prefix}).fetchall()
    return [(key, count) for key, count in found]


def values(duck: "Duck", key: str, limit: int = 100) -> list[tuple[float | str, int]]:
    """The values of a key, and how many runs have each; most first."""
    sql = """SELECT n, t, runs FROM (
            SELECT value AS n, NULL AS t, count(*) AS runs FROM num WHERE key = $key GROUP BY value
            UNION ALL SELECT NULL, value, count(*) FROM txt WHERE key = $key GROUP BY value)
        ORDER BY runs DESC, n, t LIMIT $limit"""
    rows = duck.execute(sql, {"key": key, "limit": limit}).fetchall()
    return [(number if text is None else text, runs) for number, text, runs in rows]


def sql(duck: "Duck", text: str, *, seconds: float = 10, rows: int = 10_000) -> Answer:
    """Carry out one SELECT of a user, for at most so many seconds, and take at most so many rows of it. It can read the
    relations of the index and nothing else: files, the network and settings are locked. Raises `UsageError`."""
    import duckdb

    try:
        statements = duck.extract_statements(text)
        if [one.type for one in statements] != [duckdb.StatementType.SELECT]:
            raise errors.UsageError(reason="it takes one SELECT")
        timer = Timer(seconds, duck.interrupt)
        timer.start()
        try:
            duck.execute(statements[0])
            names = [column[0] for column in duck.description or ()]
            found = duck.fetchmany(rows + 1)
        finally:
            timer.cancel()
    except duckdb.InterruptException:
        raise errors.UsageError(reason=f"it took longer than {seconds:g} s; ask for less") from None
    except duckdb.OutOfMemoryException:
        raise errors.UsageError(reason="it needs more memory than a question may take; ask for less") from None
    except duckdb.Error as error:
        raise errors.UsageError(reason=str(error)) from None
    return Answer(names, found[:rows], len(found) > rows)


# --------------------------------------------------------------------------------------------------------- statements


def _find(duck: "Duck", where: Where | None) -> str:
    """The relation of the runs that pass: found once, however often it is asked."""
    if where is None:
        return "runs"
    duck.execute(f"CREATE OR REPLACE TEMP TABLE found AS {where[0]}", list(where[1]))
    return "found"


def _sorted(
    duck: "Duck", values: str, key: str, descending: bool, limit: int, start: _Place | None
) -> list[tuple[Any, str]]:
    """Values and ids that come after `start`. Ids are looked up only of what is in the page or ties with its ends."""
    way, beyond, last = ("DESC", "<", "min") if descending else ("ASC", ">", "max")
    rest, further, after = "", "", ""
    if start:
        rest, further = f"WHERE value {beyond}= $value", f"WHERE value {beyond} $value"
        after = f"WHERE (value {beyond} $value OR (value = $value AND id {beyond} $id))"
    sql = f"""WITH v AS (SELECT run, value FROM ({values}) {rest}),
        ahead AS (SELECT value FROM v {further} ORDER BY value {way} LIMIT $limit),
        reach AS (SELECT CASE WHEN count(*) = $limit THEN {last}(value) END AS value FROM ahead),
        near AS (SELECT run, v.value FROM v, reach WHERE reach.value IS NULL OR NOT v.value {beyond} reach.value)
        SELECT value, id FROM near JOIN runs USING (run) {after} ORDER BY value {way}, id {way} LIMIT $limit"""  # noqa: S608 - SQL of ours
    given = {"value": start.value, "id": start.id} if start else {}
    return duck.execute(sql, {"key": key, "limit": limit} | given).fetchall()


def _has(duck: "Duck", table: str, key: str) -> bool:
    return bool(duck.execute(f"SELECT 1 FROM {table} WHERE key = ? LIMIT 1", [key]).fetchall())  # noqa: S608 - SQL of ours


def _value(table: str, number: int) -> str:
    return (
        f"LEFT JOIN (SELECT run, value FROM {table} WHERE key = $key{number}) AS {table}{number} "  # noqa: S608 - SQL of ours
        f"ON {table}{number}.run = passing.run"
    )


_FUNCTIONS = {"count": "count", "sum": "sum", "mean": "avg", "min": "min", "max": "max", "median": "median"}


def _merged(values: Sequence[Any]) -> list[Any]:
    """Pairs of a number and a text, one of them known, as one value."""
    pairs = zip(values[::2], values[1::2], strict=True)
    return [number if text is None else text for number, text in pairs]


def _listed(numbers: Any) -> str:
    return ", ".join(map(str, sorted(numbers)))
