"""A server that is away, slow, broken or another: records wait, and then they are all there, once."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import sexton
from sexton.courier import start
from sexton.sdk.runs import Run
from tests.faults.proxy import FAULTS, Proxy
from tests.home import Home, until
from tests.postgres import Postgres
from tests.serving import Server

QUICK = tuple(fault for fault in FAULTS if fault != "hang")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(tmp_path)
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    yield home
    home.close()


def _server(home: Home, store: str = "") -> Server:
    return Server(store or f"file:{home.folder}/store", f"file:{home.folder}/store/blobs", home.folder / "server.log")


def _log(home: Home, url: str, monkeypatch: pytest.MonkeyPatch, steps: int = 500) -> Run:
    """A run whose records are to go to `url`, and none of which has been sent."""
    monkeypatch.setenv("SEXTON_URL", url)
    home.variables["URL"] = url
    with home.no_courier():
        run = sexton.start(params={"a": 1}, tags=["t"])
        for step in range(steps):
            run.log({"loss": float(step), f"sometimes {step % 5}": 1.0}, step=step)
            if step % 20 == 0:
                run.note(f"at {step}")
        for number in range(3):
            (home.folder / "file").write_bytes(os.urandom(200_000))
            run.save(home.folder / "file", name=f"file {number}")
        run.finish()
    return run


def _check(home: Home, run: Run, url: str, steps: int = 500) -> None:
    """All that `_log` logged is at `url`, once."""
    home.variables["URL"] = url
    detail = home.client.run(run.id)
    assert home.steps(run.id, "loss") == list(range(steps))
    assert {name: metric.count for name, metric in detail.run.metrics.items()} == {
        "loss": steps,
        **{f"sometimes {number}": steps // 5 for number in range(5)},
    }
    assert [note.text for note in detail.notes] == [f"at {step}" for step in range(0, steps, 20)]
    assert len(detail.artifacts) == 3
    for artifact in detail.artifacts:
        assert len(home.bytes_of(artifact.digest)) == 200_000
    assert (detail.run.state, detail.run.trouble, detail.run.params) == ("finished", {}, {"a": 1})


def _storm(home: Home, monkeypatch: pytest.MonkeyPatch, seed: int, faults: tuple[str, ...]) -> None:
    with _server(home) as server, Proxy(server.port, seed, faults) as proxy:
        run = _log(home, proxy.url, monkeypatch)
        home.emptied()
        assert sum(proxy.done[fault] for fault in faults) > 3
        proxy.calm()
        _check(home, run, server.url)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_other_request_fails(home: Home, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    _storm(home, monkeypatch, seed, QUICK)


@pytest.mark.faults_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10, 30))
def test_every_other_request_fails_at_length(home: Home, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    _storm(home, monkeypatch, seed, QUICK)


@pytest.mark.faults_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_for_the_first_requests(home: Home, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Then it goes away. A request that hangs holds up the courier for as long as the client waits for an answer."""
    with _server(home) as server, Proxy(server.port) as proxy:
        left = iter([fault] * (1 if fault == "hang" else 8))
        proxy.fault = lambda _: next(left, None)
        run = _log(home, proxy.url, monkeypatch)
        start.ensure(home.settings)
        until(lambda: proxy.done[fault], "the fault")
        for _ in range(5):
            if list(home.spool.glob("*/journal.json")):
                home.deliver() if fault != "hang" else start.drain(home.settings, 90)
        _check(home, run, server.url)


def test_each_reply_to_a_delivery_is_lost_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stored, and nobody heard so: it is sent again and stored once."""
    with _server(home) as server, Proxy(server.port) as proxy:
        seen: list[str] = []

        def every_first(line: str) -> str | None:
            if "/ingest" not in line:
                return None
            seen.append(line)
            return "drop the reply" if len(seen) % 2 else None

        proxy.fault = every_first
        run = _log(home, proxy.url, monkeypatch)
        home.emptied()
        assert proxy.done["drop the reply"] >= 1
        _check(home, run, server.url)


def test_a_server_that_is_away_at_first(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    run = _log(home, f"http://127.0.0.1:{port}", monkeypatch)
    start.ensure(home.settings)
    until(lambda: "127.0.0.1" in home.courier_said(), "a word about it")
    assert start.is_running(home.spool)
    server = _server(home)
    server.port = port
    with server:
        home.emptied()
        _check(home, run, server.url)
        assert "answers again" in home.courier_said()


def test_a_server_that_is_killed_while_it_is_delivered_to(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(home) as server:
        run = _log(home, server.url, monkeypatch)
        for _ in range(3):
            start.ensure(home.settings)
            until(lambda: list(home.spool.glob("*/cursor.json")) or not list(home.spool.glob("*/journal.json")), "some")
            server.kill()
            server.start()
        home.emptied()
        _check(home, run, server.url)


def test_a_server_of_another_version_gets_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(home) as server, Proxy(server.port) as proxy:
        proxy.fault = lambda _: "be newer"
        run = _log(home, proxy.url, monkeypatch)
        start.ensure(home.settings)
        until(lambda: "version" in home.courier_said(), "a word about it")
        assert "99" in home.courier_said()
        proxy.calm()
        home.emptied()
        _check(home, run, server.url)


def test_a_store_that_is_away_holds_up_no_other(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    away = _log(home, "http://127.0.0.1:9", monkeypatch)
    with _server(home) as server:
        here = _log(home, server.url, monkeypatch)
        start.ensure(home.settings)
        until(lambda: not (home.spool / here.id).exists(), "what can be delivered")
        assert (home.spool / away.id).exists()
        _check(home, here, server.url)


@pytest.mark.faults_long
@pytest.mark.timeout(300)
def test_a_database_that_is_restarted_under_the_courier(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Postgres()
    try:
        database.start()
        url = database.url(database.create_database()).replace("postgresql+psycopg", "postgresql")
        runs = [_log(home, url, monkeypatch) for _ in range(5)]
        for _ in range(4):
            start.ensure(home.settings)
            database.stop()
            database.start()
        home.emptied()
        for run in runs:
            _check(home, run, url)
    finally:
        home.close()
        database.remove()
