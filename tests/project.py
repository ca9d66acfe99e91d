"""The project's own files, for the tests that look at them."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """Every file that git knows or would add, relative to the project's root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = sorted({Path(name) for name in listed.split("\0") if name})
    return tuple(p for p in paths if p.suffix in suffixes and (ROOT / p).is_file())


@cache
def text(path: Path | str) -> str:
    """What a file of the project says."""
    return (ROOT / path).read_text()


def document(name: str) -> str:
    """A page of docs/ that must exist because the code promises it."""
    path = Path("docs", name)
    assert (ROOT / path).is_file(), f"{path} is missing; write it, the tests beside this one say what"
    return text(path)
