"""What an index should hold, told from the store's own readers, and what it does."""

import random
from math import isnan, nan
from typing import Any

import msgspec

from sexton import clock
from sexton.index.snapshot import Index
from sexton.ingest import ingest
from sexton.model.records import Batch, Direction, Finished, Note, Params, Tag
from sexton.model.runs import Detail
from sexton.model.values import encode_param, thaw
from sexton.search.fields import Part, metric_key
from sexton.store import cells, runs
from sexton.store.database import Database
from tests.batches import T0, new_run, points, records, started

Row = dict[str, Any]
VALUES: list[Any] = [
    *(0, -1, 3.5, 1e300, nan, float("inf"), -float("inf"), 10**30, True, False, None, "", "0.5", "a\nb\\c\"d'"),
    *([1, 2], {"a": {"$float": 1}}, "Ünï\\n", "nan", "null", "{", -0.0),
]
NAMES = ["a", "a.min", "b/c", "b/c.best", 'w"x', "ü", "tier"]


def held(index: Index) -> dict[str, Row]:
    """All rows of the index, by id. Fails where a key has two values."""
    found: dict[str, Row] = {}
    with index.reading() as duck:
        for run, created, state in duck.execute("SELECT id, created, state FROM runs").fetchall():
            assert run not in found
            found[run] = {"(created)": created, "(state)": state}
        for table in ("num", "txt"):
            for run, key, value in duck.execute(
                f"SELECT id, key, value FROM {table} LEFT JOIN runs USING (run)"
            ).fetchall():
                assert key not in found[run], (run, key)
                found[run][key] = _same(value)
    return found


def expected(database: Database, now: int) -> dict[str, Row]:
    """The same, from the details of each run."""
    with database.read() as connection:
        return {run: _row(runs.detail(connection, run, now)) for run in cells.changed(connection, 0)}


BOUNDS: tuple[Part, ...] = ("min", "max", "best")


def _row(detail: Detail) -> Row:
    run = detail.run
    names = "id project experiment state name cause exit_code signal message user host task hypothesis sweep parent"
    row = {name: getattr(run, name) for name in f"{names} outcome takeaway cpu_seconds max_rss bytes".split()}
    row |= {"(created)": run.created_at, "(state)": run.state, "created": run.created_at / 1e9, "seconds": run.seconds}
    row["finished"] = None if run.ended_at is None else run.ended_at / 1e9
    row["note"] = "\n\n".join(note.text for note in detail.notes) or None
    row["tier"] = run.tags.get("tier")
    row |= {f"params.{key}": _param(value) for key, value in run.params.items()}
    row |= {f"tags.{key}": value for key, value in run.tags.items()}
    for suffix in BOUNDS:
        for name, one in run.metrics.items():
            value = getattr(one, suffix)
            row[metric_key(name, suffix)] = float(one.last if value is None else value)
    row |= {metric_key(name): float(one.last) for name, one in run.metrics.items()}
    return {key: _same(value) for key, value in row.items() if value is not None}


def _param(value: Any) -> Any:
    known = thaw(value)
    if isinstance(known, str | None):
        return known
    if isinstance(known, int | float) and not isinstance(known, bool):
        return float(known)
    return msgspec.json.encode(value).decode()


def _same(value: Any) -> Any:
    """NaN as something that equals itself."""
    return "(NaN)" if isinstance(value, float) and isnan(value) else value


class History:
    """A team at work: what it does next is drawn."""

    def __init__(self, database: Database, seed: int) -> None:
        self.database, self.draw = database, random.Random(seed)
        self.runs: list[str] = []
        self.now = T0 + 60 * clock.SECOND
        self.place = 1_000

    def act(self) -> None:
        """One commit, or some time that passes."""
        kind = self.draw.choice(["start", "start", "param", "tag", "points", "finish", "direction", "note", "wait"])
        if kind == "wait":
            self.now += self.draw.choice([1, 100, 400]) * clock.SECOND
        elif kind == "start" or not self.runs:
            self.runs.append(new_run())
            said = {"user": "u", "name": "n"} if self.draw.random() < 0.5 else {}
            self._put(started(self.runs[-1], f"e{self.draw.randrange(2)}", **said))
        else:
            self._put(*(self._said(kind, run) for run in sorted(set(self.draw.choices(self.runs, k=2)))))

    def _said(self, kind: str, run: str) -> Batch:
        at, name, draw = self.now, self.draw.choice(NAMES), self.draw
        self.place += 10
        if kind == "points":
            numbers = [draw.choice([1.0, -2.5, nan, float("inf")]) for _ in range(draw.randrange(1, 4))]
            return points(run, {name: numbers, "a": numbers}, first=self.place)
        facts = {
            "param": Params(at=at, params={name: encode_param(draw.choice(VALUES))}),
            "tag": Tag(at=at, key=name, value=draw.choice(["x", "", "l\n2\\n\\", "long" * 200, None])),
            "finish": Finished(at=at, state=draw.choice(["finished", "failed"]), cause="exit", exit_code=1),
            "direction": Direction(at=at, metric=name, direction=draw.choice(["min", "max"])),
            "note": Note(at=at, text=draw.choice(["good", "two\nlines"])),
        }
        return records(run, facts[kind], first=self.place)

    def _put(self, *batches: Batch) -> None:
        with self.database.write("me", self.now) as tx:
            ingest(tx, batches)
