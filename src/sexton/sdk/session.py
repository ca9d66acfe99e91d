"""Opening runs: `start`, `resume`, `connect`, and what happens to open runs when the process forks or ends.

The rule for errors: what is wrong with the arguments of `start` is raised, before training begins. Nothing after it is.
"""

import atexit
import contextlib
import getpass
import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sexton import errors, settings
from sexton.capture import code, machine
from sexton.journal.journal import Identity, Writer
from sexton.model import records
from sexton.model.values import RUN_ID, clean_name, said, short_id, show
from sexton.sdk.keeper import keeper
from sexton.sdk.runs import Run, ending_of

log = logging.getLogger("sexton")

_open: "weakref.WeakSet[Run]" = weakref.WeakSet()
_flags: dict[str, Any] = {}
_hooked: list[BaseException | None] = []  # one element once the hooks are in: the exception that ends the process


def connect(url: str, *, token: str | None = None) -> None:
    """Send the runs that start from now on to this store: `https://server`, `file:PATH`, `postgresql://...`.

    Raises `InvalidSetting` for what is no store. Does not ask whether the server answers: records wait until it does.
    """
    _flags.update(url=settings.load(url=url).url, **({"token": token} if token else {}))


def start(
    *,
    experiment: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Iterable[str] | Mapping[str, object] = (),
    name: str | None = None,
    project: str | None = None,
    task: str | None = None,
    hypothesis: str | None = None,
    sweep: str | None = None,
    parent: str | None = None,
) -> Run:
    """Open a run. Under `sexton run` the first call joins the run that is being recorded; later ones are its children.

    `params` are fixed inputs, `tags` labels (names, or a mapping), `task` a ticket, `hypothesis` what it is to show.
    Raises `UsageError` for arguments that can't be used. Never for the state of disk, courier or server.
    """
    chosen = settings_in_force()
    labels = _labels(tags)
    if parent is not None and not RUN_ID.fullmatch(said(parent)):
        raise errors.InvalidValue(what="parent", value=show(parent), reason="it is the id of a run")
    joined = _joined(chosen)
    described: dict[str, Any] = {
        "experiment": clean_name(experiment) if experiment else None,
        "name": clean_name(name) if name else None,
        "project": clean_name(project) if project else None,
        "task": None if task is None else said(task),
        "hypothesis": None if hypothesis is None else said(hypothesis),
        "sweep": clean_name(sweep) if sweep else None,
        "parent": parent,
    }
    if joined is None:
        described["experiment"] = described["experiment"] or clean_name(chosen.experiment)
        described["project"] = described["project"] or clean_name(chosen.project)
        described["parent"] = parent or chosen.run
        described["name"] = described["name"] or Path(sys.argv[0] or "python").name or None
    run = _opened(joined or new_id(), chosen, "joined" if joined else "owner", described)
    if params is not None:
        run.log_params(params)
    for key, value in labels.items():
        run.tag(**{key: value})
    return run


def resume(run: str) -> Run:
    """Go on with a run, from any host that reaches its store. Two processes may: each speaks for itself, nothing is
    overwritten. Raises `InvalidValue` for what is no run id."""
    if not RUN_ID.fullmatch(said(run)):
        raise errors.InvalidValue(what="the run to resume", value=show(run), reason="a run id has 12 characters")
    return _opened(run, settings_in_force(), "owner", {})


def settings_in_force() -> settings.Settings:
    """What is configured, and what `connect` was told."""
    return settings.load(**_flags)


# ------------------------------------------------------------------------------------------------------------- inside


def _labels(tags: object) -> dict[str, object]:
    if isinstance(tags, Mapping):
        return {said(key): value for key, value in tags.items()}
    if isinstance(tags, str):
        return {tags: ""}
    if isinstance(tags, Iterable):
        return {said(tag): "" for tag in tags}
    raise errors.InvalidValue(what="tags", value=show(tags), reason="they are names, or a mapping")


def _joined(chosen: settings.Settings) -> str | None:
    """The run of `sexton run` that this call belongs to: the first call in it, and every rank but the first."""
    if chosen.run is None:
        return None
    ranks = (os.environ.get(name, "0") for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"))  # noqa: TID251 - the launchers' variables, not settings
    if any(rank not in ("", "0") for rank in ranks):
        return chosen.run
    with contextlib.suppress(OSError):
        os.close(os.open(chosen.spool / chosen.run / "claimed", os.O_CREAT | os.O_EXCL, 0o600))
        return chosen.run
    return None


def _opened(run_id: str, chosen: settings.Settings, role: records.Role, described: dict[str, Any]) -> Run:
    described |= about_process(sys.argv)

    def opening(forked: bool) -> records.Record:
        if not forked:
            return records.Started(role=role, process=machine.this_process(), **described)
        keeper.keep(run)  # its thread stayed in the parent
        return records.Started(role="joined", process=machine.this_process())

    writer = open_journal(run_id, chosen, opening)
    run = Run(run_id, writer, chosen)
    run.in_background(run.call_courier)  # the sooner it looks, the surer it sees how the process ends
    run.in_background(lambda: _capture(writer))
    _hook_the_end()
    _open.add(run)
    keeper.keep(run)
    return run


def open_journal(run_id: str, chosen: settings.Settings, opening: Callable[[bool], records.Record]) -> Writer:
    """The journal of a run in the spool of this host, made where there is none."""

    def identity() -> Identity:
        return Identity(run_id, new_id(), chosen.url, chosen.blobs)

    def complain(message: str) -> None:
        log.error("run %s: %s. Training goes on; what can't be kept is counted in run.lost.", run_id, message)

    return Writer(chosen.spool / run_id, opening, complain, identity)


def new_id() -> str:
    """An id that nobody else has."""
    return short_id(os.urandom(8))


def about_process(argv: Sequence[str]) -> dict[str, Any]:
    """What `Started` tells of a process besides what its user said."""
    return {"argv": tuple(argv), "cwd": _cwd(), "user": _user(), "host": os.uname().nodename}


def _capture(writer: Writer) -> None:
    """What the process can tell about itself, recorded without being asked."""
    facts = {"code": code.capture(_cwd() or "/", sys.argv), "machine": machine.describe()}
    for section, found in facts.items():
        writer.append(records.Captured(section=section, facts=found))


def _cwd() -> str | None:
    with contextlib.suppress(OSError):  # the folder was removed
        return str(Path.cwd())
    return None


def _user() -> str | None:
    with contextlib.suppress(OSError, KeyError):  # a container's uid without a name
        return getpass.getuser()
    return None


def _hook_the_end() -> None:
    """Runs that are open when the interpreter ends, end with it; an unhandled exception is how."""
    if _hooked:
        return
    _hooked.append(None)
    before = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _hooked[0] = error
        before(kind, error, trace)

    sys.excepthook = excepthook
    atexit.register(_end_all)


def _end_all() -> None:
    for run in list(_open):
        run.end_with(ending_of(_hooked[0]) if _hooked[0] else records.Finished(state="finished", cause=records.ASSUMED))


def _after_fork() -> None:
    keeper.after_fork()
    for run in list(_open):
        run.after_fork()


os.register_at_fork(after_in_child=_after_fork)
