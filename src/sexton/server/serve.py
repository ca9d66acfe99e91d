"""`sexton serve`: a process that answers until it is told to stop, and then finishes what it accepted."""

import logging
import signal
import socket
from collections.abc import Sequence
from typing import NoReturn
from urllib.parse import urlsplit

import uvicorn

from sexton import errors
from sexton.api import Local
from sexton.server.app import create_app
from sexton.server.auth import require_loopback

HOST = "127.0.0.1"
PORT = 7766

IDLE_SECONDS = 75  # longer than clients keep an unused connection, so that none is closed under a request
STOP_SECONDS = 30


def serve(store: str, blobs: str, *, host: str = HOST, port: int = PORT, allow_hosts: Sequence[str] = ()) -> None:
    """Serve the store, printing one line with the address, until SIGTERM or SIGINT. Port 0 takes any free one.

    Raises `UnsafeBind`, `UsageError` where the address is taken, and what opening the store raises.
    """
    signal.signal(signal.SIGTERM, _exit)  # before uvicorn has its own, and again after it has stopped
    signal.signal(signal.SIGINT, _exit)
    require_loopback(host)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    local = Local.open(store, blobs)
    with _listen(host, port) as listener:
        app = create_app(local, hosts=[host, *allow_hosts])
        config = uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        name = f"[{host}]" if ":" in host else host
        _Server(
            config, f"Sexton serves {_without_password(local.url)} at http://{name}:{listener.getsockname()[1]}"
        ).run([listener])


class _Server(uvicorn.Server):
    """Says where it is once it answers, and stops well when told to from then on."""

    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._greeting, flush=True)  # noqa: T201 - whoever started it waits for this line


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = f"can not listen on {host} port {port} ({error}); choose another with --port, or 0 for any"
        raise errors.UsageError(reason=reason) from None


def _without_password(url: str) -> str:
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@", 1) if password else url


def _exit(*_: object) -> NoReturn:
    raise SystemExit(0)
