"""The verbs of the record, once: what local mode calls, and what the server speaks as HTTP.

Each verb is a transaction of the store in the name of an actor. Knows no HTTP.
"""

import os
import pwd
import random
import secrets
from collections.abc import Callable, Collection, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import msgspec

from sexton import clock, errors
from sexton.blobs.local import Blobs, chunks
from sexton.ingest import ingest
from sexton.model.access import API_VERSION, Health
from sexton.model.records import Ack, Batch, Note, Record, Tag, encode
from sexton.model.runs import Changes, ConsoleText, Detail, Page, RunFilter, Series
from sexton.model.values import clean_name, clean_text
from sexton.store import runs, series
from sexton.store.database import Database, open_database

VERSION = version("sexton")

PATIENCE_SECONDS = (0.05, 0.2, 0.8)
"""Pauses before a transaction that did not get through is tried again."""

T = TypeVar("T")


class Local:
    """`client.Client` of a store that this process opened. Threads may share it."""

    def __init__(self, database: Database, blobs: Blobs, actor: str) -> None:
        self.database, self.blobs, self.actor = database, blobs, actor
        self.url = database.url

    @classmethod
    def open(cls, url: str, blobs: str, actor: str | None = None) -> "Local":
        """The store at `url` with its bytes in the folder `blobs` (`file:PATH`), made where there is none."""
        folder = blobs.removeprefix("file:")
        if folder == blobs:
            raise errors.InvalidSetting(name="blobs", value=blobs, source="the settings", reason="it is file:PATH")
        if not url.startswith(("file:", "postgresql:", "postgresql+psycopg:")):
            reason = "a store to open is file:PATH or postgresql://USER@HOST/DATABASE"
            raise errors.InvalidSetting(name="url", value=url, source="the settings", reason=reason)
        return cls(open_database(url), Blobs(Path(folder)), actor or local_actor())

    def acting_as(self, actor: str) -> "Local":
        """The same store, in the name of somebody else."""
        return Local(self.database, self.blobs, actor)

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

        return _patiently(once)

    def compact(self, due: Collection[str]) -> None:
        """Give the series of runs their final form. Changes no answer, and may be left undone or be repeated."""

        def once(run: str) -> None:
            with self.database.write(self.actor) as tx:
                series.compact(tx, run)

        for run in sorted(due):
            _patiently(partial(once, run))

    # -------------------------------------------------------------------------------------------------------- bytes

    def missing(self, digests: Sequence[str]) -> list[str]:
        """See `Client`."""
        return [digest for digest in digests if not self.blobs.has(digest)]

    def put_blob(self, digest: str, path: Path) -> None:
        """See `Client`."""
        with path.open("rb") as file:
            self.blobs.put(digest, chunks(file))

    def get_blob(self, digest: str, path: Path) -> None:
        """See `Client`."""
        self.blobs.get(digest, path)

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


def _patiently(act: Callable[[], T]) -> T:
    """Do a whole transaction again, a few times, when the database could not get to it."""
    for pause in PATIENCE_SECONDS:
        try:
            return act()
        except errors.Unavailable:
            clock.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that those who collided do not do so again
    return act()
