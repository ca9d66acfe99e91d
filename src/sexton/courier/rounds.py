"""The courier's rounds: look at every journal of the spool, deliver what is new, pause, again.

One journal or one store that fails never holds up another. A store that does not answer is asked again after a second,
then less often, up to once a minute, for as long as it takes: the records wait on disk. A wake-up hurries it.
"""

import contextlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sexton import clock, errors, settings
from sexton.client import Client, connect
from sexton.courier import start
from sexton.courier.delivery import Delivery, Parcel, discard, tidy
from sexton.courier.uploads import Uploads
from sexton.courier.watch import Vigil
from sexton.journal import reader
from sexton.model.records import Batch

PAUSE_SECONDS = 0.5  # also how long records gather, so that a request carries more than one call's worth
MAX_PAUSE_SECONDS = 60.0
REQUEST_PARCELS = 64
LOG_BYTES = 1 << 20


class Destination:
    """A store that journals of this spool go to, and how it has been answering."""

    def __init__(self, url: str, blobs: str, token: str | None) -> None:
        self.url, self._blobs, self._token = url, blobs, token
        self._client: Client | None = None
        self.uploads = Uploads(self._connect)
        self.failures = 0
        self.reason: str | None = None
        self.try_again = 0

    @property
    def client(self) -> Client:
        """The connection; opened when first needed. Raises `SextonError`."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> Client:
        return connect(self.url, blobs=self._blobs, token=self._token)

    def ingest(self, batches: list[Batch]) -> None:
        """Store batches; on return they are durable there."""
        with self._asked():
            self.client.ingest(batches)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """What the system refuses while the store is asked is the store's trouble, and not that of a journal."""
        try:
            yield
        except errors.SextonError:
            raise
        except OSError as error:
            raise errors.Unavailable(what=f"The store {self.url}", reason=str(error)) from error

    def failed(self, error: Exception) -> None:
        """Note a failure and when to try again."""
        if self.reason is None:
            say(f"{self.url}: {error}")
        self.failures += 1
        self.reason = str(error)
        pause = min(PAUSE_SECONDS * 2 ** min(self.failures, 10), MAX_PAUSE_SECONDS)
        self.try_again = clock.monotonic() + int(pause * clock.SECOND)
        self.close()

    def answered(self) -> None:
        """Note that all is well."""
        if self.reason is not None:
            say(f"{self.url}: answers again")
        self.failures, self.reason, self.try_again = 0, None, 0

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
        self._client = None


class Stuck(msgspec.Struct):
    """A journal that could not be looked after, why, and when to try again."""

    reason: str
    try_again: int


class Courier:
    """The courier of one spool. The caller holds the spool's lock."""

    def __init__(self, spool: Path, sample_seconds: float, linger_seconds: float) -> None:
        self._spool = spool
        self._sample, self._linger = sample_seconds, linger_seconds
        self._token = settings.load().token
        self._journals: dict[Path, tuple[Delivery, Vigil]] = {}
        self._stuck: dict[Path, Stuck] = {}
        self._destinations: dict[tuple[str, str], Destination] = {}
        self._rounds = start.rounds(spool)
        self._behind = False  # whether there is more to deliver than a journal's turn in a round
        self._told: bytes = b""
        self._stopping = False

    def wanted(self) -> bool:
        """Whether there is a journal to look after."""
        return not self._stopping and any(folder not in self._stuck for folder in reader.runs(self._spool))

    def serve(self) -> bool:
        """Make rounds until there has been nothing to do for the linger time (True) or a signal says stop (False)."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        tidy(self._spool)
        fifo = self._open_fifo()
        idle_until = clock.Deadline(self._linger)
        try:
            while not self._stopping:
                if self._round():
                    idle_until = clock.Deadline(self._linger)
                elif idle_until.passed:
                    break
                self._report()
                if _paused(fifo, 0 if self._behind else PAUSE_SECONDS):
                    self._hurry()
        finally:
            (self._spool / "wake").unlink(missing_ok=True)
            os.close(fifo)
            self._let_go()
        return not self._stopping

    # ------------------------------------------------------------------------------------------------------- inside

    def _round(self) -> bool:
        """One look at everything. True while there is a journal that is not finished with."""
        self._behind = False
        with contextlib.suppress(OSError):
            if (self._spool / "courier.log").stat().st_size > LOG_BYTES:
                os.truncate(self._spool / "courier.log", 0)
        for folder in reader.runs(self._spool):
            if folder in self._stuck and clock.monotonic() < self._stuck[folder].try_again:
                continue
            try:
                self._tend(folder)
                self._stuck.pop(folder, None)
            except Exception as error:  # noqa: BLE001 - the courier's loop: one bad journal must not stop the others
                self._note_stuck(folder, error)
        self._rounds += 1
        self._note("round", b"%d" % self._rounds)
        return bool(self._journals)

    def _tend(self, folder: Path) -> None:
        if folder not in self._journals:
            delivery = Delivery(folder)
            self._journals[folder] = delivery, Vigil(delivery, self._sample)
        delivery, vigil = self._journals[folder]
        sessions = delivery.epochs()  # asked first: a process that opens the journal from here on keeps it
        alive = vigil.look()
        arrived = self._deliver(delivery)
        if arrived and not alive and vigil.over and delivery.drained:
            vigil.stop()
            del self._journals[folder]
            discard(folder, {*sessions, *vigil.epochs})

    def _deliver(self, delivery: Delivery) -> bool:
        """Send the next of what the journal holds: not more, or a busy run would keep the others waiting. False where
        its store does not take it now."""
        key = (delivery.identity.url, delivery.identity.blobs)
        if key not in self._destinations:
            self._destinations[key] = Destination(*key, self._token)
        destination = self._destinations[key]
        if clock.monotonic() < destination.try_again:
            return False
        try:
            self._send(destination, delivery, list(delivery.parcels()))
            for parcel in delivery.settled(destination.uploads.store):
                self._send(destination, delivery, [parcel])
        except errors.BlobNotFound as error:  # the upload was ended before its artifact was named: once more
            destination.uploads.forget()
            destination.failed(error)
            return False
        except (errors.Unavailable, errors.Denied, errors.StoreTooNew, errors.WrongVersion) as error:
            destination.failed(error)
            return False
        if destination.failures and not destination.uploads.failing:
            destination.answered()
        self._behind |= delivery.behind
        return True

    def _send(self, destination: Destination, delivery: Delivery, parcels: list[Parcel]) -> None:
        for first in range(0, len(parcels), REQUEST_PARCELS):
            part = parcels[first : first + REQUEST_PARCELS]
            destination.ingest([batch for parcel in part for batch in parcel.batches])
            delivery.acknowledge(part)
            destination.uploads.acknowledged(handover for parcel in part for handover, _ in parcel.done)

    def _note_stuck(self, folder: Path, error: Exception) -> None:
        if not folder.exists():  # removed under us; whatever it held is somebody else's decision
            if folder in self._journals:
                self._journals.pop(folder)[1].stop()
            return
        reason = str(error) if isinstance(error, errors.SextonError) else f"{type(error).__name__}: {error}"
        if folder not in self._stuck or self._stuck[folder].reason != reason:
            say(f"{folder.name}: {reason}")
            if not isinstance(error, errors.SextonError):
                traceback.print_exception(error)
        self._stuck[folder] = Stuck(reason, clock.monotonic() + int(MAX_PAUSE_SECONDS * clock.SECOND))

    def _report(self) -> None:
        """Tell `sexton doctor` what is going on; written only when it changed."""
        failing = {d.url: d.reason for d in self._destinations.values() if d.reason}
        state: dict[str, Any] = {
            "pid": os.getpid(),
            "runs": len(self._journals),
            "failing": failing,
            "stuck": {folder.name: stuck.reason for folder, stuck in self._stuck.items()},
        }
        told = msgspec.json.encode(state)
        if told != self._told and self._note("courier.json", told):
            self._told = told

    def _note(self, name: str, data: bytes) -> bool:
        """Replace a small file of the spool. A full disk must not end the courier, who may be what frees it."""
        try:
            draft = self._spool / f".{name}"
            draft.write_bytes(data)
            draft.replace(self._spool / name)
        except OSError:
            return False
        return True

    def _open_fifo(self) -> int:
        path = self._spool / "wake"
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)  # also for writing, or it ends when the last caller closes

    def _hurry(self) -> None:
        """Somebody waits: try at once what would have been tried later."""
        for destination in self._destinations.values():
            destination.try_again = 0
            destination.uploads.hurry()
        for stuck in self._stuck.values():
            stuck.try_again = 0

    def _let_go(self) -> None:
        for _, vigil in self._journals.values():
            vigil.stop()
        for destination in self._destinations.values():
            destination.close()
            destination.uploads.close()
        self._journals, self._destinations = {}, {}

    def _stop(self, *_: object) -> None:
        self._stopping = True


def _paused(fifo: int, seconds: float) -> bool:
    """Pause until somebody wakes the courier (True) or the time is over."""
    ready, _, _ = select.select([fifo], [], [], seconds)
    return bool(ready) and bool(os.read(fifo, 4096))


def say(text: str) -> None:
    """One line in `courier.log`."""
    sys.stderr.write(f"{clock.now() // clock.SECOND} {text}\n")
    sys.stderr.flush()
