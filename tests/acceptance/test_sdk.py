"""The Python API inside training: whatever it is given, training goes on, and the record says what became of it."""

import argparse
import dataclasses
import gc
import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sexton
from sexton import errors
from sexton.model import records
from sexton.model.values import decode_param
from sexton.sdk.runs import Run
from tests.home import Home, Logged
from tests.hostile import Hostile, HostileMapping, Scalar


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """What the API does here, it does in this home; nothing is delivered."""
    home = Home(tmp_path)
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    with home.no_courier():
        yield home


@pytest.fixture
def run(home: Home) -> Iterator[Run]:
    run = sexton.start(experiment="e")
    yield run
    run.finish()


def _logged(run: Run) -> Logged:
    return Logged(run._writer.folder)


# --------------------------------------------------------------------------------------------------------------- log


def test_numbers_of_any_kind_are_points(run: Run) -> None:
    given = {
        "int": 3,
        "bool": True,
        "huge": 2**70,
        "nan": math.nan,
        "inf": -math.inf,
        "numpy": np.float32(0.5),
        "array": np.array(0.25),
        "tensor": Scalar(0.125),
    }
    run.log(given, step=1)
    (point,) = _logged(run).points
    assert {name: repr(value) for name, value in point.items()} == {name: repr(float(v)) for name, v in given.items()}  # type: ignore[arg-type]  # what a caller may get wrong
    assert _logged(run).trouble == {}


def test_nested_metrics_have_names_with_slashes(run: Run) -> None:
    run.log({"loss": 1.0, "val": {"acc": 0.5, "per": {3: 0.25}}}, step=1)
    assert _logged(run).points == [{"loss": 1.0, "val/acc": 0.5, "val/per/3": 0.25}]


def test_what_is_no_number_is_told_and_the_others_kept(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bad = {"text": "0.5", "none": None, "list": [1], "array": np.zeros(3), "bytes": b"1", "hostile": Hostile()}
    for step in range(3):
        run.log({"loss": float(step), **bad}, step=step)
    run.flush(0)
    assert _logged(run).points == [{"loss": 0.0}, {"loss": 1.0}, {"loss": 2.0}]
    assert _logged(run).trouble == {"dropped": 18}
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == len(set(warned)) == 6 + 1  # once each, and that flush did not deliver
    assert "run.tag()" in warned[0]


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (5, 5),
        (-5, -5),
        (0.5, 0.5),
        (2**63 - 1, 2**63 - 1),
        (np.int64(7), 7),
        (np.array(7), 7),
        (np.float32(0.5), 0.5),
        (np.array(0.5), 0.5),
        (Scalar(1.5), 1.5),
        (True, 1),
        (None, None),
        (2**63, None),
        (math.nan, None),
        (math.inf, None),
        ("5", None),
        ([1], None),
        (Hostile(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_steps_are_whole_or_fractional_or_told(run: Run, step: Any, kept: float | None) -> None:
    run.log({"loss": 1.0}, step=step)
    run.flush(0)
    assert (_logged(run).steps, _logged(run).points) == ([kept], [{"loss": 1.0}])
    assert _logged(run).trouble == ({"dropped": 1} if kept is None and step is not None else {})


def test_steps_may_repeat_and_go_back(run: Run) -> None:
    for step in (3, 3, 1, -1, 0.5, 2):
        run.log({"loss": 1.0}, step=step)
    assert _logged(run).steps == [3, 3, 1, -1, 0.5, 2]


def test_points_may_be_of_another_time(run: Run) -> None:
    run.log({"loss": 1.0}, time=5)
    run.log({"loss": 1.0}, 1, time=np.int64(6))  # type: ignore[arg-type]  # what a caller may get wrong
    run.log({"loss": 1.0}, time=1.5)  # type: ignore[arg-type]  # what a caller may get wrong
    run.log({"loss": 1.0}, time="noon")  # type: ignore[arg-type]  # what a caller may get wrong
    run.flush(0)
    assert _logged(run).times == [5, 6, None, None]
    assert _logged(run).trouble == {"dropped": 2}


def test_names_are_cleaned_and_two_that_become_one_are_told(run: Run) -> None:
    run.log({"a\n": 1.0, "a\x00": 2.0, "": 3.0, 5: 4.0, ("a", "b"): 5.0, ("c",): 6.0, None: 7.0})  # type: ignore[dict-item]  # what a caller may get wrong
    run.flush(0)
    (point,) = _logged(run).points
    assert point == {"a\ufffd": 1.0, "(empty)": 3.0, "5": 4.0, "('a', 'b')": 5.0, "('c',)": 6.0, "None": 7.0}
    assert _logged(run).trouble == {"dropped": 1}


def test_a_context_tells_series_apart(run: Run) -> None:
    run.log({"loss": 1.0}, 1, context={"split": "val", "fold": 3})
    run.log({"loss": 2.0}, 1, context={"fold": 3, "split": "val"})
    run.log({"loss": 3.0}, 1, context={})
    run.log({"loss": 4.0}, 1, context={"note": "\x7f\u2028\ud800" * 1000})
    points = _logged(run).points
    key = ("loss", '{"fold":"3","split":"val"}')
    assert points[:3] == [{key: 1.0}, {key: 2.0}, {"loss": 3.0}]
    (strange,) = points[3]
    assert strange[1].startswith("{")
    assert len(strange[1].encode()) <= 1_000


@pytest.mark.parametrize("metrics", [{}, None, "loss", [("loss", 1.0)], Hostile(), HostileMapping(), {"a": {}}])
def test_what_is_no_metrics_leaves_no_point(run: Run, metrics: Any) -> None:
    run.log(metrics, step=1)
    run.log({"loss": 1.0}, step=2)
    assert _logged(run).points == [{"loss": 1.0}]


def test_a_mapping_that_holds_itself(run: Run) -> None:
    metrics: dict[str, Any] = {"loss": 1.0}
    metrics["again"] = metrics
    run.log(metrics)
    assert _logged(run).points == [{"loss": 1.0}]


def test_a_hundred_thousand_metrics_in_one_call(run: Run) -> None:
    run.log({f"metric {number}": number for number in range(100_000)}, step=1)
    (point,) = _logged(run).points
    assert len(point) == 100_000
    assert point["metric 99999"] == 99_999.0


# ------------------------------------------------------------------------------------------------------- other facts


def test_params_of_every_kind_are_kept(home: Home) -> None:
    @dataclasses.dataclass
    class Model:
        depth: int = 3

    params = {"lr": 0.1, "layers": [1, 2], "model": Model(), "big": 2**70, "worst": Hostile(), "\x00": None}
    run = sexton.start(params=params)
    run.log_params(argparse.Namespace(seed=7))  # type: ignore[arg-type]  # what a caller may get wrong
    run.log_params(Model(depth=5))  # type: ignore[arg-type]  # what a caller may get wrong
    run.finish()
    kept: dict[str, str] = {}
    for record in _logged(run).of(records.Params):
        kept |= record.params
    values = {name: decode_param(text) for name, text in kept.items()}
    assert values.pop("worst")["$type"].endswith("Hostile")
    assert values == {
        "lr": 0.1,
        "layers": [1, 2],
        "model": {"depth": 3},
        "big": 2**70,
        "\ufffd": None,
        "seed": 7,
        "depth": 5,
    }


def test_the_first_value_of_a_param_stays_and_others_are_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.log_params({"lr": 0.1})
    run.log_params({"lr": 0.1})
    run.log_params({"lr": 0.2})
    run.flush(0)
    assert [record.params for record in _logged(run).of(records.Params)] == [{"lr": "0.1"}]
    assert _logged(run).trouble == {"conflicting": 1}
    assert "lr" in caplog.text


def test_many_large_params_are_all_kept(run: Run) -> None:
    """Together more than one record may hold."""
    run.log_params({f"p{number}": "x" * 1_000_000 for number in range(80)})
    kept = [name for record in _logged(run).of(records.Params) for name in record.params]
    assert kept == [f"p{number}" for number in range(80)]
    assert run.lost == 0


def test_a_param_of_ten_megabytes_is_kept_as_its_beginning_and_hash(run: Run) -> None:
    run.log_params({"prompt": "x" * 10_000_000})
    (record,) = _logged(run).of(records.Params)
    assert decode_param(record.params["prompt"])["$length"] == 10_000_002


def test_tags_notes_and_the_rest(run: Run) -> None:
    run.tag("baseline", tier=3, self="x", gone=None, run="y")
    run.note("# what I saw \ud800")
    run.conclude("worked", takeaway="RBF wins")
    run.maximize("acc", "f1")
    run.minimize("loss\n")
    logged = _logged(run)
    tags = {record.key: record.value for record in logged.of(records.Tag)}
    assert tags == {"baseline": "", "tier": "3", "self": "x", "gone": None, "run": "y"}
    assert [record.text for record in logged.of(records.Note)] == ["# what I saw ?"]
    assert [(record.outcome, record.takeaway) for record in logged.of(records.Concluded)] == [("worked", "RBF wins")]
    directions = {record.metric: record.direction for record in logged.of(records.Direction)}
    assert directions == {"acc": "max", "f1": "max", "loss\ufffd": "min"}


def test_a_saved_file_is_as_it_was(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "model.pt"
    source.write_bytes(b"first")
    run.save(source, kind="checkpoint", step=np.int64(3), metrics={"acc": np.float32(0.5)})  # type: ignore[arg-type,dict-item]  # what a caller may get wrong
    source.write_bytes(b"second")
    run.save(str(source), name="other\n")
    first, second = _logged(run).of(records.Saved)
    files = run._writer.folder / "files"
    assert (first.name, first.kind, first.step, first.metrics) == ("model.pt", "checkpoint", 3.0, {"acc": 0.5})
    assert (files / first.file).read_bytes() == b"first"
    assert (second.name, (files / second.file).read_bytes()) == ("other\ufffd", b"second")


CALLS: dict[str, Any] = {
    "log text": lambda run: run.log("x", "y", time="z", context="c"),
    "log hostile": lambda run: run.log(Hostile(), Hostile(), time=Hostile(), context=Hostile()),
    "log a hostile context": lambda run: run.log({"a": 1}, context={Hostile(): Hostile()}),
    "log a hostile name": lambda run: run.log({Hostile(): 1.0}),
    "params hostile": lambda run: run.log_params(Hostile()),
    "params of a hostile mapping": lambda run: run.log_params(HostileMapping()),
    "params none": lambda run: run.log_params(None),
    "tag hostile": lambda run: run.tag(Hostile(), key=Hostile()),
    "tag a list": lambda run: run.tag(["a"]),
    "note hostile": lambda run: run.note(Hostile()),
    "note surrogate": lambda run: run.note("\ud800"),
    "maximize hostile": lambda run: run.maximize(Hostile(), None),
    "minimize number": lambda run: run.minimize(5),
    "save nothing": lambda run: run.save("/no/such/file"),
    "save a folder": lambda run: run.save("/"),
    "save none": lambda run: run.save(None),
    "save hostile": lambda run: run.save(Hostile(), name=Hostile()),
    "save a null": lambda run: run.save("a\0b"),
    "save with bad metrics": lambda run: run.save(__file__, metrics={"a": "x"}, step="y"),
    "conclude oddly": lambda run: run.conclude("great"),
    "conclude hostile": lambda run: run.conclude(Hostile(), takeaway=Hostile()),
    "takeaway none": lambda run: run.conclude("worked", takeaway=None),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nothing_raises_and_every_record_can_be_read(run: Run, call: Any) -> None:
    call(run)
    run.log({"after": 1.0}, step=1)
    run.flush(0)
    logged = _logged(run)
    assert logged.points[-1] == {"after": 1.0}
    assert logged.of(records.Unknown) == []  # type: ignore[arg-type]  # what a caller may get wrong
    assert logged.missing == 0


def test_eight_threads_log_to_one_run(run: Run) -> None:
    def work(number: int) -> None:
        for step in range(200):
            run.log({f"of {number}": float(step)}, step=step)
            run.log({"not clean\n": 1.0, "no number": "x"}, step=step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    points = _logged(run).points
    for number in range(8):
        assert [point[f"of {number}"] for point in points if f"of {number}" in point] == list(range(200))
    assert len([point for point in points if "not clean\ufffd" in point]) == 1_600


# ------------------------------------------------------------------------------------------------- beginning and end


def test_a_run_says_where_it_comes_from(home: Home) -> None:
    run = sexton.start(
        experiment="digits\n",
        name="n",
        project="p",
        task=123,  # type: ignore[arg-type]  # what a caller may get wrong
        hypothesis="h\ud800",
        sweep="s",
        parent="0" * 12,
    )
    run.finish()
    started = _logged(run).of(records.Started)[0]
    told = (started.experiment, started.name, started.project, started.task, started.hypothesis, started.sweep)
    assert told == ("digits\ufffd", "n", "p", "123", "h?", "s")
    assert (started.parent, started.role) == ("0" * 12, "owner")
    assert started.process.pid > 0
    sections = {record.section for record in _logged(run).of(records.Captured)}
    assert sections >= {"code", "machine"}


@pytest.mark.parametrize(
    ("tags", "kept"),
    [
        (["a", "b"], {"a": "", "b": ""}),
        ("baseline", {"baseline": ""}),
        ({"tier": 3, "self": None}, {"tier": "3", "self": None}),
        ((), {}),
    ],
)
def test_tags_may_be_given_at_the_start(home: Home, tags: Any, kept: dict[str, str | None]) -> None:
    run = sexton.start(tags=tags)
    run.finish()
    assert {record.key: record.value for record in _logged(run).of(records.Tag)} == kept


@pytest.mark.parametrize("wrong", [{"tags": 5}, {"parent": "my other run"}, {"parent": 5}])
def test_what_is_wrong_is_raised_before_anything_begins(home: Home, wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.UsageError):
        sexton.start(**wrong)
    assert list(home.spool.glob("*/journal.json")) == []


@pytest.mark.parametrize("run", ["short", "", None, "UPPERCASE000", "../../../etc"])
def test_only_a_run_can_be_resumed(home: Home, run: Any) -> None:
    with pytest.raises(errors.InvalidValue):
        sexton.resume(run)


def test_a_store_that_can_not_be_is_refused_at_once(home: Home) -> None:
    with pytest.raises(errors.InvalidSetting):
        sexton.connect("mysql://host/db")


def _end(run: Run) -> records.Finished:
    (end,) = _logged(run).of(records.Finished)
    assert isinstance(end, records.Finished)
    return end


def test_a_block_that_ends_is_a_finished_run(home: Home) -> None:
    with sexton.start() as run:
        run.log({"a": 1.0})
    assert (_end(run).state, _end(run).exit_code, _end(run).message) == ("finished", None, None)
    assert (_end(run).cpu_seconds or 0) >= 0
    assert run.ended
    assert "ended" in repr(run)


@pytest.mark.parametrize(
    ("raised", "state", "exit_code", "message"),
    [
        (ValueError("bad batch"), "failed", None, "ValueError: bad batch"),
        (ValueError("lone \ud800"), "failed", None, "ValueError: lone ?"),
        (Hostile.Untold(), "failed", None, "tests.hostile.Hostile.Untold: <exception str() failed>"),
        (ExceptionGroup("several", [ValueError("one")]), "failed", None, "ExceptionGroup: several (1 sub-exception)"),
        (KeyboardInterrupt(), "killed", None, "interrupted from the keyboard"),
        (SystemExit(), "finished", 0, None),
        (SystemExit(0), "finished", 0, None),
        (SystemExit(False), "finished", 0, None),
        (SystemExit(3), "failed", 3, None),
        (SystemExit(True), "failed", 1, None),
        (SystemExit(-1), "failed", 255, None),
        (SystemExit(2**70 + 4), "failed", 4, None),
        (SystemExit("no data"), "failed", 1, "no data"),
    ],
    ids=lambda value: repr(value) if isinstance(value, SystemExit) else type(value).__name__,
)
def test_what_leaves_the_block_is_how_the_run_ends(
    home: Home, raised: BaseException, state: str, exit_code: int | None, message: str | None
) -> None:
    with pytest.raises(type(raised)) as left, sexton.start() as run:
        raise raised
    assert left.value is raised
    end = _end(run)
    assert (end.state, end.exit_code) == (state, exit_code)
    assert end.message == message or (message is not None and end.message is not None and message in end.message)
    assert ("Traceback" in (end.traceback or "")) == isinstance(raised, Exception)


def test_a_long_traceback_keeps_its_end(home: Home) -> None:
    def fail(depth: int) -> None:
        if depth == 0:
            raise ValueError("x" * 10_000)
        fail(depth - 1)

    with pytest.raises(ValueError, match="x"), sexton.start() as run:
        fail(500)
    end = _end(run)
    assert len(end.message or "") <= 2_000
    assert 10_000 < len(end.traceback or "") <= 64 << 10
    assert (end.traceback or "").rstrip().endswith("x")


@pytest.mark.parametrize(
    ("given", "state"),
    [("finished", "finished"), ("failed", "failed"), ("killed", "killed"), ("FINE", "failed"), (1, "failed")],
)
def test_a_run_can_be_ended_by_hand(home: Home, given: Any, state: str) -> None:
    run = sexton.start()
    run.finish(given, message=ValueError("why"))  # type: ignore[arg-type]  # what a caller may get wrong
    run.finish("killed")
    assert (_end(run).state, _end(run).message) == (state, "why")


def test_an_ended_run_takes_no_more_and_says_so_once(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    run = sexton.start()
    run.finish()
    before = len(_logged(run).records)
    for _ in range(3):
        run.log({"a": 1.0}, step=1)
        run.log({"a": "text"})
        run.note("x")
        run.log_params({"p": 1})
        run.save(__file__)
        run.tag("t")
    assert (_logged(run).points, len(_logged(run).records)) == ([], before)
    assert caplog.text.count("resume") == 1
    assert list((run._writer.folder / "files").glob("*")) == []


def test_a_run_that_nobody_holds_is_still_open(home: Home) -> None:
    def forget() -> str:
        run = sexton.start()
        run.log({"a": 1.0})
        return run.id

    forgotten = forget()
    gc.collect()
    from sexton.sdk.keeper import keeper

    (run,) = [kept for kept in keeper._kept if isinstance(kept, Run) and kept.id == forgotten]
    run.finish()


def test_a_run_can_be_resumed_while_it_runs(run: Run) -> None:
    again = sexton.resume(run.id)
    again.log({"a": 2.0})
    run.log({"a": 1.0})
    again.finish()
    logged = _logged(run)
    assert [record.role for record in logged.of(records.Started)] == ["owner", "owner"]
    assert sorted(point["a"] for point in logged.points) == [1.0, 2.0]


def test_a_user_logging_handler_may_log_to_the_run(run: Run) -> None:
    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            run.note(record.getMessage())

    handler = Notes()
    logging.getLogger("sexton").addHandler(handler)
    try:
        run.log({"text": "x"})
        run._writer.append(records.Note(text="x" * (31 << 20)))  # tells while it holds the journal
    finally:
        logging.getLogger("sexton").removeHandler(handler)
    assert len(_logged(run).of(records.Note)) == 2


def test_flush_does_not_claim_what_was_lost(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in the way").write_text("a file")
    monkeypatch.setenv("SEXTON_HOME", str(tmp_path / "in the way"))
    run = sexton.start()
    run.log({"a": 1.0})
    assert not run.flush(0.1)
    assert run.lost >= 1
    run.finish()
