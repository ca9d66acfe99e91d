"""Every route says who may call it, and can be looked up in docs/spec/http.md with that permission."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar, get
from litestar.exceptions import ImproperlyConfiguredException
from litestar.handlers import BaseRouteHandler
from litestar.routes import ASGIRoute, HTTPRoute, WebSocketRoute

from sexton import api
from sexton.server import app as server
from sexton.server import auth
from tests import project


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Litestar]:
    local = api.Local.open(f"file:{tmp_path}", blobs=f"file:{tmp_path / 'blobs'}")
    yield server.create_app(local)
    local.close()


def _handlers(app: Litestar) -> Iterator[tuple[str, BaseRouteHandler]]:
    """Verb and path, and what answers there; a mount or a socket has `*` for a verb."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for verb, (handler, _) in route.route_handler_map.items():
                yield f"{verb} {route.path}", handler
        elif isinstance(route, ASGIRoute | WebSocketRoute):
            yield f"* {route.path}", route.route_handler


def test_every_route_declares_its_permission(app: Litestar) -> None:
    handlers = dict(_handlers(app))
    assert len(handlers) > 5
    assert not [name for name, handler in handlers.items() if not handler.opt.get("permission")]


def test_every_route_is_specified_with_its_permission(app: Litestar) -> None:
    """A line of the document has the verb, the path with its parameters as `{name}`, and the permission."""
    lines = project.document("spec/http.md").splitlines()
    missing = [
        (name, handler.opt.get("permission"))
        for name, handler in _handlers(app)
        if not name.startswith("OPTIONS") and not any(_specifies(line, name, handler) for line in lines)
    ]
    assert not missing


def _specifies(line: str, name: str, handler: BaseRouteHandler) -> bool:
    verb, path = name.split()
    path = re.sub(r":\w+}", "}", path)
    words = re.split(r"[\s|`,]+", line)
    return (verb in words or verb == "*") and path in words and handler.opt.get("permission") in words


def test_a_server_with_a_route_for_anybody_does_not_start() -> None:
    @get("/forgotten")
    async def forgotten() -> None: ...

    with pytest.raises(ImproperlyConfiguredException, match="/forgotten"):
        auth.require_permissions(Litestar([forgotten], openapi_config=None))
