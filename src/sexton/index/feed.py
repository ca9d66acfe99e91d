"""From the store's runs to rows of the index: which keys a run has, and whether a value of one is number or text.

`num(key, run, value)` has numbers, `txt(key, run, value)` texts; a run has at most one row for a key in both together.
A param is a number if it is one in JSON, or a NaN, an infinity or an integer too long for JSON; null is no value; what
is no string either (true, a list) is a text, its JSON. Tags are texts. A metric has four keys: `metrics.NAME` (the
last), and with `.min`, `.max`, `.best` (by the direction declared, else the last); where another metric is called
that, it keeps its name. Attributes have no prefix; their times are seconds since 1970.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from sexton.model.runs import shown_state
from sexton.model.values import thaw
from sexton.search import fields
from sexton.store.cells import ATTRIBUTES, Part, Texts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Duck

Array = np.ndarray[Any, Any]

TABLES = {
    "num": "key VARCHAR, run UINTEGER, value DOUBLE",
    "txt": "key VARCHAR, run UINTEGER, value VARCHAR",
    "runs": "run UINTEGER, id VARCHAR, created BIGINT, state VARCHAR, heard BIGINT",
}
"""What the index consists of. `run` is a number that the index gives, `created` and `heard` are UTC ns."""

_TIMES = {"created_at": "created", "ended_at": "finished"}
_NUMBERS = ("seconds", "exit_code", "signal", "cpu_seconds", "max_rss", "bytes")
_TEXTS = tuple(name for name in ATTRIBUTES if name not in (*_TIMES, *_NUMBERS, "heard_at"))
_PARTS: tuple[fields.Part, ...] = ("last", "min", "max", "best")


class _Cells(NamedTuple):
    """Rows of `num` or `txt`; the place of a run counts from 0."""

    key: Array
    place: Array
    value: Array


def load(duck: "Duck", part: Part, first: int, now: int, into: str = "main") -> int:
    """Add the rows of these runs, as they stand at `now` (UTC ns), to the tables of the schema `into`. Numbers them
    from `first` in their order; returns the next number."""
    rows = dict(zip(ATTRIBUTES, zip(*part.runs, strict=True), strict=True)) if part.runs else {}
    if not rows:
        return first
    rows["state"] = tuple(map(shown_state, rows["state"], rows["heard_at"], [now] * len(part.runs)))
    measured, said = _params(part.params)
    numbers = [measured, *_metrics(part), *(_known(name, column) for name, column in _numbers(part, rows))]
    texts = [said, *_tags(part.tags), *(_known(name, _objects(rows[name])) for name in _TEXTS), _notes(part)]
    _insert(duck, f"{into}.num", "key, run, coalesce(value, 'NaN')", _table(numbers, first))  # NaN arrives as NULL
    _insert(duck, f"{into}.txt", "key, run, value", _table(texts, first))
    listed = {
        "run": np.arange(first, first + len(part.runs), dtype="u4"),
        "id": _objects(rows["id"]),
        "created": np.array(rows["created_at"], "i8"),
        "state": _objects(rows["state"]),
        "heard": np.array([-1 if one is None else one for one in rows["heard_at"]], "i8"),
    }
    _insert(duck, f"{into}.runs", "run, id, created, state, nullif(heard, -1)", listed)
    return first + len(part.runs)


def _insert(duck: "Duck", table: str, columns: str, rows: dict[str, Array]) -> None:
    duck.register("part_rows", rows)
    duck.execute(f"INSERT INTO {table} SELECT {columns} FROM part_rows")  # noqa: S608 - SQL of ours
    duck.unregister("part_rows")


def _table(cells: list[_Cells], first: int) -> dict[str, Array]:
    key, place, value = (np.concatenate(column) for column in zip(*cells, strict=True))
    return {"key": key, "run": (place.astype("i8") + first).astype("u4"), "value": value}


# -------------------------------------------------------------------------------------------- params, tags, attributes


def _params(texts: Texts) -> tuple[_Cells, _Cells]:
    """Numbers and texts."""
    distinct, which = _coded(texts.value)
    values = [_value(text) for text in distinct]
    key = _prefixed("params.", texts.key)
    return (
        _chosen(
            key, texts.place, _objects(values), np.array([isinstance(v, float) for v in values], bool), which, "f8"
        ),
        _chosen(key, texts.place, _objects(values), np.array([isinstance(v, str) for v in values], bool), which, "O"),
    )


def _chosen(key: Array, place: Array, values: Array, chosen: Array, which: Array, kind: str) -> _Cells:
    rows = chosen[which] if len(which) else np.empty(0, bool)
    return _Cells(key[rows], place[rows], values[which[rows]].astype(kind))


def _value(text: str) -> float | str | None:
    """What a param's JSON means here."""
    if text[0] == '"' and "\\" not in text:
        return text[1:-1]
    if text[0] in "-0123456789":
        return float(text)
    value = thaw(msgspec.json.decode(text))
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return text
    return text


def _tags(texts: Texts) -> Iterator[_Cells]:
    value = _objects(texts.value)
    yield _Cells(_prefixed("tags.", texts.key), texts.place, value)
    tier = _objects(texts.key) == "tier"
    yield _Cells(_objects(["tier"]).repeat(tier.sum()), texts.place[tier], value[tier])


def _notes(part: Part) -> _Cells:
    places, notes = [place for place, _ in part.notes], [text for _, text in part.notes]
    return _Cells(_objects(["note"]).repeat(len(notes)), np.array(places, "u4"), _objects(notes))


def _numbers(part: Part, rows: dict[str, tuple[Any, ...]]) -> Iterator[tuple[str, Array]]:
    columns = {name: np.array(rows[name], "f8") for name in (*_NUMBERS, *_TIMES)}
    for column, name in _TIMES.items():
        columns[name] = columns.pop(column) / 1e9
    for metric in part.metrics:
        if metric.usage and metric.name == "memory":  # the most that samples saw, where the end did not tell
            place, _, _, _, most = part.summaries[part.summaries[:, 1] == metric.number].T
            sampled = np.full(len(part.runs), np.nan)
            sampled[place.astype(int)] = np.trunc(most)
            columns["max_rss"] = np.where(np.isnan(columns["max_rss"]), sampled, columns["max_rss"])
    yield from columns.items()


def _known(key: str, column: Array) -> _Cells:
    """A row for each run of which it is known; places are those of `column`."""
    place = np.flatnonzero(column != None if column.dtype == object else ~np.isnan(column))  # noqa: E711 - of each
    return _Cells(_objects([key]).repeat(len(place)), place, column[place])


# ------------------------------------------------------------------------------------------------------------- metrics


def _metrics(part: Part) -> list[_Cells]:
    own = [metric for metric in part.metrics if not metric.usage]
    numbers = np.array([metric.number for metric in own], "i8")
    order = np.argsort(numbers)
    mine = part.summaries[np.isin(part.summaries[:, 1].astype("i8"), numbers)]
    which = order[np.searchsorted(numbers, mine[:, 1].astype("i8"), sorter=order)] if own else np.empty(0, int)
    place, _, last, least, greatest = mine.T
    way = _directions(part, place.astype(int), mine[:, 1].astype(int))
    best = np.where(way < 0, least, np.where(way > 0, greatest, last))
    found = [
        _Cells(_objects([fields.metric_key(metric.name, part) for metric in own])[which], place, value)
        for part, value in zip(_PARTS, (last, least, greatest, best), strict=True)
    ]
    return _once(found, which) if len({metric.name for metric in own}) < len(own) else found


def _directions(part: Part, place: Array, metric: Array) -> Array:
    """-1 where less of a metric is better in its run's home, 1 where more is, else 0."""
    homes: dict[tuple[str, str], int] = {}
    home = np.array([homes.setdefault((row[1], row[2]), len(homes)) for row in part.runs], "i8")
    size = 1 + max((one.number for one in part.metrics), default=0)
    declared = {
        homes[project, experiment] * size + number: -1 if direction == "min" else 1
        for project, experiment, number, direction in part.directions
        if (project, experiment) in homes and number < size
    }
    if not declared:
        return np.zeros(len(place), int)
    codes, ways = np.array(sorted(declared)), np.array([declared[code] for code in sorted(declared)])
    wanted = home[place] * size + metric
    at = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where(codes[at] == wanted, ways[at], 0)


def _once(found: list[_Cells], which: Array) -> list[_Cells]:
    """Without what has the key of another metric of the run: the later of two with one name stays."""
    ranked = np.argsort(which, kind="stable")
    taken: dict[tuple[float, str], tuple[int, int]] = {}
    for kind, cells in reversed(list(enumerate(found))):
        for row in ranked.tolist():
            taken[cells.place[row], cells.key[row]] = (kind, row)
    kept = [np.array([row for kind, row in taken.values() if kind == wanted], int) for wanted in range(len(found))]
    return [_Cells(*(column[rows] for column in cells)) for cells, rows in zip(found, kept, strict=True)]


def _prefixed(prefix: str, keys: list[str]) -> Array:
    distinct, which = _coded(keys)
    return _objects([prefix + key for key in distinct])[which]


def _coded(texts: list[str]) -> tuple[list[str], Array]:
    """The different ones among the texts, and which of these each is."""
    places = {text: place for place, text in enumerate(set(texts))}
    return list(places), np.fromiter(map(places.__getitem__, texts), "i8", len(texts))


def _objects(values: Iterable[Any]) -> Array:
    given = values if isinstance(values, list | tuple) else list(values)
    made = np.empty(len(given), dtype=object)
    made[:] = given
    return made
