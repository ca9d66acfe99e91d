"""What `run.save` takes: a file, a folder, tensors, or an address, as a record and a private copy in the journal.

Nothing is sent, split or hashed here. What can't be saved is raised as the caller's `Run` tells it.
"""

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sexton import errors
from sexton.capture import files
from sexton.model import records
from sexton.model.artifacts import CLASSES
from sexton.model.values import clean_name, said, short_id

Complain = Callable[[str, str], None]

_NO_SOURCE = "it takes a path, state_dict=..., or uri=... with reference=True: one of them"
_NUMBERS = re.compile("bool|u?int(8|16|32|64)|float(16|32|64)|complex64")


class Source(NamedTuple):
    """What a caller gave, and by what name; one of the three."""

    path: Any
    state_dict: Any
    uri: Any
    reference: bool
    name: Any

    def __str__(self) -> str:
        if self.state_dict is not None:
            return "state_dict"
        return said(self.path if self.uri is None else self.uri)


class Held(NamedTuple):
    """A record to be written, and where its private copy is; `pending` is still to be copied."""

    record: records.Saved
    target: Path
    pending: list[tuple[Path, files.Seen]]


def hold(source: Source, folder: Path, about: Mapping[str, Any], complain: Complain) -> Held:
    """Take a private copy into `folder`. `about` are fields of the record.

    Raises `UsageError`, `InvalidName`, `FileChanged`, `OSError`, and what tensors raise.
    """
    if source[:3].count(None) != 2 or source.reference != (source.uri is not None):
        raise errors.UsageError(reason=_NO_SOURCE)
    name = None if source.name is None else said(source.name)
    if source.uri is not None:
        return Held(_reference(said(source.uri), name, about), folder, [])
    target = folder / short_id(os.urandom(8))
    folder.mkdir(exist_ok=True, mode=0o700)
    try:
        if source.state_dict is not None:
            _write_tensors(source.state_dict, target, complain)
            size = target.stat().st_size
            return Held(_saved(target, name or "model.safetensors", about, size=size), target, [])
        return _copied(Path(source.path), target, name, about, complain)
    except BaseException:
        files.discard(target)
        raise


def settle(held: Held, complain: Complain, pause: Callable[[], None]) -> None:
    """Finish the copies of what was held. What can't be copied stays a link, which the courier takes as long as it can
    and tells when it no longer can."""
    name = held.record.name
    for target, seen in held.pending:
        try:
            if not files.settle(target, seen, pause):
                complain("overwritten", str(errors.FileChanged(path=name)))
        except OSError as error:
            complain(
                "uncopied", f"{name} was not copied aside ({error.strerror}): write to it no more until it is stored"
            )


def forget(held: Held) -> None:
    """Remove the copies of a record that was not written."""
    if held.record.file:
        files.discard(held.target)


def dropped(drop: str | None) -> tuple[str, ...]:
    """What `drop=` says, as classes. Raises `InvalidValue`."""
    if drop is not None and drop not in CLASSES:
        raise errors.InvalidValue(what="drop", value=repr(drop), reason=f"it is one of {', '.join(CLASSES)}")
    return () if drop is None else (drop,)


# ------------------------------------------------------------------------------------------------------------- inside


def _copied(source: Path, target: Path, name: str | None, about: Mapping[str, Any], complain: Complain) -> Held:
    label = name or source.name or source.resolve().name
    if not source.is_dir():
        taken = files.take(source, target)
        return Held(_saved(target, label, about, size=taken.size, mtime=taken.mtime), target, taken.pending)
    taken = files.take_folder(source, target, lambda what: complain("skipped", f"{what}; it was not saved"))
    if not files.entries_of(target):
        complain("empty", f"{source} has no files; it is saved as an empty folder")
    return Held(_saved(target, label, about, size=taken.size, folder=True), target, taken.pending)


def _saved(target: Path, name: str, about: Mapping[str, Any], **fields: Any) -> records.Saved:
    return records.Saved(file=target.name, name=clean_name(name), **about, **fields)


def _reference(uri: str, name: str | None, about: Mapping[str, Any]) -> records.Saved:
    """Of a file of this machine, how it is now, by which the courier knows that it hashes this version and no other."""
    local = Path(uri.removeprefix("file:").removeprefix("//"))
    size = mtime = None
    if uri.startswith("file:") or (local.is_absolute() and "://" not in uri):
        uri, status = f"file:{local}", local.stat()
        if stat.S_ISREG(status.st_mode):
            size, mtime = status.st_size, status.st_mtime_ns
    label = name or uri.rstrip("/").rpartition("/")[2] or uri
    return records.Saved(file="", name=clean_name(label), uri=uri, size=size, mtime=mtime, **about)


def _write_tensors(state: Any, target: Path, complain: Complain) -> None:
    """Write tensors by their dotted names, as safetensors has them."""
    tensors: dict[str, Any] = {}
    others: list[str] = []
    for key, value in _flat(state):
        tensor = _tensor(value)
        if tensor is None or key in tensors:
            others.append(key)
        else:
            tensors[key] = tensor
    if not tensors:
        raise errors.UsageError(reason="there is no tensor in state_dict")
    if others:
        named = ", ".join(sorted(others)[:10])
        complain("skipped", f"{len(others)} values of state_dict are no tensors and were not saved: {named:.200}")
    _write(tensors, target)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists, with names that have `.` between their parts."""
    if isinstance(value, Mapping):
        pairs = [(said(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(str(place), item) for place, item in enumerate(value)]
    else:
        yield prefix, value
        return
    for key, item in pairs:
        yield from _flat(item, f"{prefix}.{key}" if prefix else key)


def _tensor(value: Any) -> Any:
    """A tensor as safetensors takes it; None for what is none. Nothing is imported: whoever has one has its library."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous()
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and _NUMBERS.fullmatch(value.dtype.name):
        return numpy.ascontiguousarray(value).reshape(value.shape)
    return None


def _write(tensors: dict[str, Any], target: Path) -> None:
    torch = sys.modules.get("torch")
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)  # before others could read
    os.close(descriptor)
    if torch is None or not any(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        from safetensors.numpy import save_file

        save_file(tensors, target)
        return
    from safetensors.torch import save_file as save_torch

    save_torch({name: torch.as_tensor(tensor) for name, tensor in _apart(tensors)}, target)


def _apart(tensors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each tensor in memory of its own, as safetensors demands: tied weights are written twice, and stored once."""
    used: set[int] = set()
    for name, tensor in tensors.items():
        storage = getattr(tensor, "untyped_storage", None)
        place = storage().data_ptr() if storage else 0
        yield name, tensor.clone() if place in used and storage else tensor
        used.add(place)
