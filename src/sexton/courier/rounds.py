"""The courier's rounds: look at every journal of the spool, deliver what is new, pause, again.

One journal or one store that fails never holds up another. A store that does not answer is asked again after a second,
then less often, up to once a minute, for as long as it takes: the records wait on disk. A wake-up hurries it.
"""

import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from sexton import clock, errors, settings
from sexton.client import Client, connect
from sexton.courier import start
from sexton.courier.delivery import Delivery, Parcel, discard, tidy
from sexton.courier.watch import Vigil
from sexton.journal import reader

PAUSE_SECONDS = 0.5  # also how long records gather, so that a request carries more than one call's worth
MAX_PAUSE_SECONDS = 60.0
REQUEST_PARCELS = 64
LOG_BYTES = 1 << 20


class Destination:
    """A store that journals of this spool go to, and how it has been answering."""

    def __init__(self, url: str, blobs: str, token: str | None) -> None:
        self.url, self._blobs, self._token = url, blobs, token
        self._client: Client | None = None
        self.failures = 0
        self.reason: str | None = None
        self.try_again = 0

    @property
    def client(self) -> Client:
        """The connection; opened when first needed. Raises `SextonError`."""
        if self._client is None:
            self._client = connect(self.url, blobs=self._blobs, token=self._token)
        return self._client

    def put_blob(self, digest: str, path: Path) -> None:
        """Store a file unless the store has its bytes."""
        if self.client.missing([digest]):
            self.client.put_blob(digest, path)

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
        self._told: bytes = b""
        self._stopping = False

    def wanted(self) -> bool:
        """Whether there is a journal to look after."""
        return not self._stopping and bool(reader.runs(self._spool))

    def serve(self) -> bool:
        """Make rounds until there has been nothing to do for the linger time (True) or a signal says stop (False)."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        tidy(self._spool)
        fifo = self._open_fifo()
        idle_until = clock.Deadline(self._linger)
        try:
            while not (self._stopping or idle_until.passed):
                if self._round():
                    idle_until = clock.Deadline(self._linger)
                self._report()
                if _paused(fifo, PAUSE_SECONDS):
                    self._hurry()
        finally:
            (self._spool / "wake").unlink(missing_ok=True)
            os.close(fifo)
            self._let_go()
        return not self._stopping

    # ------------------------------------------------------------------------------------------------------- inside

    def _round(self) -> bool:
        """One look at everything. True while there is a journal that is not finished with."""
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
        (self._spool / "round").write_text(str(self._rounds))
        return bool(self._journals)

    def _tend(self, folder: Path) -> None:
        if folder not in self._journals:
            delivery = Delivery(folder)
            self._journals[folder] = delivery, Vigil(delivery, self._sample)
        delivery, vigil = self._journals[folder]
        alive = vigil.look()
        arrived = self._deliver(delivery)
        if arrived and not alive and vigil.over and delivery.drained:
            vigil.stop()
            del self._journals[folder]
            discard(folder)

    def _deliver(self, delivery: Delivery) -> bool:
        """Send what the journal holds. False where its store does not take it now."""
        key = (delivery.identity.url, delivery.identity.blobs)
        if key not in self._destinations:
            self._destinations[key] = Destination(*key, self._token)
        destination = self._destinations[key]
        if clock.monotonic() < destination.try_again:
            return False
        try:
            while parcels := list(delivery.parcels(destination.put_blob)):
                self._send(destination, delivery, parcels)
        except (errors.Unavailable, errors.Denied, errors.IntegrityError, OSError) as error:
            destination.failed(error)
            return False
        if destination.failures:
            destination.answered()
        return True

    def _send(self, destination: Destination, delivery: Delivery, parcels: list[Parcel]) -> None:
        for first in range(0, len(parcels), REQUEST_PARCELS):
            part = parcels[first : first + REQUEST_PARCELS]
            destination.client.ingest([parcel.batch for parcel in part])
            delivery.acknowledge(part)

    def _note_stuck(self, folder: Path, error: Exception) -> None:
        if not folder.exists():  # removed under us; whatever it held is somebody else's decision
            self._journals.pop(folder, None)
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
        if told != self._told:
            self._told = told
            draft = self._spool / ".courier.json"
            draft.write_bytes(told)
            draft.replace(self._spool / "courier.json")

    def _open_fifo(self) -> int:
        path = self._spool / "wake"
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)  # also for writing, or it ends when the last caller closes

    def _hurry(self) -> None:
        """Somebody waits: try at once what would have been tried later."""
        for destination in self._destinations.values():
            destination.try_again = 0
        for stuck in self._stuck.values():
            stuck.try_again = 0

    def _let_go(self) -> None:
        for _, vigil in self._journals.values():
            vigil.stop()
        for destination in self._destinations.values():
            destination.close()
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
