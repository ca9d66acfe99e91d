"""Whatever answers at the address of a server: a `SextonError` comes out of the client, and nothing else happens."""

import json
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from sexton import errors
from sexton.client import Client, connect
from sexton.client.remote import ERROR_BYTES
from sexton.client.transfers import download
from sexton.model.access import API_VERSION
from sexton.model.artifacts import Manifest
from sexton.model.runs import RunFilter
from tests.batches import new_run, points, recipe

GREETING = json.dumps({"version": "9.9", "api": API_VERSION}).encode()


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """A whole HTTP reply."""
    fields = {"content-length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def failure(code: str, status: str = "400 Bad", **told: object) -> bytes:
    """A reply that has the shape of a Sexton error."""
    return reply(json.dumps({"error": {"code": code, "message": "m", "fields": {}} | told}).encode(), status)


class Impostor:
    """Something that listens, and answers every request with the same bytes, but may first greet like a server."""

    def __init__(self, answer: bytes, greeting: bytes | None) -> None:
        self._answer, self._greeting = answer, greeting
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.requests: list[bytes] = []
        self.sent = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed: the test is over
                return
            with connection:
                connection.settimeout(10)
                try:
                    self._converse(connection)
                except OSError:
                    continue

    def _converse(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            piece = connection.recv(65536)
            if not piece:
                return
            request += piece
        self.requests.append(request)
        greets = self._greeting is not None and b" /health " in request
        self._send(connection, reply(self._greeting or b"", connection="close") if greets else self._answer)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):  # a client may still be sending; a reset would take the answer from it
            pass

    def _send(self, connection: socket.socket, answer: bytes) -> None:
        for start in range(0, len(answer), 1 << 20):
            connection.sendall(answer[start : start + (1 << 20)])
            self.sent += 1 << 20

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def impostor() -> Iterator[Callable[..., Client]]:
    """Makes a client of an impostor that gives the answer."""
    made: list[tuple[Impostor, Client]] = []

    def make(answer: bytes, greeting: bytes | None = GREETING, token: str | None = None) -> Client:
        one = Impostor(answer, greeting)
        client = connect(one.url, blobs="", token=token)
        made.append((one, client))
        return client

    make.made = made  # type: ignore[attr-defined]  # for the test that looks at the requests
    yield make
    for one, client in made:
        client.close()
        one.close()


def verbs(client: Client, folder: Path) -> list[Callable[[], object]]:
    """Everything that can be asked."""
    run, digest = new_run(), "b3:" + "0" * 64
    (folder / "source").write_bytes(b"bytes")
    return [
        client.health,
        lambda: client.ingest([points(run, {"loss": [1.0]})]),
        client.open_upload,
        lambda: client.pin("upload", [bytes(32)]),
        lambda: client.put_pack("upload", "other", folder / "source"),
        lambda: client.claim("upload", [digest]),
        lambda: client.commit_manifest("upload", Manifest(digest, 0, [], [])),
        lambda: client.close_upload("upload"),
        lambda: client.manifest(digest),
        lambda: client.locate([bytes(32)]),
        lambda: client.read_pack(1, 0, 10),
        lambda: client.runs(RunFilter()),
        lambda: client.run(run),
        lambda: client.series(run, "loss"),
        lambda: client.console(run),
        lambda: client.tag(run, "k", "v"),
        lambda: client.note(run, "n"),
        lambda: client.changes(0),
    ]


DEEP = b'{"error":' + b"[" * 100_000

ANSWERS = {
    "nothing": b"",
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "half a body": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc",
    "bad length": reply(b"x", content_length="-1"),
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "a page": reply(b"<html>It works!</html>", content_type="text/html"),
    "a page that fails": reply(b"<html>502</html>", "502 Bad Gateway"),
    "a page for nobody": reply(b"<html>404</html>", "404 Not Found"),
    "elsewhere": reply(b"", "302 Found", location="http://127.0.0.1:1/steal"),
    "wrong type": reply(b"[1, 2, 3]"),
    "wrong types": reply(b'{"runs": 7, "total": [], "revision": "x", "run": {"id": 1}, "values": {}}'),
    "deep": reply(DEEP),
    "deep failure": reply(DEEP, "400 Bad Request"),
    "not utf-8": reply(b'{"error": {"code": "\xff"}}', "400 Bad Request"),
    "compressed": reply(zlib.compress(b"0" * 10_000_000), content_encoding="deflate"),
    "switching": reply(b"", "101 Switching Protocols", upgrade="websocket"),
    "done, says anybody": reply(b"{}"),
    "endless failure": b"HTTP/1.1 500 No\r\n\r\n" + b"x" * (ERROR_BYTES + 1),
    "code of no type": failure("usage", fields=[1]),
    "fields that clash": failure("usage", fields={"self": 1, "code": 2, "fields": 3, "args": 4}),
    "fields that nest": failure("run_not_found", fields={"run": {"a": [None] * 1000}}),
    "fields that format": failure("usage", fields={"reason": "{0.__class__} {x!r} %s"}),
    "module for a code": failure("os.system", fields={"reason": "id"}),
    "no code": reply(b'{"error": {}}', "400 Bad Request"),
    "null": reply(b'{"error": null}', "500 Oops"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_only_our_errors_come_out(impostor: Callable[..., Client], tmp_path: Path, name: str) -> None:
    client = impostor(ANSWERS[name])
    for ask in verbs(client, tmp_path):
        with pytest.raises(errors.SextonError) as caught:
            ask()
        assert str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ANSWERS)
def test_only_our_errors_come_out_of_the_greeting(impostor: Callable[..., Client], name: str) -> None:
    with pytest.raises(errors.SextonError) as caught:
        impostor(ANSWERS[name], greeting=None).health()
    assert str(caught.value)


@pytest.mark.parametrize("kind", errors.BY_CODE.values(), ids=lambda kind: kind.code)
def test_every_error_arrives_as_what_it_was(impostor: Callable[..., Client], kind: type[errors.SextonError]) -> None:
    sent = kind(run="r1", reason="because", name="n", count=7, url="u", what="w", value=None, expected="e")
    body = json.dumps(errors.wire(sent)).encode()
    with pytest.raises(errors.SextonError) as caught:
        impostor(reply(body, "418 Whatever")).run("r1")
    got = caught.value
    assert type(got) is kind
    assert got.fields == sent.fields
    assert (str(got), got.code, got.transient) == (str(sent), sent.code, sent.transient)


def test_a_code_of_a_newer_server_stays_readable(impostor: Callable[..., Client]) -> None:
    with pytest.raises(errors.SextonError) as caught:
        impostor(failure("over_budget", fields={"budget": "$5"})).run("r1")
    assert not caught.value.transient
    assert "over_budget" in str(caught.value)
    assert "$5" in str(caught.value)
    with pytest.raises(errors.Unavailable) as again:
        impostor(failure("raining", transient=True, message="it rains")).run("r1")
    assert "it rains" in str(again.value)


@pytest.mark.parametrize("api", [API_VERSION + 1, 0])
def test_another_version_is_told_at_once(impostor: Callable[..., Client], api: int) -> None:
    client = impostor(reply(b"[]"), greeting=json.dumps({"version": "9.9", "api": api}).encode())
    with pytest.raises(errors.WrongVersion) as caught:
        client.runs(RunFilter())
    assert caught.value.fields["theirs"] == api


def test_nobody_there_is_transient_and_says_where() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    client = connect(url, blobs="")
    with pytest.raises(errors.ServerUnreachable) as caught:
        client.health()
    assert caught.value.transient
    assert url in str(caught.value)
    client.close()


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://host:port", "https://\x00", "http://a b/"])
def test_an_address_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(errors.SextonError):
        connect(url, blobs="").health()


def test_nobody_can_fill_the_memory(impostor: Callable[..., Client]) -> None:
    client = impostor(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100 << 20), greeting=None)
    with pytest.raises(errors.Unavailable, match="longer than"):
        client.health()
    one: Impostor = impostor.made[0][0]  # type: ignore[attr-defined]  # see the fixture
    assert one.sent < 50 << 20


def test_a_question_that_no_url_can_hold_is_the_askers_fault(impostor: Callable[..., Client]) -> None:
    with pytest.raises(errors.UsageError):
        impostor(reply(b"{}")).runs(RunFilter(experiment="x" * 100_000))


def test_a_token_goes_to_the_server_alone(impostor: Callable[..., Client]) -> None:
    thief = impostor(reply(b"{}"))
    stolen: Impostor = impostor.made[0][0]  # type: ignore[attr-defined]  # see the fixture
    with pytest.raises(errors.Unavailable):
        impostor(reply(b"", "307 Moved", location=f"{thief.url}/x"), token="canary").runs(RunFilter())
    assert stolen.requests == []
    asked: Impostor = impostor.made[1][0]  # type: ignore[attr-defined]  # see the fixture
    assert b"authorization: Bearer canary" in asked.requests[-1]


def test_a_damaged_file_is_never_put_in_place(impostor: Callable[..., Client], tmp_path: Path) -> None:
    other = msgspec.msgpack.encode(recipe(b"other bytes"))
    with pytest.raises(errors.IntegrityError):
        download(impostor(reply(other)), "b3:" + "0" * 64, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_for_fewer_batches_is_no_answer(impostor: Callable[..., Client]) -> None:
    with pytest.raises(errors.Unavailable):
        impostor(reply(b"\x91\x81\xa3new\x01")).ingest(
            [points(new_run(), {"a": [1.0]}), points(new_run(), {"a": [1.0]})]
        )
