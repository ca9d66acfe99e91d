"""`sexton doctor` and `sexton serve`: whether all is well here, and a store for others to reach."""

from typing import Annotated

import typer

from sexton import settings
from sexton.cli.options import Json, Url


def doctor(url: Url = None, json: Json = False) -> int:
    """Say what is configured, what is undelivered, and what is wrong. Each problem comes with what to do.

    Exits with 1 where something is wrong.
    """
    from sexton.cli import checkup, render

    found = checkup.examine(url)
    if json:
        render.emit(found)
    else:
        checkup.print_checkup(found)
    return 0 if found.ok else 1


def serve(
    host: Annotated[str, typer.Option("--host", metavar="H", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="Port to listen on; 0 takes a free one.")] = 7766,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="file:FOLDER or postgresql://...; else the configured store."),
    ] = None,
    blobs: Annotated[
        str | None, typer.Option("--blobs", metavar="URL", help="Where the bytes of files are: file:FOLDER.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="H", help="A name by which clients may call it; may be repeated."),
    ] = None,
) -> None:
    """Serve a store to others, over HTTP, until Ctrl-C."""
    from sexton.server.serve import serve as serve_store

    chosen = settings.load(url=store, blobs=blobs)
    serve_store(chosen.url, chosen.blobs, host=host, port=port, allow_hosts=allow_host or ())
