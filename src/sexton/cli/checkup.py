"""Whether Sexton is well on this machine: what is configured and from where, the store, the courier, what waits.

Looks and reports; what it finds wrong comes with what to do about it.
"""

import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sexton import clock, errors, settings
from sexton.cli import deliveries, text
from sexton.cli.render import GAP, Screen, Span, pairs
from sexton.client import connect
from sexton.courier import start
from sexton.journal import reader
from sexton.journal.reader import Backlog
from sexton.settings import Settings

LOW_DISK_BYTES = 1 << 30


class Setting(msgspec.Struct, frozen=True):
    """A value in force, and where it came from: the command line, a variable, a file, or `default`."""

    name: str
    value: str | float | None
    source: str


class Store(msgspec.Struct, frozen=True):
    """What the configured store says of itself, or why it says nothing. What is None is unknown."""

    url: str
    reachable: bool
    kind: str | None = None
    id: str | None = None
    revision: int | None = None
    version: str | None = None
    actor: str | None = None
    milliseconds: float | None = None
    reason: str | None = None


class Courier(msgspec.Struct, frozen=True):
    """The delivery process of this host's spool."""

    running: bool
    pid: int | None
    failing: dict[str, str]
    stuck: dict[str, str]


class Problem(msgspec.Struct, frozen=True):
    """Something that is wrong, and what to do."""

    what: str
    remedy: str


class Checkup(msgspec.Struct, frozen=True):
    """Everything that `sexton doctor` found."""

    ok: bool
    version: str
    python: str
    executable: str
    settings: list[Setting]
    store: Store
    spool: str
    journals: int
    """Runs of this host that go on or have something undelivered."""
    undelivered: list[Backlog]
    courier: Courier
    disk_free: dict[str, int]
    """Bytes free where Sexton writes, by folder."""
    problems: list[Problem]


def examine(url: str | None) -> Checkup:
    """Look at everything. Raises `InvalidSetting`."""
    from sexton import __version__

    chosen = settings.load(url=url)
    spool = chosen.spool
    left, complaint = _delivered(chosen)
    report = deliveries.told(spool)
    running = start.is_running(spool)
    courier = Courier(
        running=running,
        pid=report.pid if running else None,
        failing=report.failing if running else {},
        stuck=report.stuck if running else {},
    )
    store, held = _store(chosen), deliveries.held_up(spool, left)
    disks = {os.stat(_existing(folder)).st_dev: folder for folder in reversed(_folders(chosen))}
    disk = {str(folder): shutil.disk_usage(_existing(folder)).free for folder in disks.values()}
    problems = [
        *complaint,
        *_store_problems(chosen, store, held),
        *_delivery_problems(chosen, store, courier, held),
        *_disk_problems(chosen, disk),
    ]
    return Checkup(
        ok=not problems,
        version=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        settings=sources(chosen, url),
        store=store,
        spool=str(spool),
        journals=len(reader.runs(spool)),
        undelivered=left,
        courier=courier,
        disk_free=disk,
        problems=problems,
    )


# ------------------------------------------------------------------------------------------------------------ looking


def sources(chosen: Settings, url: str | None) -> list[Setting]:
    """Each setting with where it came from. Secrets are not shown."""
    file = _settings_file()
    in_file = tomllib.loads(file.read_text(encoding="utf-8")).keys() if file else ()
    found = []
    for field in msgspec.structs.fields(Settings):
        variable = f"SEXTON_{field.name.upper()}"
        value = getattr(chosen, field.name)
        if field.name == "url" and url is not None:
            source = "--url"
        elif os.environ.get(variable):  # noqa: TID251 - says which of the places that settings reads gave the value
            source = variable
        else:
            source = str(file) if field.name in in_file else "default"
        shown = "(set)" if field.name == "token" and value else text.address(value) if field.name == "url" else value
        found.append(Setting(field.name, shown, source))
    return found


def _settings_file() -> Path | None:
    """The `sexton.toml` that is in force here."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working folder was removed
        return None
    return next((f for f in (folder / "sexton.toml" for folder in (here, *here.parents)) if f.is_file()), None)


def _delivered(chosen: Settings) -> tuple[list[Backlog], list[Problem]]:
    """What is still undelivered after the courier was asked to deliver it."""
    if not reader.runs(chosen.spool):
        return [], []
    try:
        return start.drain(chosen, deliveries.DRAIN_SECONDS), []
    except OSError as error:
        remedy = f"Make {chosen.spool} writable for this user, or choose another folder with SEXTON_HOME"
        return reader.backlog(chosen.spool), [Problem(f"The courier can not be started: {error}", remedy)]


def _store(chosen: Settings) -> Store:
    shown = text.address(chosen.url)
    try:
        client = connect(chosen.url, blobs=chosen.blobs, token=chosen.token)
        try:
            began = clock.monotonic()
            health = client.health()
            took = clock.monotonic() - began
        finally:
            client.close()
    except (errors.SextonError, OSError) as error:
        reason = f"{error.fields.get('reason')}." if isinstance(error, errors.ServerUnreachable) else str(error)
        return Store(shown, reachable=False, reason=reason)
    return Store(
        shown,
        reachable=True,
        kind=health.store,
        id=health.store_id,
        revision=health.revision,
        version=health.version,
        actor=health.actor,
        milliseconds=took / 1e6,
    )


def _folders(chosen: Settings) -> list[Path]:
    """Where this machine writes: the spool's home, and a store that it opens itself."""
    folders = [Path(chosen.home)]
    if not chosen.url.startswith(("http://", "https://")):
        folders += [Path(url.removeprefix("file:")) for url in (chosen.url, chosen.blobs) if url.startswith("file:")]
    return list(dict.fromkeys(folders))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


# ----------------------------------------------------------------------------------------------------------- problems


def _store_problems(chosen: Settings, store: Store, held: list[Backlog]) -> Iterator[Problem]:
    if store.reachable:
        return
    if chosen.url.startswith(("http://", "https://")):
        remedy = "Start the server there (sexton serve), or correct the address: SEXTON_URL, sexton.toml or --url"
    else:
        remedy = "Correct what the message names, or choose another store: SEXTON_URL, sexton.toml or --url"
    yield Problem(f"The store {store.url} can not be used: {store.reason}{_waiting(chosen.url, held)}", remedy)


def _delivery_problems(chosen: Settings, store: Store, courier: Courier, held: list[Backlog]) -> Iterator[Problem]:
    log = chosen.spool / "courier.log"
    for url, reason in courier.failing.items():
        if url != chosen.url or store.reachable:
            what = f"The store {text.address(url)} takes no records: {reason}{_waiting(url, held)}"
            yield Problem(what, f"See whether it is up; the history is in {log}")
    for run, reason in courier.stuck.items():
        remedy = f"Its records stay in {chosen.spool / run}; {log} says more"
        yield Problem(f"Run {run} can not be delivered: {reason}", remedy)
    if held and not courier.running:
        what = f"No courier stays up to deliver {text.count(len(held), 'run')}"
        yield Problem(what, f"The reason is at the end of {log}")


def _waiting(url: str, held: list[Backlog]) -> str:
    mine = [one for one in held if one.url == url]
    if not mine:
        return ""
    amount = text.size(sum(one.bytes for one in mine))
    return f" {text.count(len(mine), 'run')} ({amount}) safe on this disk until it takes them."


def _disk_problems(chosen: Settings, disk: dict[str, int]) -> Iterator[Problem]:
    for folder, free in disk.items():
        if free < LOW_DISK_BYTES:
            yield Problem(
                f"Only {text.size(free)} are free in {folder}",
                "Make room: records of runs are lost when the disk is full",
            )
    for name in {_existing(folder) for folder in _folders(chosen)}:
        if not os.access(name, os.W_OK):
            yield Problem(
                f"{name} is not writable", "Make it writable for this user, or choose another folder with SEXTON_HOME"
            )


# --------------------------------------------------------------------------------------------------------- for people


def print_checkup(found: Checkup) -> None:
    """All of it, the problems last, where the eye is."""
    screen = Screen()
    screen.line(Span(f"Sexton {found.version}", "bold"), f", Python {found.python} ({found.executable})")
    screen.heading("settings")
    pairs(
        screen,
        [
            (s.name, (text.plain(s.value), Span(f"  ({s.source})", "dim")))
            for s in found.settings
            if s.value is not None
        ],
        GAP,
    )
    screen.heading("store")
    pairs(screen, _store_rows(found.store), GAP)
    screen.heading("delivery")
    pairs(screen, _delivery_rows(found), GAP)
    screen.line()
    if found.ok:
        screen.line(Span("All is well.", "green"))
    for problem in found.problems:
        screen.line(Span("problem: ", "bold red"), text.plain(problem.what))
        screen.line("  do:    ", text.plain(problem.remedy))


def _store_rows(store: Store) -> Iterator[tuple[str, str | None]]:
    yield "url", text.plain(store.url)
    if not store.reachable:
        yield "state", "can not be used"
        return
    yield "state", f"answers in {store.milliseconds:.0f} ms"
    yield "kind", f"{store.kind}, id {store.id}, revision {store.revision}"
    yield "version", store.version
    yield "you are", text.plain(store.actor)


def _delivery_rows(found: Checkup) -> Iterator[tuple[str, str | None]]:
    yield "spool", text.plain(found.spool)
    yield "courier", f"runs (pid {found.courier.pid})" if found.courier.running else "not running; starts when needed"
    yield "journals", f"{found.journals} of runs that go on, or wait to be delivered" if found.journals else "none"
    by_store: dict[str, list[Backlog]] = {}
    for one in found.undelivered:
        by_store.setdefault(one.url, []).append(one)
    for url, waiting in by_store.items():
        size = text.size(sum(one.bytes for one in waiting))
        yield "undelivered", f"{text.count(len(waiting), 'run')}, {size}, for {text.address(url)}"
    if not by_store:
        yield "undelivered", "nothing"
    for folder, free in found.disk_free.items():
        yield "disk free", f"{text.size(free)} in {text.plain(folder)}"
