"""Files on their way to the store: whoever is killed, however often, each arrives once, whole."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import sexton
from sexton.client import connect
from sexton.client.transfers import download
from sexton.courier import start
from sexton.courier.delivery import Delivery, Handover
from sexton.courier.rounds import Courier
from sexton.courier.uploads import Uploads
from sexton.journal.journal import Identity, identify
from sexton.model import records
from tests import batches
from tests.home import Home, until
from tests.serving import Server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(tmp_path)
    for name, value in home.environment.items():
        if name.startswith("SEXTON_"):
            monkeypatch.setenv(name, value)
    yield home
    home.close()


@pytest.fixture
def server(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Of the store in this home, which is then reached by it."""
    with Server(f"file:{home.folder}/store", f"file:{home.folder}/store/blobs", home.folder / "log") as server:
        home.variables["URL"] = server.url
        monkeypatch.setenv("SEXTON_URL", server.url)
        yield server


def _check(home: Home, run: str, contents: dict[str, bytes]) -> None:
    detail = home.client.run(run)
    assert sorted(one.name for one in detail.artifacts) == sorted(contents)
    assert {one.name: home.bytes_of(one.digest) for one in detail.artifacts} == contents
    assert detail.run.trouble == {}


def _save(home: Home, count: int, size: int) -> tuple[str, dict[str, bytes]]:
    contents = {f"file {number}": os.urandom(size) for number in range(count)}
    with home.no_courier(), sexton.start() as run:
        for name, data in contents.items():
            (home.folder / name).write_bytes(data)
            run.save(home.folder / name)
    return run.id, contents


def _packs(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*.pack"))


def test_a_courier_killed_in_the_middle_of_an_upload(home: Home) -> None:
    """At several places: while packs are made, and after some of the files are stored."""
    run, contents = _save(home, 4, 4_000_000)
    for due in range(1, 4):
        start.ensure(home.settings)
        until(lambda due=due: _packs(home.folder / "sexton") >= due, "a pack")  # type: ignore[misc]  # bound at once
        home.stop(signal.SIGKILL)
    home.emptied()
    _check(home, run, contents)
    start.ensure(home.settings)  # the last may have been killed with nothing left to do but this
    until(lambda: list(home.spool.glob(".packs-*")) == [], "nothing to be left")


def test_a_server_that_dies_in_the_middle_of_an_upload(home: Home, server: Server) -> None:
    run, contents = _save(home, 4, 4_000_000)

    def arrived(due: int) -> bool:
        start.ensure(home.settings)  # which also makes it try at once
        return _packs(home.folder / "store") >= due

    for due in range(1, 4):
        until(partial(arrived, due), "a pack")
        server.kill()
        server.start()
    home.emptied()
    _check(home, run, contents)


def test_an_upload_that_was_ended_before_its_artifact_was_named(home: Home) -> None:
    """As a collection does when its lease has run out: the bytes are stored once more, under another."""
    run, contents = _save(home, 3, 100_000)
    delivery, courier = Delivery(home.spool / run), Courier(home.spool, 9, 0)

    def deliver() -> bool:
        courier._hurry()
        return courier._deliver(delivery)

    assert deliver()
    (destination,) = courier._destinations.values()
    until(lambda: None not in destination.uploads._outcomes.values(), "the bytes to be stored")
    with contextlib.closing(sqlite3.connect(home.folder / "sexton" / "sexton.db")) as store, store:
        for table in ("claims", "pins", "manifest_chunks", "manifests"):
            store.execute(f"DELETE FROM {table}")
        assert store.execute("UPDATE uploads SET state = 'aborted'").rowcount == 1
    assert not deliver()
    assert home.client.run(run).artifacts == []
    until(lambda: deliver() and delivery.drained, "delivery")
    courier._let_go()
    _check(home, run, contents)


def test_thirty_uploaders_of_one_server(home: Home, server: Server) -> None:
    """At once, and with most of their bytes in common."""
    shared = os.urandom(2_000_000)
    owns = [b"%d" % number * 50_000 + shared for number in range(30)]

    def store(number: int) -> str:
        folder = home.folder / f"host {number}"
        folder.mkdir()
        (folder / "own").write_bytes(owns[number])
        (folder / "shared").write_bytes(shared)
        client, run = connect(server.url, blobs=""), batches.new_run()
        identify(folder, Identity(run, "w", server.url, ""))
        uploads = Uploads(lambda: connect(server.url, blobs=""))
        for place, name in enumerate(("own", "shared")):
            saved = records.Saved(at=batches.T0, file=name, name=name)
            handover = Handover(folder, 0, place)
            (folder / "files").mkdir(exist_ok=True)
            (folder / name).rename(folder / "files" / name)
            artifact = until(lambda h=handover, s=saved: uploads.store(h, s), "the bytes to be stored")  # type: ignore[misc]  # bound at once
            client.ingest([batches.records(run, artifact, first=place)])
            uploads.acknowledged([handover])
        uploads.close()
        client.close()
        return run

    with ThreadPoolExecutor(30) as hosts:
        runs = list(hosts.map(store, range(30)))
    for run, own in zip(runs, owns, strict=True):
        kept = {one.name: home.bytes_of(one.digest) for one in home.client.run(run).artifacts}
        assert kept == {"own": own, "shared": shared}


# ---------------------------------------------------------------------------------------------------------- long runs


@pytest.mark.faults_long
@pytest.mark.timeout(1200)
def test_a_sparse_file_of_twenty_gigabytes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is saved at once, takes no more room than what is in it, and no more memory of the courier than any other."""
    monkeypatch.setattr("tests.home.PATIENCE", 900)
    source = home.folder / "sparse"
    with source.open("wb") as file:
        file.seek(7 << 30)
        file.write(b"data in the middle")
        file.truncate(20 << 30)
    with home.no_courier(), sexton.start() as run:
        run.save(source)
    courier = subprocess.Popen(
        [sys.executable, "-m", "sexton.courier", str(home.spool), "--sample-seconds=9", "--linger-seconds=0"],
        env=home.environment,
    )
    assert os.wait4(courier.pid, 0)[2].ru_maxrss < 300_000  # kB
    courier.returncode = 0
    (artifact,) = home.client.run(run.id).artifacts
    assert (artifact.size, artifact.digest is not None) == (20 << 30, True)
    used = sum(path.stat().st_size for path in (home.folder / "sexton").rglob("*") if path.is_file())
    assert used < 100_000_000


@pytest.mark.faults_long
@pytest.mark.timeout(1200)
def test_a_folder_of_a_hundred_thousand_files(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.home.PATIENCE", 900)
    folder = home.folder / "data"
    for number in range(100_000):
        if number % 1_000 == 0:
            (folder / str(number)).mkdir(parents=True)
        (folder / str(number - number % 1_000) / f"{number}.json").write_text(f'{{"number": {number}}}')
    with sexton.start() as run:
        run.save(folder)
    home.emptied()
    (artifact,) = home.client.run(run.id).artifacts
    assert (artifact.files, artifact.digest is not None) == (100_000, True)
    manifest = download(home.client, artifact.digest or "", home.folder / "back")
    assert len(manifest.files) == 100_000
    assert (home.folder / "back" / "42000" / "42042.json").read_text() == '{"number": 42042}'
