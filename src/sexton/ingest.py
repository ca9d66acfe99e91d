"""The one door for run data: batches of records in, rows out, in the transaction that it is given.

Any order, any number of resends, any overlap: each record (run, writer, epoch, sequence) has its effect once, and the
outcome is that of delivering all once, in order. What was received is kept in the same transaction as the effect.
Everything is folded in memory first and written in bulk: the cost is per call, run and metric, not per record.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np

from sexton import errors
from sexton.model import records
from sexton.model.records import VERSION, Ack, Batch, Points, Record, Unknown, decode
from sexton.model.runs import ENDED
from sexton.model.values import RUN_ID, clean_name
from sexton.store import artifacts, audit, held, manifests, metrics, params, series
from sexton.store import records as kept
from sexton.store.columns import INT_STEP, KINDS, NO_STEP, Floats, Ints, encode_sheet, log_order
from sexton.store.database import Tx
from sexton.store.held import Held
from sexton.store.metrics import USAGE
from sexton.store.sessions import Range, Session, Sessions

ACT = "act-"
"""Begins the writer of an act: of what a person did to a run. It is audited, and is no sign of life of the run."""

_INT64 = range(-(2**63), 2**63)
_SEQUENCES = range(2**48)
_EPOCHS = range(2**31)


class _Fact(NamedTuple):
    """A new record, who said it, and its place there."""

    run: Held
    session: Session
    seq: int
    record: Record | Unknown
    raw: bytes

    @property
    def at(self) -> int:
        return self.record.at if isinstance(self.record, Record) else 0


class _Rows(NamedTuple):
    """New rows of points of one session, all with the same metrics and the same kind of step."""

    at: Ints
    seq: Ints
    steps: Ints | None
    times: Ints | None
    values: Floats


class _Shape(NamedTuple):
    """What rows must have in common to be kept as one sheet."""

    session: int
    keys: tuple[metrics.Key, ...]
    kind: int
    timed: bool


@dataclass(slots=True)
class _Arrived:
    """What is new in the batches of a call."""

    runs: dict[str, Held]
    sessions: Sessions
    acks: list[Ack] = field(default_factory=list)
    facts: list[_Fact] = field(default_factory=list)
    rows: dict[_Shape, list[_Rows]] = field(default_factory=lambda: defaultdict(list))

    def of(self, *types: type[Record]) -> list[_Fact]:
        return [fact for fact in self.facts if isinstance(fact.record, types)]


def ingest(tx: Tx, batches: Sequence[Batch]) -> list[Ack]:
    """Store what is new in the batches; an ack for each, to be given after the commit.

    Runs whose series are worth compacting are added to `tx.due`. Raises `InvalidRecord`, and `BlobNotFound` where a new
    artifact's bytes are not here: then nothing is stored.
    """
    for batch in batches:
        validate(batch)
    arrived = _receive(tx, batches)
    _hear(tx, arrived)
    _keep(tx, arrived)
    _describe(tx, arrived)
    _measure(tx, arrived)
    changed = [run for run in arrived.runs.values() if run.changed]
    metrics.rank(tx, [run.id for run in changed if run.state in ENDED])
    held.save(tx, changed)
    arrived.sessions.save(tx)
    for run in changed:
        tx.touch(run.id)
        if series.is_due(run):
            tx.due.add(run.id)
    return arrived.acks


# -------------------------------------------------------------------------------------------------------- validation


def validate(batch: Batch) -> None:
    """Raises `InvalidRecord` for a batch that no store can take. Pure."""
    reason = _bad_range(batch) or _bad_records(batch)
    for points in batch.points:
        reason = reason or _bad_points(points, batch.count)
    if reason:
        raise errors.InvalidRecord(run=batch.run[:100], reason=reason)


def _bad_range(batch: Batch) -> str | None:
    if batch.version != VERSION:
        return f"it has version {batch.version} and this store takes {VERSION}; upgrade the older of the two"
    if not RUN_ID.fullmatch(batch.run):
        return "this is no id of a run"
    if not 0 < len(batch.writer) <= 100 or clean_name(batch.writer) != batch.writer:
        return f"{batch.writer[:100]!r} is no name of a writer"
    if batch.epoch not in _EPOCHS or batch.first not in _SEQUENCES or batch.count not in _SEQUENCES:
        return "epoch, first or count is out of range"
    return None if batch.count and 0 <= batch.damaged <= batch.count else "it covers no record"


def _bad_records(batch: Batch) -> str | None:
    last = -1
    for offset, _ in batch.records:
        if offset <= last:
            return "its records are not in the order of their sequence numbers"
        last = offset
    return None if last < batch.count else f"record {last} is beyond the {batch.count} that it covers"


def _bad_points(points: Points, count: int) -> str | None:
    keys, rows = tuple(points.keys), points.rows
    bad = _checked(keys)[1]
    if bad:
        return bad
    sizes = (len(points.seq), len(points.at), len(points.values), len(points.steps), len(points.times))
    steps = 8 * rows if points.step_kind != "none" else 0
    if rows < 1 or sizes[:4] != (4 * rows, 8 * rows, 8 * rows * len(keys), steps) or sizes[4] not in (0, 8 * rows):
        return f"the columns of {rows} rows of {len(keys)} metrics do not have the lengths that they should"
    seq = np.frombuffer(points.seq, "<u4")
    if seq[-1] >= count or (rows > 1 and not bool((seq[1:] > seq[:-1]).all())):
        return "the sequence numbers of its points do not ascend within what it covers"
    return None


Keys = tuple[str | tuple[str, str], ...]


def _checked(keys: Keys) -> tuple[tuple[metrics.Key, ...], str | None]:
    """The names and contexts of metrics, and what is wrong with them. Callers mostly log the same metrics again."""
    return _check_again(keys) if len(keys) <= _FEW else _check(keys)


def _check(keys: Keys) -> tuple[tuple[metrics.Key, ...], str | None]:
    pairs = tuple((key, "") if isinstance(key, str) else (key[0], key[1]) for key in keys)
    if not pairs or len(set(pairs)) < len(pairs):
        return pairs, "its points have no metric, or one twice"
    for name, context in pairs:
        if clean_name(name) != name:
            return pairs, f"{name[:100]!r} is no clean name of a metric"
        if context and (context[0] != "{" or clean_name(context) != context):
            return pairs, f"{context[:100]!r} is no context of a metric"
    return pairs, None


_FEW = 500
_check_again = lru_cache(256)(_check)


# --------------------------------------------------------------------------------------------------------- reception


def _receive(tx: Tx, batches: Sequence[Batch]) -> _Arrived:
    """Hold the runs, and tell what is new from what is known."""
    runs = held.hold(tx, {batch.run for batch in batches})
    arrived = _Arrived(runs, Sessions(tx, runs))
    arrived.sessions.open(tx, [(batch.run, batch.writer, batch.epoch) for batch in batches])
    for batch in batches:
        session = arrived.sessions.of(batch.run, batch.writer, batch.epoch)
        fresh = session.take(batch.first, batch.first + batch.count)
        new = sum(end - start for start, end in fresh)
        arrived.acks.append(Ack(new, batch.count - new))
        if new:
            _take(arrived, batch, session, None if new == batch.count else fresh)
            if batch.damaged:
                runs[batch.run].count("damaged", min(batch.damaged, new))
    return arrived


def _take(arrived: _Arrived, batch: Batch, session: Session, fresh: list[Range] | None) -> None:
    """Take from a batch what lies in `fresh`, or all of it."""
    run = arrived.runs[batch.run]
    run.changed = True
    for offset, raw in batch.records:
        seq = batch.first + offset
        if fresh is None or any(start <= seq < end for start, end in fresh):
            body = bytes(raw)
            arrived.facts.append(_Fact(run, session, seq, _sound(decode(body), body), body))
    for points in batch.points:
        rows = _rows(points, batch.first, fresh)
        if len(rows.at):
            shape = _Shape(session.id, _checked(tuple(points.keys))[0], KINDS[points.step_kind], bool(points.times))
            arrived.rows[shape].append(rows)


def _sound(record: Record | Unknown, body: bytes) -> Record | Unknown:
    """The record, unless it holds a number that no column takes: then it is none that this version knows."""
    if isinstance(record, records.Saved):
        return Unknown("saved", body)
    if isinstance(record, records.Artifact) and record.uri is None and record.digest is None:
        return Unknown("artifact", body)
    if isinstance(record, Record):
        for value in msgspec.structs.astuple(record):
            if type(value) is int and value not in _INT64:
                return Unknown(type(record).__name__.lower(), body)
    return record


def _rows(points: Points, first: int, fresh: list[Range] | None) -> _Rows:
    rows = _Rows(
        at=np.frombuffer(points.at, "<i8"),
        seq=np.frombuffer(points.seq, "<u4").astype(np.int64) + first,
        steps=np.frombuffer(points.steps, "<i8") if points.steps else None,
        times=np.frombuffer(points.times, "<i8") if points.times else None,
        values=np.frombuffer(points.values, "<f8").reshape(len(points.keys), points.rows),
    )
    if fresh is None:
        return rows
    new = np.zeros(points.rows, bool)
    for start, end in fresh:
        new |= (rows.seq >= start) & (rows.seq < end)
    return _chosen(rows, np.flatnonzero(new))


def _chosen(rows: _Rows, places: Ints) -> _Rows:
    at, seq, steps, times, values = rows
    own = None if steps is None else steps[places]
    return _Rows(at[places], seq[places], own, None if times is None else times[places], values[:, places])


def _hear(tx: Tx, arrived: _Arrived) -> None:
    """Note when each run last spoke, though never later than now: a wrong clock makes nobody seem alive."""
    times: dict[str, list[int]] = defaultdict(list)
    for fact in arrived.facts:
        if isinstance(fact.record, Record) and not fact.session.writer.startswith(ACT):
            times[fact.run.id].append(fact.at)
    for shape, parts in arrived.rows.items():
        run = arrived.sessions.by_id[shape.session].run
        for rows in parts:
            times[run] += (int(rows.at.min()), int(rows.at.max()))
    for run, heard in times.items():
        one = arrived.runs[run]
        one.heard_at = max(min(max(heard), tx.now), one.heard_at or 0)
        if not one.started:
            one.created_at = min(*heard, one.created_at)


# ----------------------------------------------------------------------------------------------------------- records


def _keep(tx: Tx, arrived: _Arrived) -> None:
    """Write what is kept as it came, and what has a value for each key."""
    given: dict[str, list[params.Value]] = defaultdict(list)
    tagged: dict[str, list[params.Value]] = defaultdict(list)
    saved, bodies = [], []
    named = artifacts.digests(fact.record for fact in arrived.facts if isinstance(fact.record, records.Artifact))
    sizes = manifests.require(tx, named)
    for fact in arrived.facts:
        run, session, seq, record = fact[:4]
        place = session.place(fact.at, seq)
        match record:
            case records.Params():
                given[run.id] += [params.Value(*item, place, session.id) for item in record.params.items()]
            case records.Tag():
                tagged[run.id].append(params.Value(record.key, record.value, place, session.id))
            case records.Artifact():
                saved.append(artifacts.row(session, seq, record, sizes))
                stored = 0 if record.uri is not None else artifacts.size_of(record, sizes) or 0
                run.bytes = min((run.bytes or 0) + stored, _INT64[-1])
            case records.Trouble():
                run.count(clean_name(record.kind), record.count)
            case records.Heartbeat() | records.Usage():
                pass
            case _:
                bodies.append(_body(fact, tx.actor))
    params.add_params(tx, given, arrived.runs, arrived.sessions.by_id)
    params.add_tags(tx, tagged, arrived.runs, arrived.sessions.by_id)
    artifacts.add(tx, saved)
    kept.keep(tx, bodies)
    audit.add(tx, [_act(fact) for fact in arrived.facts if fact.session.writer.startswith(ACT)])


def _body(fact: _Fact, actor: str) -> kept.Kept:
    kind = type(fact.record).__name__.lower()
    if isinstance(fact.record, Unknown):
        fact.run.count("unknown")
        kind = "?" + clean_name(fact.record.type)
    return kept.Kept(fact.run.id, kind, fact.at, fact.session.id, fact.seq, actor, fact.raw)


def _act(fact: _Fact) -> tuple[str, str, str]:
    if isinstance(fact.record, Unknown):
        return "unknown", fact.run.id, clean_name(fact.record.type)
    return type(fact.record).__name__.lower(), fact.run.id, msgspec.json.encode(fact.record).decode()


def _describe(tx: Tx, arrived: _Arrived) -> None:
    """Derive state, description and conclusion of those runs that records of that kind have arrived for."""
    settling = {fact.run.id: fact.run for fact in arrived.of(records.Started, records.Finished)}
    homes = {run.id: (run.started, run.home) for run in settling.values()}
    held.resettle(tx, list(settling.values()))
    held.conclude(tx, {fact.run.id for fact in arrived.of(records.Concluded)})
    declaring = {fact.run.id for fact in arrived.of(records.Direction)}
    declaring |= {run.id for run in settling.values() if homes[run.id] != (run.started, run.home)}
    said = [(arrived.runs[one.run], one.record) for one in kept.said(tx.connection, declaring, records.Direction)]
    # Until a run has started, nobody knows which experiment its directions are for.
    metrics.declare(tx, [(run.id, run.home, record) for run, record in said if run.started])


# ------------------------------------------------------------------------------------------------------------ points


def _measure(tx: Tx, arrived: _Arrived) -> None:
    """Write points as sheets, one for each shape, and fold them into the summaries."""
    for fact in arrived.facts:
        if isinstance(fact.record, records.Usage):
            _sample(arrived, fact, fact.record)
    if not arrived.rows:
        return
    numbers = metrics.ids(tx, {key for shape in arrived.rows for key in shape.keys})
    sheets: list[series.Kept] = []
    summaries: list[metrics.Summary] = []
    for shape, parts in arrived.rows.items():
        run, rows = arrived.runs[arrived.sessions.by_id[shape.session].run], _ordered(parts)
        mine = [numbers[key] for key in shape.keys]
        data = encode_sheet(rows.at, rows.seq, shape.kind, rows.steps, rows.times, rows.values)
        sheets.append((run.id, shape.session, len(rows.at), np.array(mine, "<i8").tobytes(), data))
        run.loose += series.looseness(len(rows.at), len(mine))
        last = metrics.Last(_last_step(shape.kind, rows.steps), int(rows.at[-1]), shape.session, int(rows.seq[-1]))
        summaries += metrics.summarised(run.id, mine, rows.values, last)
    series.add(tx, sheets)
    metrics.merge(tx, summaries)


def _ordered(parts: Sequence[_Rows]) -> _Rows:
    """The rows of all parts, in the order of the session's log."""
    rows = parts[0] if len(parts) == 1 else _concatenated(parts)
    at, seq = rows.at, rows.seq
    if len(at) == 1 or bool((at[1:] > at[:-1]).all()):
        return rows
    return _chosen(rows, log_order(at, np.zeros(len(at), np.int64), seq))


def _concatenated(parts: Sequence[_Rows]) -> _Rows:
    at, seq, steps, times, values = zip(*parts, strict=True)
    return _Rows(
        np.concatenate(at),
        np.concatenate(seq),
        None if steps[0] is None else np.concatenate(steps),
        None if times[0] is None else np.concatenate(times),
        np.concatenate(values, axis=1),
    )


def _last_step(kind: int, steps: Ints | None) -> str | None:
    if steps is None:
        return None
    if kind == INT_STEP:
        return str(int(steps[-1]))
    step = float(steps[-1:].view(np.float64)[0])
    return repr(step) if np.isfinite(step) else None


def _sample(arrived: _Arrived, fact: _Fact, usage: records.Usage) -> None:
    """Take what a usage sample says as points of metrics in a context of their own."""
    said: dict[str, object] = {name: getattr(usage, name) for name in _USED}
    for place, gpu in enumerate(usage.gpus):
        index = gpu.get("index", place)
        said |= {clean_name(f"gpu/{index}/{key}"): value for key, value in gpu.items() if key != "index"}
    numbers = {key: float(value) for key, value in said.items() if isinstance(value, int | float)}
    if numbers:
        shape = _Shape(fact.session.id, tuple((key, USAGE) for key in numbers), NO_STEP, timed=False)
        values = np.fromiter(numbers.values(), np.float64)[:, np.newaxis]
        arrived.rows[shape].append(_Rows(np.array([fact.at]), np.array([fact.seq]), None, None, values))


_USED = ("cpu_seconds", "memory", "read_bytes", "write_bytes", "processes")
