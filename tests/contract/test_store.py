"""What the store promises whoever writes to it and follows it: all or nothing, once, in the order of its revisions."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from sexton import clock, errors
from sexton.ingest import ingest
from sexton.model.records import Ack, Batch, Finished, Note, Params, Tag, Trouble
from sexton.model.runs import Run, RunFilter
from sexton.store import database as store
from sexton.store import runs, series
from sexton.store.database import Database, open_database
from tests.batches import T0, new_run, points, records, started
from tests.postgres import Postgres

NOW = T0 + 3_600 * clock.SECOND


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    database = open_database(store_url)
    yield database
    database.close()


def put(database: Database, *batches: Batch, now: int = NOW) -> list[Ack]:
    with database.write("me", now) as tx:
        return ingest(tx, batches)


# --------------------------------------------------------------------------------------------------------- transactions


def test_what_raises_leaves_no_trace(database: Database) -> None:
    run = new_run()

    def half_done() -> None:
        with database.write("me") as tx:
            ingest(tx, [started(run, "e")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_done()
    with database.read() as connection:
        assert runs.revision(connection) == 0
        with pytest.raises(errors.RunNotFound):
            runs.resolve(connection, run)


def test_a_reader_sees_one_moment(database: Database) -> None:
    put(database, started(new_run(), "e"))
    with database.read() as connection:
        assert runs.page(connection, RunFilter(), NOW).total == 1
        put(database, started(new_run(), "e"))
        assert runs.page(connection, RunFilter(), NOW).total == 1


def test_a_follower_misses_nothing_of_four_writers(database: Database) -> None:
    each = 40
    done = threading.Event()
    seen: list[tuple[str, int]] = []

    def write(writer: int) -> list[str]:
        mine = [new_run() for _ in range(4)]
        for number in range(each):
            run = mine[number % 4]
            put(
                database,
                records(run, Tag(at=T0 + number, key="n", value=str(number)), first=number, writer=str(writer)),
            )
        return mine

    def follow() -> None:
        since = 0
        while True:
            last_round = done.is_set()
            with database.read() as connection:
                changes = runs.changes(connection, since, 5, NOW)
            seen.extend((run.id, int(run.tags["n"])) for run in changes.runs)
            assert all(run.revision > since for run in changes.runs)
            since = changes.revision
            if last_round and not changes.runs:
                return

    with ThreadPoolExecutor(5) as pool:
        follower = pool.submit(follow)
        writers = [pool.submit(write, number) for number in range(4)]
        expected = {run: 36 + place for writer in writers for place, run in enumerate(writer.result())}
        done.set()
        follower.result()
    last = dict(seen)  # the newest that the follower saw of each run
    assert last == expected
    with database.read() as connection:
        assert runs.revision(connection) == 4 * each


def test_runs_of_one_revision_come_together(database: Database) -> None:
    put(database, *(started(new_run(), "e") for _ in range(7)))
    put(database, started(new_run(), "e"))
    with database.read() as connection:
        first = runs.changes(connection, 0, 3, NOW)
        rest = runs.changes(connection, first.revision, 3, NOW)
        assert (len(first.runs), first.revision, len(rest.runs), rest.revision) == (7, 1, 1, 2)
        assert runs.changes(connection, 2, 3, NOW).runs == []


def test_a_batch_that_arrives_several_times_at_once_has_its_effect_once(database: Database) -> None:
    together = threading.Barrier(4)

    def deliver(batches: list[Batch]) -> list[Ack]:
        together.wait(30)
        while True:
            try:
                return put(database, *batches)
            except errors.Unavailable:
                continue

    with ThreadPoolExecutor(4) as pool:
        for known in (True, False) * 4:
            run = new_run()
            if known:
                put(database, started(run, "e"))
            batch = records(run, Note(at=T0, text="once"), Trouble(at=T0 + 1, kind="lost", count=1), first=5)
            sent = [batch, points(run, {"m": [1.0, 2.0]}, first=10)]
            acks = [ack for found in pool.map(deliver, [sent] * 4) for ack in found]
            assert sorted(ack.new for ack in acks) == [0] * 6 + [2, 2]
            with database.read() as connection:
                found = runs.detail(connection, run, NOW)
                assert series.read(connection, run, "m").values == [1.0, 2.0]
            assert len(found.notes) == 1
            assert (found.run.metrics["m"].count, found.run.trouble) == (2, {"lost": 1})


def test_writers_of_the_same_new_runs_do_not_lose_each_others_work(database: Database) -> None:
    ids = [new_run() for _ in range(6)]

    def write(writer: int) -> None:
        for number in range(10):
            order = ids if writer % 2 else ids[::-1]
            batches = [points(run, {"m": [1.0]}, first=number, writer=str(writer)) for run in order]
            while True:
                try:
                    put(database, *batches)
                    break
                except errors.Unavailable:  # two that met head-on: one is told to try again
                    continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with database.read() as connection:
        for run in ids:
            assert runs.detail(connection, run, NOW).run.metrics["m"].count == 40
            assert series.read(connection, run, "m").count == 40


def test_a_writer_that_waits_too_long_is_told_that_the_store_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pragmas = tuple(pragma for pragma in store._PRAGMAS if "busy" not in pragma)
    monkeypatch.setattr(store, "_PRAGMAS", ("busy_timeout = 50", *pragmas))
    database = open_database(f"file:{tmp_path}")
    with database.write("me"), pytest.raises(errors.StoreBusy) as caught, database.write("somebody else"):
        pass
    assert caught.value.transient
    database.close()


# --------------------------------------------------------------------------------------------------------------- faults

WRITER = """
import sys
from sexton.ingest import ingest
from sexton.store import series
from sexton.store.database import open_database
from tests.batches import points
database = open_database(sys.argv[1])
for number in range(100_000):
    with database.write("me") as tx:
        ingest(tx, [points(sys.argv[2], {"m": [float(number)]}, first=number)])
    print(number, flush=True)
    if number % 20 == 0:
        with database.write("me") as tx:
            series.compact(tx, sys.argv[2])
"""


@pytest.mark.parametrize("after", [3, 21, 37])
def test_what_was_acknowledged_survives_kill_9_and_a_resend_adds_nothing(store_url: str, after: int) -> None:
    run = new_run()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, store_url, run], stdout=subprocess.PIPE, env=_environment()
    )
    assert writer.stdout is not None
    for _ in range(after):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    acknowledged = after + len(writer.stdout.readlines())
    writer.wait()
    writer.stdout.close()
    database = open_database(store_url)
    with database.read() as connection:
        kept = series.read(connection, run, "m")
    assert acknowledged <= kept.count <= acknowledged + 1
    assert kept.values == [float(number) for number in range(kept.count)]
    put(database, *(points(run, {"m": [float(number)]}, first=number) for number in range(acknowledged + 5)))
    with database.read() as connection:
        assert series.read(connection, run, "m").values == [float(number) for number in range(acknowledged + 5)]
        assert runs.detail(connection, run, NOW).run.metrics["m"].count == acknowledged + 5
    database.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_a_restart_of_postgresql_in_the_middle_is_transient_and_a_retry_has_its_effect_once(
    own_postgres: Postgres,
) -> None:
    database = open_database(own_postgres.url(own_postgres.create_database()))
    run = new_run()
    put(database, started(run, "e"))
    batch = points(run, {"m": [1.0, 2.0]})

    def interrupted() -> None:
        with database.write("me", NOW) as tx:
            ingest(tx, [batch])
            own_postgres.stop(signal.SIGINT)

    with pytest.raises(errors.Unavailable) as caught:
        interrupted()
    assert caught.value.transient
    with pytest.raises(errors.Unavailable) as down:
        put(database, batch)
    assert down.value.transient
    own_postgres.start()
    acks = _patiently(database, batch)
    assert acks == [Ack(2, 0)]
    assert put(database, batch) == [Ack(0, 2)]
    with database.read() as connection:
        assert series.read(connection, run, "m").values == [1.0, 2.0]
    database.close()


def _patiently(database: Database, batch: Batch) -> list[Ack]:
    """A pool may hold several connections that the restart broke; each is found out once."""
    for _ in range(10):
        try:
            return put(database, batch)
        except errors.Unavailable:
            continue
    raise AssertionError("never came back")


def test_a_password_is_in_no_message(postgres_url: str) -> None:
    url = "postgresql://somebody:sesame@/nowhere?host=/nonexistent"
    with pytest.raises(errors.Unavailable) as caught:
        open_database(url)
    assert "sesame" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- pages


STATES: tuple[Literal["finished", "failed", "killed"], ...] = ("finished", "failed", "killed")


@pytest.fixture
def listed(database: Database) -> Database:
    """60 runs that differ in all that a filter or a sort asks for, many of them alike in it."""
    batches = []
    for number in range(60):
        run = new_run()
        said: dict[str, str] = {"name": f"name-{number % 7}"} if number % 5 else {}
        batches.append(
            started(run, f"e{number % 3}", project=f"p{number % 2}", sweep="s" if number % 4 == 0 else "t", **said)
        )
        at = T0 + (number % 11) * clock.SECOND
        facts = [Params(at=at, params={"n": str(number)}), Tag(at=at, key="tier", value=("gold", "tin")[number % 2])]
        if number % 6 == 0:
            facts.append(Tag(at=at, key="pin"))
        if number % 3:
            state = STATES[number % 3]
            facts.append(Finished(at=at + number, state=state, cpu_seconds=number % 4 or None))
        batches.append(records(run, *facts, first=1))
        if number % 4:
            batches.append(points(run, {"acc": [float("nan") if number % 8 == 1 else number % 9]}, first=20))
    put(database, *batches)
    return database


@pytest.mark.parametrize("sort", ["created", "ended", "name", "seconds", "cpu", "metrics.acc", "metrics.none"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_pages_in_any_order_hold_every_run_once_and_the_unknown_last(listed: Database, sort: str, sign: str) -> None:
    with listed.read() as connection:
        pages = [runs.page(connection, RunFilter(sort=sign + sort, limit=7), NOW)]
        while pages[-1].next:
            pages.append(runs.page(connection, RunFilter(sort=sign + sort, limit=7, after=pages[-1].next), NOW))
    found = [run for page in pages for run in page.runs]
    assert len({run.id for run in found}) == len(found) == 60
    assert {page.total for page in pages} == {60}

    def value(run: Run) -> object:
        if sort.startswith("metrics."):
            summary = run.metrics.get("acc") if sort == "metrics.acc" else None
            return None if summary is None or summary.last == "NaN" else summary.last
        names = {"created": "created_at", "ended": "ended_at", "cpu": "cpu_seconds"}
        return getattr(run, names.get(sort, sort))

    values = [value(run) for run in found]
    known = [one for one in values if one is not None]
    assert values == known + [None] * (60 - len(known))
    assert known == sorted(known, reverse=bool(sign))  # type: ignore[type-var]  # all of one kind


@pytest.mark.parametrize(
    ("which", "passes"),
    [
        (RunFilter(project="p1"), lambda run: run.project == "p1"),
        (RunFilter(project="p1", experiment="e2"), lambda run: (run.project, run.experiment) == ("p1", "e2")),
        (RunFilter(states=("running",)), lambda run: run.state == "running"),
        (RunFilter(states=("failed", "killed")), lambda run: run.state in ("failed", "killed")),
        (RunFilter(tags=("pin",)), lambda run: "pin" in run.tags),
        (RunFilter(tags=("tier=gold", "pin")), lambda run: run.tags.get("tier") == "gold" and "pin" in run.tags),
        (RunFilter(tags=("tier=lead",)), lambda run: False),
        (RunFilter(sweep="s", sort="-metrics.acc"), lambda run: run.sweep == "s"),
    ],
)
def test_a_filter_passes_what_it_says_and_counts_it(listed: Database, which: RunFilter, passes: object) -> None:
    assert callable(passes)
    with listed.read() as connection:
        everything = runs.page(connection, RunFilter(limit=100), NOW).runs
        page = runs.page(connection, which, NOW)
    expected = {run.id for run in everything if passes(run)}
    assert {run.id for run in page.runs} == expected
    assert page.total == len(expected)


def test_a_silent_run_is_lost_wherever_it_is_shown(listed: Database) -> None:
    later = NOW + 24 * 3_600 * clock.SECOND
    with listed.read() as connection:
        assert runs.page(connection, RunFilter(states=("running",)), later).total == 0
        lost = runs.page(connection, RunFilter(states=("lost",)), later)
        assert lost.total == 20
        assert {run.state for run in lost.runs} == {"lost"}
        assert runs.detail(connection, lost.runs[0].id, later).run.state == "lost"
        assert runs.page(connection, RunFilter(states=("lost",)), T0).total == 0


@pytest.mark.parametrize("which", [RunFilter(sort="beauty"), RunFilter(after="nonsense"), RunFilter(after="kcM=")])
def test_a_page_that_there_is_not_is_an_error_that_says_so(database: Database, which: RunFilter) -> None:
    with database.read() as connection, pytest.raises(errors.InvalidValue):
        runs.page(connection, which, NOW)


def test_the_beginning_of_an_id_is_enough_where_it_is_the_only_one(database: Database) -> None:
    ids = ["aaaaaaaaaaaa", "aaaaaaaaaaab", "b00000000000"]
    put(database, *(started(run, "e") for run in ids))
    with database.read() as connection:
        assert runs.resolve(connection, "b") == ids[2]
        assert runs.resolve(connection, "aaaaaaaaaaab") == ids[1]
        with pytest.raises(errors.AmbiguousRun, match="aaaaaaaaaaaa, aaaaaaaaaaab"):
            runs.resolve(connection, "aaa")
        for text in ("c", "", "%", "B00000000000", "aaaaaaaaaaaab", "b'"):
            with pytest.raises(errors.RunNotFound):
                runs.resolve(connection, text)


def test_ten_thousand_metrics_of_a_run_in_many_calls(database: Database) -> None:
    run = new_run()
    names = [f"m{number:05}" for number in range(10_000)]
    for place in range(0, 10_000, 1_000):
        values: dict[str, Sequence[float]] = dict.fromkeys(names[place : place + 1000], (0.0, 1.0))
        put(database, points(run, values, first=place))
    with database.write("me", NOW) as tx:
        series.compact(tx, run)
    with database.read() as connection:
        assert len(runs.detail(connection, run, NOW).run.metrics) == 10_000
        assert series.read(connection, run, "m07777").values == [0.0, 1.0]
