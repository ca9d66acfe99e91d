"""Who may ask for what, decided before any route runs.

`Door` is the outermost layer of the whole application: what it does not let in, no route, mount, page or socket sees.
`guard` then holds each route to what the route itself declares: `opt={"permission": ..., "body": ...}`. A route that
declares no permission stops the server from starting, so a new route can be forgotten but not left open.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from litestar import Litestar, Request, Response
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.enums import ScopeType
from litestar.exceptions import ClientException, ImproperlyConfiguredException
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, HTTPScope, Receive, ReceiveMessage, Scope, Send

from sexton import errors
from sexton.api import Local
from sexton.journal.segment import MAX_PAYLOAD
from sexton.model.artifacts import PACK_BYTES

JSON = "application/json"
MSGPACK = "application/msgpack"
BYTES = "application/octet-stream"

PERMISSIONS = frozenset({"public", "runs:read", "runs:write", "blobs:read", "blobs:write"})

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

SAFE_VERBS = frozenset({"GET", "HEAD", "OPTIONS"})

BODY_BYTES = {JSON: 10 << 20, MSGPACK: MAX_PAYLOAD + (1 << 20), BYTES: PACK_BYTES}
"""The content types that a body may have, and how many bytes of it are taken: of `MSGPACK`, the longest record that a
journal holds and its envelope; of `BYTES`, which goes to the disk piece by piece, the largest pack.

None of them is a type that a web page can send to another site without asking first."""

_TOO_LARGE, _WRONG_TYPE = 413, 415

Refusal = Callable[[Request[Any, Any, Any], Exception], Response[Any]]
"""Makes the reply to a request that was not let in."""


def require_loopback(host: str) -> None:
    """Raises `UnsafeBind` unless every address that `host` names can be reached from this machine alone."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host or "0.0.0.0", None)}  # noqa: S104 - to refuse it
    except OSError as error:
        raise errors.UsageError(reason=f"{host!r} is no address of this machine ({error})") from None
    if not all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses):
        raise errors.UnsafeBind(host=host or "all addresses")


def require_permissions(app: Litestar) -> None:
    """Raises `ImproperlyConfiguredException`, naming the routes that do not declare who may call them."""
    bare = []
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler]:
            if _is_options(handler):
                handler.opt["permission"] = "public"  # Litestar adds it to every path: it tells which verbs there are
            if handler.opt.get("permission") not in PERMISSIONS:
                bare.append(f"{route.path} ({handler})")
    if bare:
        raise ImproperlyConfiguredException(f"routes without a known permission: {', '.join(sorted(bare))}")


def _is_options(handler: BaseRouteHandler) -> bool:
    return getattr(handler, "http_methods", None) == {"OPTIONS"}


async def guard(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]  # any handler
    """Hold a request to what its route declares: permission, type of the body, and the query it knows."""
    permission = handler.opt.get("permission")
    if permission not in PERMISSIONS:  # there are no accounts yet: who came through the door may do all that is known
        raise errors.Forbidden(permission=permission, actor=connection.user)
    scope = connection.scope
    if scope["type"] != ScopeType.HTTP or scope["method"] not in SAFE_VERBS:
        wanted, sent = handler.opt.get("body", ""), _content_type(dict(scope["headers"]))
        if sent != wanted:
            due = f"the body must be {wanted or 'empty'}, not {sent or 'untyped'}"
            raise ClientException(status_code=_WRONG_TYPE, detail=due)
    if scope["query_string"]:
        unknown = connection.query_params.keys() - handler.parsed_fn_signature.parameters.keys()
        if unknown:  # a filter that is not understood must not come back as everything
            raise errors.UsageError(reason=f"there is no parameter {', '.join(sorted(unknown))}")


def client_of(request: Request[str, None, State]) -> Local:
    """The store, in the name of whoever asks."""
    local: Local = request.app.state.local
    return local.acting_as(request.user)


Client = NamedDependency[Local]
"""What `client_of` gives to a route that has a parameter `client`."""


class Door:
    """Lets in requests that name this server, come from no other site, and carry a body of a known type and size."""

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], actor: str, refuse: Refusal) -> None:
        self._app, self._actor, self._refuse = app, actor, refuse
        self._hosts = LOOPBACK | {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await send({"type": "websocket.close", "code": 1008, "reason": "there are no sockets here"})
            return
        try:
            limit = self._admit(scope)
        except (errors.SextonError, ClientException) as error:
            request: Request[str, None, State] = Request(scope)
            await self._refuse(request, error).to_asgi_response(app=None, request=request)(scope, receive, send)
            return
        scope["user"] = self._actor
        await self._app(scope, _counted(receive, limit), send)

    def _admit(self, scope: HTTPScope) -> int:
        """How long the body may be. Raises `ForeignOrigin`, `ClientException`."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if _hostname(host) not in self._hosts:  # DNS rebinding: a foreign name that leads to this machine
            raise errors.ForeignOrigin(header="Host", value=host or "(none)")
        origin = headers.get(b"origin")
        if origin is not None and scope["method"] not in SAFE_VERBS and not _is_same(origin.decode("latin-1"), host):
            raise errors.ForeignOrigin(header="Origin", value=origin.decode("latin-1"))
        return _body_limit(headers)


@lru_cache(256)
def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


@lru_cache(256)
def _is_same(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host
    except ValueError:
        return False


def _content_type(headers: dict[bytes, bytes]) -> str:
    return headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()


def _body_limit(headers: dict[bytes, bytes]) -> int:
    kind = _content_type(headers)
    if kind and kind not in BODY_BYTES:
        raise ClientException(status_code=_WRONG_TYPE, detail=f"a body must be one of {', '.join(BODY_BYTES)}")
    limit = BODY_BYTES.get(kind, 0)
    announced = headers.get(b"content-length", b"0")
    if not announced.isdigit() or int(announced) > limit:
        raise _too_large(limit)
    return limit


def _counted(receive: Receive, limit: int) -> Receive:
    """`receive` that stops a body which is longer than it said, or which said nothing."""
    left = limit

    async def counted() -> ReceiveMessage:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            left -= len(message["body"])
            if left < 0:
                raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> ClientException:
    return ClientException(status_code=_TOO_LARGE, detail=f"a body of this type may have {limit:,} bytes")
