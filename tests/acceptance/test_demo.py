"""The demo is the product's story: what it tells a team lead is the same wherever the record is kept."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import project
from tests.home import Home
from tests.serving import Server

LUNCH = project.ROOT / "examples" / "lunch" / "lunch.py"


@pytest.fixture
def homes(tmp_path: Path, postgres_url: str) -> Iterator[list[Home]]:
    """A home with a store of its own, and one whose store is a server on PostgreSQL."""
    with Server(postgres_url, f"file:{tmp_path / 'blobs'}", tmp_path / "server.log") as server:
        homes = [Home(tmp_path / "alone"), Home(tmp_path / "served", URL=server.url)]
        yield homes
        for home in homes:
            home.close()


def _demo(home: Home) -> str:
    command = [sys.executable, str(LUNCH), "--quick"]
    home.folder.mkdir()
    done = subprocess.run(
        command, cwd=home.folder, env=home.environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _answers(home: Home) -> dict[str, list[Any]]:
    """By what went in: what came out, but for what differs from one time to the next."""
    answers: dict[str, list[Any]] = {}
    for detail in home.runs():
        run = detail.run
        key = msgspec.json.encode([run.experiment, run.tags, run.params], order="sorted").decode()
        assert key not in answers
        if run.state == "killed":
            answers[key] = [run.state, run.cause, run.signal]
            continue
        best = {name: (summary.best, summary.count) for name, summary in run.metrics.items()}
        files = [(artifact.name, artifact.step, artifact.digest) for artifact in detail.artifacts]
        answers[key] = [run.state, run.cause, run.message, run.exit_code, best, files]
    return answers


@pytest.mark.timeout(600)
def test_the_demo_gives_the_same_answers_from_sqlite_and_from_a_server_on_postgresql(homes: list[Home]) -> None:
    alone, served = homes
    told = [_demo(home) for home in homes]
    for text in told:
        assert "What failed, and why" in text
        assert "sexton diff" in text
    assert _answers(alone) == _answers(served)
    states = [answer[0] for answer in _answers(alone).values()]
    assert {state: states.count(state) for state in states} == {"finished": 24, "failed": 3, "killed": 1}
