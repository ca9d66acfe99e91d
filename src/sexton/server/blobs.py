"""Routes of stored bytes. They go from the socket to the disk and back a piece at a time, under digests alone."""

import os
from collections.abc import Iterator
from typing import BinaryIO

from litestar import Request, get, post, put
from litestar.concurrency import sync_to_thread
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from litestar.response import Stream

from sexton.blobs.local import chunks
from sexton.server.auth import BYTES, JSON, Client

WRITE_BYTES = 1 << 20
"""Received pieces are small; this many bytes are gathered for one write."""


@post("/api/v1/blobs/missing", opt={"permission": "blobs:read", "body": JSON}, sync_to_thread=True, status_code=200)
def list_missing(client: Client, data: JSONBody[list[str]]) -> list[str]:
    """Those of the digests whose bytes are not here."""
    return client.missing(data)


@put("/api/v1/blobs/{digest:str}", opt={"permission": "blobs:write", "body": BYTES}, status_code=204)
async def put_blob(client: Client, digest: FromPath[str], request: Request[str, None, State]) -> None:
    """Store the body under its digest. Known bytes may be sent again; they are not read."""
    if client.blobs.has(digest):
        return
    with client.blobs.draft(digest) as draft:
        gathered = bytearray()
        async for piece in request.stream():
            gathered += piece
            if len(gathered) >= WRITE_BYTES:
                await sync_to_thread(draft.write, bytes(gathered))
                gathered.clear()
        await sync_to_thread(draft.write, bytes(gathered))
        await sync_to_thread(draft.keep)


@get("/api/v1/blobs/{digest:str}", opt={"permission": "blobs:read"}, sync_to_thread=True)
def get_blob(client: Client, digest: FromPath[str]) -> Stream:
    """The stored bytes. Whoever receives them checks them against the digest."""
    file = client.blobs.open(digest)
    headers = {
        "content-length": str(os.fstat(file.fileno()).st_size),
        "content-disposition": "attachment",
        "content-security-policy": "sandbox; default-src 'none'",  # somebody's bytes must never run as this server's
    }
    return Stream(_all_of(file), media_type=BYTES, headers=headers)


def _all_of(file: BinaryIO) -> Iterator[bytes]:
    with file:
        yield from chunks(file)


ROUTES: list[HTTPRouteHandler] = [list_missing, put_blob, get_blob]
