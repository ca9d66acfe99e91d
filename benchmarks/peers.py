"""The trackers that Sexton is measured against: their environments, and processes that do as they are told.

Each peer has a virtual environment of its own under `build/bench-venvs/`, made when first needed from its pinned
requirements. Its processes see an empty home, a folder of their own and no user's settings; none needs a network.
"""

import hashlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

HERE = Path(__file__).parent
VENVS = HERE.parent / "build" / "bench-venvs"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/ssl/cert.pem"), Path("/etc/pki/tls/cert.pem")

PEERS = ("trackio", "wandb", "tensorboardx", "mlflow")
OWN = ("nothing", "write", "sexton")
"""What runs in Sexton's own environment."""

PATIENCE = 300  # seconds for any one command

TITLES = {
    "nothing": "(an empty function)",
    "write": "(one write of 64 bytes)",
    "sexton": "**Sexton**",
    "trackio": "trackio",
    "wandb": "W&B offline",
    "tensorboardx": "tensorboardX",
    "mlflow": "MLflow async, SQLite",
}


def python(tracker: str) -> str:
    """The interpreter that has the tracker, installed first where it is not there yet."""
    if tracker in OWN:
        return sys.executable
    wanted, venv = HERE / "requirements" / f"{tracker}.txt", VENVS / tracker
    stamp, digest = venv / "installed", hashlib.sha256(wanted.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"installing {tracker} ...", flush=True)
        uv = [str(Path(sys.executable).with_name("uv")), "--quiet"]
        if any(path.exists() for path in CERTIFICATES):
            uv.append("--system-certs")
        subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, venv], check=True)
        subprocess.run([*uv, "pip", "install", "--python", venv / "bin/python", "-r", wanted], check=True)
        stamp.write_text(digest)
    return str(venv / "bin/python")


def version(tracker: str) -> str:
    """The peer's version, from its pinned requirements."""
    lines = (HERE / "requirements" / f"{tracker}.txt").read_text().splitlines()
    return next(line.partition("==")[2].split()[0] for line in lines if line.startswith(f"{tracker}=="))


def surroundings(folder: Path) -> dict[str, str]:
    """The environment variables of everything that is measured in `folder`."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "SEXTON_HOME": str(folder / "sexton"),
        "SEXTON_LINGER_SECONDS": "1",
        "TRACKIO_DIR": str(folder / "trackio"),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "DO_NOT_TRACK": "1",
    }


def _command(tracker: str, what: str, folder: Path) -> list[str]:
    return [python(tracker), "-P", str(HERE / "trackers.py"), tracker, what, str(folder)]


def count(tracker: str, folder: Path) -> list[int]:
    """How many points of its one metric each run in the folder has kept."""
    command = _command(tracker, "count", folder)
    done = subprocess.run(
        command, env=surroundings(folder), cwd=folder, check=True, capture_output=True, text=True, timeout=120
    )
    return list(json.loads(done.stdout))


class Tracker:
    """A process with an open run of a tracker. Leaving the block ends it and all that it started."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / f"{name}.log").open("ab")
        self._process = subprocess.Popen(
            _command(name, "open", folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=surroundings(folder),
            cwd=folder,
        )
        self._known: dict[int, psutil.Process] = {}

    def __enter__(self) -> Self:
        self.answer()
        return self

    def tell(self, do: str, **what: Any) -> None:
        """Give a command without waiting for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What the command given last answers. Raises `EOFError` where the process is gone, `TimeoutError`."""
        assert self._process.stdout is not None
        self.started()
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            raise TimeoutError(f"{self.name} did not answer in {PATIENCE} s; see {self._log.name}")
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"{self.name} ended; see {self._log.name}")
        return json.loads(line)

    def ask(self, do: str, **what: Any) -> Any:
        """Give a command and wait for its answer."""
        self.tell(do, **what)
        return self.answer()

    def wait_for_death(self) -> None:
        """Wait for the end of a process that was told to die, and of what it had started."""
        self.started()
        if self._process.wait(60) != -9:
            raise RuntimeError(f"{self.name} was not killed; see {self._log.name}")

    def started(self) -> list[psutil.Process]:
        """The process and all that it has started and that lives."""
        try:
            me = psutil.Process(self._process.pid)
            self._known |= {one.pid: one for one in (me, *me.children(recursive=True))}
        except psutil.NoSuchProcess:
            pass
        return [one for one in self._known.values() if one.is_running()]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.started()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
        end([one for one in self._known.values() if one.pid != self._process.pid], patience=30)


def end(processes: Iterable[psutil.Process], patience: float = 0) -> None:
    """Have processes end: by themselves within `patience` seconds, else by being told, else by force."""
    _, left = psutil.wait_procs(list(processes), timeout=patience)
    for signal in ("terminate", "kill"):
        for one in left:
            try:
                getattr(one, signal)()
            except psutil.NoSuchProcess:
                continue
        _, left = psutil.wait_procs(left, timeout=10)


@contextmanager
def trackers(names: Iterable[str], folder: Path) -> Iterator[dict[str, Tracker]]:
    """An open run of each tracker."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(Tracker(name, folder / name)) for name in names}


def settle(trackers: Iterable[Tracker], patience: float = 30) -> None:
    """Wait until nothing that the trackers started uses a tenth of a core, so that no one's debts burden another."""
    processes = [process for one in trackers for process in one.started()]
    until, used = time.monotonic() + patience, _cpu_seconds(processes)
    while time.monotonic() < until:
        time.sleep(0.25)
        before, used = used, _cpu_seconds(processes)
        if used - before < 0.025:
            return


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    total = 0.0
    for one in processes:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
