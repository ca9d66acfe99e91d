"""`sexton files` and `sexton get`: the user gets the bytes, and nothing else on the disk is touched."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sexton.model.records import Artifact, Started
from tests import batches
from tests.cli import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.end()


def _saved(home: Home, *files: tuple[str, str, float | None]) -> str:
    """A run that saved files of these names, contents and steps, whatever a well-behaved script would call them."""
    facts = []
    with home.store() as client:
        for number, (name, content, step) in enumerate(files):
            digest = batches.stored(client, content.encode())
            at = batches.T0 + number
            facts.append(Artifact(at=at, name=name, digest=digest, size=len(content), step=step))
    return home.record(Started(at=batches.T0), *facts)


def _tree(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_what_a_script_saved_comes_back(home: Home) -> None:
    home.script(
        "import sexton\n"
        "with sexton.start() as run:\n"
        "    for step in (1, 2):\n"
        "        open('model.pt', 'w').write(f'weights {step}')\n"
        "        run.save('model.pt', kind='checkpoint', step=step, metrics={'acc': step / 2})\n"
        "    run.save('script.py', name='code/script.py')\n"
    )
    [run] = home.runs()
    listed = home("files", run.id).stdout
    for part in ("model.pt", "checkpoint", "acc=0.5", "code/script.py", "3 files"):
        assert part in listed
    assert home("get", run.id).stdout.splitlines()[0] == f"{run.id}/model.pt  9 B"
    assert _tree(home.work / run.id)["model.pt"] == "weights 2"
    assert (home.work / run.id / "code" / "script.py").is_file()
    home("get", run.id, "model.pt", "--step", "1", "-o", "first")
    assert _tree(home.work / "first") == {"model.pt": "weights 1"}
    home("get", run.id, "model.pt", "--all-versions", "-o", "every")
    assert _tree(home.work / "every") == {"model.pt@1": "weights 1", "model.pt@2": "weights 2"}


def test_a_file_that_was_fetched_is_an_ordinary_file(home: Home) -> None:
    run = _saved(home, ("a.txt", "hello", None))
    home("get", run, "a.txt")
    (home.work / "reference").touch()
    assert (home.work / "a.txt").stat().st_mode == (home.work / "reference").stat().st_mode


def test_nothing_is_written_outside_the_folder(home: Home) -> None:
    outside = home.folder / "precious"
    outside.write_text("precious")
    names = ["../precious", "../../precious", str(outside), "a/../../precious2", "C:\\x", "..\\..\\y", "ok"]
    run = _saved(home, *((name, f"evil {name}", None) for name in names))
    done = home("get", run, "-o", "here")
    assert done.returncode == 0, done.stderr
    assert sorted(_tree(home.work / "here").values()) == sorted(f"evil {name}" for name in names)
    assert outside.read_text() == "precious"
    assert sorted(path.name for path in home.work.iterdir()) == ["here"]
    assert sorted(path.name for path in home.folder.iterdir()) == ["home", "precious", "work"]
    assert not (home.folder.parent / "precious").exists()


def test_a_link_in_the_folder_is_not_followed(home: Home) -> None:
    run = _saved(home, ("sub/precious", "evil", None), ("file", "evil", None))
    target = home.folder / "elsewhere"
    target.mkdir()
    (home.work / "sub").symlink_to(target)
    (home.work / "file").symlink_to(target / "made")
    done = home("get", run, "sub/precious", "--force")
    assert done.returncode == 2
    assert "link" in done.stderr
    assert home("get", run, "file").returncode == 2
    home("get", run, "file", "--force")
    assert not (home.work / "file").is_symlink()
    assert list(target.iterdir()) == []


def test_a_file_that_is_there_is_replaced_only_by_force(home: Home) -> None:
    run = _saved(home, ("a", "new a", None), ("b", "new b", None))
    (home.work / "b").write_text("mine")
    done = home("get", run, "-o", ".")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--force" in done.stderr
    assert _tree(home.work) == {"b": "mine"}
    assert home("get", run, "-o", ".", "--force").returncode == 0
    assert _tree(home.work) == {"a": "new a", "b": "new b"}
    again = home("get", run, "-o", ".")
    assert again.returncode == 0
    assert again.stdout.count("(was there)") == 2


def test_two_files_that_would_be_one_are_refused(home: Home) -> None:
    run = _saved(home, ("a", "one", None), ("/a", "two", None))
    done = home("get", run)
    assert done.returncode == 2
    assert "one by one" in done.stderr
    assert home("get", run, "/a").returncode == 0
    assert _tree(home.work) == {"a": "two"}


def test_a_name_longer_than_a_file_system_takes(home: Home) -> None:
    run = _saved(home, ("n" * 900, "long", None))
    assert home("get", run).returncode == 0
    assert list(_tree(home.work / run).values()) == ["long"]


def test_a_file_that_is_not_there(home: Home) -> None:
    run = _saved(home, ("a", "x", 1.0))
    for words in (["b"], ["a", "--step", "2"]):
        done = home("get", run, *words)
        assert done.returncode == 3
        assert f"sexton files {run}" in done.stderr
    assert home("files", home.record(Started(at=batches.T0))).stdout.endswith("run.save(PATH)\n")


def test_bytes_that_the_store_has_lost_or_damaged(home: Home) -> None:
    run = _saved(home, ("a", "good bytes", None))
    [pack] = (home.folder / "home" / "blobs").rglob("*.pack")
    pack.write_bytes(pack.read_bytes().replace(b"good bytes", b"bad bytes!"))
    done = home("get", run, "a")
    assert (done.returncode, "Saving the same bytes again" in done.stderr) == (6, True)
    pack.unlink()
    assert home("get", run, "a").returncode == 3
    assert _tree(home.work) == {}
    assert list(home.work.iterdir()) == []


def test_a_folder_that_can_not_be_written(home: Home) -> None:
    run = _saved(home, ("a", "x", None))
    (home.work / "file").touch()
    done = home("get", run, "-o", "file/below")
    assert done.returncode == 2
    assert "can not be written" in done.stderr
