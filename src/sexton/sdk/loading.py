"""`sexton.load`: an artifact of a run as a path on this machine, every byte of it verified.

What was loaded stays in `<home>/cache`, under its digest. A file there has a fixed time of change: one that has another
was written to, and is fetched anew. Unlike what runs inside training, this raises.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sexton import errors
from sexton.client import Client, connect
from sexton.model.artifacts import hash_of
from sexton.model.runs import Artifact
from sexton.sdk.runs import Run
from sexton.sdk.session import settings_in_force

_STAMP = 1_000_000_000  # ns: the time of change of what is in the cache, which no file gets by being written to


def load(
    run: Run | str, name: str, *, step: int | float | None = None, to: str | os.PathLike[str] | None = None
) -> Path:
    """The path of a file or folder that a run saved under `name`: its newest version, or that of `step`. It is in a
    cache and must not be written to; with `to`, it is a copy of your own there, where nothing may be yet.

    Raises `RunNotFound`, `ArtifactNotFound`, `BlobNotFound`, `IntegrityError`, `Unavailable`, and `OSError`.
    """
    chosen = settings_in_force()
    client = connect(chosen.url, blobs=chosen.blobs, token=chosen.token)
    try:
        artifact = _artifact(client, run.id if isinstance(run, Run) else run, name, step)
        if artifact.uri is not None:
            raise errors.UsageError(reason=f"{name} is only referred to; fetch it from {artifact.uri}")
        digest = artifact.digest or ""
        path = _cached(client, digest, Path(chosen.home, "cache"))
    finally:
        client.close()
    return path if to is None else _copied(path, Path(to))


def _artifact(client: Client, run: str, name: str, step: int | float | None) -> Artifact:
    saved = client.run(run).artifacts
    named = [one for one in saved if one.name == name and step in (None, one.step)]
    if not named:
        raise errors.ArtifactNotFound(run=run, name=name if step is None else f"{name} of step {step}")
    return named[-1]


def _cached(client: Client, digest: str, cache: Path) -> Path:
    from sexton.client.transfers import download

    path = cache / hash_of(digest).hex()
    with _alone(path):
        if not _is_untouched(path):
            _remove(path)
            draft = path.with_name(f".{path.name}")
            download(client, digest, draft)
            _stamp(draft)
            draft.rename(path)
    return path


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While entered, no other process makes this path."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_name(f".{path.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _files(path: Path) -> Iterator[Path]:
    yield from (path.rglob("*") if path.is_dir() else [path])


def _is_untouched(path: Path) -> bool:
    """Whether all is as it was stamped, the folders too: of one that a file was added to or removed from the time has
    changed."""
    return path.exists() and all(one.stat().st_mtime_ns == _STAMP for one in (path, *_files(path)))


def _stamp(path: Path) -> None:
    for one in (*_files(path), path):
        if one.is_file():
            one.chmod(0o400)
        os.utime(one, ns=(_STAMP, _STAMP))


def _copied(path: Path, target: Path) -> Path:
    if os.path.lexists(target):
        raise FileExistsError(f"{target} is there already")
    if path.is_dir():
        shutil.copytree(path, target, copy_function=shutil.copyfile)
        for folder in (target, *(one for one in target.rglob("*") if one.is_dir())):
            os.utime(folder)  # the copy is no part of the cache
        return target
    return Path(shutil.copyfile(path, target))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
