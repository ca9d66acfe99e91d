"""Nothing that is referred to is ever lost, whoever uploads, collects, is killed or sleeps meanwhile."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.faults.storm import COLLECTORS, UPLOADERS, Seen
from tests.project import ROOT


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that can be had: processes are killed here, not the machine, and a sync would only cost time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="sexton-storm-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def storm(url: str, folder: Path, seconds: float, seed: int) -> Seen:
    command = [sys.executable, "-m", "tests.faults.storm", url, f"file:{folder}/blobs", folder, seconds, seed]
    with subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=seconds + 90)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever it started, sleeping or not
    assert process.returncode == 0
    seen = msgspec.json.decode(said, type=Seen)
    assert (seen.broken, seen.leaked, seen.failed) == ([], [], [])
    assert seen.checked >= seen.acknowledged
    assert min(seen.kills, seen.stops, seen.collections, seen.revived) > 0
    return seen


def test_a_storm_on_sqlite_breaks_nothing(folder: Path) -> None:
    assert storm(f"file:{folder}/store", folder, 15, seed=1).checked > UPLOADERS + COLLECTORS


def test_a_storm_on_postgresql_breaks_nothing(postgres_url: str, folder: Path) -> None:
    assert storm(postgres_url, folder, 15, seed=2).checked > UPLOADERS + COLLECTORS


@pytest.mark.faults_long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_long_storm_breaks_none_of_thousands(database: str, folder: Path, request: pytest.FixtureRequest) -> None:
    checked = 0
    for seed in range(20):
        part = folder / str(seed)
        part.mkdir()
        postgres = request.getfixturevalue("postgres")
        url = f"file:{part}/store" if database == "sqlite" else postgres.url(postgres.create_database())
        checked += storm(url, part, 45, seed).checked
        if checked >= 2_000:
            return
    pytest.fail(f"only {checked} manifests were checked")
