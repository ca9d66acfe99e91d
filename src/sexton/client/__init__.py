"""The verbs of the record, wherever the store is: opened by this process, or behind a server.

Both `Client`s raise the same errors for the same reasons. Importing this loads neither SQL nor HTTP: `connect` loads
what the address needs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sexton.model.access import Health
from sexton.model.records import Ack, Batch
from sexton.model.runs import Changes, ConsoleText, Detail, Page, RunFilter, Series

if TYPE_CHECKING:
    from sexton.api import Local
    from sexton.client.remote import Remote


class Client(Protocol):
    """A store as its users see it. `run` is always an id or the beginning of one; threads may share a client.

    Every verb may raise `Unavailable` (transient) and, where a run is named, `RunNotFound` or `AmbiguousRun`.
    """

    url: str

    def health(self) -> Health:
        """Which store this is, and who it takes the caller for."""

    def ingest(self, batches: Sequence[Batch]) -> list[Ack]:
        """Store the batches and return once they are durable: an ack for each.

        After a failure some may be stored and some not. Send all of them again: what the store knows already is not
        stored twice. Raises `InvalidRecord`, with the run whose batch no store would take.
        """

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those of the digests whose bytes the store does not have."""

    def put_blob(self, digest: str, path: Path) -> None:
        """Store the bytes of a file under their digest. Raises `DigestMismatch` where they have another."""

    def get_blob(self, digest: str, path: Path) -> None:
        """Write stored bytes to `path`, which then has all of them or is as it was.

        Raises `BlobNotFound`, `IntegrityError`.
        """

    def runs(self, which: RunFilter) -> Page:
        """A page of the runs that pass a filter."""

    def run(self, run: str) -> Detail:
        """All of one run that is not a series."""

    def series(self, run: str, metric: str, points: int | None = None, context: str = "") -> Series:
        """The points of one metric, at most about `points` of them. The context may also be a part of the name, as in
        the keys of `Run.metrics`; what usage samples say is in the context `usage`. Raises `MetricNotFound`."""

    def console(self, run: str) -> ConsoleText:
        """What the run's command printed."""

    def tag(self, run: str, key: str, value: str | None) -> None:
        """Set a label of the run, or remove it with None."""

    def note(self, run: str, text: str) -> None:
        """Add a note to the run, signed by the actor."""

    def changes(self, since: int, limit: int = 1000) -> Changes:
        """The runs that changed after revision `since`, oldest change first."""

    def close(self) -> None:
        """Let go of files and connections. Nothing else may be called after it."""


def connect(url: str, *, blobs: str, token: str | None = None, actor: str | None = None) -> Client:
    """The store at `url`, as `Settings.url` spells it. `blobs` and `actor` are for a store opened here: where its bytes
    are, and in whose name; `token` is for a server, which decides both itself.

    A server is not asked before the first verb. Raises `StoreTooNew`, `Unavailable`, `InvalidSetting`.
    """
    if url.startswith(("http://", "https://")):
        from sexton.client.remote import Remote

        return Remote(url, token)
    from sexton.api import Local

    return Local.open(url, blobs, actor)


if TYPE_CHECKING:
    _clients: tuple[type[Client], ...] = (Local, Remote)
