"""How far a download is, for a person who has been waiting for more than a second."""

import sys
import threading
from types import TracebackType
from typing import Self

PATIENCE_SECONDS = 1.0
REFRESH_SECONDS = 0.2


class Arrivals:
    """While entered, and from the second second on, shows on a terminal how many of `total` bytes have `arrived`."""

    def __init__(self, total: int) -> None:
        self._total, self._arrived = total, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def arrived(self, size: int) -> None:
        """So many more bytes are here."""
        self._arrived += size

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        if self._over.wait(PATIENCE_SECONDS):
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=self._total)
            while not self._over.wait(REFRESH_SECONDS):
                bar.update(task, completed=min(self._arrived, self._total))
