"""However records are cut into batches, shuffled and repeated, the store ends up as if each had come once, in order."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sexton.api import Local
from sexton.ingest import ingest
from sexton.model import records as facts
from sexton.model.records import Batch, Points, encode
from sexton.store import runs, series
from sexton.store.database import Database
from tests.batches import T0, new_run, recipe, stored

NOW = T0 + 10**15
KEYSETS: list[list[str | tuple[str, str]]] = [["loss"], ["loss", "acc"], ["acc", ("acc", '{"split":"val"}')]]
PIECES = [b"one", b"two"]
DIGESTS = [recipe(piece).digest for piece in PIECES]
USED = ["cpu_seconds", "memory", "gpu/0/power_watts"]


class Row(NamedTuple):
    """One log call."""

    keys: int
    step: int | float | None
    time: int | None
    values: list[float]


class Said(NamedTuple):
    """A record of a session, and its time."""

    at: int
    what: Row | msgspec.Raw | None
    """None: a number of the sequence that the store need not know, such as a shape."""


class Session(NamedTuple):
    writer: str
    epoch: int
    said: list[Said]


numbers = st.floats(width=64) | st.sampled_from([0.0, -0.0, float("nan"), float("inf"), 5e-324, 1e308])
steps = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3) | st.floats(-10, 10)
words = st.sampled_from(["a", "b", "c\x00d"])


def _record(make: Callable[..., facts.Record], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(fields).map(lambda said: lambda at: msgspec.Raw(encode(make(at=at, **said))))


def _values(keys: int) -> st.SearchStrategy[list[float]]:
    return st.lists(numbers, min_size=len(KEYSETS[keys]), max_size=len(KEYSETS[keys]))


rows = st.integers(0, len(KEYSETS) - 1).flatmap(
    lambda keys: st.builds(Row, st.just(keys), steps, st.none() | st.integers(-5, 5), _values(keys))
)
ends = st.sampled_from(["finished", "failed", "killed", "lost"])
records = st.one_of(
    _record(
        facts.Started,
        role=st.sampled_from(["owner", "joined", "observer"]),
        experiment=st.sampled_from([None, "one", "two"]),
        name=st.none() | words,
    ),
    _record(facts.Finished, state=ends, epoch=st.none() | st.integers(0, 2), exit_code=st.none() | st.integers(0, 3)),
    _record(facts.Params, params=st.dictionaries(words, st.sampled_from(["1", "2", "not json"]), max_size=2)),
    _record(facts.Tag, key=words, value=st.none() | words),
    _record(facts.Direction, metric=st.sampled_from(["loss", "acc"]), direction=st.sampled_from(["min", "max"])),
    _record(facts.Note, text=words),
    _record(facts.Console, stream=st.just("stdout"), offset=st.just(0), data=st.binary(max_size=3)),
    _record(facts.Artifact, name=words, digest=st.sampled_from(DIGESTS), metrics=st.dictionaries(words, numbers)),
    _record(facts.Captured, section=words, facts=st.dictionaries(words, st.integers(0, 9), max_size=1)),
    _record(facts.Concluded, outcome=st.sampled_from(["worked", "worse"]), takeaway=words),
    _record(facts.Trouble, kind=st.just("lost"), count=st.integers(1, 5)),
    _record(facts.Heartbeat),
    _record(
        facts.Usage,
        method=st.just("sampled"),
        cpu_seconds=st.none() | st.floats(0, 10),
        memory=st.none() | st.integers(0, 9),
        gpus=st.sampled_from([(), ({"index": 0, "name": "x", "power_watts": 3.5},)]),
    ),
    st.integers(0, 9).map(lambda n: lambda at: msgspec.Raw(msgspec.msgpack.encode({"t": "dance", "at": at, "n": n}))),
)


@st.composite
def sessions(draw: st.DrawFn) -> list[Session]:
    """A few sessions whose times often tie."""
    found = []
    for writer, epoch in draw(
        st.lists(st.tuples(st.sampled_from("vw"), st.integers(0, 2)), unique=True, min_size=1, max_size=3)
    ):
        at, said = T0 + draw(st.integers(0, 3)), []
        for what in draw(st.lists(rows | records | st.none(), min_size=1, max_size=6)):
            at += draw(st.integers(1, 2))
            said.append(Said(at, what(at) if callable(what) else what))
        found.append(Session(writer, epoch, said))
    return found


def cut(run: str, session: Session, first: int, end: int) -> Batch:
    """Records `first` up to `end` of a session as a courier sends them."""
    batch = Batch(run, session.writer, session.epoch, first, end - first)
    shapes: dict[tuple[int, str, bool], list[tuple[int, int, Row]]] = defaultdict(list)
    for offset, (at, what) in enumerate(session.said[first:end]):
        if isinstance(what, Row):
            kind = {int: "int", float: "float"}.get(type(what.step), "none")
            shapes[what.keys, kind, what.time is not None].append((offset, at, what))
        elif what is not None:
            batch.records.append((offset, what))
    for (keys, kind, timed), found in shapes.items():
        batch.points.append(_points(KEYSETS[keys], kind, timed, found))
    return batch


def _points(keys: list[str | tuple[str, str]], kind: Any, timed: bool, found: list[tuple[int, int, Row]]) -> Points:
    offsets, ats, said = zip(*found, strict=True)
    own = b"" if kind == "none" else np.array([row.step for row in said], "<f8" if kind == "float" else "<i8").tobytes()
    return Points(
        keys=keys,
        rows=len(found),
        seq=np.array(offsets, "<u4").tobytes(),
        at=np.array(ats, "<i8").tobytes(),
        values=np.array([row.values for row in said], "<f8").T.tobytes(),
        steps=own,
        step_kind=kind,
        times=np.array([row.time for row in said], "<i8").tobytes() if timed else b"",
    )


def in_order(run: str, said: Sequence[Session]) -> Iterator[list[Batch]]:
    """Each record by itself, in the order of the log."""
    places = [
        (one.at, session.writer, session.epoch, seq, session)
        for session in said
        for seq, one in enumerate(session.said)
    ]
    for _, _, _, seq, session in sorted(places, key=lambda place: place[:4]):
        yield [cut(run, session, seq, seq + 1)]


def anyhow(run: str, said: Sequence[Session], chance: random.Random) -> Iterator[list[Batch]]:
    """Every record at least once, in ranges that overlap, in any order."""
    ranges = []
    for session in said:
        whole = len(session.said)
        borders = sorted({0, whole, *(chance.randint(0, whole) for _ in range(3))})
        ranges += [(session, *pair) for pair in pairwise(borders)]
        for _ in range(chance.randint(0, 3)):
            first = chance.randrange(whole)
            ranges.append((session, first, chance.randint(first + 1, whole)))
    ranges += chance.choices(ranges, k=2)
    chance.shuffle(ranges)
    while ranges:
        size = chance.randint(1, len(ranges))
        yield [cut(run, *place) for place in ranges[:size]]
        ranges = ranges[size:]


def shown(database: Database, run: str) -> dict[str, Any]:
    """All that a reader can learn of a run, without what tells it from another run or store."""
    with database.read() as connection:
        detail = msgspec.to_builtins(runs.detail(connection, run, NOW))
        detail["run"]["id"] = detail["run"]["revision"] = None
        measured = [*detail["run"].get("metrics", {})]
        found = {"detail": detail, "console": msgspec.to_builtins(runs.console(connection, run))}
        for context, names in (("", measured), ("usage", USED)):
            for name in names:
                try:
                    points = series.read(connection, run, name, context)
                except LookupError:
                    continue
                found[f"{name} {context}"] = msgspec.json.encode(points)
    return found


def check(database: Database, said: Sequence[Session], seed: int) -> None:
    chance = random.Random(seed)
    once, often = new_run(), new_run()
    for run, deliveries in ((once, in_order(once, said)), (often, anyhow(often, said, chance))):
        for batches in deliveries:
            with database.write("me", NOW) as tx:
                acks = ingest(tx, batches)
            assert [ack.new + ack.known for ack in acks] == [batch.count for batch in batches]
            if run == often and chance.random() < 0.3:
                with database.write("me", NOW) as tx:
                    series.compact(tx, run)
        forget_directions(database)
    assert shown(database, often) == shown(database, once)


def forget_directions(database: Database) -> None:
    """They are of the experiment, hence would let the first delivery speak for the second."""
    with database.write("me", NOW) as tx:
        tx.connection.exec_driver_sql("DELETE FROM directions")


def _opened(url: str, folders: pytest.TempPathFactory) -> Database:
    """A store that has the bytes which the records name."""
    client = Local.open(url, f"file:{folders.mktemp('blobs')}")
    for piece in PIECES:
        stored(client, piece)
    return client.database


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = _opened(f"file:{tmp_path_factory.mktemp('store')}", tmp_path_factory)
    yield database
    database.close()


@pytest.fixture(scope="module")
def postgresql(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = _opened(postgres.url(postgres.create_database()), tmp_path_factory)
    yield database
    database.close()


@settings(max_examples=60, deadline=None)
@given(said=sessions(), seed=st.integers(0, 2**32))
def test_any_delivery_is_one_delivery(sqlite: Database, said: list[Session], seed: int) -> None:
    check(sqlite, said, seed)


@settings(max_examples=15, deadline=None)
@given(said=sessions(), seed=st.integers(0, 2**32))
def test_any_delivery_is_one_delivery_on_postgresql(postgresql: Database, said: list[Session], seed: int) -> None:
    check(postgresql, said, seed)
