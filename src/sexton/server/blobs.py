"""Routes of stored bytes: uploads that add packs and manifests, and what is read of them.

A pack goes from the socket to the disk a piece at a time, and to the store once every chunk in it was found to be what
it is called: a client that lies damages nobody. Nothing here leads from what a client names to a path.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
from litestar import Request, delete, get, post, put
from litestar.concurrency import sync_to_thread
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, MsgPackBody, QueryParameter
from litestar.response import Response

from sexton import errors
from sexton.blobs.packs import verify
from sexton.model.artifacts import CLASSES, DOUBTS, READ_LIMIT, Manifest
from sexton.model.records import Batch
from sexton.model.storage import Grouping, Storage
from sexton.server.auth import BODY_BYTES, BYTES, MSGPACK, Client

Limit = Annotated[int, QueryParameter(ge=1, le=1_000)]

WRITE_BYTES = 1 << 20
"""Received pieces are small; this many bytes are gathered for one write."""

_batch = msgspec.msgpack.Decoder(Batch)

_WRITE = {"permission": "blobs:write", "body": MSGPACK}


def _packed(reply: object) -> Response[bytes]:
    return Response(msgspec.msgpack.encode(reply), media_type=MSGPACK)


@post("/api/v1/uploads", opt=_WRITE, sync_to_thread=True)
def open_upload(client: Client) -> Response[bytes]:
    """Open an upload."""
    return _packed(client.open_upload())


@post("/api/v1/uploads/{upload:str}/pin", opt=_WRITE, sync_to_thread=True, status_code=200)
def pin(client: Client, upload: FromPath[str], data: MsgPackBody[list[bytes]]) -> Response[bytes]:
    """Those of the chunks that are not here; the others stay while the upload is open."""
    return _packed(client.pin(upload, data))


@put(
    "/api/v1/uploads/{upload:str}/packs/{kind:str}",
    opt={"permission": "blobs:write", "body": BYTES},
    request_max_body_size=BODY_BYTES[BYTES],
    status_code=204,
)
async def put_pack(
    client: Client, upload: FromPath[str], kind: FromPath[str], request: Request[str, None, State]
) -> None:
    """Store the pack that is the body."""
    known = next((one for one in CLASSES if one == kind), None)
    if known is None:
        raise errors.InvalidValue(what="The class of a pack", value=repr(kind), reason=f"it is one of {CLASSES}")
    with tempfile.NamedTemporaryFile(prefix="sexton-", suffix=".pack") as draft:
        gathered = bytearray()
        async for piece in request.stream():
            gathered += piece
            if len(gathered) >= WRITE_BYTES:
                await sync_to_thread(draft.write, bytes(gathered))
                gathered.clear()
        draft.write(gathered)
        draft.flush()
        await sync_to_thread(verify, Path(draft.name))
        await sync_to_thread(client.put_pack, upload, known, Path(draft.name))


@post("/api/v1/uploads/{upload:str}/claim", opt=_WRITE, sync_to_thread=True, status_code=200)
def claim(client: Client, upload: FromPath[str], data: MsgPackBody[list[str]]) -> Response[bytes]:
    """Those of the artifacts that are here whole, which stay while the upload is open."""
    return _packed(client.claim(upload, data))


@post(
    "/api/v1/uploads/{upload:str}/manifests",
    opt=_WRITE,
    request_max_body_size=BODY_BYTES[MSGPACK],
    sync_to_thread=True,
    status_code=204,
)
def commit_manifest(client: Client, upload: FromPath[str], data: MsgPackBody[Manifest]) -> None:
    """Store an artifact, whose chunks the upload pins."""
    client.commit_manifest(upload, data)


@post(
    "/api/v1/uploads/{upload:str}/receipts",
    opt=_WRITE,
    request_max_body_size=BODY_BYTES[MSGPACK],
    status_code=204,
)
async def keep_receipt(client: Client, upload: FromPath[str], request: Request[str, None, State]) -> None:
    """Keep the record that is about to name an artifact with the bytes."""
    try:
        batch = _batch.decode(await request.body())  # the framework can't hand on a record undecoded
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.UsageError(reason=f"the body is no batch: {error}") from None
    await sync_to_thread(client.keep_receipt, upload, batch)


@delete("/api/v1/uploads/{upload:str}", opt={"permission": "blobs:write"}, sync_to_thread=True)
def close_upload(client: Client, upload: FromPath[str]) -> None:
    """End an upload; again is fine."""
    client.close_upload(upload)


@get("/api/v1/manifests/{digest:str}", opt={"permission": "blobs:read"}, sync_to_thread=True)
def show_manifest(client: Client, digest: FromPath[str]) -> Response[bytes]:
    """How an artifact is made of chunks."""
    return _packed(client.manifest(digest))


@post(
    "/api/v1/chunks/locate",
    opt={"permission": "blobs:read", "body": MSGPACK},
    sync_to_thread=True,
    status_code=200,
)
def locate(client: Client, data: MsgPackBody[list[bytes]]) -> Response[bytes]:
    """Where those of the chunks are that are stored and whole."""
    return _packed(client.locate(data))


@post(
    "/api/v1/chunks/doubt",
    opt={"permission": "blobs:read", "body": MSGPACK},
    sync_to_thread=True,
    status_code=204,
)
def doubt(client: Client, data: MsgPackBody[list[bytes]]) -> None:
    """Read chunks again that somebody found to be damaged; nothing is marked on his word."""
    if len(data) > DOUBTS:
        reason = f"it has {DOUBTS} at most"
        raise errors.InvalidValue(what="A list of chunks", value=f"{len(data)} of them", reason=reason)
    client.doubt(data)


@get("/api/v1/packs/{pack:int}", opt={"permission": "blobs:read"}, sync_to_thread=True)
def read_pack(client: Client, pack: FromPath[int], start: FromQuery[int], end: FromQuery[int]) -> Response[bytes]:
    """Bytes of a pack. Whoever receives them checks what is in them."""
    if not 0 <= start < end <= start + READ_LIMIT:
        reason = f"it is 1 to {READ_LIMIT:,} bytes"
        raise errors.InvalidValue(what="A range of bytes", value=f"{start} to {end}", reason=reason)
    return Response(client.read_pack(pack, start, end), media_type=BYTES, headers=_INERT)


@get("/api/v1/storage", opt={"permission": "runs:read"}, sync_to_thread=True)
def show_storage(client: Client, by: FromQuery[Grouping] = "experiment", limit: Limit = 100) -> Storage:
    """What artifacts take, in all and by group."""
    return client.storage(by, limit)


_INERT = {
    "content-disposition": "attachment",
    "content-security-policy": "sandbox; default-src 'none'",  # somebody's bytes must never run as this server's
}

ROUTES: list[HTTPRouteHandler] = [
    open_upload, pin, put_pack, claim, commit_manifest, keep_receipt, close_upload, show_manifest, locate, read_pack,
    doubt, show_storage,
]  # fmt: skip
