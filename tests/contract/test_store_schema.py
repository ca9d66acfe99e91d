"""A store comes to its schema by one way or the other, once, and never from a newer version's."""

import os
import shutil
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from sexton import errors
from sexton.store import schema, upgrade
from sexton.store.database import FILE, open_database


def _engine(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url.replace("file:", "sqlite:///") + f"/{FILE}" if url.startswith("file:") else url)


def _config(scripts: Path = upgrade.MIGRATIONS) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts))
    return config


def _tables(connection: sqlalchemy.Connection) -> dict[str, object]:
    """Everything that the database itself says about its tables, as far as that is a matter of the schema."""
    inspector = sqlalchemy.inspect(connection)
    found: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipped unsupported reflection of expression-based index")
        for table in inspector.get_table_names():
            columns = {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(table)}
            indexes = sorted(
                (i["name"] or "", str(i.get("expressions") or i["column_names"])) for i in inspector.get_indexes(table)
            )
            unique = sorted(str(u["column_names"]) for u in inspector.get_unique_constraints(table))
            foreign = sorted(
                f"{f['constrained_columns']} {f['referred_table']}" for f in inspector.get_foreign_keys(table)
            )
            found[table] = (
                columns,
                inspector.get_pk_constraint(table)["constrained_columns"],
                indexes,
                unique,
                foreign,
            )
    return found


@pytest.fixture
def migrated(store_url: str, tmp_path: Path) -> Iterator[sqlalchemy.Connection]:
    """A database that all migrations together made."""
    if store_url.startswith("file:"):
        (tmp_path / "store").mkdir()
    engine = _engine(store_url)
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        yield connection
    engine.dispose()


def test_the_constant_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(_config()).get_current_head() == upgrade.HEAD


def test_all_migrations_together_make_the_schema(migrated: sqlalchemy.Connection) -> None:
    options = {"version_table": upgrade.VERSION_TABLE, "compare_type": True}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="autogenerate skipping")
        warnings.filterwarnings("ignore", message="Skipped unsupported reflection of expression-based index")
        context = MigrationContext.configure(migrated, opts=options)
        assert compare_metadata(context, schema.metadata) == []


def test_a_store_made_new_is_as_one_that_was_migrated(
    migrated: sqlalchemy.Connection, store_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected = _tables(migrated)
    migrated.commit()
    if store_url.startswith("file:"):
        fresh = f"file:{tmp_path / 'fresh'}"
    else:
        postgres = request.getfixturevalue("postgres")
        fresh = postgres.url(postgres.create_database())
    open_database(fresh).close()
    engine = _engine(fresh)
    with engine.connect() as connection:
        made = _tables(connection)
    engine.dispose()
    expected.pop(upgrade.VERSION_TABLE)
    made.pop(upgrade.VERSION_TABLE)
    assert made == expected


def test_opening_a_store_again_keeps_it_and_loads_no_alembic(tmp_path: Path) -> None:
    url = f"file:{tmp_path}"
    first = open_database(url)
    identity = first.store_id
    first.close()
    program = f"""
import sys
from sexton.store.database import open_database
database = open_database({url!r}, create=False)
print(database.store_id, "alembic" in sys.modules, "psycopg" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [identity, "False", "False"]


def test_many_openers_of_an_empty_place_find_one_store(store_url: str) -> None:
    def identity(_: int) -> str:
        database = open_database(store_url)
        try:
            return database.store_id
        finally:
            database.close()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(identity, range(8)))) == 1


def test_openers_of_an_empty_folder_wait_for_the_first(tmp_path: Path) -> None:
    def opened(place: Path) -> None:
        open_database(f"file:{place}").close()

    with ThreadPoolExecutor(8) as pool:  # 40 places: one alone shows a race once in 25 times
        list(pool.map(opened, [tmp_path / str(place) for place in range(40) for _ in range(8)]))


def test_processes_that_open_an_empty_place_together_find_one_store(tmp_path: Path) -> None:
    program = f"from sexton.store.database import open_database; print(open_database('file:{tmp_path}/s').store_id)"
    openers = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(4)]
    assert len({opener.communicate()[0] for opener in openers}) == 1
    assert all(opener.returncode == 0 for opener in openers)


def test_a_store_of_a_newer_version_is_refused(store_url: str) -> None:
    database = open_database(store_url)
    with database.write("me") as tx:
        tx.connection.exec_driver_sql(f"UPDATE {upgrade.VERSION_TABLE} SET version_num = '9999'")
    database.close()
    with pytest.raises(errors.StoreTooNew, match=r"9999.*Upgrade Sexton"):
        open_database(store_url)


def test_a_database_of_something_else_is_left_alone(postgres_url: str) -> None:
    engine = sqlalchemy.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE runs (run_uuid text)")
    with pytest.raises(errors.InvalidSetting, match=r"tables of something else \(runs\)"):
        open_database(postgres_url)
    with engine.connect() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == ["runs"]
    engine.dispose()


NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table("more", sa.Column("x", sa.Integer))
"""


def test_an_older_store_is_copied_then_brought_up_once(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_database(store_url)
    identity = before.store_id
    before.close()
    scripts = tmp_path / "migrations"
    shutil.copytree(upgrade.MIGRATIONS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / "0003_more.py").write_text(NEXT)
    monkeypatch.setattr(upgrade, "MIGRATIONS", scripts)
    monkeypatch.setattr(upgrade, "HEAD", "0003")

    def opened(_: int) -> str:
        database = open_database(store_url)
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM more").scalar_one() == 0
        found = database.store_id
        database.close()
        return found

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(opened, range(4))) == {identity}
    if store_url.startswith("file:"):
        copy = sqlite3.connect(tmp_path / "store" / "before-0003.db")
        assert copy.execute(f"SELECT version_num FROM {upgrade.VERSION_TABLE}").fetchone() == ("0002",)
        copy.close()


def test_a_store_that_is_not_there_is_not_made_unasked(tmp_path: Path, postgres_url: str) -> None:
    for url in (f"file:{tmp_path / 'none'}", postgres_url):
        with pytest.raises(errors.NotFound, match="A store at"):
            open_database(url, create=False)
    assert not (tmp_path / "none").exists()


@contextmanager
def _forbidden(folder: Path) -> Iterator[None]:
    """In the block, this process may not write to the folder."""
    if os.geteuid() == 0:  # whom no mode keeps out
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_may_not_be_written_is_an_error_that_names_the_fix(tmp_path: Path, there: bool) -> None:
    if there:
        open_database(f"file:{tmp_path}/store").close()
    with _forbidden(tmp_path / "store" if there else tmp_path), pytest.raises(errors.Denied) as caught:
        open_database(f"file:{tmp_path}/store")
    assert "can not be opened for writing" in str(caught.value)
    assert "Make its folder writable for this user, or choose another store" in str(caught.value)
