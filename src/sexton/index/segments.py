"""The files of the index: immutable segments, and the manifest that names those which count.

A segment has the rows of some runs, and the numbers of older rows that they replace. It is written under another name
and renamed when it is whole and on the disk; then the manifest is replaced. So whoever is killed at whatever point
leaves the index as it was, and files that nobody names, which the next writer removes. A reader goes on with files that
were removed while it has them open.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sexton.index.feed import TABLES
from sexton.model.runs import LOST_AFTER_SECONDS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Duck

FORMAT = 1
"""Of segments and of what the keys and values in them mean. An index of another format is rebuilt."""

CURRENT = "current.json"
MEMORY = "600MB"


class Segment(msgspec.Struct, frozen=True):
    """A file: its name and length, and how many runs are in it."""

    name: str
    bytes: int
    runs: int


class Manifest(msgspec.Struct, frozen=True):
    """Which segments count, oldest first, and what they cover: the store `store` up to `revision`."""

    format: int
    store: str
    revision: int = 0
    next: int = 1
    """The number of the next run."""
    segments: tuple[Segment, ...] = ()


def read(folder: Path, store: str) -> Manifest | None:
    """The manifest; None where there is none that is whole, of this format and of this store."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        manifest = msgspec.json.decode((folder / CURRENT).read_bytes(), type=Manifest)
        if (manifest.format, manifest.store) == (FORMAT, store):
            return manifest
    return None


def mark(folder: Path) -> tuple[int, int] | None:
    """Changes when the manifest does."""
    with contextlib.suppress(OSError):
        found = (folder / CURRENT).stat()
        return found.st_ino, found.st_mtime_ns
    return None


@contextlib.contextmanager
def writing(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Be the only writer; false where another is and `wait` is not asked for."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def publish(folder: Path, manifest: Manifest) -> None:
    """Let this manifest count, and remove the files that it does not name. Only the writer may."""
    new = folder / f"{CURRENT}.new"
    with new.open("wb") as file:
        file.write(msgspec.json.encode(manifest))
        file.flush()
        os.fsync(file.fileno())
    new.rename(folder / CURRENT)
    _sync(folder)
    tidy(folder, manifest)


def tidy(folder: Path, manifest: Manifest | None) -> None:
    """Remove what the manifest does not name, such as what writers that were killed left. Only the writer may."""
    named = {segment.name for segment in manifest.segments} if manifest else set()
    for file in folder.iterdir():
        if ".duckdb" in file.name and file.name not in named:
            file.unlink(missing_ok=True)


def attach(duck: "Duck", folder: Path, segments: Sequence[Segment]) -> list[str]:
    """Open the segments for reading; the names of their schemas. Raises `OSError` for one that is not there or not
    whole, and what DuckDB raises for one that is damaged."""
    for number, segment in enumerate(segments):
        path = folder / segment.name
        if path.stat().st_size != segment.bytes:
            raise OSError(f"{segment.name} is not as long as it was when it was written")
        duck.execute(f"ATTACH {quoted(path)} AS s{number} (READ_ONLY)")
    return [f"s{number}" for number in range(len(segments))]


def united(table: str, schemas: Sequence[str], rest: Sequence[str] = (), hidden: str = "") -> str:
    """SQL for all rows of a table in schemas, but those of hidden runs, and those in the `rest`, where none is."""
    names = ", ".join(column.split()[0] for column in TABLES[table].split(", "))
    but = f" ANTI JOIN {hidden} USING (run)" if hidden else ""
    parts = [f"SELECT {names} FROM {one}.{table}{but}" for one in schemas]  # noqa: S608 - SQL of ours
    return " UNION ALL ".join(parts + [f"SELECT {names} FROM {one}.{table}" for one in rest])  # noqa: S608 - SQL of ours


def silent(relation: str, now: int) -> str:
    """SQL for the ids of the runs in there that are shown as running and at `now` (UTC ns) are lost."""
    before = now - LOST_AFTER_SECONDS * 1_000_000_000
    return f"SELECT id FROM {relation} WHERE state = 'running' AND heard < {before}"  # noqa: S608 - SQL of ours


def write(duck: "Duck", folder: Path, name: str, sources: dict[str, str], hidden: str) -> Segment:
    """Write a segment of what SQL finds: for each table, and for the numbers of rows that it replaces elsewhere."""
    path = folder / f"{name}.new"
    duck.execute(f"ATTACH {quoted(path)} AS made")
    for table in ("num", "txt"):
        duck.execute(_SORTED.format(table=table, rows=sources[table]))
    duck.execute(f"CREATE TABLE made.runs AS {sources['runs']} ORDER BY run")
    duck.execute(f"CREATE TABLE made.hidden AS {hidden}")
    for table in ("num", "txt"):
        duck.execute(f"CREATE TABLE made.{table}_keys AS SELECT key, count(*) AS runs FROM made.{table} GROUP BY key")  # noqa: S608 - SQL of ours
    runs = duck.execute("SELECT count(*) FROM made.runs").fetchall()[0][0]
    duck.execute("DETACH made")
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.rename(folder / name)
    return Segment(name, (folder / name).stat().st_size, runs)


_SORTED = """
    CREATE OR REPLACE TEMP TABLE codes AS
        SELECT key, row_number() OVER (ORDER BY key) AS code FROM (SELECT DISTINCT key FROM ({rows}));
    CREATE TABLE made.{table} AS SELECT key, run, value FROM ({rows}) JOIN codes USING (key) ORDER BY code, run;
"""  # numbers sort several times faster than texts do


def quoted(path: Path) -> str:
    """A path as a literal of SQL."""
    return "'" + str(path).replace("'", "''") + "'"


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
