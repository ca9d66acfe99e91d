"""Storing the files that runs hand over, beside the delivery of records: one thread for a store, a file at a time.

An artifact's manifest stays in the store while the upload that it came under is open. So uploads are closed once the
records that name their artifacts are acknowledged, and what was stored for a record that never was is collected.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

import msgspec

from sexton import errors
from sexton.capture import files
from sexton.client import Client
from sexton.courier.delivery import PACKS, Handover
from sexton.model.records import Artifact, Record, Saved, Trouble

_UPLOAD_ARTIFACTS = 100  # and then another upload, or a run that always saves would keep one open for ever
_STOP_SECONDS = 5.0


class Uploads:
    """What of the files on their way to one store is stored. `connect` opens a connection of its own to it."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None
        self._thread: threading.Thread | None = None
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._outcomes: dict[Handover, Record | Exception | None] = {}  # None: on its way
        self._named: dict[str, set[Handover]] = {}  # by upload: what it keeps for a record that is not acknowledged yet
        self._upload: str | None = None
        self.failing = False
        """Whether the last that was tried could not be stored."""

    # ----------------------------------------------------------------------------------------- for the courier's thread

    def store(self, handover: Handover, saved: Saved) -> Record | None:
        """The record to send for a file, once its bytes are stored; None until then. Raises what kept them from being
        stored; asked again, tries again."""
        if handover not in self._outcomes:
            self._outcomes[handover] = None
            self._begin(lambda: self._store(handover, saved))
        outcome = self._outcomes[handover]
        if isinstance(outcome, Exception):
            del self._outcomes[handover]
            raise outcome
        return outcome

    def acknowledged(self, handovers: Iterable[Handover]) -> None:
        """The store has the records of these, which keep their bytes from now on."""
        gone = set(handovers)
        for handover in gone:
            self._outcomes.pop(handover, None)
        if gone:
            self._begin(lambda: self._release(gone))

    def hurry(self) -> None:
        """Try at once what could not be stored, whatever kept it from being."""
        for handover in [
            handover for handover, outcome in list(self._outcomes.items()) if isinstance(outcome, Exception)
        ]:
            del self._outcomes[handover]

    def forget(self) -> None:
        """Whatever was stored may be gone: store again what is asked for again."""
        for handover in [handover for handover, outcome in list(self._outcomes.items()) if outcome is not None]:
            del self._outcomes[handover]

    def close(self) -> None:
        """End the thread; a file that is being stored is left as it is, and is taken up by the next courier."""
        if self._thread is not None:
            self._tasks.put(None)
            if None not in self._outcomes.values():
                self._thread.join(_STOP_SECONDS)

    # ------------------------------------------------------------------------------------------------- the other thread

    def _begin(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
        self._let_go()

    def _store(self, handover: Handover, saved: Saved) -> None:
        try:
            outcome: Record | Exception = self._stored(handover, saved)
        except Exception as error:  # noqa: BLE001 - the thread outlives any file; the courier's loop is told
            outcome = error
            self._let_go()
        self.failing = isinstance(outcome, Exception)
        self._outcomes[handover] = outcome

    def _stored(self, handover: Handover, saved: Saved) -> Record:
        target = handover.copy(saved)
        if target is None:
            return _reference(saved)
        try:
            entries = files.entries_of(target) if saved.folder else None
        except (FileNotFoundError, msgspec.DecodeError):
            return Trouble(at=saved.at, kind="missing-file", count=1, reason=saved.name)
        taken = [files.Entry("", saved.size or 0, saved.mtime or 0)] if entries is None else entries
        copies = [target / str(place) for place in range(len(taken))] if saved.folder else [target]
        try:
            return self._sent(handover, saved, taken, copies)
        except errors.FileChanged:
            return Trouble(at=saved.at, kind="overwritten", count=1, reason=saved.name)
        except FileNotFoundError:
            if all(map(files.is_there, copies)):
                raise
            return Trouble(at=saved.at, kind="missing-file", count=1, reason=saved.name)

    def _sent(self, handover: Handover, saved: Saved, taken: list[files.Entry], copies: list[Path]) -> Artifact:
        from sexton.client.transfers import Source, upload  # a courier that has no files need not load it

        sources = [
            Source(one.path, copy, files.Seen(one.size, one.mtime)) for one, copy in zip(taken, copies, strict=True)
        ]

        def store(client: Client, under: str, work: Path) -> Artifact:
            sent = upload(client, under, sources, work, saved.drop)
            artifact = Artifact(
                at=saved.at,
                name=saved.name,
                digest=sent.digest,
                size=sent.size,
                kind=saved.kind,
                step=saved.step,
                metrics=saved.metrics,
                files=len(taken) if saved.folder else None,
                shed=sent.shed,
            )
            client.keep_receipt(under, handover.batch(artifact))
            return artifact

        with TemporaryDirectory(prefix=PACKS, dir=handover.folder.parent) as packs:
            client, under = self._opened()
            try:
                artifact = store(client, under, Path(packs))
            except errors.UploadClosed:
                self._upload = None
                client, under = self._opened()
                artifact = store(client, under, Path(packs))
        self._named[under].add(handover)
        if len(self._named[under]) >= _UPLOAD_ARTIFACTS:
            self._upload = None
        return artifact

    def _opened(self) -> tuple[Client, str]:
        """The connection, and an open upload."""
        if self._client is None:
            self._client = self._connect()
        if self._upload is None:
            self._upload = self._client.open_upload().id
            self._named[self._upload] = set()
        return self._client, self._upload

    def _release(self, handovers: set[Handover]) -> None:
        """Close the uploads that keep nothing any more."""
        for upload, named in list(self._named.items()):
            named.difference_update(handovers)
            if named:
                continue
            del self._named[upload]
            if upload == self._upload:
                self._upload = None
            if self._client is not None:
                with contextlib.suppress(errors.SextonError):  # else its lease runs out
                    self._client.close_upload(upload)

    def _let_go(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


def _reference(saved: Saved) -> Artifact:
    """Of bytes that stay where they are: those of a file of this machine are hashed, if it is as it was."""
    digest = saved.id
    if digest is None and saved.uri is not None and saved.uri.startswith("file:") and saved.size is not None:
        digest = _digest(Path(saved.uri.removeprefix("file:")), files.Seen(saved.size, saved.mtime or 0))
    return Artifact(
        at=saved.at,
        name=saved.name,
        digest=digest,
        size=saved.size,
        kind=saved.kind,
        step=saved.step,
        metrics=saved.metrics,
        uri=saved.uri,
    )


def _digest(path: Path, seen: files.Seen) -> str | None:
    """The digest of a file that is as it was seen; None of another."""
    from sexton.blobs.hashing import digest_of

    try:
        with path.open("rb") as file:
            if files.Seen.of(file.fileno()) != seen:
                return None
            digest = digest_of(file)
            return digest if files.Seen.of(file.fileno()) == seen else None
    except OSError:
        return None
