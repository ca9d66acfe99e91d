"""The one background thread of a training process: makes journals durable, and sees that a courier is there.

Every second it syncs the journals that changed; now and then it wakes or starts the courier. It never raises.
"""

import contextlib
import threading
from typing import Protocol

SYNC_SECONDS = 1.0
COURIER_EVERY = 5  # turns


class Kept(Protocol):
    """What the keeper looks after: an open run."""

    def tend(self, look_for_courier: bool) -> None:
        """Do the regular work of one turn. Must not raise."""

    def sync(self) -> None:
        """Make its journal durable. Must not raise."""


class Keeper:
    """The thread, started with the first open run and again in a forked child that logs."""

    def __init__(self) -> None:
        self._kept: set[Kept] = set()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()

    def keep(self, run: Kept) -> None:
        """Look after a run until it is released: one that nobody holds any more is still open."""
        self._kept.add(run)
        if self._thread is None or not self._thread.is_alive():
            self._wake = threading.Event()
            self._thread = threading.Thread(target=self._turns, name="sexton-keeper", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter is ending: finish() does the work
                self._thread.start()

    def release(self, run: Kept) -> None:
        """Stop looking after a run."""
        self._kept.discard(run)

    def sync(self) -> None:
        """Make all journals durable: for whoever has long work to do in a turn, now and then during it."""
        for run in list(self._kept):
            run.sync()

    def after_fork(self) -> None:
        """In a forked child: the thread stayed in the parent, and so did its runs until the child logs to them."""
        self.__init__()  # type: ignore[misc]  # exactly a new keeper, under the name that runs know

    def _turns(self) -> None:
        turn = 0
        while True:
            for run in list(self._kept):
                run.tend(turn % COURIER_EVERY == 0)
            turn += 1
            self._wake.wait(SYNC_SECONDS)


keeper = Keeper()
