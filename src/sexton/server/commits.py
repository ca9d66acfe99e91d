"""The way in for run data: requests queue up, and one thread commits all that has queued in one transaction.

A batch is acknowledged after its commit, never before. A group that can not be committed is tried again one request at
a time, so nobody suffers from another's batch. The queue is bounded: who comes when it is full is told to come again.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple, TypeVar

import msgspec
import zstandard
from litestar import asgi
from litestar.concurrency import sync_to_thread
from litestar.enums import ScopeType
from litestar.exceptions import ClientException, MethodNotAllowedException
from litestar.types import Receive, Scope, Send

from sexton import errors
from sexton.api import Local
from sexton.ingest import validate
from sexton.model.records import Ack, Batch
from sexton.server.auth import BODY_BYTES, JSON, MSGPACK

GROUP_BATCHES = 256
QUEUE_BATCHES = 4_096
QUEUE_BYTES = 256 << 20
LARGE_BODY = 256 << 10  # decoding more than this on the event loop would keep others waiting

log = logging.getLogger(__name__)

T = TypeVar("T")

_decoder = msgspec.msgpack.Decoder(list[Batch])


class _Submission(NamedTuple):
    batches: Sequence[Batch]
    actor: str
    size: int
    future: asyncio.Future[list[Ack]]


_Outcome = tuple[_Submission, list[Ack] | Exception]


class Commits:
    """The queue and its thread, between `start` and `stop`. Everything here but the thread is for the event loop."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self._queue: queue.SimpleQueue[_Submission | None] = queue.SimpleQueue()
        self._batches = self._bytes = 0  # of what is queued or being committed
        self._ended: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="commits", daemon=True)

    def start(self) -> None:
        """Begin to commit, and to tell the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Commit all that is queued, then end."""
        self._queue.put(None)
        await sync_to_thread(self._thread.join)

    async def submit(self, batches: Sequence[Batch], actor: str, size: int) -> list[Ack]:
        """Commit the batches, all or none, and give their acks. `size` is that of the request, in bytes.

        Raises `StoreBusy` where too much is waiting already, and what `Local.commit` raises.
        """
        if self._batches and (self._batches + len(batches) > QUEUE_BATCHES or self._bytes + size > QUEUE_BYTES):
            raise errors.StoreBusy(store="of this server", reason=f"{self._batches} batches wait for it already")
        submission = _Submission(batches, actor, size, self._loop.create_future())
        self._batches += len(batches)
        self._bytes += size
        self._queue.put(submission)
        return await submission.future

    def _settle(self, outcomes: Sequence[_Outcome]) -> None:
        for submission, outcome in outcomes:
            self._batches -= len(submission.batches)
            self._bytes -= submission.size
            if submission.future.done():  # whoever waited for it has gone
                continue
            if isinstance(outcome, Exception):
                submission.future.set_exception(outcome)
            else:
                submission.future.set_result(outcome)

    # ------------------------------------------------------------------------------------------------ the one thread

    def _work(self) -> None:
        stopping = False
        while self._ended or not stopping:
            taken = list(self._take(wait=not self._ended))
            stopping = stopping or None in taken
            for _, group in groupby(filter(None, taken), key=lambda submission: submission.actor):
                outcomes = list(self._commit(list(group)))
                self._loop.call_soon_threadsafe(self._settle, outcomes)
            if self._ended:
                run = self._ended.pop()
                if failure := _attempt(partial(self._local.compact, {run})):
                    log.warning("the series of run %s stay as they arrived: %s", run, failure, exc_info=failure)

    def _take(self, wait: bool) -> Iterator[_Submission | None]:
        """What is queued, up to about `GROUP_BATCHES`; None for the wish to stop."""
        batches = 0
        try:
            item = self._queue.get(block=wait)
            while True:
                yield item
                batches += len(item.batches) if item else GROUP_BATCHES
                if batches >= GROUP_BATCHES:
                    return
                item = self._queue.get_nowait()
        except queue.Empty:
            return

    def _commit(self, group: Sequence[_Submission]) -> Iterator[_Outcome]:
        local = self._local.acting_as(group[0].actor)
        outcome = _attempt(partial(local.commit, [batch for one in group for batch in one.batches]))
        if isinstance(outcome, Exception):
            if len(group) == 1 or getattr(outcome, "transient", False):
                yield from ((one, outcome) for one in group)
            else:
                for one in group:
                    yield from self._commit([one])
            return
        acks, ended = outcome
        self._ended |= ended
        rest = iter(acks)
        for one in group:
            yield one, list(islice(rest, len(one.batches)))


def _attempt(act: Callable[[], T]) -> T | Exception:
    try:
        return act()
    except Exception as error:  # noqa: BLE001 - the thread outlives any batch; whoever waits for this one is told
        return error


# ------------------------------------------------------------------------------------------------------------- route


@asgi("/api/v1/ingest", opt={"permission": "runs:write", "body": MSGPACK}, copy_scope=False)
async def ingest(scope: Scope, receive: Receive, send: Send) -> None:
    """Store batches. Bare ASGI: at thousands of requests a second, what a framework adds to each is most of it."""
    if scope["type"] != ScopeType.HTTP or scope["method"] != "POST":
        raise MethodNotAllowedException(headers={"allow": "POST"})
    body = await _body(receive)
    if body is None:
        return
    headers = dict(scope["headers"])
    encoding = headers.get(b"content-encoding", b"").decode("latin-1")
    if len(body) > LARGE_BODY or encoding:
        batches = await sync_to_thread(_decode, body, encoding)
    else:
        batches = _decode(body, encoding)
    acks = await scope["app"].state.commits.submit(batches, scope["user"], len(body))
    packed = MSGPACK in headers.get(b"accept", b"").decode("latin-1")
    reply = msgspec.msgpack.encode(acks) if packed else msgspec.json.encode(acks)
    kind = MSGPACK if packed else JSON
    fields = [(b"content-type", kind.encode()), (b"content-length", str(len(reply)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": reply, "more_body": False})


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None where the client went away before it was here."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


def _decode(body: bytes, encoding: str) -> list[Batch]:
    """The batches in a body, each fit to be stored. Raises `UsageError`."""
    try:
        batches = _decoder.decode(_plain(body, encoding))
    except (msgspec.DecodeError, UnicodeDecodeError, zstandard.ZstdError) as error:
        raise errors.UsageError(reason=f"the body is no list of batches: {error}") from None
    for batch in batches:
        validate(batch)
    return batches


def _plain(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding != "zstd":
        raise ClientException(status_code=415, detail=f"content-encoding {encoding!r} is not zstd")
    size, limit = zstandard.frame_content_size(body), BODY_BYTES[MSGPACK]
    if not 0 <= size <= limit:  # a frame that hides its size could be a bomb; it can not lie about it either
        raise ClientException(status_code=413, detail=f"a zstd frame must declare its size, at most {limit:,} bytes")
    return zstandard.ZstdDecompressor().decompress(body, max_output_size=limit, allow_extra_data=False)


ROUTES = [ingest]
