"""The verbs of the record, once: what local mode calls, and what the server speaks as HTTP.

Each verb is a transaction of the store in the name of an actor. Knows no HTTP.
"""

import os
import pwd
import secrets
from collections.abc import Collection, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec

from sexton import clock, errors
from sexton.blobs.places import Place, open_place
from sexton.ingest import ingest
from sexton.model.access import API_VERSION, Health
from sexton.model.artifacts import Manifest, PackClass, Upload, Where
from sexton.model.records import Ack, Batch, Note, Record, Tag, encode
from sexton.model.runs import Changes, ConsoleText, Detail, Page, RunFilter, Series
from sexton.model.storage import Grouping, Storage
from sexton.model.values import clean_name, clean_text
from sexton.storage import reading, scrub, uploads
from sexton.store import footprint, runs, series
from sexton.store.database import Database, open_database, patiently

VERSION = version("sexton")


class Local:
    """`client.Client` of a store that this process opened. Threads may share it."""

    def __init__(self, database: Database, place: Place, actor: str) -> None:
        self.database, self.place, self.actor = database, place, actor
        self.url = database.url

    @classmethod
    def open(cls, url: str, blobs: str, actor: str | None = None) -> "Local":
        """The store at `url`, made where there is none, with its bytes in the place `blobs`. Raises `UsageError`."""
        place = open_place(blobs)
        if not url.startswith(("file:", "postgresql:", "postgresql+psycopg:")):
            reason = "a store to open is file:PATH or postgresql://USER@HOST/DATABASE"
            raise errors.InvalidSetting(name="url", value=url, source="the settings", reason=reason)
        return cls(open_database(url), place, actor or local_actor())

    def acting_as(self, actor: str) -> "Local":
        """The same store, in the name of somebody else."""
        return Local(self.database, self.place, actor)

    def health(self) -> Health:
        """See `Client`."""
        with self.database.read() as connection:
            revision = runs.revision(connection)
        store, store_id = self.database.kind, self.database.store_id
        return Health(
            version=VERSION, api=API_VERSION, store=store, store_id=store_id, revision=revision, actor=self.actor
        )

    # ----------------------------------------------------------------------------------------------------- run data

    def ingest(self, batches: Sequence[Batch]) -> list[Ack]:
        """See `Client`; all of the batches or none."""
        acks, due = self.commit(batches)
        self.compact(due)
        return acks

    def commit(self, batches: Sequence[Batch]) -> tuple[list[Ack], set[str]]:
        """`ingest` without the work that can wait: the acks, and the runs that `compact` should see."""

        def once() -> tuple[list[Ack], set[str]]:
            with self.database.write(self.actor) as tx:
                return ingest(tx, batches), tx.due

        return patiently(once)

    def compact(self, due: Collection[str]) -> None:
        """Give the series of runs their final form. Changes no answer, and may be left undone or be repeated."""

        def once(run: str) -> None:
            with self.database.write(self.actor) as tx:
                series.compact(tx, run)

        for run in sorted(due):
            patiently(partial(once, run))

    # -------------------------------------------------------------------------------------------------------- bytes

    def open_upload(self) -> Upload:
        """See `Client`."""
        return uploads.open_upload(self.database, self.place, self.actor)

    def pin(self, upload: str, hashes: Sequence[bytes]) -> list[bytes]:
        """See `Client`."""
        return uploads.pin(self.database, self.actor, upload, hashes)

    def put_pack(self, upload: str, kind: PackClass, path: Path) -> None:
        """See `Client`. What a pack from elsewhere holds has been verified."""
        uploads.put_pack(self.database, self.place, self.actor, upload, kind, path)

    def commit_manifest(self, upload: str, manifest: Manifest) -> None:
        """See `Client`."""
        uploads.commit_manifest(self.database, self.place, self.actor, upload, manifest)

    def claim(self, upload: str, digests: Sequence[str]) -> list[str]:
        """See `Client`."""
        return uploads.claim(self.database, self.actor, upload, digests)

    def keep_receipt(self, upload: str, batch: Batch) -> None:
        """See `Client`."""
        uploads.keep_receipt(self.database, self.place, self.actor, upload, batch)

    def close_upload(self, upload: str) -> None:
        """See `Client`."""
        uploads.close_upload(self.database, self.actor, upload)

    def manifest(self, digest: str) -> Manifest:
        """See `Client`."""
        return reading.manifest(self.database, digest)

    def locate(self, hashes: Sequence[bytes]) -> list[Where]:
        """See `Client`."""
        return reading.locate(self.database, hashes)

    def read_pack(self, pack: int, start: int, end: int) -> bytes:
        """See `Client`."""
        return reading.read_pack(self.database, self.place, pack, start, end)

    def doubt(self, hashes: Sequence[bytes]) -> None:
        """See `Client`."""
        scrub.doubt(self.database, self.place, self.actor, hashes)

    def storage(self, by: Grouping, limit: int = 100) -> Storage:
        """See `Client`."""
        with self.database.read() as connection:
            return Storage(footprint.total(connection), footprint.by(connection, by, limit))

    # ------------------------------------------------------------------------------------------------------ reading

    def runs(self, which: RunFilter) -> Page:
        """See `Client`."""
        with self.database.read() as connection:
            return runs.page(connection, _clean(which), clock.now())

    def run(self, run: str) -> Detail:
        """See `Client`."""
        with self.database.read() as connection:
            return runs.detail(connection, runs.resolve(connection, run), clock.now())

    def series(self, run: str, metric: str, points: int | None = None, context: str = "") -> Series:
        """See `Client`."""
        with self.database.read() as connection:
            found = runs.resolve(connection, run)
            return series.read(connection, found, clean_text(metric), clean_text(context), points)

    def console(self, run: str) -> ConsoleText:
        """See `Client`."""
        with self.database.read() as connection:
            return runs.console(connection, runs.resolve(connection, run))

    def changes(self, since: int, limit: int = 1000) -> Changes:
        """See `Client`."""
        with self.database.read() as connection:
            return runs.changes(connection, since, limit, clock.now())

    # --------------------------------------------------------------------------------------------------------- acts

    def tag(self, run: str, key: str, value: str | None) -> None:
        """See `Client`."""
        self._act(run, Tag(at=clock.now(), key=clean_name(key), value=None if value is None else clean_text(value)))

    def note(self, run: str, text: str) -> None:
        """See `Client`."""
        self._act(run, Note(at=clock.now(), text=clean_text(text)))

    def _act(self, run: str, record: Record) -> None:
        """A record by a person: it takes the one door, as the only record of a writer of its own."""
        with self.database.read() as connection:
            run = runs.resolve(connection, run)
        body = msgspec.Raw(encode(record))
        self.ingest([Batch(run, f"act-{secrets.token_hex(8)}", epoch=0, first=0, count=1, records=[(0, body)])])

    def close(self) -> None:
        """See `Client`."""
        self.database.close()


def local_actor() -> str:
    """Who acts on this machine where there are no accounts."""
    user = os.geteuid()
    try:
        return f"local:{pwd.getpwuid(user).pw_name}"
    except KeyError:  # a container may run as a user that it does not list
        return f"local:{user}"


def _clean(which: RunFilter) -> RunFilter:
    """The filter with names as they are stored, whatever was typed."""
    named = {field: clean_name(name) for field in ("project", "experiment", "sweep") if (name := getattr(which, field))}
    tags, sort = tuple(map(clean_text, which.tags)), clean_text(which.sort)
    return msgspec.structs.replace(which, **named, tags=tags, sort=sort)
