"""Opening a store, and transactions on it.

A writer's transaction carries who acts and when, and ends by taking the store's counter: every run it touched gets the
new revision. The counter's row stays locked to the commit, so revisions become visible in their order and a follower
that asks for what came after the last one it saw misses nothing. What the database reports leaves here as
`sexton.errors`; whether trying again helps is their `transient`.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import sqlalchemy
from sqlalchemy import Column, Connection, Engine, Table, bindparam, event, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from sexton import clock, errors
from sexton.store import schema, upgrade

FILE = "sexton.db"
BUSY_SECONDS = 30
MANY = 5_000  # values in one IN (...): well below what either database takes

PATIENCE_SECONDS = (0.05, 0.2, 0.8)
"""Pauses before a transaction that did not get through is tried again."""

T = TypeVar("T")

_PRAGMAS = (
    f"busy_timeout = {BUSY_SECONDS * 1000}",
    "journal_mode = WAL",
    "synchronous = FULL",  # NORMAL loses acknowledged commits in a power cut
    "foreign_keys = ON",
)


@dataclass(slots=True)
class Tx:
    """A writer's transaction: what happens in it happens at `now` (UTC ns), by `actor`, wholly or not at all."""

    connection: Connection
    actor: str
    now: int
    due: set[str] = field(default_factory=set)
    """Runs whose series should be compacted, in a transaction of its own after this one."""
    revision: int | None = None
    """Of this transaction, once it has ended; None where it touched no run."""
    _touched: set[str] = field(default_factory=set)

    def touch(self, run: str) -> None:
        """Say that what readers see of the run changes."""
        self._touched.add(run)

    def insert(self, table: Table, rows: Sequence[Sequence[Any]], conflict: str = "") -> None:
        """Insert rows, each with a value for every column but an `id` that numbers itself. `conflict` is SQL that says
        what becomes of those that are there; then no two rows may be the same one."""
        if rows:
            self._bulk(_insert(self.connection.dialect.name, table) + conflict, rows)

    def upsert(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows, or replace those that have the same primary key."""
        self.insert(table, rows, _replace(table))

    def ensure(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert those rows whose unique columns nobody has yet."""
        self.insert(table, rows, "ON CONFLICT DO NOTHING")

    def update(self, table: Table, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
        """Set columns of existing rows: the values in the order of `columns`, then the primary key."""
        if rows:
            self._bulk(_update(self.connection.dialect.name, table, columns), rows)

    def _bulk(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Straight to the driver: rows to SQLite, columns to PostgreSQL. A third of the cost of what is in between."""
        sqlite = self.connection.dialect.name == "sqlite"
        self.connection.exec_driver_sql(statement, list(rows) if sqlite else tuple(map(list, zip(*rows, strict=True))))

    def _stamp(self) -> None:
        self.revision = self.connection.execute(_TAKE).scalar_one()
        for runs in some(sorted(self._touched)):
            self.connection.execute(_STAMP, {"new": self.revision, "runs": runs})


_revision = schema.counter.c.revision
_TAKE = update(schema.counter).values(revision=_revision + 1).returning(_revision)
_OF_RUNS = schema.runs.c.id.in_(bindparam("runs", expanding=True))
_STAMP = update(schema.runs).where(_OF_RUNS).values(revision=bindparam("new"))


def some(values: Iterable[Any], size: int = MANY) -> Iterator[list[Any]]:
    """The values in lists that a database takes as parameters of one statement."""
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


class Database:
    """An open store. Threads may share it; `close` lets go of its connections."""

    def __init__(self, url: str, engine: Engine) -> None:
        self.url = url
        self.kind = engine.dialect.name
        """`sqlite` or `postgresql`."""
        self._engine = engine
        self._writer = engine.execution_options(sexton_begin="BEGIN IMMEDIATE")
        self._reader = engine
        if self.kind == "postgresql":  # one snapshot for all statements of a reader, as SQLite gives it anyway
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def write(self, actor: str, now: int | None = None) -> Iterator[Tx]:
        """A transaction that commits when the block ends and leaves no trace when it raises.

        Raises `StoreBusy`, `Unavailable` (both transient: repeat the whole block), `IntegrityError`, `Denied`.
        """
        with translated(self.url), self._writer.begin() as connection:
            tx = Tx(connection, actor, clock.now() if now is None else now)
            yield tx
            if tx._touched:
                tx._stamp()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot of the store; nothing written in it is kept. Raises as `write` does."""
        with translated(self.url), self._reader.connect() as connection:
            yield connection

    @property
    def store_id(self) -> str:
        """Made once with the store: two addresses with the same id are one store."""
        with self.read() as connection:
            return str(connection.execute(upgrade.STORE_ID).scalar_one())

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()


def open_database(url: str, *, create: bool = True) -> Database:
    """The store at `file:FOLDER` or `postgresql://...`, made where there is none and `create` allows it, and brought up
    to this version's schema.

    Raises `NotFound` where there is none, `StoreTooNew`, `Denied` where the folder can't be written, `Unavailable`.
    """
    folder = Path(url.removeprefix("file:").removeprefix("//")) if url.startswith("file:") else None
    with translated(url), ExitStack() as undo:
        engine = _postgresql(url) if folder is None else _sqlite(url, folder, create)
        undo.callback(engine.dispose)
        upgrade.bring_up(engine, url, create, folder)
        undo.pop_all()
    return Database(url, engine)


def _sqlite(url: str, folder: Path, create: bool) -> Engine:
    if create:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    elif not (folder / FILE).exists():
        raise errors.NotFound(what=f"A store at {url}")
    if not (folder / FILE).exists():
        upgrade.place(folder / FILE)
    engine = sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=str(folder / FILE)))

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # or the driver begins transactions when it likes
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        # A writer takes its lock at once: one that read first could be refused it without waiting.
        connection.exec_driver_sql(connection.get_execution_options().get("sexton_begin", "BEGIN"))

    return engine


_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"


def _postgresql(url: str) -> Engine:
    address = sqlalchemy.make_url(url).set(drivername="postgresql+psycopg")
    try:
        engine = sqlalchemy.create_engine(address, paramstyle="format")
    except ImportError:
        raise errors.UsageError(reason="PostgreSQL needs psycopg: pip install 'sexton[postgres]'") from None

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.execute(_DURABLE)  # what is acknowledged after a commit must not be lost with the server
        connection.commit()

    return engine


def patiently(act: Callable[[], T]) -> T:
    """Do a whole transaction again, a few times, when the database could not get to it."""
    for pause in PATIENCE_SECONDS:
        try:
            return act()
        except errors.Unavailable:
            clock.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that those who collided do not do so again
    return act()


# -------------------------------------------------------------------------------------------------------- statements

_ARRAYS = {
    str: "%s::text[]",
    int: "%s::bigint[]",
    float: "%s::double precision[]",
    bytes: "%b::bytea[]",  # as bytes; other values are small, and cost less as text
    bool: "%s::boolean[]",
}


def _quoted(names: Iterable[str], form: str = '"{}"') -> str:
    return ", ".join(form.format(name) for name in names)


def _arrays(columns: Iterable[Column[Any]]) -> str:
    """Parameters of PostgreSQL that make a table of the values of these columns."""
    return f"unnest({', '.join(_ARRAYS[column.type.python_type] for column in columns)})"


@cache
def _insert(dialect: str, table: Table) -> str:
    columns = [c for c in table.columns if c.name != "id" or c.type.python_type is str]
    values = "VALUES (" + ", ".join("?" * len(columns)) + ")"
    rows = values if dialect == "sqlite" else f"SELECT * FROM {_arrays(columns)}"  # noqa: S608 - names of ours
    return f'INSERT INTO "{table.name}" ({_quoted(c.name for c in columns)}) {rows} '


@cache
def _replace(table: Table) -> str:
    key = _quoted(c.name for c in table.primary_key)
    others = _quoted((c.name for c in table.columns if not c.primary_key), '"{0}" = excluded."{0}"')
    return f"ON CONFLICT ({key}) DO UPDATE SET {others}"


@cache
def _update(dialect: str, table: Table, columns: tuple[str, ...]) -> str:
    keys = [c.name for c in table.primary_key]
    this, rows = ("?", "") if dialect == "sqlite" else ('new."{0}"', f" FROM {_arrays_of(table, (*columns, *keys))}")
    change = _quoted(columns, f'"{{0}}" = {this}')
    found = " AND ".join(f'"{table.name}"."{key}" = {this.format(key)}' for key in keys)
    return f'UPDATE "{table.name}" SET {change}{rows} WHERE {found}'  # noqa: S608 - names of ours


def _arrays_of(table: Table, names: tuple[str, ...]) -> str:
    return f"{_arrays(table.c[name] for name in names)} AS new ({_quoted(names)})"


# ------------------------------------------------------------------------------------------------------------ errors


@contextmanager
def translated(url: str) -> Iterator[None]:
    """What the database or its folder reports in the block, as the error that a caller can act on."""
    try:
        yield
    except errors.SextonError:  # some of which are an OSError too
        raise
    except DBAPIError as error:
        _raise_what_it_means(url, error)
    except OSError as error:
        raise _denied(url, str(error)) from error


def _raise_what_it_means(url: str, error: DBAPIError) -> NoReturn:
    reason = str(error.orig).strip()
    number = getattr(error.orig, "sqlite_errorcode", None)
    if number is not None:
        _raise_sqlite(url, reason, number & 0xFF, error)
    state = getattr(error.orig, "sqlstate", None)
    if state in ("40001", "40P01", "55P03"):  # serialization failure, deadlock, lock not available
        raise errors.StoreBusy(store=_hidden(url), reason=reason) from error
    lost = error.connection_invalidated or (isinstance(error, OperationalError | InterfaceError) and state is None)
    if lost or (state and state[:2] in ("08", "53", "57", "58")):  # connection, resources, shutdown, I/O
        raise errors.Unavailable(what=f"The store {_hidden(url)}", reason=reason) from error
    raise error


def _raise_sqlite(url: str, reason: str, number: int, error: DBAPIError) -> NoReturn:
    match number:
        case 5 | 6:  # busy, locked
            raise errors.StoreBusy(store=url, reason=reason) from error
        case 10 | 13:  # I/O error, disk full
            raise errors.Unavailable(what=f"The store {url}", reason=reason) from error
        case 3 | 8 | 14 | 23:  # permission, read-only, can't open, not authorised
            raise _denied(url, reason) from error
        case 11 | 26:  # malformed, not a database
            raise errors.IntegrityError(what=f"The store {url}", reason=reason) from error
    raise error


def _denied(url: str, reason: str) -> errors.Denied:
    fix = "Make its folder writable for this user, or choose another store with --url or SEXTON_URL"
    return errors.Denied(reason=f"the store {url} can not be opened for writing ({reason}). {fix}")


def _hidden(url: str) -> str:
    """The address without the password."""
    return sqlalchemy.make_url(url).render_as_string()
