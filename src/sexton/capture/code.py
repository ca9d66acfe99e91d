"""Which code ran: the git commit around it, read from git's own files without starting git.

Never raises and gives away no credential: a remote keeps its address, not what it was opened with. What can not be
known is None.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SCRIPTS = (".py", ".ipynb", ".sh", ".r", ".jl")


def capture(cwd: str | Path, argv: Sequence[str]) -> dict[str, object]:
    """`root commit branch remote` of the git work tree around `cwd`, and `entry`, the script that `argv` names.

    `dirty` is None, as uncommitted changes are not captured.
    """
    facts: dict[str, object] = dict.fromkeys(("root", "commit", "branch", "remote", "entry", "dirty"))
    try:
        facts["entry"] = _entry(Path(cwd), argv)
        found = _find(Path(cwd).absolute())
        if found:
            root, git = found
            facts["root"] = str(root)
            facts |= _head(git)
            facts["remote"] = _remote(_shared(git) / "config")
    except (OSError, ValueError):  # a half-made or unreadable repository: keep what is known so far
        pass
    return facts


def redact(url: str) -> str:
    """A remote's address without secrets. The `git` of `git@host:path` is an account everybody shares, and stays."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name = "" if parts.scheme in ("http", "https") else user.partition(":")[0]
    return urlunsplit((parts.scheme, f"{name}@{host}" if name else host, parts.path, "", ""))


def _entry(cwd: Path, argv: Sequence[str]) -> str | None:
    """The first argument that is a script; `python` and its options come before it."""
    return next((arg for arg in argv if arg.lower().endswith(_SCRIPTS) and (cwd / arg).is_file()), None)


def _find(cwd: Path) -> tuple[Path, Path] | None:
    """The work tree around `cwd`, and its git directory: in worktrees and submodules `.git` is a file that names it."""
    for root in (cwd, *cwd.parents):
        git = root / ".git"
        if git.is_dir():
            return root, git
        if git.is_file():
            return root, root / _read(git).removeprefix("gitdir:").strip()
    return None


def _shared(git: Path) -> Path:
    """Where the branches and the configuration are: a worktree's git directory names another one."""
    file = git / "commondir"
    return git / _read(file).strip() if file.is_file() else git


def _head(git: Path) -> dict[str, object]:
    head = _read(git / "HEAD").strip()
    if not head.startswith("ref:"):
        return {"commit": _commit(head)}
    ref = head.removeprefix("ref:").strip()
    if ref == "refs/heads/.invalid":  # what a repository that keeps its refs in a table has here
        return {}
    return {"branch": ref.removeprefix("refs/heads/"), "commit": _resolve(git, ref)}


def _resolve(git: Path, ref: str) -> str | None:
    """The commit of a branch; None on one that has no commit yet."""
    shared = _shared(git)
    for file in (git / ref, shared / ref):
        if file.is_file():
            return _commit(_read(file).strip())
    packed = shared / "packed-refs"
    lines = _read(packed).splitlines() if packed.is_file() else []
    return next((_commit(line.split()[0]) for line in lines if line.endswith(f" {ref}")), None)


def _remote(config: Path) -> str | None:
    """The address of `origin`, else of the first remote."""
    remotes: dict[str, str] = {}
    section = None
    for line in map(str.strip, _read(config).splitlines()):
        if line.startswith("["):
            section = line.removeprefix('[remote "').removesuffix('"]') if line.startswith('[remote "') else None
        key, _, value = line.partition("=")
        if section and key.strip() == "url":
            remotes.setdefault(section, value.strip())
    url = remotes.get("origin") or next(iter(remotes.values()), None)
    return redact(url) if url else None


def _commit(text: str) -> str | None:
    return text if _COMMIT.fullmatch(text) else None


def _read(file: Path) -> str:
    return file.read_text(errors="replace")
