"""The verbs of the record, wherever the store is: opened by this process, or behind a server.

Both `Client`s raise the same errors for the same reasons. Importing this loads neither SQL nor HTTP: `connect` loads
what the address needs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sexton.model.access import Health
from sexton.model.artifacts import Manifest, PackClass, Upload, Where
from sexton.model.records import Ack, Batch
from sexton.model.runs import Changes, ConsoleText, Detail, Page, RunFilter, Series
from sexton.model.storage import Grouping, Storage

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

    def open_upload(self) -> Upload:
        """The right to add bytes. See `client.transfers`, which adds and reads whole artifacts by these verbs."""

    def pin(self, upload: str, hashes: Sequence[bytes]) -> list[bytes]:
        """Those of the chunks that are not here, or damaged; the others stay while the upload is open. Raises
        `UploadClosed`."""

    def put_pack(self, upload: str, kind: PackClass, path: Path) -> None:
        """Store the chunks in a pack, which stay while the upload is open. Whoever wrote the file may remove it
        afterwards but not write to it any more. Raises `UploadClosed`, `IntegrityError`."""

    def claim(self, upload: str, digests: Sequence[str]) -> list[str]:
        """Those of the artifacts that are here whole and undamaged, which stay while the upload is open. Raises
        `UploadClosed`."""

    def commit_manifest(self, upload: str, manifest: Manifest) -> None:
        """Store an artifact whose chunks the upload pins; it stays while the upload is open, and for ever once a run
        names it. Raises `ChunksMissing`, `UploadClosed`, `InvalidManifest`."""

    def keep_receipt(self, upload: str, batch: Batch) -> None:
        """Keep with the bytes the record that is about to name them, for when the database is lost. Raises
        `UploadClosed`, `InvalidRecord`."""

    def close_upload(self, upload: str) -> None:
        """Let go of what an upload keeps; once more is fine."""

    def manifest(self, digest: str) -> Manifest:
        """How an artifact is made of chunks. Raises `BlobNotFound`."""

    def locate(self, hashes: Sequence[bytes]) -> list[Where]:
        """Where those of the chunks are that are stored and not damaged."""

    def read_pack(self, pack: int, start: int, end: int) -> bytes:
        """Bytes of a pack, at most `artifacts.READ_LIMIT`. Raises `BlobNotFound`, `IntegrityError`."""

    def doubt(self, hashes: Sequence[bytes]) -> None:
        """Say that chunks are not what they should be, at most `artifacts.DOUBTS`: the store reads them again, and
        shows as damaged what is."""

    def storage(self, by: Grouping, limit: int = 100) -> Storage:
        """What artifacts take, in all and by group: the `limit` groups with the most stored bytes."""

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
