"""What the words of a command line mean: tags, and what a command is called."""

import pytest

from sexton import errors
from sexton.cli.command import name_of
from sexton.cli.runs import tag_changes


def test_words_that_change_tags() -> None:
    changes = tag_changes(["baseline", "+tier=a=b", "-old", "empty="], ["-odd"])
    assert changes == {"baseline": "", "tier": "a=b", "old": None, "empty": "", "-odd": None}


@pytest.mark.parametrize("words", [[], [""], ["-"], ["+"], ["=x"], ["--removes"]])
def test_words_that_are_no_tags(words: list[str]) -> None:
    with pytest.raises(errors.UsageError):
        tag_changes(words, [])


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["python", "train.py", "--lr", "1"], "train.py"),
        (["/usr/bin/python3.12", "-u", "src/train.py"], "train.py"),
        (["python", "-m", "pkg.train"], "pkg.train"),
        (["git", "commit", "-m", "fix"], "git"),
        (["./train"], "train"),
        (["bash", "sweep.sh"], "sweep.sh"),
        (["train.py"], "train.py"),
    ],
)
def test_what_a_command_is_called(argv: list[str], name: str) -> None:
    assert name_of(argv) == name
