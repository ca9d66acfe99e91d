"""What becomes of each kind of record, on either database, whatever a caller may send."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sexton import clock, errors
from sexton.api import Local
from sexton.ingest import ingest
from sexton.model import records as facts
from sexton.model.records import Ack, Batch, Points
from sexton.model.runs import Detail, Run, RunFilter
from sexton.model.values import encode_param
from sexton.store import runs, series
from sexton.store.database import Database, open_database
from tests.batches import T0, new_run, points, records, started, stored
from tests.postgres import Postgres

NOW = T0 + 3_600 * clock.SECOND


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One store for all tests of the module, which is why each test makes runs of its own."""
    if request.param == "sqlite":
        url = f"file:{tmp_path_factory.mktemp('store')}"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.url(postgres.create_database())
    database = open_database(url)
    yield database
    database.close()


@pytest.fixture
def run() -> str:
    return new_run()


def put(database: Database, *batches: Batch, actor: str = "me", now: int = NOW) -> list[Ack]:
    with database.write(actor, now) as tx:
        return ingest(tx, batches)


def detail(database: Database, run: str) -> Detail:
    with database.read() as connection:
        return runs.detail(connection, run, NOW)


def shown(database: Database, run: str) -> Run:
    return detail(database, run).run


def raw(**fields: Any) -> Batch:
    """A batch of one record that no version of ours would write."""
    return Batch(new_run(), "w", 0, 0, 1, records=[(0, msgspec.Raw(msgspec.msgpack.encode(fields)))])


# ------------------------------------------------------------------------------------------------------------- delivery


def test_an_ack_tells_new_from_known(database: Database, run: str) -> None:
    assert put(database, points(run, {"m": [1.0, 2.0]}, first=0)) == [Ack(2, 0)]
    overlapping = points(run, {"m": [1.0, 2.0, 3.0]}, first=0)
    assert put(database, overlapping, overlapping) == [Ack(1, 2), Ack(0, 3)]
    assert put(database, points(run, {"m": [9.0]}, first=50)) == [Ack(1, 0)]
    assert shown(database, run).metrics["m"].count == 4


def test_what_adds_nothing_changes_no_revision(database: Database, run: str) -> None:
    put(database, started(run, "e"))
    before = shown(database, run).revision
    with database.write("me", NOW) as tx:
        ingest(tx, [started(run, "e")])
    assert tx.revision is None
    assert shown(database, run).revision == before


def test_two_writers_may_use_the_same_numbers(database: Database, run: str) -> None:
    put(database, points(run, {"m": [1.0]}, writer="a"), points(run, {"m": [2.0]}, writer="b"))
    assert shown(database, run).metrics["m"].count == 2


def test_a_run_may_be_spoken_of_before_it_says_that_it_started(database: Database, run: str) -> None:
    put(database, points(run, {"m": [1.0]}, first=1))
    with database.read() as connection:
        early = runs.detail(connection, run, T0).run
    assert (early.state, early.experiment, early.project) == ("running", "default", "default")
    put(database, started(run, "late", name="named"))
    late = shown(database, run)
    assert (late.experiment, late.name, late.created_at) == ("late", "named", T0)


def broken(**said: Any) -> Batch:
    whole: dict[str, Any] = {"run": "000000000000", "writer": "w", "epoch": 0, "first": 0, "count": 2}
    return Batch(**(whole | said))


def broken_points(**said: Any) -> Batch:
    whole: dict[str, Any] = {
        "keys": ["m"],
        "rows": 2,
        "seq": bytes(4) + b"\1\0\0\0",
        "at": bytes(16),
        "values": bytes(16),
    }
    return broken(points=[Points(**(whole | said))])


BROKEN = {
    "run": broken(run="not a run"),
    "no writer": broken(writer=""),
    "writer": broken(writer="w\n"),
    "epoch": broken(epoch=-1),
    "first": broken(first=-1),
    "far": broken(first=2**60),
    "nothing": broken(count=0),
    "more damage than records": broken(damaged=3),
    "version": broken(version=2),
    "record beyond": broken(records=[(2, msgspec.Raw(b"\x80"))]),
    "record twice": broken(records=[(1, msgspec.Raw(b"\x80")), (1, msgspec.Raw(b"\x80"))]),
    "no metric": broken_points(keys=[]),
    "metric twice": broken_points(keys=["m", "m"], values=bytes(32)),
    "metric twice, one with a context": broken_points(keys=["m", ("m", "")], values=bytes(32)),
    "control character": broken_points(keys=["new\nline"]),
    "long name": broken_points(keys=["n" * 1001]),
    "reserved context": broken_points(keys=[("m", "usage")]),
    "no rows": broken_points(rows=0, seq=b"", at=b"", values=b""),
    "more rows": broken_points(rows=3),
    "negative rows": broken_points(rows=-2),
    "same sequence": broken_points(seq=bytes(8)),
    "sequence beyond": broken_points(seq=bytes(4) + b"\2\0\0\0"),
    "ragged times": broken_points(at=bytes(15)),
    "ragged values": broken_points(values=bytes(8)),
    "steps of no kind": broken_points(steps=bytes(16)),
    "kind without steps": broken_points(step_kind="int"),
    "few times": broken_points(times=bytes(8)),
}


@pytest.mark.parametrize("batch", BROKEN.values(), ids=BROKEN)
def test_a_batch_that_makes_no_sense_is_refused_whole(database: Database, run: str, batch: Batch) -> None:
    with pytest.raises(errors.InvalidRecord):
        put(database, started(run, "e"), batch)
    with pytest.raises(errors.RunNotFound):
        detail(database, run)


# -------------------------------------------------------------------------------------------------- values for each key


def test_the_first_param_stays_and_a_second_is_counted_once(database: Database, run: str) -> None:
    def given(at: int, value: object, first: int) -> Batch:
        return records(run, facts.Params(at=T0 + at, params={"lr": encode_param(value)}), first=first)

    put(database, given(5, 0.5, first=1))
    put(database, given(9, 0.9, first=3))
    put(database, given(1, 0.1, first=0), given(7, 0.1, first=2))
    assert shown(database, run).params == {"lr": 0.1}
    assert shown(database, run).trouble == {"conflicting": 1}


def test_params_come_back_as_they_were(database: Database, run: str) -> None:
    given = {
        "int": 2**63 - 1,
        "huge": 10**40,
        "nan": math.nan,
        "inf": -math.inf,
        "nested": {"a": [1, None, True, {"b": "ü\t"}]},
        "long": "x" * 500_000,
        "🔥/emoji\n": 1,
        "k" * 10_000: 2,
    }
    said = facts.Params(at=T0, params={key: encode_param(value) for key, value in given.items()})
    put(database, records(run, said))
    found = shown(database, run).params
    assert found["int"] == 2**63 - 1
    assert found["huge"] == {"$int": str(10**40)}
    assert (found["nan"], found["inf"]) == ({"$float": "NaN"}, {"$float": "-Infinity"})
    assert found["nested"] == {"a": [1, None, True, {"b": "ü\t"}]}
    assert found["long"] == "x" * 500_000
    assert len(found) == len(given)


def test_a_param_that_is_no_json_is_kept_as_text(database: Database, run: str) -> None:
    put(database, records(run, facts.Params(at=T0, params={"a": "{not json", "b": "", "c": "[" * 5_000})))
    assert shown(database, run).params == {"a": "{not json", "b": None, "c": "[" * 5_000}


def test_the_newest_tag_counts_and_a_removal_is_one(database: Database, run: str) -> None:
    def tagged(at: int, value: str | None) -> Batch:
        return records(run, facts.Tag(at=T0 + at, key="tier", value=value), first=at)

    put(database, tagged(2, None))
    put(database, tagged(1, "old"))
    assert shown(database, run).tags == {}
    put(database, tagged(3, "new"))
    assert shown(database, run).tags == {"tier": "new"}
    with database.read() as connection:
        assert runs.page(connection, RunFilter(tags=("tier=new",)), NOW).total == 1


def test_text_of_any_length_and_kind_is_taken(database: Database, run: str) -> None:
    long = "\x00ü" + "z" * 100_000
    put(
        database,
        records(
            run,
            facts.Started(
                at=T0, name=long, experiment=long, project=long, sweep=long, user=long, cwd=long, argv=(long,)
            ),
            facts.Tag(at=T0 + 1, key=long, value=long),
            facts.Artifact(at=T0 + 2, name=long, digest=long, uri=long, size=2**63 - 1, kind=long, shed=(long,)),
            facts.Direction(at=T0 + 5, metric=long, direction="max"),
            facts.Concluded(at=T0 + 6, outcome="worked", takeaway=long),
            facts.Trouble(at=T0 + 7, kind=long, count=1),
            facts.Note(at=T0 + 8, text=long),
            facts.Captured(at=T0 + 9, section=long, facts={long: long}),
            facts.Finished(at=T0 + 10, state="failed", message=long, traceback=long, cpu_seconds=math.nan),
        ),
    )
    found = detail(database, run)
    assert found.run.message == "\ufffdü" + "z" * 100_000
    assert found.run.argv == (long,)
    assert found.traceback == long
    assert found.notes[0].text == long
    assert found.run.cpu_seconds is None
    assert found.artifacts[0].size == 2**63 - 1
    (value,) = found.run.tags.values()
    with database.read() as connection:
        key = next(iter(found.run.tags))
        assert runs.page(connection, RunFilter(tags=(f"{key}={value}",)), NOW).total == 1


# ------------------------------------------------------------------------------------------------------------- sessions


def test_a_run_is_described_and_ended_by_all_its_sessions(database: Database, run: str) -> None:
    put(database, records(run, facts.Started(at=T0, experiment="e", user="ann", task="T-1"), writer="a"))
    ended = facts.Finished(at=T0 + clock.SECOND, state="killed", epoch=0, cause="oom", signal=9, max_rss=5)
    watcher = Batch(run, "a", 1, 0, 2)
    watched = (facts.Started(at=T0 + 5, role="observer"), ended)
    watcher.records = [(place, msgspec.Raw(facts.encode(one))) for place, one in enumerate(watched)]
    put(database, watcher)
    found = detail(database, run)
    assert (found.run.state, found.run.cause, found.run.signal, found.run.max_rss) == ("killed", "oom", 9, 5)
    assert (found.run.user, found.run.task, found.run.seconds) == ("ann", "T-1", 1.0)
    assert [(s.epoch, s.closed is not None) for s in found.sessions] == [(0, True), (1, False)]


def test_a_wrong_clock_makes_no_run_seem_alive(database: Database, run: str) -> None:
    put(database, started(run, "e"), records(run, facts.Heartbeat(at=NOW + 10**18), first=1))
    assert shown(database, run).heard_at == NOW


def test_an_act_is_audited_and_no_sign_of_life(database: Database, run: str) -> None:
    put(database, started(run, "e"))
    act = (facts.Tag(at=NOW, key="pin"), facts.Note(at=NOW + 1, text="why"))
    put(database, records(run, *act, writer="act-1"), actor="ann")
    put(database, records(run, facts.Tag(at=T0 + 1, key="own"), first=1), actor="bob")
    found = detail(database, run)
    assert found.run.tags == {"own": "", "pin": ""}
    assert found.run.heard_at == T0 + 1
    assert [(note.actor, note.text) for note in found.notes] == [("ann", "why")]
    with database.read() as connection:
        question = f"SELECT actor, act, detail FROM audit WHERE subject = '{run}' ORDER BY id"
        entries = [tuple(row) for row in connection.exec_driver_sql(question)]
    assert [entry[:2] for entry in entries] == [("ann", "tag"), ("ann", "note")]
    assert msgspec.json.decode(entries[0][2])["key"] == "pin"


# ------------------------------------------------------------------------------------------------------------ what else


def test_console_notes_files_and_findings_come_back_in_the_order_of_the_log(
    database: Database, run: str, tmp_path: Path
) -> None:
    client = Local.open(database.url, f"file:{tmp_path}")
    first, second = stored(client, b"one"), stored(client, b"four")
    client.close()
    said = [
        facts.Console(at=T0 + 1, stream="stdout", offset=0, data=b"one\xff"),
        facts.Console(at=T0 + 2, stream="stderr", offset=0, data=b"two", skipped=7),
        facts.Note(at=T0 + 3, text="first"),
        facts.Note(at=T0 + 4, text="second"),
        facts.Artifact(at=T0 + 5, name="f", digest=first, step=2.0, metrics={"acc": math.nan}),
        facts.Artifact(at=T0 + 6, name="f", digest=second),
        facts.Captured(at=T0 + 7, section="code", facts={"commit": "a"}),
        facts.Captured(at=T0 + 8, section="code", facts={"commit": "b"}),
        facts.Edge(at=T0 + 9, direction="consumed", digest="b3:d", name="train"),
    ]
    for place in (5, 3, 8, 1, 7, 0, 6, 2, 4):
        put(database, records(run, said[place], first=place))
    found = detail(database, run)
    with database.read() as connection:
        console = runs.console(connection, run)
    assert (console.text, console.skipped) == ("one\ufffdtwo", 7)
    assert [note.text for note in found.notes] == ["first", "second"]
    assert [(file.digest, file.step, file.metrics) for file in found.artifacts] == [
        (first, 2.0, {"acc": "NaN"}),
        (second, None, {}),
    ]
    assert found.run.bytes == 7
    assert found.captured == {"code": {"commit": "b"}}


@pytest.mark.parametrize(
    "stray",
    [
        raw(t="dance", at=5, steps=3),
        raw(t="note", at="yesterday"),
        raw(t="note", at=2**63, text="too late for any column"),
        raw(t="saved", at=5, file="f", name="n"),
        raw(t="t" * 5_000),
        Batch(new_run(), "w", 0, 0, 1, records=[(0, msgspec.Raw(b"\xc1"))]),
    ],
    ids=["newer", "wrong type", "too large", "saved", "long", "no msgpack"],
)
def test_a_record_that_this_version_does_not_know_is_kept_and_counted(database: Database, stray: Batch) -> None:
    assert put(database, stray) == [Ack(1, 0)]
    assert put(database, stray) == [Ack(0, 1)]
    found = detail(database, stray.run)
    assert (found.run.trouble, found.notes) == ({"unknown": 1}, [])
    with database.read() as connection:
        question = f"SELECT type, body FROM records WHERE run = '{stray.run}'"
        ((kind, body),) = connection.exec_driver_sql(question).all()
    assert kind.startswith("?")
    assert bytes(body) == bytes(stray.records[0][1])


def test_trouble_with_the_record_is_added_up(database: Database, run: str) -> None:
    damaged = records(run, facts.Trouble(at=T0, kind="lost", count=3))
    damaged.count, damaged.damaged = 5, 4
    put(database, damaged, damaged)
    put(database, records(run, facts.Trouble(at=T0 + 9, kind="lost", count=2), first=9))
    assert shown(database, run).trouble == {"damaged": 4, "lost": 5}


def test_usage_is_a_series_of_its_own_and_no_metric_of_the_run(database: Database, run: str) -> None:
    gpu = {"index": 1, "name": "T", "power_watts": 70.5}
    said = [
        facts.Usage(at=T0 + 1, method="tree", cpu_seconds=1.0, memory=500, gpus=(gpu,)),
        facts.Usage(at=T0 + 2, method="tree", cpu_seconds=2.5, memory=900),
        facts.Usage(at=T0 + 3, method="tree", cpu_seconds=3.0, memory=100),
    ]
    put(database, started(run, "e"), records(run, *said, first=1), points(run, {"memory": [1.0]}, first=9))
    found = shown(database, run)
    assert found.max_rss == 900
    assert set(found.metrics) == {"memory"}
    with database.read() as connection:
        assert series.read(connection, run, "cpu_seconds", "usage").values == [1.0, 2.5, 3.0]
        assert series.read(connection, run, "gpu/1/power_watts", "usage").times == [T0 + 1]
        assert series.read(connection, run, "memory").values == [1.0]
        with pytest.raises(errors.MetricNotFound):
            series.read(connection, run, "cpu_seconds")


# ------------------------------------------------------------------------------------------------------------ summaries


def test_a_summary_skips_nan_but_for_the_last(database: Database, run: str) -> None:
    values: dict[str, Sequence[float]] = {
        "m": [2.0, math.nan, -math.inf, math.nan],
        "n": [math.nan] * 4,
        "x": [1.0, 5e-324, -0.0, math.inf],
    }
    put(database, points(run, values, step=7))
    found = shown(database, run).metrics
    assert (found["m"].last, found["m"].min, found["m"].max, found["m"].count) == ("NaN", "-Infinity", 2.0, 4)
    assert (found["n"].last, found["n"].min, found["n"].max) == ("NaN", "NaN", "NaN")
    assert (found["x"].last, found["x"].max, found["x"].step) == ("Infinity", "Infinity", 10)


def test_last_is_by_the_log_and_its_step_is_exact(database: Database, run: str) -> None:
    put(database, points(run, {"m": [3.0]}, first=30, step=2**53 + 1))
    put(database, points(run, {"m": [1.0]}, first=10, step=5))
    assert (shown(database, run).metrics["m"].last, shown(database, run).metrics["m"].step) == (3.0, 2**53 + 1)


def test_records_of_one_moment_are_in_the_order_of_writer_and_epoch(database: Database, run: str) -> None:
    """Whichever came first, and whichever session the store knew first."""
    for writer in ("b", "a"):
        said = points(run, {"m": [float(ord(writer))]}, writer=writer)
        tag = records(run, facts.Tag(at=T0, key="who", value=writer), first=5, writer=writer)
        given = records(run, facts.Params(at=T0, params={"who": f'"{writer}"'}), first=6, writer=writer)
        put(database, said, tag, given, records(run, facts.Note(at=T0, text=writer), first=7, writer=writer))
    found = detail(database, run)
    assert (found.run.metrics["m"].last, found.run.tags, found.run.params) == (98.0, {"who": "b"}, {"who": "a"})
    assert [note.text for note in found.notes] == ["a", "b"]
    with database.read() as connection:
        assert series.read(connection, run, "m").values == [97.0, 98.0]


def test_a_direction_counts_for_every_run_of_the_experiment(database: Database) -> None:
    experiment = new_run()
    first, second, other = new_run(), new_run(), new_run()
    for one, where in ((first, experiment), (second, experiment), (other, "elsewhere")):
        put(database, started(one, where), points(one, {"acc": [0.1, 0.9, 0.5]}))
    assert shown(database, first).metrics["acc"].best is None
    before = shown(database, second).revision
    put(database, records(first, facts.Direction(at=T0 + 50, metric="acc", direction="max"), first=50))
    assert (shown(database, second).metrics["acc"].best, shown(database, first).metrics["acc"].best) == (0.9, 0.9)
    assert shown(database, second).revision > before
    assert shown(database, other).metrics["acc"].best is None
    put(database, records(second, facts.Direction(at=T0 + 60, metric="acc", direction="min"), first=60))
    put(database, records(second, facts.Direction(at=T0 + 55, metric="acc", direction="max"), first=55))
    third = new_run()
    put(database, started(third, experiment), points(third, {"acc": [0.7, 0.2]}))
    assert [shown(database, one).metrics["acc"].best for one in (first, second, third)] == [0.1, 0.1, 0.2]
    put(database, points(third, {"acc": [0.05, 0.9]}, first=70))
    assert shown(database, third).metrics["acc"].best == 0.05
    with database.read() as connection:
        page = runs.page(connection, RunFilter(experiment=experiment, sort="metrics.acc"), NOW)
    assert [one.id for one in page.runs] == [third, *sorted((first, second))]


def test_a_direction_waits_until_its_experiment_is_known(database: Database, run: str) -> None:
    metric, stranger = new_run(), new_run()
    put(database, points(stranger, {metric: [1.0, 2.0]}))  # in experiment default, like all that have not started
    put(database, records(run, facts.Direction(at=T0 + 1, metric=metric, direction="min"), first=1))
    put(database, points(run, {metric: [1.0, 2.0]}, first=2))
    assert shown(database, run).metrics[metric].best is None
    put(database, started(run, "e"))
    assert shown(database, run).metrics[metric].best == 1.0
    assert shown(database, stranger).metrics[metric].best is None


def test_the_order_by_a_metric_follows_ends_late_points_directions_and_resumed_runs(database: Database) -> None:
    experiment = new_run()
    a, b, c = sorted(new_run() for _ in range(3))

    def order() -> str:
        with database.read() as connection:
            page = runs.page(connection, RunFilter(experiment=experiment, sort="metrics.acc"), NOW)
        return "".join("abc"[(a, b, c).index(one.id)] for one in page.runs)

    for one, values in ((a, [9.0, 1.0]), (b, [2.0, 2.0]), (c, [1.5, 3.0])):
        put(database, started(one, experiment), points(one, {"acc": values}, first=1))
    assert order() == "abc"
    for one in (a, b):
        put(database, records(one, facts.Finished(at=T0 + 10**9, state="finished"), first=10))
    assert order() == "abc"
    put(database, points(b, {"acc": [0.5]}, first=5))
    assert order() == "bac"
    put(database, records(c, facts.Direction(at=T0 + 50, metric="acc", direction="max"), first=20))
    assert order() == "bca"
    put(database, Batch(a, "w", 1, 0, 1, records=[(0, msgspec.Raw(facts.encode(facts.Started(at=T0 + 2 * 10**9))))]))
    put(database, points(a, {"acc": [10.0]}, first=3000), points(b, {"acc": [9.5]}, first=6))
    assert order() == "cba"
    put(database, points(b, {"acc": [11.0]}, first=7))
    assert order() == "cab"


def test_metrics_in_a_context_are_metrics_of_their_own(database: Database, run: str) -> None:
    block = points(run, {"acc": [0.1], "b{": [1.0]})
    block.points[0].keys = ["acc", ("acc", '{"split":"val"}')]
    put(database, block)
    assert set(shown(database, run).metrics) == {"acc", 'acc{"split":"val"}'}
    with database.read() as connection:
        for name, context in (('acc{"split":"val"}', ""), ("acc", '{"split":"val"}')):
            assert series.read(connection, run, name, context).values == [1.0]
        assert series.read(connection, run, "acc").values == [0.1]


def test_runs_that_ended_or_became_loose_are_due_for_compaction(database: Database, run: str) -> None:
    with database.write("me", NOW) as tx:
        ingest(tx, [started(run, "e"), points(run, {"m": [1.0]})])
    assert tx.due == set()
    with database.write("me", NOW) as tx:
        ingest(tx, [records(run, facts.Finished(at=T0 + 99, state="finished"), first=9)])
    assert tx.due == {run}
    large = new_run()
    with database.write("me", NOW) as tx:
        ingest(tx, [points(large, {"m": np.zeros(500_000).tolist()})])
    assert tx.due == {large}
    with database.write("me", NOW) as tx:
        for one in (run, large):
            series.compact(tx, one)
        ingest(tx, [records(run, facts.Heartbeat(at=T0 + 100), first=10)])
    assert tx.due == set()
