"""The commit that ran is named by reading git's files, in every layout git itself writes, and no secret leaks."""

import subprocess
from pathlib import Path

import pytest

from sexton.capture import code


def git(folder: Path, *args: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main", *args]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "work"
    root.mkdir()
    git(root, "init", "-q")
    (root / "train.py").write_text("print()")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def test_a_branch(repository: Path) -> None:
    inside = repository / "deep" / "folder"
    inside.mkdir(parents=True)
    facts = code.capture(inside, [])

    assert facts == {
        "root": str(repository),
        "commit": git(repository, "rev-parse", "HEAD"),
        "branch": "main",
        "remote": None,
        "entry": None,
        "dirty": None,
    }


def test_a_branch_with_slashes_whose_refs_are_packed(repository: Path) -> None:
    git(repository, "checkout", "-q", "-b", "fix/main")
    git(repository, "pack-refs", "--all")
    assert not (repository / ".git/refs/heads/fix/main").exists()
    facts = code.capture(repository, [])

    assert (facts["branch"], facts["commit"]) == ("fix/main", git(repository, "rev-parse", "HEAD"))


def test_a_detached_head(repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach")
    facts = code.capture(repository, [])

    assert (facts["branch"], facts["commit"]) == (None, git(repository, "rev-parse", "HEAD"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_worktree(repository: Path, packed: bool) -> None:
    git(repository, "remote", "add", "origin", "git@example.com:team/work.git")
    git(repository, "worktree", "add", "-q", "-b", "side", "../side")
    side = repository.parent / "side"
    git(side, "commit", "-q", "--allow-empty", "-m", "second")
    if packed:
        git(repository, "pack-refs", "--all")
    facts = code.capture(side, [])

    assert facts["root"] == str(side)
    assert (facts["branch"], facts["commit"]) == ("side", git(side, "rev-parse", "HEAD"))
    assert facts["commit"] != git(repository, "rev-parse", "HEAD")
    assert facts["remote"] == "git@example.com:team/work.git"


def test_a_submodule(repository: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    git(parent, "init", "-q")
    git(parent, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "part")
    facts = code.capture(parent / "part", [])

    assert facts["root"] == str(parent / "part")
    assert facts["commit"] == git(repository, "rev-parse", "HEAD")
    assert facts["remote"] == str(repository)


def test_a_branch_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    facts = code.capture(tmp_path, [])

    assert (facts["root"], facts["branch"], facts["commit"]) == (str(tmp_path), "main", None)


def test_no_git(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: gone\n")  # also hides a repository that the folder may be in
    facts = code.capture(tmp_path, ["python", "train.py"])

    assert facts["commit"] is facts["branch"] is facts["remote"] is None


def test_a_folder_that_is_not_there() -> None:
    facts = code.capture("/nonexistent/folder", ["python", "train.py"])

    assert set(facts.values()) == {None}


@pytest.mark.parametrize("text", [b"", b"\xff\xfe\x00", b"ref: ", b"ref: refs/heads/\n", b"ref: /\n"])
def test_a_damaged_repository_is_no_error(repository: Path, text: bytes) -> None:
    (repository / ".git/HEAD").write_bytes(text)
    facts = code.capture(repository, [])

    assert (facts["root"], facts["commit"]) == (str(repository), None)


def test_the_script_is_named(repository: Path) -> None:
    assert code.capture(repository, ["python", "-u", "train.py", "--lr", "1"])["entry"] == "train.py"
    assert code.capture(repository, ["python", "-m", "train"])["entry"] is None
    assert code.capture(repository, ["python", "absent.py"])["entry"] is None


def test_origin_is_the_remote_that_counts(repository: Path) -> None:
    git(repository, "remote", "add", "fork", "https://example.com/fork.git")
    assert code.capture(repository, [])["remote"] == "https://example.com/fork.git"

    git(repository, "remote", "add", "origin", "https://me:s3cret@example.com/team.git")
    assert code.capture(repository, [])["remote"] == "https://example.com/team.git"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:s3cret@example.com/a.git", "https://example.com/a.git"),
        ("https://s3cret@example.com:8443/a.git", "https://example.com:8443/a.git"),
        ("https://user:p@s3cret@example.com/a", "https://example.com/a"),
        ("https://example.com/a?token=s3cret#s3cret", "https://example.com/a"),
        ("http://s3cret@[::1]:80/a", "http://[::1]:80/a"),
        ("ssh://git:s3cret@example.com/a", "ssh://git@example.com/a"),
        ("ssh://git@example.com/a", "ssh://git@example.com/a"),
        ("git@example.com:team/a.git", "git@example.com:team/a.git"),
        ("/srv/git/a.git", "/srv/git/a.git"),
    ],
)
def test_credentials_stay_out_of_the_remote(url: str, shown: str) -> None:
    assert code.redact(url) == shown
