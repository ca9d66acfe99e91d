"""`sexton files` and `sexton get`: what a run saved.

The names of files come from runs and are trusted with nothing: whatever a name says, `get` writes below the folder that
the user chose, and replaces nothing there without being told to.
"""

import errno
import hashlib
import os
import re
import shutil
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
    from sexton.model.artifacts import Manifest

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
    counts = ["" if one.files is None else str(one.files) for one in saved]
    states = [text.plain(_state(one)) for one in saved]
    screen.table(
        [
            render.Column("name", [text.plain(one.name) for one in saved], most=60),
            render.Column("kind", [text.plain(one.kind) for one in saved], rank=2, most=16),
            *([render.Column("files", counts, rank=3, right=True)] if any(counts) else []),
            render.Column("size", [text.size(one.size) for one in saved], right=True),
            *([render.Column("", states, rank=1, most=60)] if any(states) else []),
            render.Column("step", [text.number(one.step) for one in saved], rank=1, right=True),
            render.Column("age", [text.ago(one.at, now) for one in saved], rank=3, right=True),
            *([render.Column("metrics", metrics, rank=4)] if any(metrics) else []),
            render.Column("digest", [text.plain(one.digest or text.UNKNOWN)[:15] for one in saved], rank=5),
        ]
    )
    total = text.size(sum(one.size or 0 for one in saved if not one.uri))
    screen.line()
    screen.line(render.Span(f"{text.count(len(saved), 'file')}, {total} · sexton get {detail.run.id} NAME", "dim"))


def _state(one: Artifact) -> str:
    """What a reader must know of the bytes; nothing where they are here as they were saved."""
    if one.uri:
        return f"at {one.uri}"
    if one.state != "whole":
        return one.state
    return f"without {', '.join(one.shed)}" if one.shed else ""


def get(
    run: RunId,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False, help="Which; else all.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--to", "--output", "-o", metavar="DIR", help="Folder to write to; else this, or for all, RUN."),
    ] = None,
    step: Annotated[float | None, typer.Option("--step", metavar="N", help="The version of this step.")] = None,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Every version, as NAME@STEP; else the newest.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Fetch files that a run saved. Each is checked against its digest. Interrupted, it goes on where it was."""
    from sexton.cli import render, text

    with options.store(url) as client:
        detail = client.run(run)
        folder = Path(output or ("." if names else detail.run.id))
        chosen = chosen_versions(detail.run.id, detail.artifacts, names or [], step, all_versions)
        stored = [one for one in chosen if _is_here(one, named=bool(names))]
        wanted = [Wanted(one, target(folder, label)) for label, one in labelled(stored, all_versions)]
        missing = still_missing(client, wanted, force)
        fetch(client, missing, folder, force)
    if json:
        render.emit(Fetch([Fetched(str(one.path), one.artifact) for one in wanted], len(wanted)))
        return
    screen = render.Screen()
    for one in wanted:
        there = "" if one in missing else "  (was there)"
        screen.line(f"{text.plain(one.path)}  {text.size(one.artifact.size)}{there}")
    for other in (one for one in chosen if one not in stored):
        screen.line(render.Span(f"{text.plain(other.name)} is not fetched: {text.plain(_state(other))}", "dim"))
    if not chosen:
        screen.line(f"Run {detail.run.id} saved no files.")


def _is_here(one: Artifact, named: bool) -> bool:
    """Whether the store has the bytes; where they were asked for by `name`, raises `UsageError` if it has not."""
    if named and one.uri:
        raise errors.UsageError(reason=f"{one.name} is only referred to; fetch it from {one.uri}")
    if named and one.state == "deleted":
        raise errors.UsageError(reason=f"the bytes of {one.name} were deleted; the record of them stays")
    return one.uri is None and one.state != "deleted"


# ----------------------------------------------------------------------------------------------------- which versions


class Wanted(NamedTuple):
    """A version of a file, and where it is to be written."""

    artifact: Artifact
    path: Path


def chosen_versions(
    run: str, saved: Sequence[Artifact], names: Sequence[str], step: float | None, everything: bool
) -> list[Artifact]:
    """Of each name (all, if none is given) the newest, that of a step, or every version. Raises `ArtifactNotFound`."""
    at_step = [one for one in saved if step in (None, one.step)]
    suffix = "" if step is None else f" of step {step:g}"
    for name in names or (["(any)"] if step is not None and not at_step else []):
        if name not in {one.name for one in at_step}:
            raise errors.ArtifactNotFound(run=run, name=f"{name}{suffix}")
    named = [one for one in at_step if not names or one.name in names]
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


def still_missing(client: "Client", wanted: Sequence[Wanted], force: bool) -> list[Wanted]:
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
        elif not _is(client, one):
            if not force:
                raise errors.UsageError(
                    reason=f"{one.path} is there already; choose another folder with --to, or --force"
                )
            missing.append(one)
    return missing


def _is(client: "Client", one: Wanted) -> bool:
    """Whether the very bytes are there."""
    from sexton.blobs.hashing import digest
    from sexton.client.transfers import manifest_of

    try:
        if one.artifact.files is None:
            expected = [(one.path, one.artifact.size, one.artifact.digest)]
        else:
            files = manifest_of(client, _digest(one)).files
            expected = [(target(one.path, file.path), file.size, file.digest) for file in files]
        return all(
            path.is_file() and not path.is_symlink() and path.stat().st_size == size and digest(path) == known
            for path, size, known in expected
        )
    except OSError:
        return False


def _digest(one: Wanted) -> str:
    if one.artifact.digest is None:
        raise errors.BlobNotFound(digest=f"of {one.artifact.name}")
    return one.artifact.digest


# ------------------------------------------------------------------------------------------------------------ fetching


def fetch(client: "Client", missing: Sequence[Wanted], folder: Path, force: bool) -> None:
    """Write the files, each whole or not at all. What is interrupted stays in a hidden file of the folder, where the
    next call goes on with it."""
    from sexton.cli.progress import Arrivals
    from sexton.client.transfers import download

    if not missing:
        return
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Arrivals(sum(one.artifact.size or 0 for one in missing)) as arrivals:
            for one in missing:
                path = one.path
                draft = folder / f".sexton-{_digest(one).removeprefix('b3:')[:16]}"
                try:
                    manifest = download(client, _digest(one), draft, arrivals.arrived)
                except (errors.NotFound, errors.IntegrityError):  # there is nothing to go on with
                    _remove(draft)
                    raise
                _place(draft, path, manifest, force)
    except OSError as error:
        raise errors.UsageError(reason=f"{path} can not be written: {error.strerror or error}") from None


def _place(draft: Path, path: Path, manifest: "Manifest", force: bool) -> None:
    """Give a file its name; of a folder each file, so that what else is in the folder stays."""
    if [file.path for file in manifest.files] == [""]:
        _place_file(draft, path, force)
        return
    path.mkdir(parents=True, exist_ok=True)
    for file in manifest.files:
        _place_file(draft / file.path, target(path, file.path), force)
    _remove(draft)


def _place_file(draft: Path, path: Path, force: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not force and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "it is there already")
    mask = os.umask(0)
    os.umask(mask)
    draft.chmod(0o666 & ~mask)  # a draft is private, the user's file is as any other of theirs
    draft.replace(path)


def _remove(draft: Path) -> None:
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft)
    else:
        draft.unlink(missing_ok=True)
