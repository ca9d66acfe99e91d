"""The `sexton` command as a process, in a home of its own, for the tests of what a user types and reads."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from sexton.client import Client, connect
from sexton.model.records import Record
from sexton.model.runs import Page, Run
from tests import batches

SECONDS = 60
T = TypeVar("T")


class Home:
    """A user's machine: a folder with nothing in it but what the test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        unwanted = ("SEXTON_", "PYTHONDONTWRITEBYTECODE", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        self.environment = kept | {
            "SEXTON_HOME": str(folder / "home"),
            "SEXTON_LINGER_SECONDS": "0.2",
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
        }

    @property
    def url(self) -> str:
        """The store's address."""
        return f"file:{self.folder / 'home'}"

    def command(self, *words: str) -> list[str]:
        """The words as a command line for `Popen`."""
        return [sys.executable, "-m", "sexton", *words]

    def __call__(self, *words: str, typed: str | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
        """What `sexton WORDS` prints and how it ends."""
        return subprocess.run(
            self.command(*words),
            cwd=self.work,
            env=self.environment | variables,
            input=typed if typed is not None else "",
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def json(self, kind: type[T], *words: str) -> T:
        """What `sexton WORDS --json` says."""
        done = self(*words, "--json")
        assert done.returncode == 0, done.stderr
        return msgspec.json.decode(done.stdout, type=kind)

    def runs(self) -> list[Run]:
        """All runs, newest first, by `sexton ls --json`."""
        return self.json(Page, "ls", "--all").runs

    def script(self, text: str) -> None:
        """Run a Python script of the user's, to its end whatever that is."""
        (self.work / "script.py").write_text(text)
        subprocess.run(
            [sys.executable, "script.py"], cwd=self.work, env=self.environment, capture_output=True, check=False
        )

    @contextmanager
    def store(self) -> Iterator[Client]:
        """The store itself, for putting things there that no well-behaved script would."""
        client = connect(self.url, blobs=f"{self.url}/blobs")
        try:
            yield client
        finally:
            client.close()

    def record(self, *facts: Record, run: str | None = None) -> str:
        """Have the store take these records as those of a run; its id."""
        run = run or batches.new_run()
        with self.store() as client:
            client.ingest([batches.records(run, *facts)])
        return run

    def end(self) -> None:
        """End what was started in this home, and wait for its end."""
        deadline = time.monotonic() + SECONDS
        while left := self._left():
            assert time.monotonic() < deadline, f"still running: {left}"
            for process in left:
                try:
                    process.terminate()
                except psutil.Error:
                    continue
            psutil.wait_procs(left, timeout=1)

    def _left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words: Sequence[str] = process.info["cmdline"] or ()
            if any(word.startswith(str(self.folder)) for word in words):
                found.append(process)
        return found


def on_terminal(command: Sequence[str], width: int, environment: dict[str, str], cwd: Path) -> tuple[str, int]:
    """What a command writes to a terminal of this width, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    process: subprocess.Popen[Any] = subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 65_536):
            written += piece
    except OSError:  # how Linux says that nobody has the other end of a terminal any more
        pass
    os.close(ours)
    return written.decode(errors="replace").replace("\r\n", "\n"), process.wait(SECONDS)
