"""`sexton serve` as a process among others: killed, stopped, its database restarted, many clients at once."""

import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import psycopg
import pytest
from psycopg import sql

from sexton import clock, errors
from sexton.client import connect
from sexton.client.remote import Remote
from sexton.server.serve import serve
from tests.batches import new_run, points
from tests.postgres import Postgres
from tests.serving import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(f"file:{tmp_path}/store", f"file:{tmp_path}/blobs", tmp_path / "log") as server:
        yield server


class Stream:
    """Clients that send a stream of batches each, again and again until acknowledged, and remember what was."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.runs = [new_run() for _ in range(clients)]
        self.acknowledged = dict.fromkeys(self.runs, 0)
        self.unforeseen: list[BaseException] = []
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(run,)) for run in self.runs]
        self._progress = threading.Condition()

    def _send(self, run: str) -> None:
        client = Remote(self._url)
        try:
            while not self._stop.is_set():
                number = self.acknowledged[run]
                try:
                    client.ingest([points(run, {"loss": [float(number)] * 3}, first=number * 3)])
                except errors.Unavailable:
                    continue
                with self._progress:
                    self.acknowledged[run] = number + 1
                    self._progress.notify_all()
        except BaseException as error:  # noqa: BLE001 - a thread of the test: told at its end
            self.unforeseen.append(error)
        finally:
            client.close()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int) -> None:
        """Until each client has so many more batches acknowledged."""
        with self._progress:
            goal = {run: count + more for run, count in self.acknowledged.items()}
            arrived = self._progress.wait_for(lambda: all(self.acknowledged[r] >= n for r, n in goal.items()), 60)
        assert arrived, (self.acknowledged, self.unforeseen)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert self.unforeseen == []


def test_a_killed_server_keeps_all_it_acknowledged_and_nothing_twice(tmp_path: Path) -> None:
    with Server(f"file:{tmp_path}/store", f"file:{tmp_path}/blobs", tmp_path / "log") as server:
        stream = Stream(server.url)
        stream.start()
        for _ in range(4):
            stream.wait_for(10)
            server.kill()
            server.start()
        stream.wait_for(5)
        stream.stop()
        client = connect(server.url, blobs="")
        for run, batches in stream.acknowledged.items():
            series = client.series(run, "loss")
            values = [float(number // 3) for number in range(series.count)]
            assert series.values == values
            assert batches * 3 <= series.count <= batches * 3 + 3  # one more may have been committed but not told
        client.close()


def test_a_database_that_restarts_costs_nothing_but_time(tmp_path: Path) -> None:
    postgres = Postgres()
    postgres.start()
    try:
        database = postgres.create_database()
        url = postgres.url(database)
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:  # as everywhere but in tests
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET synchronous_commit = on").format(sql.Identifier(database))
            )
        with Server(url, f"file:{tmp_path}/blobs", tmp_path / "log") as server:
            stream = Stream(server.url)
            stream.start()
            for how in (signal.SIGQUIT, signal.SIGINT):
                stream.wait_for(5)
                postgres.stop(how)
                postgres.start()
            stream.wait_for(5)
            stream.stop()
            client = connect(server.url, blobs="")
            for run, batches in stream.acknowledged.items():
                values = client.series(run, "loss").values
                assert values == [float(number // 3) for number in range(len(values))]
                assert batches * 3 <= len(values) <= batches * 3 + 3
            client.close()
        assert "failure" not in (tmp_path / "log").read_text()
    finally:
        postgres.remove()


def test_the_password_of_the_database_goes_nowhere(tmp_path: Path) -> None:
    postgres = Postgres()
    postgres.start()
    try:
        url = postgres.url(postgres.create_database()).replace("postgres@", "postgres:canary@")
        with Server(url, f"file:{tmp_path}/blobs", tmp_path / "log") as server:
            postgres.stop()
            reply = httpx.get(f"{server.url}/api/v1/runs", trust_env=False)
            assert (reply.status_code, reply.json()["error"]["transient"]) == (503, True)
            told = [server.greeting, reply.text, str(reply.headers), (tmp_path / "log").read_text()]
        assert "postgres:***@" in server.greeting
        assert not [text for text in told if "canary" in text]
    finally:
        postgres.remove()


def test_a_server_that_is_told_to_stop_finishes_what_it_accepted(tmp_path: Path) -> None:
    with Server(f"file:{tmp_path}/store", f"file:{tmp_path}/blobs", tmp_path / "log") as server:
        run = new_run()
        body = msgspec.msgpack.encode([points(run, {"loss": [1.0, 2.0]})])
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            fields = ["host: localhost", "content-type: application/msgpack", f"content-length: {len(body)}", "", ""]
            head = "\r\n".join(["POST /api/v1/ingest HTTP/1.1", *fields])
            connection.sendall(head.encode() + body[:10])
            assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200  # it has read the head by now
            server.process.send_signal(signal.SIGTERM)
            refused = False
            while not refused:  # it takes nobody new
                try:
                    socket.create_connection(("127.0.0.1", server.port), timeout=30).close()
                except ConnectionError:
                    refused = True
            for place in range(10, len(body)):  # from a slow line
                connection.sendall(body[place : place + 1])
                clock.sleep(0.005)
            reply = connection.recv(65536)
        assert reply.startswith(b"HTTP/1.1 200 OK")
        assert server.end() == 0
        server.start()
        client = connect(server.url, blobs="")
        assert client.series(run, "loss").values == [1.0, 2.0]
        client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_well_and_quietly(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    with Server(f"file:{tmp_path}/store", f"file:{tmp_path}/blobs", log) as server:
        assert server.stop(number) == 0
    assert log.read_text() == ""


def test_an_address_that_is_taken_says_what_to_do(tmp_path: Path, server: Server) -> None:
    with pytest.raises(errors.UsageError, match="--port"):
        _serve_once(tmp_path, server.port)


def _serve_once(folder: Path, port: int) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        serve(f"file:{folder}", f"file:{folder}/blobs", port=port)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_many_clients_at_once_each_get_their_own_acks(server: Server) -> None:
    def work(number: int) -> tuple[str, list[int]]:
        client, run = Remote(server.url), new_run()
        try:
            sent = [
                client.ingest([points(run, {"loss": [float(number)] * (place + 1)}, first=place * 100)])[0].new
                for place in range(10)
            ]
            return run, sent
        finally:
            client.close()

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(work, range(16)))
    client = connect(server.url, blobs="")
    for number, (run, sent) in enumerate(results):
        assert sent == list(range(1, 11))
        assert set(client.series(run, "loss").values) == {float(number)}
    client.close()
