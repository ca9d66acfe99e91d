"""Runs: their states, the sessions they are made of, and what a reader is shown.

A run is written by one or more **sessions**: each process that opens its journal is one. The run's state is never
stored as said by whoever spoke last; it is `settle`d from all its sessions, so that records that arrive late, twice or
out of order give the same answer.
"""

from collections.abc import Sequence
from signal import Signals
from typing import Any, Literal

import msgspec

from sexton.model.records import ASSUMED, Finished, Started

State = Literal["scheduled", "running", "finished", "failed", "killed", "lost"]
"""`lost`: the run stopped speaking and nobody could see how it ended."""

End = Literal["finished", "failed", "killed", "lost"]

ENDED: frozenset[State] = frozenset({"finished", "failed", "killed", "lost"})

LOST_AFTER_SECONDS = 300
"""A running run that nobody has vouched for this long is shown as lost; it is running again when it speaks."""


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """One process's part in a run: `writer` is the journal, `epoch` counts the processes that opened it."""

    writer: str
    epoch: int
    started: Started | None = None
    finished: Finished | None = None
    """The end as the process itself said it."""
    closed: Finished | None = None
    """The end as an observer saw it; counts only where the process told none."""

    @property
    def told(self) -> Finished | None:
        """The end as the process knew it: not a good one that it assumed while an observer saw a bad one."""
        assumed = self.finished is not None and self.finished.cause == ASSUMED
        seen_bad = self.closed is not None and self.closed.state in ("failed", "killed")
        return None if assumed and seen_bad else self.finished

    @property
    def end(self) -> Finished | None:
        return self.told or self.closed


class Settled(msgspec.Struct, frozen=True):
    """What all sessions of a run say together."""

    state: State
    created_at: int
    ended_at: int | None
    end: Finished | None
    started: Started


def settle(sessions: Sequence[Session]) -> Settled:
    """The state and description of a run from its sessions, in whatever order they became known.

    Descriptions: what a later session says wins, what it leaves unsaid stays. State: the newest owner session decides;
    while it is open the run is running. An owner that could not tell its end does not end a run that another open
    session still works for, and what such a session tells later is the run's end; an owner that ended well does not
    hide that a joined session reported failure.
    """
    told = (s for s in sessions if s.started and s.started.role != "observer")
    known = sorted(told, key=lambda s: (_at(s.started), s.writer, s.epoch))
    if not known:
        ended = sorted(sessions, key=lambda s: (_at(s.end), s.writer, s.epoch))
        ends = [s.end for s in ended if s.end]
        last = ends[-1] if ends else None
        at = last.at if last else 0
        return Settled(last.state if last else "running", at, at if last else None, last, Started(at=at))
    started = _described([s.started for s in known if s.started])
    owners = [s for s in known if s.started and s.started.role == "owner"] or known
    since = _at(owners[-1].started)
    current = [s for s in known if s is owners[-1] or _at(s.started) >= since]
    end = _ending(owners[-1], [s for s in current if s is not owners[-1]])
    created = _at(known[0].started)
    if end is None:
        return Settled("running", created, None, None, started)
    return Settled(end.state, created, end.at, end, started)


def verdict(exit_code: int | None, signal: int | None, oom: bool | None) -> tuple[End, str]:
    """State and cause of a process from its exit status, where the system knows it."""
    if signal is not None:
        if oom and signal == _SIGKILL:
            return "killed", "oom"
        return ("failed" if signal in _CRASHES else "killed"), "signal"
    if exit_code is None:
        return "lost", "vanished"
    return ("finished" if exit_code == 0 else "failed"), "exit"


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


_SIGKILL = 9
_CRASHES = frozenset({4, 5, 6, 7, 8, 11, 31})  # ILL TRAP ABRT BUS FPE SEGV SYS: the process's own doing


def _ending(owner: Session, joined: Sequence[Session]) -> Finished | None:
    told = [s.told for s in joined if s.told]
    if owner.told is None:
        if owner.closed is None or any(s.end is None for s in joined):
            return None
        later = [f for f in told if f.at > owner.closed.at]
        return max(later, key=_at, default=owner.closed)
    if owner.told.state == "finished":
        failures = [f for f in told if f.state != "finished"]
        return max(failures, key=_at, default=owner.told)
    return owner.told


def _described(started: Sequence[Started]) -> Started:
    merged: dict[str, Any] = {}
    for one in started:
        said = {name: getattr(one, name) for name in one.__struct_fields__}
        merged |= {name: value for name, value in said.items() if value not in (None, (), "")}
    return Started(**merged)


def _at(record: Started | Finished | None) -> int:
    return record.at if record else 0


def shown_state(state: State, heard_at: int | None, now: int) -> State:
    """The state to show at `now` (ns): a running run that has been silent for 5 minutes is lost."""
    silent = heard_at is not None and now - heard_at > LOST_AFTER_SECONDS * 1_000_000_000
    return "lost" if state == "running" and silent else state


# ------------------------------------------------------------------------------------------------- what readers get


class Summary(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric of one run. Numbers are as `values.spell` writes them; `min`, `max`, `best` skip NaN and are "NaN"
    where every point is."""

    last: float | str
    min: float | str
    max: float | str
    count: int
    step: int | float | None = None
    """Step of `last`; None where points have no step."""
    direction: Literal["min", "max"] | None = None
    best: float | str | None = None
    """`min` or `max` by the declared direction; None where none was declared."""


class Note(msgspec.Struct, frozen=True):
    """What a person or program added, in Markdown."""

    at: int
    actor: str
    text: str


class Artifact(msgspec.Struct, frozen=True, omit_defaults=True):
    """A named output of a run: a file or a folder by its digest, or an address where the bytes are."""

    name: str
    kind: str
    digest: str | None
    size: int | None
    at: int
    step: float | None = None
    metrics: dict[str, float | str] = {}
    files: int | None = None
    """How many there are in a folder; None of a file."""
    uri: str | None = None
    """Where the bytes are that the store does not keep; the digest is then what identifies them there, if known."""
    shed: tuple[str, ...] = ()
    """Classes of chunks that were not stored: what was theirs reads as zero bytes."""
    state: Literal["whole", "damaged", "deleted"] = "whole"
    """Of the stored bytes: `damaged` until the same bytes are saved again, `deleted` for ever."""


class Run(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A run as a list shows it. Times are UTC ns. A field that is None is unknown, never zero."""

    id: str
    project: str
    experiment: str
    state: State
    created_at: int
    name: str | None = None
    ended_at: int | None = None
    heard_at: int | None = None
    cause: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None
    user: str | None = None
    host: str | None = None
    argv: tuple[str, ...] = ()
    cwd: str | None = None
    task: str | None = None
    hypothesis: str | None = None
    sweep: str | None = None
    parent: str | None = None
    outcome: str | None = None
    takeaway: str | None = None
    cpu_seconds: float | None = None
    cpu_method: str | None = None
    cpu_coverage: str | None = None
    max_rss: int | None = None
    bytes: int | None = None
    """Logical bytes of its artifacts; None where it saved none."""
    params: dict[str, Any] = {}
    """As decoded from canonical JSON; `values.thaw` gives Python values."""
    tags: dict[str, str] = {}
    metrics: dict[str, Summary] = {}
    trouble: dict[str, int] = {}
    """What went wrong with the record itself, counted: lost, damaged, unknown, conflicting."""
    revision: int = 0

    @property
    def seconds(self) -> float | None:
        """Wall time; None while it runs."""
        return None if self.ended_at is None else (self.ended_at - self.created_at) / 1e9


class Detail(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """All of one run that is not a series."""

    run: Run
    notes: list[Note] = []
    artifacts: list[Artifact] = []
    sessions: list[Session] = []
    captured: dict[str, Any] = {}
    traceback: str | None = None


class Series(msgspec.Struct, frozen=True):
    """Points of one metric in log order. `steps` is None where no point has one, and has None for each point that has
    none. `count` is of all points; where fewer are here, they are the min, max and last of equal buckets."""

    name: str
    count: int
    steps: list[int | float | None] | None
    times: list[int]
    values: list[float | str]


class ConsoleText(msgspec.Struct, frozen=True):
    """What a command printed, as recorded; `skipped` bytes in the middle were not kept."""

    text: str
    skipped: int


class Page(msgspec.Struct, frozen=True):
    """Runs, newest first unless asked otherwise, and where the next page starts."""

    runs: list[Run]
    total: int
    next: str | None = None


class RunFilter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Which runs, in which order. `sort` is `created`, `ended`, `name`, `seconds`, `cpu`, or `metrics.NAME` (its best
    where a direction was declared, else its last), with `-` before it for descending; unknown sorts last either way."""

    project: str | None = None
    experiment: str | None = None
    states: tuple[State, ...] = ()
    tags: tuple[str, ...] = ()
    """Each `KEY` (present) or `KEY=VALUE`; all must hold."""
    sweep: str | None = None
    sort: str = "-created"
    limit: int = 100
    after: str | None = None
    """`Page.next` of the page before."""


class Changes(msgspec.Struct, frozen=True):
    """Runs changed after a revision, oldest change first. Poll again from `revision`; nothing is ever missed."""

    revision: int
    runs: list[Run]
