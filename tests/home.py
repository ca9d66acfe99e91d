"""A home of its own for each test: a spool, a store, and a courier that is always ended."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from sexton import settings
from sexton.client import Client, connect
from sexton.client.transfers import download
from sexton.courier import start
from sexton.journal import reader, segment
from sexton.journal.reader import EpochReader, Position
from sexton.model import records
from sexton.model.runs import Detail, RunFilter
from sexton.settings import Settings

PATIENCE = 20  # seconds; a loaded machine of two cores needs a few


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition: its value once that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        time.sleep(0.01)
    return value


class Home:
    """Settings that name a folder, programs that run with them, and what arrived in the store."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.variables = {"HOME": folder / "sexton", "LINGER_SECONDS": "0.3", "SAMPLE_SECONDS": "0.3"} | variables
        self._clients: list[Client] = []

    # ---------------------------------------------------------------------------------------------------- programs

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to work with this home."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SEXTON_")}
        return inherited | {f"SEXTON_{name}": str(value) for name, value in self.variables.items()}

    @property
    def settings(self) -> Settings:
        return settings.load(self.environment | {"HOME": str(self.folder)}, self.folder)

    def command(self, program: str) -> list[str]:
        return [sys.executable, "-c", textwrap.dedent(program)]

    def begin(self, program: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start a Python program."""
        argv = [*self.command(program), *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(argv, env=self.environment, **(pipes | options))

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a Python program to its end, whatever that is."""
        argv = [*self.command(program), *map(str, arguments)]
        return subprocess.run(argv, env=self.environment, check=False, capture_output=True, text=True, timeout=PATIENCE)

    # ----------------------------------------------------------------------------------------------------- courier

    @property
    def spool(self) -> Path:
        return self.settings.spool

    @contextlib.contextmanager
    def no_courier(self) -> Iterator[None]:
        """Keep couriers away: this process passes for one."""
        self.spool.mkdir(parents=True, exist_ok=True)
        with (self.spool / "courier.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def courier_pid(self) -> int | None:
        """The courier that has made its first round."""
        try:
            pid = int(msgspec.json.decode((self.spool / "courier.json").read_bytes())["pid"])
            return pid if str(self.spool) in psutil.Process(pid).cmdline() else None
        except (OSError, psutil.Error):
            return None

    def courier_said(self) -> str:
        log = self.spool / "courier.log"
        return log.read_text() if log.exists() else ""

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the courier, if there is one."""

        def ended() -> bool:
            pid = self.courier_pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
            return not start.is_running(self.spool)

        until(ended, "the end of the courier")

    def deliver(self) -> None:
        """Have all that is in the spool delivered, and the runs closed that have ended."""
        left = start.drain(self.settings, PATIENCE)
        assert not left, f"{left}\n{self.courier_said()}"

    def emptied(self) -> None:
        """Wait until the spool holds no journal any more: all runs have ended and all is delivered. Hurries the
        courier, like somebody who waits."""

        def empty() -> bool:
            start.ensure(self.settings)
            return not reader.runs(self.spool)

        until(empty, f"an empty spool\n{self.courier_said()}")

    # ------------------------------------------------------------------------------------------------------- store

    @property
    def client(self) -> Client:
        if not self._clients:
            self._clients.append(connect(self.settings.url, blobs=self.settings.blobs))
        return self._clients[0]

    def runs(self) -> list[Detail]:
        """All runs in the store, oldest first."""
        return [self.client.run(run.id) for run in self.client.runs(RunFilter(sort="created", limit=1000)).runs]

    def only_run(self) -> Detail:
        (run,) = self.runs()
        return run

    def bytes_of(self, digest: str | None) -> bytes:
        """The bytes of an artifact that is a file."""
        assert digest is not None
        with tempfile.TemporaryDirectory() as folder:
            download(self.client, digest, Path(folder, "file"))
            return Path(folder, "file").read_bytes()

    def steps(self, run: str, metric: str) -> list[int | float | None]:
        """The steps of a metric, in log order."""
        return self.client.series(run, metric).steps or []

    def close(self) -> None:
        """Leave nothing running."""
        for client in self._clients:
            client.close()
        self.stop(signal.SIGKILL)  # which it must survive at any moment
        shutil.rmtree(self.folder / "sexton" / "spool", ignore_errors=True)  # one that is just starting finds no work


class Logged:
    """What stands in the journal of a run, by whoever wrote it."""

    def __init__(self, folder: Path) -> None:
        self.records: list[Any] = []
        self.points: list[dict[segment.Key, float]] = []
        self.steps: list[int | float | None] = []
        self.times: list[int | None] = []
        self.missing = 0
        for epoch in reader.epochs(folder):
            read = EpochReader(folder, epoch, Position())
            while (piece := read.read()) is not None:
                self.missing += piece.count - len(piece.frames)
                for frame in piece.frames:
                    self._take(frame, piece.shapes)

    def _take(self, frame: segment.Frame, shapes: dict[int, list[segment.Key]]) -> None:
        if frame.kind == segment.RECORD:
            self.records.append(records.decode(frame.payload[1:]))
        elif frame.kind != segment.SHAPE:
            keys = shapes[int.from_bytes(frame.payload[1:5], "little")]
            kind, _, _, step, *rest = segment.RowShape(0, len(keys)).struct(frame.kind).unpack(frame.payload)
            self.times.append(rest.pop(0) if kind & segment.TIMED else None)
            self.steps.append(step if kind & 3 else None)
            self.points.append(dict(zip(keys, rest, strict=True)))

    def of(self, kind: type[records.Record]) -> list[Any]:
        """The records of a type."""
        return [record for record in self.records if isinstance(record, kind)]

    @property
    def trouble(self) -> dict[str, int]:
        counted: dict[str, int] = {}
        for record in self.of(records.Trouble):
            counted[record.kind] = counted.get(record.kind, 0) + record.count
        return counted
