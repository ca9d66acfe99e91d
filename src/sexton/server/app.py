"""The composition root of the server: routes, the door around them, and the one shape of every error."""

import logging
import secrets
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, SerializationException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.router import Router

from sexton import errors
from sexton.api import VERSION, Local
from sexton.model.access import API_VERSION, Greeting, Health
from sexton.server import auth, blobs, commits, runs

log = logging.getLogger(__name__)

STATUS: dict[type[errors.SextonError], int] = {
    errors.SextonError: 500,
    errors.UsageError: 400,
    errors.NotFound: 404,
    errors.AmbiguousRun: 409,
    errors.Conflict: 409,
    errors.Denied: 403,
    errors.Unauthenticated: 401,
    errors.Unavailable: 503,
    errors.Internal: 500,
    errors.IntegrityError: 500,
    errors.DigestMismatch: 422,
}
"""HTTP status by class; a class that is not here has that of the nearest above it."""

RETRY_SECONDS = 1

NOSNIFF = {"x-content-type-options": "nosniff"}
"""With every reply: what it contains is what it says it is, whatever a browser makes of its first bytes."""


@get("/health", opt={"permission": "public"}, sync_to_thread=False)
def greet() -> Greeting:
    """That the server lives, and which API it speaks. Says nothing about the store."""
    return Greeting(version=VERSION, api=API_VERSION)


@get("/api/v1/health", opt={"permission": "runs:read"}, sync_to_thread=True)
def show_health(client: auth.Client) -> Health:
    """Which store this is, how far it is, and who it takes the caller for."""
    return client.health()


def create_app(local: Local, *, hosts: Collection[str] = ()) -> Litestar:
    """The application over an open store, which it closes at the end. `hosts` are the names, besides those of loopback,
    by which it may be called. Raises `ImproperlyConfiguredException` for a route that anybody could call by mistake."""
    queue = commits.Commits(local)
    app = Litestar(
        route_handlers=[greet, show_health, *runs.ROUTES, *blobs.ROUTES, *commits.ROUTES],
        dependencies={"client": Provide(auth.client_of, sync_to_thread=False)},
        guards=[auth.guard],
        exception_handlers={Exception: reply_to},
        response_headers=NOSNIFF,
        lifespan=[_lifespan],
        state=State({"local": local, "commits": queue}),
        openapi_config=_openapi(),
        request_class=_Question,
        request_max_body_size=auth.BODY_BYTES[auth.JSON],
        logging_config=None,
        debug=False,
    )
    auth.require_permissions(app)
    app.asgi_handler = auth.Door(app.asgi_handler, hosts=hosts, actor=local.actor, refuse=reply_to)
    return app


@asynccontextmanager
async def _lifespan(app: Litestar) -> AsyncIterator[None]:
    app.state.commits.start()
    try:
        yield
    finally:
        await app.state.commits.stop()
        app.state.local.close()


class _Question(Request[str, None, State]):
    """A request whose body, whatever it is, is never the server's fault."""

    async def json(self) -> Any:
        try:
            return await super().json()
        except (UnicodeDecodeError, RecursionError) as error:
            raise SerializationException(f"the body is not JSON: {error}") from None


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Sexton",
        version=str(API_VERSION),
        use_handler_docstrings=True,
        render_plugins=[JsonRenderPlugin()],  # the others are pages that load scripts from elsewhere
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, opt={"permission": "public"}),
    )


# ------------------------------------------------------------------------------------------------------------ errors


def reply_to(request: Request[Any, Any, Any], exception: Exception) -> Response[dict[str, object]]:
    """The reply to a request that failed. What was not foreseen is in the log, under an id that the reply names; its
    text is not for the client."""
    headers = dict(NOSNIFF)
    if isinstance(exception, HTTPException) and exception.status_code < 500:
        error, status = _foreseen(request, exception), exception.status_code
        headers |= exception.headers or {}
    elif isinstance(exception, errors.SextonError):
        error, status = exception, status_of(type(exception))
    else:
        error = errors.Internal(id=secrets.token_hex(4))
        status = status_of(type(error))
        log.error("failure %s: %s %r", error.fields["id"], request.method, request.url.path, exc_info=exception)
    if error.transient:
        headers["retry-after"] = str(RETRY_SECONDS)
    return Response(errors.wire(error), status_code=status, headers=headers)


def status_of(kind: type[errors.SextonError]) -> int:
    """The HTTP status of an error class."""
    return next(STATUS[cls] for cls in kind.__mro__ if cls in STATUS)


def _foreseen(request: Request[Any, Any, Any], exception: HTTPException) -> errors.SextonError:
    """What the framework refuses, in our words."""
    if exception.status_code == 404:
        return errors.NotFound(what=f"The address {request.url.path}")
    details = [exception.detail]
    if isinstance(exception.extra, list):
        details += [f"{item.get('key', 'body')}: {item.get('message')}" for item in exception.extra]
    return errors.UsageError(reason="; ".join(details))
