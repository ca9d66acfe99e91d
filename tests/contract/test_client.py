"""Every client keeps the same promises: a store opened here, on SQLite and PostgreSQL, and one behind a server."""

import math
import struct
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from sexton import errors
from sexton.client import Client, connect
from sexton.model import records as facts
from sexton.model.access import API_VERSION
from sexton.model.records import Batch, Record
from sexton.model.runs import RunFilter
from sexton.model.values import encode_param
from tests.batches import T0, new_run, points, records, started, stored
from tests.postgres import Postgres
from tests.serving import Server


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "http"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One store for all tests of the module, which is why each test makes runs of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    store, blobs = f"file:{folder}", f"file:{folder}/blobs"
    match request.param:
        case "sqlite":
            yield from _opened(store, blobs)
        case "postgresql":
            postgres: Postgres = request.getfixturevalue("postgres")
            yield from _opened(postgres.url(postgres.create_database()), blobs)
        case "http":
            with Server(store, blobs, folder / "log") as server:
                yield from _opened(server.url, blobs)


def _opened(url: str, blobs: str) -> Iterator[Client]:
    client = connect(url, blobs=blobs)
    yield client
    client.close()


@pytest.fixture
def run() -> str:
    return new_run()


# ------------------------------------------------------------------------------------------------------------ the store


def test_the_store_says_which_it_is(client: Client) -> None:
    health = client.health()
    assert health.api == API_VERSION
    assert health.store in ("sqlite", "postgresql")
    assert len(health.store_id) >= 12
    assert health.actor.startswith("local:")
    assert client.health() == health


def test_writing_raises_the_revision(client: Client, run: str) -> None:
    before = client.health().revision
    client.ingest([started(run, "revision")])
    assert client.health().revision > before


# --------------------------------------------------------------------------------------------------------------- ingest


def test_what_is_acknowledged_is_there(client: Client, run: str) -> None:
    acks = client.ingest([started(run, "ingest"), points(run, {"loss": [0.5, 0.25], "acc": [0.1, 0.2]})])
    assert [(ack.new, ack.known) for ack in acks] == [(1, 0), (2, 0)]
    detail = client.run(run)
    assert detail.run.experiment == "ingest"
    assert detail.run.state in ("running", "lost")  # T0 is long ago
    assert detail.run.metrics["loss"].last == 0.25
    assert client.series(run, "acc").values == [0.1, 0.2]


def test_sent_again_is_known(client: Client, run: str) -> None:
    batches = [started(run, "again"), points(run, {"loss": [0.5, 0.25]})]
    client.ingest(batches)
    acks = client.ingest(batches)
    assert [(ack.new, ack.known) for ack in acks] == [(0, 1), (0, 2)]
    assert client.series(run, "loss").count == 2


def test_nothing_is_a_request_too(client: Client) -> None:
    assert client.ingest([]) == []


def test_a_request_larger_than_one_body_arrives_whole(client: Client, run: str) -> None:
    rows, parts = 100_000, 24  # about 2.4 MB each, 58 MB together
    batches = [points(run, {"loss": [float(part)] * rows}, first=1 + part * rows) for part in range(parts)]
    acks = client.ingest([started(run, "large"), *batches])
    assert sum(ack.new for ack in acks) == 1 + rows * parts
    assert client.series(run, "loss", points=300).count == rows * parts


@pytest.mark.parametrize(
    "spoil",
    [
        {"run": "../../etc/passwd"},
        {"version": 999},
        {"first": -1},
        {"count": -1},
        {"epoch": -1},
        {"records": [(0, msgspec.Raw(b"\xc0")), (7, msgspec.Raw(b"\xc0"))], "count": 1},
    ],
    ids=lambda spoil: next(iter(spoil)),
)
def test_a_batch_that_makes_no_sense_is_refused_and_leaves_nothing(
    client: Client, run: str, spoil: dict[str, object]
) -> None:
    good = started(run, "refused")
    bad = msgspec.structs.replace(points(run, {"loss": [1.0]}), **spoil)
    with pytest.raises(errors.InvalidRecord) as caught:
        client.ingest([good, bad])
    assert not caught.value.transient
    with pytest.raises(errors.RunNotFound):
        client.run(run)


def test_columns_of_the_wrong_length_are_refused(client: Client, run: str) -> None:
    bad = points(run, {"loss": [1.0, 2.0]})
    bad.points[0].values = bad.points[0].values[:-1]
    with pytest.raises(errors.InvalidRecord):
        client.ingest([bad])


def test_a_type_from_the_future_is_kept_and_counted(client: Client, run: str) -> None:
    body = msgspec.Raw(msgspec.msgpack.encode({"t": "teleported", "at": T0, "to": "mars"}))
    client.ingest([started(run, "future"), Batch(run, "w", 0, 1, 1, records=[(0, body)])])
    assert client.run(run).run.trouble == {"unknown": 1}


# -------------------------------------------------------------------------------------------------------- exact numbers


def test_every_float_comes_back_as_it_was(client: Client, run: str) -> None:
    values = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1]
    client.ingest([started(run, "floats"), points(run, {"loss": values})])
    series = client.series(run, "loss")
    assert series.values == ["NaN", "Infinity", "-Infinity", -0.0, 5e-324, 1.7976931348623157e308, 0.1]
    assert math.copysign(1, float(series.values[3])) == -1
    summary = client.run(run).run.metrics["loss"]
    assert (summary.last, summary.min, summary.max, summary.count) == (0.1, "-Infinity", "Infinity", 7)


def test_a_metric_that_is_never_a_number_is_shown_as_that(client: Client, run: str) -> None:
    client.ingest([started(run, "nan"), points(run, {"loss": [math.nan, math.nan]})])
    summary = client.run(run).run.metrics["loss"]
    assert (summary.last, summary.min, summary.max) == ("NaN", "NaN", "NaN")


def test_every_integer_step_comes_back_as_it_was(client: Client, run: str) -> None:
    step = 2**63 - 3  # no float64
    client.ingest([started(run, "steps"), points(run, {"loss": [1.0, 2.0]}, step=step)])
    assert client.series(run, "loss").steps == [step, step + 1]
    assert client.run(run).run.metrics["loss"].step == step + 1


def test_params_come_back_as_they_were(client: Client, run: str) -> None:
    params = {"lr": 0.1, "depth": 2**62, "nan": math.nan, "none": None, "text": "a\nb\u2603", "list": [1, [2.5, "x"]]}
    record = facts.Params(at=T0 + 1, params={key: encode_param(value) for key, value in params.items()})
    client.ingest([started(run, "params"), records(run, record, first=1)])
    got = client.run(run).run.params
    assert got["nan"] == {"$float": "NaN"}
    assert {key: value for key, value in got.items() if key != "nan"} == {
        key: value for key, value in params.items() if key != "nan"
    }


def test_no_view_has_a_number_that_json_can_not_say(client: Client, run: str) -> None:
    """JSON has no NaN: one that got into a body would arrive as nothing."""
    facts_ = {"load": math.nan, "list": [math.inf, {"deep": -math.inf}], "big": 2**63}
    digest = stored(client, b"x")
    said = [
        facts.Captured(at=T0 + 1, section="m", facts=facts_),
        facts.Artifact(at=T0 + 2, name="a", digest=digest, size=1, step=math.nan, metrics={"acc": math.nan}),
        facts.Artifact(at=T0 + 3, name="b", digest=digest, size=1, step=math.inf, metrics={"acc": 0.5}),
        facts.Usage(at=T0 + 4, method="x", cpu_seconds=math.nan, memory=1),
        facts.Finished(at=T0 + 5, state="finished", cpu_seconds=1.5, cpu_method="wait4"),
    ]
    odd = points(run, {"loss": [math.nan, 1.0]}, first=10)
    odd.points[0].step_kind, odd.points[0].steps = "float", struct.pack("<2d", math.nan, math.inf)
    client.ingest([started(run, "json"), records(run, *said, first=1), odd])
    views = [client.run(run), client.runs(RunFilter(experiment="json")), client.series(run, "loss"), client.changes(0)]
    for view in views:
        assert msgspec.json.decode(msgspec.json.encode(view), type=type(view)) == view
    assert client.run(run).captured["m"] == {
        "load": {"$float": "NaN"},
        "list": [{"$float": "Infinity"}, {"deep": {"$float": "-Infinity"}}],
        "big": {"$int": "9223372036854775808"},
    }
    assert [artifact.metrics["acc"] for artifact in client.run(run).artifacts] == ["NaN", 0.5]


def test_names_that_a_url_could_misread_come_back(client: Client, run: str) -> None:
    names = ["a/b", "a b", "a%2Fb", "a?b=c&d", "a#b", "..", "ü☃", 'q"uote', "back\\slash", "+"]
    client.ingest([started(run, "names"), points(run, {name: [float(i)] for i, name in enumerate(names)})])
    assert set(client.run(run).run.metrics) == set(names)
    for number, name in enumerate(names):
        assert client.series(run, name).values == [float(number)]


def test_what_a_process_found_out_comes_back(client: Client, run: str) -> None:
    machine = {"cpus": 2, "memory": 2**40, "load": 0.5, "gpus": [], "user": None}
    client.ingest(
        [started(run, "captured"), records(run, facts.Captured(at=T0 + 1, section="m", facts=machine), first=1)]
    )
    assert client.run(run).captured == {"m": machine}


# -------------------------------------------------------------------------------------------------------------- reading


def test_lists_are_filtered_sorted_and_paged(client: Client) -> None:
    experiment = f"list-{new_run()}"
    ids = [new_run() for _ in range(5)]
    for number, run in enumerate(ids):
        end = facts.Finished(at=T0 + number + 10, state="failed" if number == 2 else "finished", exit_code=number)
        tag = facts.Tag(at=T0 + 2, key="kind", value="even" if number % 2 == 0 else "odd=1")
        begin = facts.Started(at=T0 + number, experiment=experiment, project="p", sweep="s", name=f"n{number}")
        client.ingest([records(run, begin, tag, end), points(run, {"acc": [number / 10]}, first=3)])

    def found(which: RunFilter) -> list[int]:
        return [ids.index(run.id) for run in client.runs(which).runs]

    base = RunFilter(experiment=experiment)
    page = client.runs(base)
    assert (page.total, page.next) == (5, None)
    assert found(base) == [4, 3, 2, 1, 0]
    assert found(msgspec.structs.replace(base, sort="created")) == [0, 1, 2, 3, 4]
    assert found(msgspec.structs.replace(base, sort="-metrics.acc", limit=2)) == [4, 3]
    assert found(msgspec.structs.replace(base, states=("failed",))) == [2]
    assert found(msgspec.structs.replace(base, states=("failed", "finished"), sort="name")) == [0, 1, 2, 3, 4]
    assert found(msgspec.structs.replace(base, tags=("kind=odd=1",))) == [3, 1]
    assert found(msgspec.structs.replace(base, tags=("kind", "kind=even"))) == [4, 2, 0]
    assert found(msgspec.structs.replace(base, project="q")) == []
    assert found(msgspec.structs.replace(base, sweep="s", project="p", limit=1)) == [4]

    first = client.runs(msgspec.structs.replace(base, limit=2))
    second = client.runs(msgspec.structs.replace(base, limit=2, after=first.next))
    third = client.runs(msgspec.structs.replace(base, limit=2, after=second.next))
    pages = [run.id for page in (first, second, third) for run in page.runs]
    assert pages == list(reversed(ids))
    assert third.next is None


def test_a_list_that_can_not_be_made_is_refused(client: Client) -> None:
    for which in (RunFilter(sort="nonsense"), RunFilter(after="nonsense")):
        with pytest.raises(errors.UsageError):
            client.runs(which)


@pytest.mark.parametrize("text", ["a\x00b", "'; DROP TABLE runs; --", "%", "x" * 10_000 + "é", "\u202e"])
def test_a_filter_for_what_is_nowhere_finds_nothing(client: Client, text: str) -> None:
    for which in (
        RunFilter(project=text),
        RunFilter(experiment=text),
        RunFilter(sweep=text),
        RunFilter(tags=(text,)),
        RunFilter(tags=(f"key={text}",)),
    ):
        assert client.runs(which).runs == []
    assert client.runs(RunFilter(sort=f"metrics.{text}", limit=1)) is not None


def test_a_run_answers_to_the_beginning_of_its_id(client: Client, run: str) -> None:
    client.ingest([started(run, "prefix")])
    assert client.run(run[:11]).run.id == run
    other = run[:11] + ("0" if run[11] != "0" else "1")
    client.ingest([started(other, "prefix")])
    assert client.run(run).run.id == run
    with pytest.raises(errors.AmbiguousRun) as caught:
        client.run(run[:11])
    assert run in str(caught.value)


@pytest.mark.parametrize("text", ["nosuchrun000", "", ".", "..", "a/b", "%", "*", "_", "ü", "a\x00b", "x" * 10_000])
def test_a_run_that_is_not_here_is_not_found(client: Client, text: str) -> None:
    asked: Sequence[object] = (
        client.run,
        client.console,
        lambda run: client.series(run, "m"),
        lambda run: client.note(run, "n"),
    )
    for ask in asked:
        with pytest.raises(errors.NotFound):
            ask(text)  # type: ignore[operator]  # all of them are callable


def test_a_metric_that_is_not_here_is_not_found(client: Client, run: str) -> None:
    client.ingest([started(run, "metric")])
    for name in ("a/b ü?", "{", '{"split":"val"}', "", "x" * 5_000):
        with pytest.raises(errors.MetricNotFound) as caught:
            client.series(run, name)
        assert caught.value.fields == {"run": run, "name": name}
    with pytest.raises(errors.MetricNotFound):
        client.series(run, "a\x00b")


def test_a_thinned_series_keeps_its_ends_and_its_spike(client: Client, run: str) -> None:
    values = [1.0] * 10_000
    values[7_777] = 99.0
    client.ingest([started(run, "thin"), points(run, {"loss": values})])
    series = client.series(run, "loss", points=100)
    assert series.count == 10_000
    assert len(series.values) <= 150
    assert 99.0 in series.values
    assert series.steps is not None
    assert series.steps[-1] == 9_999


def test_the_console_is_what_was_printed(client: Client, run: str) -> None:
    pieces = [
        facts.Console(at=T0 + 1, stream="stdout", offset=0, data="grüße\n".encode()),
        facts.Console(at=T0 + 2, stream="stdout", offset=107, data=b"\x1b[31mred\xff\n", skipped=100),
    ]
    client.ingest([started(run, "console"), records(run, *pieces, first=1)])
    console = client.console(run)
    assert console.skipped == 100
    assert console.text.startswith("grüße\n")
    assert console.text.endswith("\x1b[31mred\ufffd\n")


def test_a_metric_may_have_a_context(client: Client, run: str) -> None:
    both = points(run, {"acc": [0.1]})
    both.points[0].keys = [("acc", '{"split":"val"}')]
    client.ingest([started(run, "context"), both, points(run, {"acc": [0.9]}, first=5)])
    assert set(client.run(run).run.metrics) == {"acc", 'acc{"split":"val"}'}
    assert client.series(run, 'acc{"split":"val"}').values == [0.1]
    assert client.series(run, "acc", context='{"split":"val"}').values == [0.1]
    assert client.series(run, "acc").values == [0.9]


def test_what_samples_saw_is_a_series_of_its_own(client: Client, run: str) -> None:
    samples = [facts.Usage(at=T0 + second, method="psutil", memory=second * 100) for second in (1, 2, 3)]
    client.ingest([started(run, "usage"), records(run, *samples, first=1)])
    assert client.run(run).run.metrics == {}
    assert client.series(run, "memory", context="usage").values == [100.0, 200.0, 300.0]
    with pytest.raises(errors.MetricNotFound):
        client.series(run, "memory")


def test_who_follows_the_changes_sees_each(client: Client, run: str) -> None:
    since = client.health().revision
    client.ingest([started(run, "changes")])
    changes = client.changes(since)
    assert [one.id for one in changes.runs] == [run]
    assert changes.runs[0].revision == changes.revision
    assert client.changes(changes.revision).runs == []
    assert client.changes(changes.revision).revision == changes.revision
    client.tag(run, "seen", "yes")
    again = client.changes(changes.revision)
    assert [(one.id, one.tags) for one in again.runs] == [(run, {"seen": "yes"})]


# ----------------------------------------------------------------------------------------------------------------- acts


def test_tags_are_set_and_removed(client: Client, run: str) -> None:
    client.ingest([started(run, "tags")])
    client.tag(run[:11], "tier", "gold")
    client.tag(run, "odd key/ü", "")
    assert client.run(run).run.tags == {"tier": "gold", "odd key/ü": ""}
    client.tag(run, "tier", "lead")
    client.tag(run, "odd key/ü", None)
    assert client.run(run).run.tags == {"tier": "lead"}


def test_notes_are_signed_and_kept_in_order(client: Client, run: str) -> None:
    client.ingest([started(run, "notes")])
    client.note(run, "first")
    client.note(run, "second *ü*\nline \udcff")
    notes = client.run(run).notes
    assert [note.text for note in notes] == ["first", "second *ü*\nline ?"]
    assert {note.actor for note in notes} == {client.health().actor}


def test_text_that_a_database_might_not_take_is_kept_readable(client: Client, run: str) -> None:
    client.ingest([started(run, "odd text", name="n\x00ame", user="\x00", task="a\x00")])
    client.tag(run, "k\x00ey", "v\x00alue \ue000 😀")
    client.note(run, "no\x00te \ue000 😀")
    detail = client.run(run)
    assert [key[0] for key in detail.run.tags] == ["k"]
    assert all(value.endswith("alue \ue000 😀") for value in detail.run.tags.values())
    assert detail.notes[0].text.endswith("te \ue000 😀")


def test_a_finished_run_can_still_be_labelled(client: Client, run: str) -> None:
    client.ingest([started(run, "late"), records(run, facts.Finished(at=T0 + 5, state="finished"), first=1)])
    client.tag(run, "keep", "yes")
    client.note(run, "good one")
    detail = client.run(run)
    assert (detail.run.state, detail.run.tags, len(detail.notes)) == ("finished", {"keep": "yes"}, 1)


def test_a_finished_run_reads_as_before(client: Client, run: str) -> None:
    """The end of a run gives its series their final form."""
    values = [index * 0.5 for index in range(2_000)]
    client.ingest([started(run, "final")])
    for first in range(0, 2_000, 500):
        client.ingest([points(run, {"loss": values[first : first + 500]}, first=1 + first, step=first)])
    before = client.series(run, "loss")
    end: Record = facts.Finished(at=T0 + 10**10, state="finished")
    client.ingest([records(run, end, first=2_001)])
    assert client.series(run, "loss") == before
    client.ingest([points(run, {"loss": [7.0]}, first=5_000, step=9_000)])  # late, after the end
    assert client.series(run, "loss").values == [*values, 7.0]
