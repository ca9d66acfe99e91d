"""A proxy between a courier and its server that does what networks and servers do on a bad day, by a seed."""

import asyncio
import contextlib
import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

FAULTS = (
    "refuse",  # the connection ends before a request is read
    "fail",  # 500 with an error that the client knows
    "fail oddly",  # 502 with a page of HTML, as of a load balancer
    "cut the request",  # the server sees half of it
    "drop the reply",  # the server has done it, and nobody hears so
    "cut the reply",
    "spoil the reply",  # another program's bytes
    "hang",  # for as long as the client has patience, or the proxy lives
    "dawdle",  # it works, slowly
)


class Proxy:
    """Listens on `port`, speaks to the server on `upstream`. `fault` chooses one of FAULTS or None by request line."""

    def __init__(self, upstream: int, seed: int = 0, faults: tuple[str, ...] = FAULTS, rate: float = 0.5) -> None:
        self.upstream = upstream
        self.done: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self.fault: Callable[[str], str | None] = lambda _: (
            self._chance.choice(faults) if self._chance.random() < rate else None
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calm(self) -> None:
        """From now on nothing goes wrong."""
        self.fault = lambda _: None

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------- one connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await self._answer((reader, writer))
        writer.close()

    async def _answer(self, client: Streams) -> None:
        """One request, then the connection ends: what follows comes on another, with luck of its own."""
        head = await client[0].readuntil(b"\r\n\r\n")
        fault = self.fault(head.split(b"\r\n", 1)[0].decode())
        self.done[fault or "none"] += 1
        if fault == "refuse":
            return
        if fault == "hang":
            await client[0].read(-1)  # until the client has had enough
            return
        request = head + await _body(client[0], head)
        if fault == "fail":
            body = b'{"error":{"code":"internal","message":"m","fields":{"id":"1"},"transient":true}}'
            await _reply(client[1], b"500 Internal Server Error", b"application/json", body)
            return
        if fault == "fail oddly":
            await _reply(client[1], b"502 Bad Gateway", b"text/html", b"<html>no server</html>")
            return
        if fault == "be newer":
            await _reply(client[1], b"200 OK", b"application/json", b'{"version":"99.0","api":99}')
            return
        if fault == "dawdle":
            await asyncio.sleep(0.2)
        reply = await self._forward(request[: len(request) // 2] if fault == "cut the request" else request)
        if fault == "cut the reply":
            reply = reply[: -max(1, len(reply) // 3)]
        if fault == "spoil the reply":
            reply = re.sub(rb"(\r\n\r\n)(?s:.*)", lambda found: found[1] + b"\xc1" * (len(reply) - found.end(1)), reply)
        if fault != "drop the reply":
            client[1].write(reply)
            await client[1].drain()

    async def _forward(self, request: bytes) -> bytes:
        """The server's whole reply; what there is of it, if it ends early."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            writer.write(re.sub(rb"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", request, count=1))
            if request.count(b"\r\n\r\n") == 0 or not _is_whole(request):
                writer.write_eof()
            await writer.drain()
            return await reader.read(-1)
        finally:
            writer.close()


def _length(head: bytes) -> int | None:
    found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else None


def _is_whole(request: bytes) -> bool:
    head, _, body = request.partition(b"\r\n\r\n")
    return b"chunked" in head.lower() or len(body) >= (_length(head) or 0)


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    length = _length(head)
    if length is not None:
        return await reader.readexactly(length)
    if b"chunked" not in head.lower():
        return b""
    whole = b""
    while not whole.endswith(b"0\r\n\r\n"):
        size = await reader.readuntil(b"\r\n")
        whole += size + await reader.readexactly(int(size, 16) + 2)
    return whole


async def _reply(writer: asyncio.StreamWriter, status: bytes, kind: bytes, body: bytes) -> None:
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    writer.write(head % (status, kind, len(body)) + body)
    await writer.drain()
