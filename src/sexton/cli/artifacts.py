"""`sexton files` and `sexton get`: what a run saved.

The names of files come from runs and are trusted with nothing: whatever a name says, `get` writes below the folder that
the user chose, and replaces nothing there without being told to.
"""

import errno
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer

from sexton import clock, errors
from sexton.cli import options
from sexton.cli.options import Json, RunId, Url
from sexton.model.runs import Artifact

if TYPE_CHECKING:
    from sexton.client import Client

MAX_PART_BYTES = 200
_DRIVE = re.compile(r"^([A-Za-z]):")


class Files(msgspec.Struct, frozen=True):
    """What `sexton files --json` prints."""

    files: list[Artifact]
    total: int


class Fetched(msgspec.Struct, frozen=True):
    """A file and where it was written."""

    path: str
    file: Artifact


class Fetch(msgspec.Struct, frozen=True):
    """What `sexton get --json` prints."""

    files: list[Fetched]
    total: int


def files(run: RunId, url: Url = None, json: Json = False) -> None:
    """List the files that a run saved. Every version, oldest first."""
    from sexton.cli import render, text

    with options.store(url) as client:
        detail = client.run(run)
    saved, now = detail.artifacts, clock.now()
    if json:
        render.emit(Files(saved, len(saved)))
        return
    screen = render.Screen()
    if not saved:
        screen.line(f"Run {detail.run.id} saved no files. In its script: run.save(PATH)")
        return
    metrics = [" ".join(f"{text.plain(k)}={text.number(v)}" for k, v in one.metrics.items()) for one in saved]
    screen.table(
        [
            render.Column("name", [text.plain(one.name) for one in saved], most=60),
            render.Column("kind", [text.plain(one.kind) for one in saved], rank=2, most=16),
            render.Column("size", [text.size(one.size) for one in saved], right=True),
            render.Column("step", [text.number(one.step) for one in saved], rank=1, right=True),
            render.Column("age", [text.ago(one.at, now) for one in saved], rank=3, right=True),
            *([render.Column("metrics", metrics, rank=4)] if any(metrics) else []),
            render.Column("digest", [text.plain(one.digest)[:15] for one in saved], rank=5),
        ]
    )
    total = text.size(sum(one.size for one in saved))
    screen.line()
    screen.line(render.Span(f"{text.count(len(saved), 'file')}, {total} · sexton get {detail.run.id} NAME", "dim"))


def get(
    run: RunId,
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False, help="One file; else all.")] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder to write to; else this one, or for all files RUN."),
    ] = None,
    step: Annotated[float | None, typer.Option("--step", metavar="N", help="The version of this step.")] = None,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Every version, as NAME@STEP; else the newest.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Fetch files that a run saved. Each is checked against its digest."""
    from sexton.cli import render, text

    with options.store(url) as client:
        detail = client.run(run)
        folder = Path(output or ("." if name is not None else detail.run.id))
        chosen = labelled(chosen_versions(detail.run.id, detail.artifacts, name, step, all_versions), all_versions)
        wanted = [Wanted(artifact, target(folder, label)) for label, artifact in chosen]
        missing = still_missing(wanted, force)
        fetch(client, missing, folder, force)
    if json:
        render.emit(Fetch([Fetched(str(one.path), one.artifact) for one in wanted], len(wanted)))
        return
    screen = render.Screen()
    for one in wanted:
        there = "" if one in missing else "  (was there)"
        screen.line(f"{text.plain(one.path)}  {text.size(one.artifact.size)}{there}")
    if not wanted:
        screen.line(f"Run {detail.run.id} saved no files.")


# ----------------------------------------------------------------------------------------------------- which versions


class Wanted(NamedTuple):
    """A version of a file, and where it is to be written."""

    artifact: Artifact
    path: Path


def chosen_versions(
    run: str, saved: Sequence[Artifact], name: str | None, step: float | None, everything: bool
) -> list[Artifact]:
    """Of each name the newest, that of a step, or every version. Raises `ArtifactNotFound`."""
    named = [one for one in saved if name in (None, one.name)]
    if name is not None and not named:
        raise errors.ArtifactNotFound(run=run, name=name)
    if step is not None:
        at_step = [one for one in named if one.step == step]
        if not at_step:
            raise errors.ArtifactNotFound(run=run, name=f"{name or '(any)'} of step {step:g}")
        named = at_step
    return list(named) if everything else list({one.name: one for one in named}.values())


def labelled(chosen: Iterable[Artifact], everything: bool) -> list[tuple[str, Artifact]]:
    """What to call each version: its name, or where there are more of that name, `NAME@STEP`."""
    if not everything:
        return [(one.name, one) for one in chosen]
    by_label: defaultdict[str, list[Artifact]] = defaultdict(list)
    for one in chosen:
        by_label[one.name if one.step is None else f"{one.name}@{_written(one.step)}"].append(one)
    return [
        (label if len(same) == 1 else f"{label}@v{number}", one)
        for label, same in by_label.items()
        for number, one in enumerate(same, 1)
    ]


def _written(step: float) -> str:
    return str(int(step)) if step == int(step) else repr(step)


# -------------------------------------------------------------------------------------------------------- where it goes


def target(folder: Path, name: str) -> Path:
    """Where a file of this name is written: below `folder`, whatever the name says.

    Raises `InvalidName` where a symbolic link in the folder leads out of it."""
    path = folder.joinpath(*_parts(name))
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        reason = f"a link in {folder} leads out of it; choose another folder with -o"
        raise errors.InvalidName(what="The file", name=name, reason=reason)
    return path


def _parts(name: str) -> list[str]:
    """A name as steps down from a folder: no root, no way up, no drive, nothing that a file system would not take."""
    parts = [_part(part) for part in re.split(r"[/\\]+", name) if part not in ("", ".")]
    return parts or ["_"]


def _part(name: str) -> str:
    if name == "..":
        return "_"
    part = "".join(letter if letter.isprintable() else "_" for letter in _DRIVE.sub(r"\1_", name))
    if len(part.encode()) <= MAX_PART_BYTES:
        return part
    digest = hashlib.sha256(part.encode()).hexdigest()[:16]
    return part.encode()[:MAX_PART_BYTES].decode(errors="ignore") + "~" + digest


def still_missing(wanted: Sequence[Wanted], force: bool) -> list[Wanted]:
    """Those that are not there yet. Raises `UsageError` where another file is, or two would be written to one path."""
    paths: dict[Path, str] = {}
    missing = []
    for one in wanted:
        if one.path in paths:
            both = f"{paths[one.path]!r} and {one.artifact.name!r}"
            raise errors.UsageError(reason=f"{both} would both be written to {one.path}; get them one by one")
        paths[one.path] = one.artifact.name
        if not os.path.lexists(one.path):
            missing.append(one)
        elif not _is(one):
            if not force:
                raise errors.UsageError(
                    reason=f"{one.path} is there already; choose another folder with -o, or --force"
                )
            missing.append(one)
    return missing


def _is(one: Wanted) -> bool:
    """Whether the very bytes are there."""
    from sexton.blobs.local import digest

    try:
        regular = one.path.is_file() and not one.path.is_symlink()
        return regular and one.path.stat().st_size == one.artifact.size and digest(one.path) == one.artifact.digest
    except OSError:
        return False


# ------------------------------------------------------------------------------------------------------------ fetching


def fetch(client: "Client", missing: Sequence[Wanted], folder: Path, force: bool) -> None:
    """Write the files, each whole or not at all."""
    import shutil
    import tempfile

    from sexton.cli.progress import Arrivals

    if not missing:
        return
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".sexton-", dir=folder))
        try:
            with Arrivals(draft, sum(one.artifact.size for one in missing)) as arrivals:
                for one in missing:
                    path = one.path
                    client.get_blob(one.artifact.digest, draft / "file")
                    _place(draft / "file", path, force)
                    arrivals.placed(one.artifact.size)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise errors.UsageError(reason=f"{path} can not be written: {error.strerror or error}") from None


def _place(draft: Path, path: Path, force: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not force and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "it is there already")
    mask = os.umask(0)
    os.umask(mask)
    draft.chmod(0o666 & ~mask)  # a draft is private, the user's file is as any other of theirs
    draft.replace(path)
