"""`sexton serve` as a process: who gets in, and what happens to bad requests."""

import json
import os
import re
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
import zstandard

from sexton import errors
from sexton.client import connect
from sexton.model.artifacts import hash_of
from sexton.server.serve import serve
from tests.batches import new_run, points, started, stored
from tests.serving import Server

MSGPACK = {"content-type": "application/msgpack"}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with Server(f"file:{folder}", f"file:{folder}/blobs", folder / "log") as server:
        yield server


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
        yield http


def error_of(reply: httpx.Response) -> dict[str, object]:
    """The error in a reply, which has the one shape."""
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    told = reply.json()
    assert set(told) == {"error"}
    assert set(told["error"]) == {"code", "message", "fields", "transient"}
    error: dict[str, object] = told["error"]
    return error


# ------------------------------------------------------------------------------------------------------- who gets in


ROUTES = [
    ("GET", "/health"),
    ("GET", "/api/v1/health"),
    ("GET", "/api/v1/runs"),
    ("GET", "/api/v1/runs/abc"),
    ("GET", "/api/v1/changes?since=0"),
    ("GET", "/schema/openapi.json"),
    ("GET", "/schema/nothing"),
    ("GET", "/nothing"),
    ("HEAD", "/health"),
    ("OPTIONS", "/api/v1/runs"),
    ("POST", "/api/v1/ingest"),
    ("POST", "/api/v1/runs/abc/tags"),
    ("POST", "/api/v1/chunks/locate"),
    ("PUT", "/api/v1/uploads/abc/packs/other"),
    ("DELETE", "/api/v1/uploads/abc"),
    ("DELETE", "/api/v1/runs/abc"),
    ("PATCH", "/api/v1/runs/abc"),
    ("POST", "/nothing"),
    ("BREW", "/api/v1/runs"),
]


@pytest.mark.parametrize(("verb", "path"), ROUTES)
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "[::2]", "["]
)
def test_a_name_that_is_not_ours_gets_nowhere(http: httpx.Client, verb: str, path: str, host: str) -> None:
    reply = http.request(verb, path, headers={"host": host})
    if reply.status_code == 400 and not reply.headers.get("content-type", "").startswith("application/json"):
        return  # not even HTTP
    assert reply.status_code == 403
    if verb != "HEAD":
        assert error_of(reply)["code"] == "foreign_origin"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:7766", "[::1]:80"])
def test_our_own_names_get_in(http: httpx.Client, host: str) -> None:
    assert http.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(("verb", "path"), ROUTES)
@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "http://localhost:{port}", "", "//"],
)
def test_a_page_of_another_site_can_change_nothing(
    server: Server, http: httpx.Client, verb: str, path: str, origin: str
) -> None:
    reply = http.request(verb, path, headers={"origin": origin.format(port=server.port)})
    if verb in ("GET", "HEAD", "OPTIONS"):
        assert reply.status_code in (200, 204, 404, 405)
        assert "access-control-allow-origin" not in reply.headers
    elif verb == "BREW":
        assert reply.status_code in (400, 403)
    else:
        assert reply.status_code == 403
        assert error_of(reply)["code"] == "foreign_origin"


def test_our_own_page_may_change_things(server: Server, http: httpx.Client) -> None:
    reply = http.post("/api/v1/chunks/locate", content=b"\x90", headers=MSGPACK | {"origin": server.url})
    assert (reply.status_code, reply.content) == (200, b"\x90")


@pytest.mark.parametrize(
    "path",
    ["/api/v1/ingest", "/api/v1/runs/abc/tags", "/api/v1/chunks/locate", "/api/v1/uploads/abc/packs/other"],
)
@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "text/plain;application/json",
    ],
)
def test_what_a_form_can_send_is_refused(http: httpx.Client, path: str, kind: str) -> None:
    verb = "PUT" if "packs" in path else "POST"
    reply = http.request(verb, path, content=b"[]", headers={"content-type": kind} if kind else {})
    assert reply.status_code in (413, 415)
    assert error_of(reply)["code"] == "usage"


def test_each_route_takes_its_own_type_of_body_alone(http: httpx.Client) -> None:
    for verb, path, kind in [
        ("POST", "/api/v1/ingest", "application/json"),
        ("POST", "/api/v1/chunks/locate", "application/octet-stream"),
        ("PUT", "/api/v1/uploads/abc/packs/other", "application/msgpack"),
        ("DELETE", "/api/v1/uploads/abc", "application/msgpack"),
    ]:
        reply = http.request(verb, path, content=b"[]", headers={"content-type": kind})
        assert (reply.status_code, error_of(reply)["code"]) == (415, "usage")


def test_sockets_are_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            b"GET /api/v1/changes?since=0 HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        assert b" 101 " not in connection.recv(4096)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1"])
def test_an_address_that_others_reach_is_refused(tmp_path: Path, host: str) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(errors.UnsafeBind):
            serve(f"file:{tmp_path}", f"file:{tmp_path}/blobs", host=host, port=0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("verb", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/schema/../../etc/passwd", 404, "not_found"),
        ("GET", "/schema/%2e%2e%2fetc", 404, "not_found"),
        ("DELETE", "/api/v1/runs", 405, "usage"),
        ("GET", "/api/v1/ingest", 405, "usage"),
        ("GET", "/api/v1/runs/nosuchrun000", 404, "run_not_found"),
        ("GET", "/api/v1/runs?limit=0", 400, "usage"),
        ("GET", "/api/v1/runs?limit=1001", 400, "usage"),
        ("GET", "/api/v1/runs?limit=many", 400, "usage"),
        ("GET", "/api/v1/runs?states=odd", 400, "usage"),
        ("GET", "/api/v1/runs?experimnt=x", 400, "usage"),
        ("GET", "/api/v1/runs/abc/series", 400, "usage"),
        ("GET", "/api/v1/changes", 400, "usage"),
        ("GET", "/api/v1/changes?since=99999999999999999999", 400, "usage"),
        ("GET", "/api/v1/manifests/..%2f..%2fetc%2fpasswd", 404, "not_found"),
        ("GET", "/api/v1/manifests/b3:" + "0" * 64, 404, "blob_not_found"),
        ("GET", "/api/v1/packs/1?start=0&end=10", 404, "blob_not_found"),
        ("GET", "/api/v1/packs/1?start=0&end=99999999", 400, "invalid_value"),
        ("GET", "/api/v1/packs/1?start=5&end=1", 400, "invalid_value"),
        ("GET", "/api/v1/packs/../../etc/passwd?start=0&end=9", 404, "not_found"),
    ],
)
def test_every_refusal_has_the_one_shape(http: httpx.Client, verb: str, path: str, status: int, code: str) -> None:
    reply = http.request(verb, path)
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"key": 1}',
        b'{"key": "k", "value": "v", "more": 1}',
        b'{"key": "\xff"}',
        b"[" * 100_000,
        b'{"key": "\\ud800"}',
    ],
)
def test_a_body_that_is_not_understood_is_the_senders_fault(http: httpx.Client, body: bytes) -> None:
    reply = http.post("/api/v1/runs/abc/tags", content=body, headers=JSON)
    assert (reply.status_code, error_of(reply)["code"]) == (400, "usage")


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"[]", b"\x91", b"\x91\x80", b"\x80", b"\x91" * 100_000, b"\x91\xa1\xff"]
)
def test_batches_that_are_none_are_the_senders_fault(http: httpx.Client, body: bytes) -> None:
    reply = http.post("/api/v1/ingest", content=body, headers=MSGPACK)
    assert (reply.status_code, error_of(reply)["code"]) == (400, "usage")


def endless(size: int) -> Iterator[bytes]:
    for _ in range(size >> 20):
        yield bytes(1 << 20)


@pytest.mark.parametrize(
    ("path", "headers", "size"),
    [("/api/v1/ingest", MSGPACK, 66 << 20), ("/api/v1/runs/abc/tags", JSON, 11 << 20)],
)
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_too_large_is_refused(
    http: httpx.Client, path: str, headers: dict[str, str], size: int, announced: bool
) -> None:
    length = {"content-length": str(size)} if announced else {}
    reply = http.post(path, content=endless(size), headers=headers | length)
    assert (reply.status_code, error_of(reply)["code"]) == (413, "usage")


def bombs() -> dict[str, tuple[bytes, int]]:
    """Compressed bodies that are not what they should be, and the status they get."""
    honest = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 30))
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    lying = bytearray(zstandard.ZstdCompressor().compress(os.urandom(100_000)))
    assert lying[4] & 0xC0 == 0x80  # the size is in 4 bytes
    lying[5:9] = (50_000).to_bytes(4, "little")
    whole = zstandard.ZstdCompressor().compress(b"\x90")
    return {
        "1 GiB of zeros": (honest, 413),
        "hidden size": (hidden, 413),
        "a lie": (bytes(lying), 400),
        "cut": (zstandard.ZstdCompressor().compress(b"\x90" * 1000)[:-3], 400),
        "two frames": (whole + whole, 400),
        "no zstd": (b"\x90", 400),
        "nothing": (b"", 400),
    }


@pytest.mark.parametrize("name", bombs())
def test_a_compressed_body_can_not_grow_beyond_the_limit(http: httpx.Client, server: Server, name: str) -> None:
    body, status = bombs()[name]
    reply = http.post("/api/v1/ingest", content=body, headers=MSGPACK | {"content-encoding": "zstd"})
    assert (reply.status_code, error_of(reply)["code"]) == (status, "usage")
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert peak is not None
    assert int(peak[1]) < 600_000


def test_another_encoding_is_refused(http: httpx.Client) -> None:
    reply = http.post("/api/v1/ingest", content=b"\x90", headers=MSGPACK | {"content-encoding": "gzip"})
    assert (reply.status_code, error_of(reply)["code"]) == (415, "usage")


def test_acks_come_as_the_client_asked(http: httpx.Client) -> None:
    body = msgspec.msgpack.encode([started(new_run(), "acks")])
    assert http.post("/api/v1/ingest", content=body, headers=MSGPACK).json() == [{"new": 1}]
    reply = http.post("/api/v1/ingest", content=body, headers=MSGPACK | {"accept": "application/msgpack"})
    assert msgspec.msgpack.decode(reply.content) == [{"new": 0, "known": 1}]


def test_bytes_are_never_served_as_a_page(http: httpx.Client) -> None:
    page = b"<script>alert(1)</script>"
    client = connect(str(http.base_url), blobs="")
    [where] = client.locate([hash_of(stored(client, page))])
    client.close()
    entry = where.chunk
    reply = http.get(f"/api/v1/packs/{where.pack}?start={entry.offset}&end={entry.offset + entry.stored}")
    assert (reply.status_code, reply.content) == (200, page)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"] == "attachment"
    assert reply.headers["content-security-policy"].startswith("sandbox")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-length"] == str(len(page))


def test_the_api_describes_itself_and_loads_nothing_from_elsewhere(http: httpx.Client) -> None:
    schema = http.get("/schema/openapi.json").json()
    assert {"/api/v1/runs", "/api/v1/runs/{run}", "/api/v1/packs/{pack}", "/health"} <= schema["paths"].keys()
    for page in ("swagger", "redoc", "elements", "rapidoc"):
        assert http.get(f"/schema/{page}").status_code == 404


def test_what_nobody_foresaw_is_told_by_an_id_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Server(f"file:{tmp_path}/store", f"file:{tmp_path}/blobs", log) as server:
        with sqlite3.connect(tmp_path / "store" / "sexton.db") as database:
            database.execute("PRAGMA foreign_keys = OFF")
            database.execute("DROP TABLE runs")
        database.close()
        reply = httpx.get(f"{server.url}/api/v1/runs", trust_env=False)
        error = error_of(reply)
        assert (reply.status_code, error["code"], error["transient"]) == (500, "internal", True)
        assert "retry-after" in reply.headers
        fields = error["fields"]
        assert isinstance(fields, dict)
        assert "no such table" not in reply.text
        assert "Traceback" not in reply.text
        logged = log.read_text()
        assert f"failure {fields['id']}" in logged
        assert "no such table" in logged
        client = connect(server.url, blobs="")
        with pytest.raises(errors.Internal):
            client.ingest([started(new_run(), "x")])
        client.close()
        assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200


def test_one_clients_bad_batch_is_his_alone(server: Server, http: httpx.Client) -> None:
    run = new_run()
    bad = points(run, {"loss": [1.0]})
    bad.points[0].at = b""
    reply = http.post("/api/v1/ingest", content=msgspec.msgpack.encode([bad]), headers=MSGPACK)
    error = json.loads(reply.content)["error"]
    assert (reply.status_code, error["code"], error["fields"]["run"]) == (400, "invalid_record", run)
