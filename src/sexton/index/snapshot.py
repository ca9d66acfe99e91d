"""The index as one process sees it: segments on the disk, and in memory the runs that changed since.

`refresh` brings it up to the store's revision; who asks after it sees every commit from before it. A changed run hides
its older rows. Any number of processes read the same segments; one at a time writes them. What is damaged, of another
store or of another format is rebuilt, with a line in the log. `duckdb` is loaded when the first index is opened.
"""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, RLock, Thread
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sexton.index import feed, segments
from sexton.index.segments import Manifest
from sexton.store import cells, runs
from sexton.store.database import Database, some

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Duck

T = TypeVar("T")

log = logging.getLogger(__name__)

FOLD_AT = 2_000  # runs taken into memory since the segments were opened
REBUILD_AT = 20_000  # runs that changed; more are quicker read all together
TRIES = 5


@dataclass
class _Open:
    """Open segments, and what changed since."""

    duck: "Duck"
    manifest: Manifest
    schemas: list[str]
    mark: tuple[int, int] | None
    revision: int
    next: int
    taken: int = 0
    """Runs taken into memory, each as often as it was."""
    hiding: bool = False


class Index:
    """The index of a store, in `folder`. Threads may share it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder
        self._store = database.store_id
        self._changing = RLock()
        self._folding = Lock()
        self._folder_thread: Thread | None = None
        self._open: _Open | None = None

    @property
    def revision(self) -> int:
        """What it has seen of the store."""
        return self._open.revision if self._open else 0

    @contextlib.contextmanager
    def reading(self) -> Iterator["Duck"]:
        """A connection to ask, with the relations `num`, `txt` and `runs` as they are now, whatever happens meanwhile.
        `refresh` first."""
        if self._open is None:
            raise RuntimeError("refresh comes first")
        duck = self._open.duck.cursor()
        try:
            duck.execute("BEGIN")
            yield duck
        finally:
            duck.close()

    def refresh(self, now: int) -> None:
        """Follow the store to its newest revision, at `now` (UTC ns). Raises what reading the store raises."""
        with self._changing:
            self._adopt(now)
            if self._catch_up(now):
                return
            self.rebuild(now)
            self._adopt(now)
            self._catch_up(now)

    def fold(self, now: int) -> bool:
        """Write what is in memory to the disk, unless another process is writing."""
        with segments.writing(self._folder) as mine:
            if mine:
                self._write(now, segments.read(self._folder, self._store))
            return mine

    def rebuild(self, now: int) -> None:
        """Make the index anew from the store, once other writers have ended."""
        with segments.writing(self._folder, wait=True):
            self._write(now, None)

    def ask(self, question: Callable[["Duck"], T], now: int) -> T:
        """Follow the store to `now`, and ask. Where the segments turn out to be damaged they are rebuilt, and asked
        again."""
        import duckdb

        self.refresh(now)
        try:
            with self.reading() as duck:
                return question(duck)
        except (
            duckdb.IOException,
            duckdb.FatalException,
            duckdb.InternalException,
            duckdb.SerializationException,
        ) as e:
            self._mend(e, now)
        with self.reading() as duck:
            return question(duck)

    def _mend(self, reason: object, now: int) -> None:
        log.warning("The index in %s is damaged and is rebuilt: %s", self._folder, reason)
        with self._changing:
            self.rebuild(now)
            self.refresh(now)

    def close(self) -> None:
        """Let go of the files; a fold under way ends first."""
        with self._changing:
            thread, self._folder_thread = self._folder_thread, None
            if thread:
                thread.join()
            self._open = None

    # ------------------------------------------------------------------------------------------------------- opening

    def _write(self, now: int, base: Manifest | None) -> None:
        from sexton.index.fold import fold

        with self._folding:
            fold(self._database, self._folder, self._store, now, base)

    def _adopt(self, now: int) -> None:
        """Open the segments that the manifest names, where they are not those that are open."""
        import duckdb

        for _ in range(TRIES):  # a segment may be removed between reading its name and opening it
            mark = segments.mark(self._folder)
            if self._open and self._open.mark == mark:
                return
            manifest = segments.read(self._folder, self._store)
            if mark and manifest is None:
                log.warning("The index in %s is of another store or version, or damaged: it is rebuilt", self._folder)
                self.rebuild(now)
                continue
            try:
                self._open = self._opened(manifest or Manifest(segments.FORMAT, self._store), mark)
            except (OSError, duckdb.Error) as error:
                if segments.mark(self._folder) == mark:
                    log.warning("The index in %s is damaged and is rebuilt: %s", self._folder, error)
                    self.rebuild(now)
        raise RuntimeError(f"the index in {self._folder} changes faster than it can be opened")

    def _opened(self, manifest: Manifest, mark: tuple[int, int] | None) -> _Open:
        import duckdb

        duck = duckdb.connect(config=_SETTINGS)
        schemas = segments.attach(duck, self._folder, manifest.segments)
        duck.execute("CREATE SCHEMA fresh")
        for name, columns in feed.TABLES.items():
            duck.execute(f"CREATE TABLE fresh.{name}({columns})")
        duck.execute("CREATE TABLE fresh.hidden(run UINTEGER)")
        for one in schemas:
            duck.execute(f"INSERT INTO fresh.hidden FROM {one}.hidden")
        found = _Open(duck, manifest, schemas, mark, manifest.revision, manifest.next)
        found.hiding = bool(duck.execute("FROM fresh.hidden LIMIT 1").fetchall())
        _define(found)
        duck.execute("SET enable_external_access = false; SET lock_configuration = true")
        return found

    # ----------------------------------------------------------------------------------------------------- following

    def _catch_up(self, now: int) -> bool:
        """Take in what changed; false where a rebuild is better."""
        found = self._open
        if found is None:
            return False
        with self._database.read() as connection:
            revision = runs.revision(connection)
            if revision < found.revision:  # the store was put back to an older state
                log.warning("The index in %s is ahead of its store and is rebuilt", self._folder)
                return False
            if revision > found.revision and cells.count(connection, found.revision) > REBUILD_AT:
                return False
            ids = cells.changed(connection, found.revision) if revision > found.revision else []
            ids = sorted({*ids, *(row[0] for row in found.duck.execute(segments.silent("runs", now)).fetchall())})
            for part in some(ids):
                _take(found, cells.read(connection, part), now)
            found.revision = revision
        if found.taken >= FOLD_AT:
            self._fold_behind(now)
        return True

    def _fold_behind(self, now: int) -> None:
        if self._folder_thread is None or not self._folder_thread.is_alive():
            self._folder_thread = Thread(target=self.fold, args=(now,), name="sexton-index-fold", daemon=True)
            self._folder_thread.start()


_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": segments.MEMORY,
    "temp_directory": "",
    "pandas_analyze_sample": 0,
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


def _define(found: _Open) -> None:
    """The relations that readers ask. What hides nothing costs nothing."""
    hidden = "fresh.hidden" if found.hiding else ""
    for table in feed.TABLES:
        sql = segments.united(table, found.schemas, ["fresh"], hidden=hidden)
        found.duck.execute(f"CREATE OR REPLACE VIEW {table} AS {sql}")
    counts = [f"SELECT key, count(*) AS runs FROM fresh.{table} GROUP BY key" for table in ("num", "txt")]  # noqa: S608 - SQL of ours
    for one, table in itertools.product(found.schemas, ("num", "txt")):
        counts.append(f"SELECT key, runs FROM {one}.{table}_keys")  # noqa: S608 - SQL of ours
        if found.hiding:
            counts.append(f"SELECT key, -count(*) FROM {one}.{table} SEMI JOIN fresh.hidden USING (run) GROUP BY key")  # noqa: S608 - SQL of ours
    found.duck.execute(f"CREATE OR REPLACE VIEW keys AS {' UNION ALL '.join(counts)}")


def _take(found: _Open, part: cells.Part, now: int) -> None:
    """Take runs into memory, and hide what they replace: at once, for readers."""
    duck = found.duck
    duck.register("part_ids", {"id": np.array([row[0] for row in part.runs], dtype=object)})
    duck.execute("BEGIN")
    if found.schemas:
        old = segments.united("runs", found.schemas, hidden="fresh.hidden")
        duck.execute(f"INSERT INTO fresh.hidden SELECT run FROM ({old}) SEMI JOIN part_ids USING (id)")  # noqa: S608 - SQL of ours
        if not found.hiding:
            found.hiding = bool(duck.execute("FROM fresh.hidden LIMIT 1").fetchall())
            _define(found)
    again = "SELECT run FROM fresh.runs SEMI JOIN part_ids USING (id)"
    if found.taken:
        duck.execute(f"CREATE OR REPLACE TEMP TABLE again AS {again}")
        for table in feed.TABLES:
            duck.execute(f"DELETE FROM fresh.{table} WHERE run IN (FROM again)")  # noqa: S608 - SQL of ours
    found.next = feed.load(duck, part, found.next, now, into="fresh")
    duck.execute("COMMIT")
    duck.unregister("part_ids")
    found.taken += len(part.runs)
