"""A real server process for the tests, on a free port."""

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

SERVE = "import sys; from sexton.server.serve import serve; serve(sys.argv[1], sys.argv[2], port=int(sys.argv[3]))"


class Server:
    """`sexton serve` on a store. `stop`, `kill` and `start` again at will; a second start takes the same port."""

    def __init__(self, store: str, blobs: str, log: Path) -> None:
        self.store, self.blobs, self.log = store, blobs, log
        self.port = 0
        self.greeting = ""

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it; when this returns, it listens."""
        command = [sys.executable, "-c", SERVE, self.store, self.blobs, str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        self.greeting = self.process.stdout.readline().decode()
        assert self.greeting.startswith("Sexton serves "), (self.greeting, self.log.read_text())
        self.port = int(self.greeting.rpartition(":")[2])
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(number)
        return self.end()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Wait until it has ended; its exit code."""
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.returncode is None:
            self.kill()
