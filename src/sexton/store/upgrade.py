"""Bringing a store to the schema of this version, by one opener at a time.

A store that is already there costs one SELECT and no import of Alembic. An empty one gets the tables of `schema`, which
are what all of `migrations/` together make (a test holds them equal). An older one is first copied, where it is a file.
"""

import fcntl
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, Table, Text, insert, inspect, select, text

from sexton import errors
from sexton.model.values import short_id
from sexton.store import schema

HEAD = "0002"
"""The newest migration."""

MIGRATIONS = Path(__file__).with_name("migrations")
VERSION_TABLE = "sexton_schema"
STORE_ID = select(schema.meta.c.value).where(schema.meta.c.key == "store_id")

_version = Table(VERSION_TABLE, MetaData(), Column("version_num", Text, primary_key=True))
_ADVISORY_LOCK = 0x5E870  # any number, as long as every opener of the database takes the same


def place(file: Path) -> None:
    """Put an empty SQLite database there, unless another opener was first. It comes to its name already in WAL mode:
    the change to it is refused at once, without waiting, while anybody else has the file open."""
    with _alone_in(file.parent):
        if not file.exists():
            new = file.with_suffix(".new")
            new.unlink(missing_ok=True)  # of an opener that was killed
            with closing(sqlite3.connect(new)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            new.rename(file)


def bring_up(engine: Engine, url: str, create: bool, folder: Path | None) -> None:
    """Make the store ready for this version. `folder` is where it is, if it is a file. Raises `StoreTooNew`,
    `NotFound`, `InvalidSetting` for a database that is somebody else's."""
    with engine.connect() as connection:
        if _found(connection) == HEAD:
            return
    with _alone(engine, folder):
        with engine.connect() as connection:
            found = _found(connection)
        if found is None:
            _create(engine, url, create)
        elif found != HEAD:
            _upgrade(engine, url, found, folder)


def _found(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(_version.c.version_num)).scalar_one_or_none()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    with (folder / "sexton.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _alone(engine: Engine, folder: Path | None) -> Iterator[None]:
    """No other opener in the block, on this host or on any."""
    if folder is not None:
        with _alone_in(folder):
            yield
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        yield  # the lock ends with this connection's transaction


def _create(engine: Engine, url: str, create: bool) -> None:
    if not create:
        raise errors.NotFound(what=f"A store at {url}")
    with engine.begin() as connection:
        taken = sorted(schema.metadata.tables.keys() & set(inspect(connection).get_table_names()))
        if taken:
            reason = f"this database holds tables of something else ({', '.join(taken)}); give Sexton one of its own"
            raise errors.InvalidSetting(name="url", value=url, source="the address of the store", reason=reason)
        schema.metadata.create_all(connection, checkfirst=False)
        _version.create(connection)
        connection.execute(insert(_version).values(version_num=HEAD))
        connection.execute(insert(schema.counter).values(revision=0))
        connection.execute(insert(schema.meta).values(key="store_id", value=short_id(secrets.token_bytes(16), 20)))


def _upgrade(engine: Engine, url: str, found: str, folder: Path | None) -> None:
    from alembic import command  # only here: 20 MB and 100 ms that nobody needs who opens a store of his own version
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    if found not in {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}:
        raise errors.StoreTooNew(store=url, found=found, known=HEAD)
    if folder is not None:
        _copy(engine, folder / f"before-{HEAD}.db")
    with engine.execution_options(sexton_begin="BEGIN IMMEDIATE").begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _copy(engine: Engine, target: Path) -> None:
    target.unlink(missing_ok=True)  # of an upgrade that did not end
    with engine.connect() as connection:
        connection.rollback()
        connection.connection.cursor().execute("VACUUM INTO ?", (str(target),))  # not inside a transaction
