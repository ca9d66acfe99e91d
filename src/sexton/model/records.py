"""Records: the closed, versioned set of facts that may enter the store, and the batch they travel in.

A record is a msgpack map with its type under `t` and its time under `at` (UTC ns; within one session always growing).
Fields are only ever added, with a default, so that older and newer versions read each other. A type that this version
does not know is kept as it came and counted (`decode` gives it back as `Unknown`). `docs/spec/records.md` is the norm.

Metric points are not records of their own: they are rows in the journal and columns (`Points`) in a batch.
"""

from typing import Any, Literal

import msgspec

from sexton.model.values import clean_text

VERSION = 1
"""Of the batch. A server refuses a batch of a version it does not know; new record types do not change it."""

Role = Literal["owner", "joined", "observer"]
"""What a session is to its run: the process that makes it, one more process in it, or one that watches from outside."""


class Record(msgspec.Struct, omit_defaults=True, kw_only=True, tag_field="t", tag=str.lower):
    """A fact. `at` is UTC ns, stamped by its session, and grows with every record of the session."""

    at: int = 0


class Process(msgspec.Struct, frozen=True):
    """A process that can be told from a later one with the same pid: `start` is in ticks since `boot` began."""

    pid: int
    start: int
    boot: str
    host: str


class Started(Record):
    """A session opened the run. What is None was not said and leaves what an earlier session said."""

    role: Role = "owner"
    process: Process | None = None
    project: str | None = None
    experiment: str | None = None
    name: str | None = None
    user: str | None = None
    host: str | None = None
    argv: tuple[str, ...] = ()
    cwd: str | None = None
    task: str | None = None
    hypothesis: str | None = None
    sweep: str | None = None
    parent: str | None = None
    child: Process | None = None
    """The process to measure, where it is not the session's own: the command under a recorder."""
    cgroup: str | None = None
    """The control group that only this run's processes are in, where one could be made."""


class Params(Record):
    """Fixed inputs, as `values.encode_param` writes them. The first value of a key stays."""

    params: dict[str, str]


class Direction(Record):
    """Whether more or less of a metric is better, for all runs of the experiment."""

    metric: str
    direction: Literal["min", "max"]


class Tag(Record):
    """Sets a label, or removes it with None. The newest of a key counts."""

    key: str
    value: str | None = ""


class Note(Record):
    """Markdown that a person or program adds; notes are never edited."""

    text: str


class Console(Record):
    """Bytes that the command printed. `skipped` bytes of the stream before `offset` were not kept."""

    stream: Literal["stdout", "stderr"]
    offset: int
    data: bytes
    skipped: int = 0


class Usage(Record):
    """What the run's processes used, sampled from outside. Counters are totals since the session started."""

    method: str
    cpu_seconds: float | None = None
    memory: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    processes: int | None = None
    gpus: tuple[dict[str, Any], ...] = ()


class Heartbeat(Record):
    """Somebody who can see the run's process says that it lives."""


class Saved(Record):
    """A file, a folder or an address was handed over for keeping. The courier stores the bytes and sends an `Artifact`
    in its place. Never reaches the store."""

    file: str
    """Its private copy in the journal's `files/` (see `capture.files`); empty where only the address is kept."""
    name: str
    kind: str = "file"
    step: int | float | None = None
    metrics: dict[str, float] = {}
    size: int | None = None
    """Bytes, and `mtime` (ns) of the file as it was when it was handed over; of a folder its list has them."""
    mtime: int | None = None
    folder: bool = False
    drop: tuple[str, ...] = ()
    """Classes of chunks that are not to be stored."""
    uri: str | None = None
    """Where the bytes are that are not to be stored."""
    id: str | None = None
    """What the caller says identifies them there: a version, an ETag, a digest."""


class Artifact(Record):
    """A named output of the run. Its bytes are already in the store under `digest`, or stay at `uri`."""

    name: str
    digest: str | None = None
    """With `uri`: what identifies the bytes there; None where nobody knows."""
    size: int | None = None
    """Bytes of all its files; None where nobody knows."""
    kind: str = "file"
    step: int | float | None = None
    metrics: dict[str, float] = {}
    files: int | None = None
    """How many there are in a folder; None of a file."""
    uri: str | None = None
    shed: tuple[str, ...] = ()
    """Classes of chunks that were not stored: what was theirs reads as zero bytes."""


class Edge(Record):
    """The run consumed or produced the data with this digest; `level` says what the digest covers."""

    direction: Literal["consumed", "produced"]
    digest: str
    name: str
    role: str = ""
    level: Literal["full", "strong", "stat", "declared"] = "declared"


class Captured(Record):
    """What a process found out about itself: code, environment, machine."""

    section: str
    facts: dict[str, Any]


class Concluded(Record):
    """What the run taught; the newest counts."""

    outcome: Literal["worked", "no_effect", "worse", "failed", "inconclusive"]
    takeaway: str = ""


class Trouble(Record):
    """Something the record itself could not keep: `lost` records for want of disk, `dropped` values, ..."""

    kind: str
    count: int
    reason: str = ""


class Finished(Record):
    """A session ended. `epoch` names the session where an observer says so, and is None where it speaks for itself."""

    state: Literal["finished", "failed", "killed", "lost"]
    epoch: int | None = None
    cause: str = ""
    """exit exception interrupt signal oom reboot vanished command-not-found ..., or `ASSUMED`"""
    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None
    traceback: str | None = None
    cpu_seconds: float | None = None
    cpu_method: str | None = None
    cpu_coverage: str | None = None
    max_rss: int | None = None


ASSUMED = "end-of-program"
"""Cause of an end that a session told when its interpreter ended without an exception: it can not know the exit code,
which an observer may."""


class Unknown(msgspec.Struct, frozen=True):
    """A record of a type, or of a form, that this version does not know; `body` is its msgpack, untouched."""

    type: str
    body: bytes


RECORD_TYPES: dict[str, type[Record]] = {
    cls.__name__.lower(): cls
    for cls in (
        Started, Params, Direction, Tag, Note, Console, Usage, Heartbeat, Saved, Artifact, Edge, Captured, Concluded,
        Trouble, Finished,
    )
}  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoders = {tag: msgspec.msgpack.Decoder(cls) for tag, cls in RECORD_TYPES.items()}


class _Envelope(msgspec.Struct):
    t: str = "?"


_envelope = msgspec.msgpack.Decoder(_Envelope)

_NOT_UNDERSTOOD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(record: Record) -> bytes:
    """The record as msgpack. Text that no encoding can say, such as a file name in another one, has `?` for it."""
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        return _encoder.encode(_clean(msgspec.to_builtins(record, builtin_types=(bytes,))))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value


def decode(body: bytes | msgspec.Raw) -> Record | Unknown:
    """The record in `body`. Never raises for content: what can not be understood comes back as `Unknown`."""
    try:
        tag = _envelope.decode(body).t
    except _NOT_UNDERSTOOD:
        return Unknown("?", bytes(body))
    decoder = _decoders.get(tag)
    if decoder is None:
        return Unknown(tag, bytes(body))
    try:
        return decoder.decode(body)
    except _NOT_UNDERSTOOD:
        return Unknown(tag, bytes(body))


# -------------------------------------------------------------------------------------------------------------- batch


class Points(msgspec.Struct, omit_defaults=True):
    """Metric points as columns: `rows` log calls that had the same metrics. All numbers little-endian.

    A key is a metric's name, or `[name, context]` with the context as canonical JSON text (`{"split":"val"}`).
    """

    keys: list[str | tuple[str, str]]
    rows: int
    seq: bytes
    """uint32 a row: the record's sequence number minus the batch's `first`."""
    at: bytes
    """int64 a row."""
    values: bytes
    """float64, key by key: all rows of the first key, then all of the second."""
    steps: bytes = b""
    """int64 or float64 a row by `step_kind`; empty where rows have no step."""
    step_kind: Literal["none", "int", "float"] = "none"
    times: bytes = b""
    """int64 a row: the time a caller gave, where it gave one; else `at` is the time."""


class Batch(msgspec.Struct, omit_defaults=True):
    """The records `first` .. `first + count - 1` of one session. May arrive late, again, or overlapping another.

    `records` and `points` together hold those that the store must know; the others of the range need no row there.
    """

    run: str
    writer: str
    epoch: int
    first: int
    count: int
    records: list[tuple[int, msgspec.Raw]] = []
    """(sequence number minus `first`, record)"""
    points: list[Points] = []
    damaged: int = 0
    """How many records of the range could not be read from the journal."""
    version: int = VERSION


class Ack(msgspec.Struct, omit_defaults=True):
    """What became of one batch, given after the commit: new records, and those that were known already."""

    new: int
    known: int = 0
