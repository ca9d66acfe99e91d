"""What commands share: the spelling of their common options, and how they get at the store.

Loaded by every command, so it loads nothing heavy itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from sexton import settings

if TYPE_CHECKING:
    from sexton.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead, as docs/cli.md describes it.")]
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Another store than the configured one: file:FOLDER, http://SERVER, ..."),
]
Project = Annotated[str | None, typer.Option("--project", metavar="P", help="The project.")]
Experiment = Annotated[str | None, typer.Option("--experiment", "-e", metavar="E", help="The experiment.")]
Sweep = Annotated[str | None, typer.Option("--sweep", metavar="S", help="The search it is part of.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or enough of its beginning.")]


class _Light:
    """Reads parameters without Typer's pydantic: loading that takes longer than most commands do. A Typer that reads
    them in another way does not look at what is set here."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, `--help` included."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the command that this is mixed into
        for param in params:
            if hasattr(param, "type_descriptor"):
                param._runtime_param = _Reader(param.type_descriptor.annotation)
        return params


class Group(_Light, TyperGroup):
    """All commands."""


class Command(_Light, TyperCommand):
    """A command, with its example printed as it stands."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer calls it so
        """The example, after everything else."""
        formatter.write(f"\n  {self.epilog}\n")

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`RUN [NAME]`, as manuals write it."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


class _Reader:
    """Reads the words of one parameter as what it is annotated: `str`, `int`, `float`, `bool` or a list of one."""

    def __init__(self, annotation: Any) -> None:
        self._kind = get_args(annotation)[0] if get_origin(annotation) is list else annotation

    def coerce(self, value: Any, param: Any, ctx: typer.Context) -> Any:
        """The value, as Typer asks for it. Raises `BadParameter`."""
        many = param.multiple or param.nargs == -1
        if value is None:
            return () if many else None
        try:
            return tuple(map(self._kind, value)) if many else self._kind(value)
        except ValueError:
            wanted = "a whole number" if self._kind is int else "a number"
            raise typer.BadParameter(f"{value!r} is not {wanted}.", ctx=ctx, param=param) from None


@contextmanager
def store(url: str | None) -> "Iterator[Client]":
    """The configured store or that at `url`, after what this machine holds for it has been delivered."""
    from sexton.cli.deliveries import deliver
    from sexton.client import connect

    chosen = settings.load(url=url)
    deliver(chosen)
    client = connect(chosen.url, blobs=chosen.blobs, token=chosen.token)
    try:
        yield client
    finally:
        client.close()
