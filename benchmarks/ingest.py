"""Points a second through `sexton serve`: 30 clients, each with a run of its own, every promise kept.

    python -m benchmarks.ingest [RESULT.json]

The server is a process of its own on a fresh SQLite store. The load comes from a second process that speaks HTTP over
bare sockets, from bodies made beforehand, so that little of what is measured is the measuring. Each request is one
batch that the store has not seen; the next is sent when it is acknowledged.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from typing import cast
from urllib.parse import urlsplit

import msgspec
import numpy as np
import psutil
import uvloop

from sexton import clock
from sexton.model.records import Batch, Points, Started, encode

CLIENTS = 30
METRICS = 10
SHAPES = {10: 1000, 100: 1000, 1_000: 400, 10_000: 60}
"""Points a request: requests of each client."""

SERVE = "import sys; from sexton.server.serve import serve; serve(sys.argv[1], sys.argv[2], port=0)"


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server on a new store in `folder`: its address and its process."""
    command = [sys.executable, "-c", SERVE, f"file:{folder}", f"file:{folder}/blobs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1], psutil.Process(process.pid)
        process.terminate()


def _values(rows: int, seed: int) -> bytes:
    """What metrics look like: noise around a slow fall, half of them computed in 32 bits."""
    noise = np.random.default_rng(seed).normal(0, 0.05, (METRICS, rows))
    values = noise + np.exp(-np.arange(rows) / 300)
    half = METRICS // 2
    values[:half] = values[:half].astype(np.float32)
    return values.astype("<f8").tobytes()


def _bodies(client: int, points: int, requests: int) -> Iterator[bytes]:
    """The requests of one client: HTTP, with one batch in each; the first also starts the run."""
    rows = points // METRICS
    keys: list[str | tuple[str, str]] = [f"metric/{number}" for number in range(METRICS)]
    run = f"{points:06}" + "".join("0123456789abcdefghjkmnpqrstvwxyz"[client * 7 + place & 31] for place in range(6))
    began = clock.now()
    values = [_values(rows, seed) for seed in range(8)]
    for number in range(requests):
        first = 1 + number * rows
        steps = np.arange(first, first + rows, dtype="<i8")
        at = began + steps * 1_000_000
        block = Points(
            keys=keys,
            rows=rows,
            seq=np.arange(rows, dtype="<u4").tobytes(),
            at=at.astype("<i8").tobytes(),
            values=values[number % len(values)],
            steps=steps.tobytes(),
            step_kind="int",
        )
        batch = Batch(run, f"writer-{client}", 0, first, rows, points=[block])
        if number == 0:
            started = msgspec.Raw(encode(Started(at=began, experiment="ingest")))
            block.seq = np.arange(1, rows + 1, dtype="<u4").tobytes()
            batch.first, batch.count, batch.records = 0, rows + 1, [(0, started)]
        body = msgspec.msgpack.encode([batch])
        yield (
            b"POST /api/v1/ingest HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/msgpack\r\n"
            b"accept: application/msgpack\r\ncontent-length: %d\r\n\r\n" % len(body)
        ) + body


class _Client(asyncio.Protocol):
    """Sends one request after the other, and notes how long each took."""

    def __init__(self, requests: list[bytes], done: asyncio.Future[None]) -> None:
        self._requests, self._done = iter(requests), done
        self.nanoseconds: list[int] = []
        self._reply = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is none by its class
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._done.set_result(None)
            return
        self._sent = clock.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._reply += data
        head, blank, body = self._reply.partition(b"\r\n\r\n")
        if not blank or len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._done.set_exception(RuntimeError(self._reply.decode()))
            return
        self.nanoseconds.append(clock.monotonic() - self._sent)
        self._reply = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the server closed the connection"))


async def _load(url: str, requests: list[list[bytes]]) -> tuple[int, list[int]]:
    loop = asyncio.get_running_loop()
    address = urlsplit(url)
    began = clock.monotonic()
    waiting, clients = [], []
    for own in requests:
        done = loop.create_future()
        make = partial(_Client, own, done)
        _, client = await loop.create_connection(make, address.hostname or "", address.port or 0)
        waiting.append(done)
        clients.append(client)
    await asyncio.gather(*waiting)
    return clock.monotonic() - began, [duration for client in clients for duration in client.nanoseconds]


def load(url: str, points: int, requests: int) -> tuple[int, list[int]]:
    """Send it all: nanoseconds for the whole, and of each request. Runs in the second process."""
    bodies = [list(_bodies(client, points, requests)) for client in range(CLIENTS)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_load(url, bodies))


def measure(points: int, requests: int) -> dict[str, float]:
    """One shape against a fresh server."""
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as (url, process):
        before = process.cpu_times()
        with get_context("spawn").Pool(1) as pool:
            total, each = pool.apply(load, (url, points, requests))
        after = process.cpu_times()
        stored = sum(path.stat().st_size for path in Path(name).glob("sexton.db*"))
    seconds, sent = total / clock.SECOND, points * requests * CLIENTS
    return {
        "points_a_request": points,
        "requests_a_second": requests * CLIENTS / seconds,
        "points_a_second": sent / seconds,
        "median_ms": median(each) / 1e6,
        "p99_ms": quantiles(each, n=100)[98] / 1e6,
        "server_cpu": (after.user + after.system - before.user - before.system) / seconds,
        "bytes_a_point": stored / sent,
    }


def main() -> None:
    print(f"{'points':>8} {'requests/s':>11} {'points/s':>12} {'p50 ms':>8} {'p99 ms':>8} {'cores':>6} {'B/point':>8}")
    results = []
    for points, requests in SHAPES.items():
        result = measure(points, requests)
        results.append(result)
        print(
            f"{points:8} {result['requests_a_second']:11,.0f} {result['points_a_second']:12,.0f}"
            f" {result['median_ms']:8.2f} {result['p99_ms']:8.2f} {result['server_cpu']:6.2f}"
            f" {result['bytes_a_point']:8.1f}",
            flush=True,
        )
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
