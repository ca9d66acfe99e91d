"""What an index promises: whatever happened to it and to the store, it holds what the store says, and is whole."""

import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from sexton.index import query, segments, snapshot
from sexton.index.snapshot import Index
from sexton.ingest import ingest
from sexton.model.records import Tag
from sexton.store import runs as store
from sexton.store.database import Database, open_database
from tests.batches import T0, new_run, records, started
from tests.indexes import History, expected, held

NOW = T0 + 60_000_000_000


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    database = open_database(store_url)
    yield database
    database.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"file:{tmp_path / 'store'}")
    yield database
    database.close()


def fill(database: Database, count: int) -> list[str]:
    """So many runs with a tag; their ids in order."""
    runs = sorted(new_run() for _ in range(count))
    with database.write("me", NOW) as tx:
        ingest(tx, [started(run, "e") for run in runs])
        ingest(tx, [records(run, Tag(at=T0, key="k", value=f"v{n}"), first=1) for n, run in enumerate(runs)])
    return runs


def test_it_holds_what_the_store_says_at_each_moment_of_a_history(database: Database, tmp_path: Path) -> None:
    history = History(database, seed=7)
    index = Index(database, tmp_path / "index")
    for step in range(200):
        history.act()
        if step % 10 == 0:
            index.refresh(history.now)
            assert held(index) == expected(database, history.now)
        if step % 35 == 0:
            index.fold(history.now)
    index.refresh(history.now)
    index.rebuild(history.now)
    index.refresh(history.now)
    assert held(index) == expected(database, history.now)
    index.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=some.integers(0, 2**32), acts=some.lists(some.sampled_from("aaaaaaarrfR+"), min_size=5, max_size=40))
def test_followed_and_rebuilt_are_the_same(tmp_path: Path, seed: int, acts: list[str]) -> None:
    """Acts of the team, and refreshing, folding, rebuilding and opening in any order, by two readers in turn."""
    folder = tmp_path / "one"
    shutil.rmtree(folder, ignore_errors=True)
    database = open_database(f"file:{folder}")
    history = History(database, seed)
    readers = [Index(database, folder / "index"), Index(database, folder / "index")]
    for act in acts:
        match act:
            case "a":
                history.act()
            case "r":
                readers[0].refresh(history.now)
            case "f":
                readers[1].fold(history.now)
            case "R":
                readers[1].rebuild(history.now)
            case "+":
                readers[0].close()
                readers.append(readers.pop(0))
    wanted = expected(database, history.now)
    rebuilt = Index(database, folder / "anew")
    rebuilt.rebuild(history.now)
    for index in (*readers, rebuilt):
        index.refresh(history.now)
        assert held(index) == wanted
        index.close()
    database.close()


def test_a_commit_is_found_by_who_asks_after_it(sqlite: Database, tmp_path: Path) -> None:
    first, second = fill(sqlite, 2)
    index = Index(sqlite, tmp_path / "index")
    index.refresh(NOW)
    index.fold(NOW)
    index.refresh(NOW)
    with sqlite.write("me", NOW) as tx:
        ingest(tx, [records(first, Tag(at=NOW, key="k", value="new"), first=9)])
    index.refresh(NOW)
    assert {run: row["tags.k"] for run, row in held(index).items()} == {first: "new", second: "v1"}
    index.close()


def test_readers_see_all_runs_once_while_others_change_and_fold(sqlite: Database, tmp_path: Path) -> None:
    runs = fill(sqlite, 300)
    index = Index(sqlite, tmp_path / "index")
    index.refresh(NOW)
    ended, wrong = threading.Event(), []

    def read() -> None:
        while not ended.is_set():
            with index.reading() as duck:
                found = query.search(duck, None, "tags.k", limit=1_000, after=None)
                if found.total != 300 or sorted(found.ids) != runs:
                    wrong.append(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    for number in range(12):
        with sqlite.write("me", NOW) as tx:
            ingest(tx, [records(r, Tag(at=NOW + number, key="k", value="w"), first=9 + number) for r in runs[::7]])
        index.refresh(NOW)
        if number % 3 == 0:
            index.fold(NOW)
    ended.set()
    for thread in readers:
        thread.join()
    assert not wrong
    assert held(index) == expected(sqlite, NOW)
    index.close()


def folded(database: Database, folder: Path) -> Path:
    """An index that was closed; its newest segment."""
    index = Index(database, folder)
    index.refresh(NOW)
    index.fold(NOW)
    index.close()
    return max(folder.glob("*.duckdb"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5000])


def scratch(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for place in range(4096, len(data), 512):
        data[place] ^= 0xFF
    file.write_bytes(data)


def empty(file: Path) -> None:
    (file.parent / segments.CURRENT).write_text('{"format": 1, "st')


@pytest.mark.parametrize("damage", [cut, scratch, empty, Path.unlink])
def test_what_is_damaged_is_rebuilt_by_itself(
    sqlite: Database, tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    fill(sqlite, 50)
    damage(folded(sqlite, tmp_path / "index"))  # type: ignore[operator]  # all take the file
    index = Index(sqlite, tmp_path / "index")
    with caplog.at_level(logging.WARNING):
        index.ask(lambda duck: duck.execute("SELECT max(key), max(value) FROM txt").fetchall(), NOW)
    assert held(index) == expected(sqlite, NOW)
    assert "rebuilt" in caplog.text
    index.close()


def test_an_index_of_another_store_is_rebuilt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = open_database(f"file:{tmp_path / 'ours'}"), open_database(f"file:{tmp_path / 'theirs'}")
    fill(theirs, 20)
    fill(ours, 3)
    folded(theirs, tmp_path / "index")
    index = Index(ours, tmp_path / "index")
    index.refresh(NOW)
    assert held(index) == expected(ours, NOW)
    assert "another store" in caplog.text
    index.close()
    ours.close()
    theirs.close()


def test_a_store_that_was_put_back_is_indexed_anew(tmp_path: Path) -> None:
    database = open_database(f"file:{tmp_path / 'store'}")
    fill(database, 3)
    database.close()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    database = open_database(f"file:{tmp_path / 'store'}")
    fill(database, 5)
    folded(database, tmp_path / "index")
    database.close()
    older = open_database(f"file:{tmp_path / 'copy'}")
    index = Index(older, tmp_path / "index")
    index.refresh(NOW)
    assert held(index) == expected(older, NOW)
    assert len(held(index)) == 3
    index.close()
    older.close()


def test_many_changes_are_folded_by_themselves(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "FOLD_AT", 10)
    monkeypatch.setattr(snapshot, "REBUILD_AT", 40)
    for count in (12, 60, 15):
        fill(sqlite, count)
        index = Index(sqlite, tmp_path / "index")
        index.refresh(NOW)
        index.close()
        manifest = segments.read(tmp_path / "index", sqlite.store_id)
        with sqlite.read() as connection:
            assert manifest is not None
            assert manifest.revision == store.revision(connection)
    manifest = segments.read(tmp_path / "index", sqlite.store_id)
    assert manifest is not None
    names = {segment.name for segment in manifest.segments}
    assert {path.name for path in (tmp_path / "index").iterdir()} == {*names, segments.CURRENT, "lock"}


def test_a_hundred_thousand_keys(sqlite: Database, tmp_path: Path) -> None:
    from sexton.model.records import Params

    runs = [new_run() for _ in range(100)]
    with sqlite.write("me", NOW) as tx:
        ingest(tx, [started(run, "e") for run in runs])
        ingest(
            tx,
            [
                records(run, Params(at=T0, params={f"k{n}.{k}": str(k) for k in range(1000)}), first=1)
                for n, run in enumerate(runs)
            ],
        )
    folded(sqlite, tmp_path / "index")
    index = Index(sqlite, tmp_path / "index")
    index.refresh(NOW)
    with index.reading() as duck:
        assert len(query.keys(duck, "params.")) == 100_000
        assert query.keys(duck, "params.k17.99") == [(f"params.k17.99{n}", 1) for n in ("", *range(10))]
        found = query.search(duck, ("SELECT run FROM num WHERE key = ?", ["params.k17.5"]), limit=10, after=None)
    assert (found.ids, found.total) == ([runs[17]], 1)
    index.close()
