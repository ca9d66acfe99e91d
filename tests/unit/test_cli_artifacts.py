"""Which versions of files `sexton get` takes, and where it writes them."""

from pathlib import Path

import pytest

from sexton import errors
from sexton.cli import artifacts
from sexton.model.runs import Artifact


def _file(name: str, step: float | None = None) -> Artifact:
    return Artifact(name=name, kind="file", digest="b3:0", size=1, at=0, step=step)


SAVED = [_file("model.pt", 1), _file("log.txt"), _file("model.pt", 2), _file("model.pt", 2)]


def test_the_newest_version_of_each_name() -> None:
    assert artifacts.chosen_versions("r", SAVED, [], None, False) == [SAVED[3], SAVED[1]]
    assert artifacts.chosen_versions("r", SAVED, ["model.pt"], None, False) == [SAVED[3]]


def test_the_version_of_a_step() -> None:
    assert artifacts.chosen_versions("r", SAVED, ["model.pt"], 1, False) == [SAVED[0]]
    for name, step in (("nope", None), ("model.pt", 7.0), ("log.txt", 1.0)):
        with pytest.raises(errors.ArtifactNotFound):
            artifacts.chosen_versions("r", SAVED, [name], step, False)


def test_every_version_has_a_name_of_its_own() -> None:
    labels = [label for label, _ in artifacts.labelled(SAVED, True)]
    assert labels == ["model.pt@1", "log.txt", "model.pt@2@v1", "model.pt@2@v2"]
    assert artifacts.labelled([_file("a", 0.5)], True)[0][0] == "a@0.5"


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("model.pt", "model.pt"),
        ("a/b.txt", "a/b.txt"),
        ("../../etc/passwd", "_/_/etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        ("a/../../b", "a/_/_/b"),
        ("..", "_"),
        (".", "_"),
        ("//", "_"),
        ("..\\..\\x", "_/_/x"),
        ("C:\\Windows\\x.dll", "C_/Windows/x.dll"),
        ("c:x", "c_x"),
        ("a\x00b\x1b[2Jc\n", "a_b_[2Jc_"),
        ("./.hidden", ".hidden"),
        ("...", "..."),
    ],
)
def test_a_file_is_written_below_the_folder_whatever_its_name(name: str, below: str, tmp_path: Path) -> None:
    assert artifacts.target(tmp_path, name) == tmp_path / below


def test_a_name_that_no_file_system_takes_is_cut_and_stays_apart(tmp_path: Path) -> None:
    one, other = (artifacts.target(tmp_path, "ä" * 400 + end) for end in "xy")
    assert one != other
    one.touch()
    other.touch()


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "sub").symlink_to(outside)
    with pytest.raises(errors.InvalidName, match="link"):
        artifacts.target(inside, "sub/x")
