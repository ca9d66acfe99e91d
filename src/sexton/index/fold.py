"""Writing the index: what changed in the store since its newest segment becomes a segment, together with those before
it that are not much larger. A rebuild is the same, from nothing.

Reads the store and the segments alone, nothing that a reader has in memory, so it may be killed at any point.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Queue
from threading import Thread

import duckdb
from sqlalchemy import Connection

from sexton.index import feed, segments
from sexton.index.segments import Manifest, Segment
from sexton.store import cells, runs
from sexton.store.cells import Part
from sexton.store.database import Database, some

TOGETHER = 20_000  # runs read from the store at once
RATIO = 4  # a segment takes in those before it that are less than so many times larger


def fold(database: Database, folder: Path, store: str, now: int, base: Manifest | None) -> Manifest:
    """Write what is newer than `base`, the manifest that counts, and let it count. None: rebuild all. Only the writer
    may."""
    segments.tidy(folder, base)
    base = base or Manifest(segments.FORMAT, store)
    work = folder / f"work-{secrets.token_hex(4)}.duckdb"
    try:
        with contextlib.closing(_workshop(work, folder)) as duck, database.read() as connection:
            revision = runs.revision(connection)
            schemas = segments.attach(duck, folder, base.segments)
            _hidden(duck, schemas)
            following = _load(duck, connection, base, schemas, now)
            made = _write(duck, folder, base, schemas, revision)
        manifest = Manifest(segments.FORMAT, store, revision, following, made)
        segments.publish(folder, manifest)
    finally:
        work.unlink(missing_ok=True)
    return manifest


def _workshop(work: Path, folder: Path) -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": segments.MEMORY,
        "temp_directory": str(folder / "spill"),
        "pandas_analyze_sample": 0,
    }
    duck = duckdb.connect(work, config=settings)
    for name, columns in feed.TABLES.items():
        duck.execute(f"CREATE TABLE {name}({columns})")
    return duck


def _hidden(duck: duckdb.DuckDBPyConnection, schemas: Sequence[str]) -> None:
    duck.execute("CREATE TABLE hidden(run UINTEGER)")
    for one in schemas:
        duck.execute(f"INSERT INTO hidden FROM {one}.hidden")


def _load(
    duck: duckdb.DuckDBPyConnection, connection: Connection, base: Manifest, schemas: Sequence[str], now: int
) -> int:
    """Load the runs that are newer than the segments, and hide those that they replace; the next number."""
    if not schemas:
        return _load_parts(duck, _all(connection), base.next, now)
    duck.execute(f"CREATE TEMP VIEW old AS {segments.united('runs', schemas, hidden='hidden')}")
    lost = [row[0] for row in duck.execute(segments.silent("old", now)).fetchall()]
    ids = sorted({*cells.changed(connection, base.revision), *lost})
    following = _load_parts(duck, (cells.read(connection, part) for part in some(ids)), base.next, now)
    duck.execute("INSERT INTO hidden SELECT run FROM old SEMI JOIN runs USING (id)")
    return following


def _all(connection: Connection) -> Iterator[Part]:
    after = ""
    while until := cells.following(connection, after, TOGETHER):
        yield cells.read_range(connection, after, until)
        after = until


def _load_parts(duck: duckdb.DuckDBPyConnection, parts: Iterator[Part], first: int, now: int) -> int:
    """Load one part while the next is read: both leave most of their time to libraries that do not hold Python up."""
    waiting: Queue[Part | None] = Queue(maxsize=1)
    state: list[int | BaseException] = [first]

    def loading() -> None:
        while (part := waiting.get()) is not None:
            try:
                if isinstance(state[0], int):
                    state[0] = feed.load(duck, part, state[0], now)
            except duckdb.Error as error:
                state[0] = error

    thread = Thread(target=loading, name="sexton-index-load")
    thread.start()
    try:
        for part in parts:
            waiting.put(part)
    finally:
        waiting.put(None)
        thread.join()
    if isinstance(state[0], BaseException):
        raise state[0]
    return state[0]


def _write(
    duck: duckdb.DuckDBPyConnection, folder: Path, base: Manifest, schemas: Sequence[str], revision: int
) -> tuple[Segment, ...]:
    kept, count = list(base.segments), duck.execute("SELECT count(*) FROM runs").fetchall()[0][0]
    while kept and kept[-1].runs < RATIO * count:
        count += kept.pop().runs
    taken = schemas[len(kept) :]
    sources = {table: segments.united(table, taken, ["main"], hidden="hidden") for table in feed.TABLES}
    others = " UNION ALL ".join(f"SELECT run FROM {one}.runs" for one in schemas[: len(kept)])  # noqa: S608 - SQL of ours
    hidden = f"SELECT run FROM hidden SEMI JOIN ({others}) USING (run)" if others else "FROM hidden LIMIT 0"  # noqa: S608 - SQL of ours
    number = 1 + max((int(one.name.partition("-")[0]) for one in base.segments), default=0)
    since = 0 if not kept else int(kept[-1].name.removesuffix(".duckdb").split("-")[2])
    made = segments.write(duck, folder, f"{number}-{since}-{revision}.duckdb", sources, hidden)
    return (*kept, made)
