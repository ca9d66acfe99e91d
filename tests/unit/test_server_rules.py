"""The server's rules that need no server: statuses, addresses, and what the documentation says of them."""

import re
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar, Router, WebSocket, asgi, get, websocket
from litestar.datastructures import State
from litestar.exceptions import ImproperlyConfiguredException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.static_files import create_static_files_router
from litestar.types import Receive, Scope, Send

from sexton import errors
from sexton.server.app import STATUS, status_of
from sexton.server.auth import require_loopback, require_permissions


@get("/x")
async def page() -> None: ...


@websocket("/x")
async def stream(socket: WebSocket[None, None, State]) -> None: ...


@asgi("/x", is_mount=True, copy_scope=False)
async def mount(scope: Scope, receive: Receive, send: Send) -> None: ...


@get("/x", opt={"permission": "everything"})
async def misspelt() -> None: ...


ERRORS = Path(__file__).parents[2] / "docs" / "errors.md"


def test_every_error_has_the_status_that_its_page_says() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \|\s*(\S*?)\s*\| (\d+) \|\s*(\w*)\s*\|", ERRORS.read_text(), re.MULTILINE
    )
    told = {code: (name, parent.strip("`"), int(status), transient) for code, name, parent, status, transient in rows}
    known = {
        code: (
            kind.__name__,
            "" if kind is errors.SextonError else kind.__bases__[0].__name__,
            status_of(kind),
            "yes" if kind.transient else "",
        )
        for code, kind in errors.BY_CODE.items()
    }
    assert told == known


def test_what_is_transient_says_so_to_any_http_client() -> None:
    """A proxy or a script may retry a 5xx, and nothing else."""
    for kind in errors.BY_CODE.values():
        assert not kind.transient or status_of(kind) >= 500
    assert set(STATUS.values()) <= {400, 401, 403, 404, 409, 422, 500, 503}


@pytest.mark.parametrize(
    "route",
    [page, stream, mount, misspelt, Router("/r", route_handlers=[page]), create_static_files_router("/x", ["."])],
    ids=["page", "socket", "mount", "misspelt", "router", "static"],
)
def test_nothing_answers_without_a_permission(route: Any) -> None:
    with pytest.raises(ImproperlyConfiguredException, match="/x"):
        require_permissions(Litestar([route], openapi_config=None))


def test_the_description_of_the_api_needs_one_too() -> None:
    with pytest.raises(ImproperlyConfiguredException, match="/schema"):
        require_permissions(Litestar([], openapi_config=OpenAPIConfig("t", "1", render_plugins=[JsonRenderPlugin()])))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_this_machine_alone_is_served(host: str) -> None:
    require_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.1"])
def test_other_machines_are_not(host: str) -> None:
    with pytest.raises(errors.UnsafeBind) as caught:
        require_loopback(host)
    assert "127.0.0.1" in str(caught.value)


def test_what_is_no_address_is_told() -> None:
    with pytest.raises(errors.UsageError):
        require_loopback("no such host.invalid")
