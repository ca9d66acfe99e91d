"""What tests of every kind share: real databases, and the programs some tests cannot do without."""

import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import s3 as s3_server
from tests.postgres import Postgres, running
from tests.s3 import S3

REMEDIES = {
    "cc": "apt install gcc",
    "strace": "apt install strace; in a container also --cap-add=SYS_PTRACE",
}
LINUX_ONLY = {"strace"}
MISSING = "cannot run without "


def _works(tool: str) -> bool:
    if shutil.which(tool) is None:
        return False
    # A container may hold strace and forbid what it does.
    probe = ["strace", "-o", os.devnull, "true"] if tool == "strace" else [tool, "--version"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def pytest_configure() -> None:
    """Where the tests run in the background, their shell (or nohup) has told them to ignore these: the programs they
    start would ignore them too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail under CI=true, else skip, where a test's `needs(tool)` is not met."""
    for mark in item.iter_markers("needs"):
        tool = mark.args[0]
        if _works(tool):
            continue
        reason = f"{MISSING}{tool} ({REMEDIES[tool]})"
        may_be_missing = tool in LINUX_ONLY and platform.system() != "Linux"
        if os.environ.get("CI") == "true" and not may_be_missing:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was not tested for want of a program, in the last lines, with the remedy."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = [report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple)]
    for reason in sorted({text for text in reasons if MISSING in text}):
        count = reasons.count(reason)
        tests = "1 test" if count == 1 else f"{count} tests"
        terminalreporter.write_line(f"NOT TESTED: {tests} {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of this process, which leave it running."""
    with running() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that the test may stop, kill and start again."""
    with running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A fresh, empty database of its own for each test, as a SQLAlchemy URL."""
    database = postgres.create_database()
    yield postgres.url(database)
    postgres.drop_database(database)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """One server for all tests of this process, which leave it running."""
    with s3_server.running() as server:
        yield server


@pytest.fixture
def s3_url(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix of a bucket of its own for each test, which this process may write to."""
    for name, value in s3.environ().items():
        monkeypatch.setenv(name, value)
    return s3.url()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that does not exist yet, as Sexton's setting `url`: the same test on each database that it runs on."""
    if request.param == "sqlite":
        return f"file:{tmp_path / 'store'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
