"""What the README shows works as it is shown."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import project
from tests.home import Home

README = (project.ROOT / "README.md").read_text()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def test_the_python_example_records_what_it_says(home: Home) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    done = home.run(example)
    assert (done.returncode, done.stderr) == (0, "")
    home.deliver()
    detail = home.only_run()
    run = detail.run
    assert (run.experiment, run.params, run.tags) == ("digits", {"lr": 0.1, "model": "svm"}, {"baseline": ""})
    assert (run.state, run.outcome) == ("finished", "worked")
    assert run.metrics["val/acc"].best == 0.9
    assert home.steps(run.id, "loss") == [0, 1, 2]
    assert [note.text for note in detail.notes] == ["RBF beats linear at this size"]


def test_every_command_of_the_readme_exists(home: Home) -> None:
    said = set(re.findall(r"^ {4}sexton (\w+)|&& sexton (\w+)", README, re.MULTILINE))
    words = {first or second for first, second in said}
    assert len(words) > 8
    for word in sorted(words):
        command = [*home.command("from sexton.cli.main import main; main()"), word, "--help"]
        assert subprocess.run(command, env=home.environment, capture_output=True, check=False).returncode == 0, word
