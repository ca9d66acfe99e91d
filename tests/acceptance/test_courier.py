"""The courier: one a spool, there when there is work and gone when there is none; one bad journal holds up no other."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

import sexton
from sexton.capture import machine
from sexton.courier import start
from sexton.courier.delivery import discard, tidy
from sexton.journal import reader, segment
from sexton.journal.journal import Identity, Writer, identify, identity_of, segment_path
from sexton.model import records
from sexton.model.values import short_id
from tests.home import Home, Logged, until


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(tmp_path)
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    yield home
    home.close()


def _journal(home: Home, notes: int = 3, ended: bool = True, run: str = "") -> Writer:
    """A journal as a process on this machine left it."""
    run = run or short_id(os.urandom(8))
    chosen = home.settings
    writer = Writer(
        home.spool / run,
        lambda _forked: records.Started(experiment="e", process=machine.this_process()),
        pytest.fail,
        lambda: Identity(run, short_id(os.urandom(8)), chosen.url, chosen.blobs),
    )
    for number in range(notes):
        writer.append(records.Note(text=f"note {number}"))
        writer.row({"loss": float(number)}, number)
    if ended:
        writer.append(records.Finished(state="finished"))
    writer.close()
    return writer


def _notes(home: Home, run: str) -> list[str]:
    return [note.text for note in home.client.run(run).notes]


# --------------------------------------------------------------------------------------------------- coming and going


def test_of_many_started_at_once_one_works(home: Home) -> None:
    _journal(home, ended=True)
    home.variables["LINGER_SECONDS"] = "30"
    argv = [sys.executable, "-m", "sexton.courier", str(home.spool), "--sample-seconds=1", "--linger-seconds=30"]
    couriers = [subprocess.Popen(argv, env=home.environment) for _ in range(4)]
    until(lambda: sum(c.poll() is None for c in couriers) == 1 and home.courier_pid, "one of four to be left")
    (left,) = [courier for courier in couriers if courier.poll() is None]
    assert home.courier_pid == left.pid
    assert [courier.wait() for courier in couriers if courier is not left] == [0, 0, 0]
    home.emptied()
    left.terminate()
    assert left.wait() == 0


def test_a_glance_at_the_lock_keeps_no_courier_from_starting(home: Home) -> None:
    import fcntl

    home.spool.mkdir(parents=True)
    argv = [sys.executable, "-m", "sexton.courier", str(home.spool), "--sample-seconds=1", "--linger-seconds=30"]
    with (home.spool / "courier.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        courier = subprocess.Popen(argv, env=home.environment)
        stat = Path(f"/proc/{courier.pid}/fd")
        if stat.exists():
            until(lambda: any("courier.lock" in os.readlink(fd) for fd in _links(stat)), "a courier at the lock")
    until(lambda: home.courier_pid == courier.pid or courier.poll() is not None, "the courier")
    assert courier.poll() is None
    courier.terminate()
    courier.wait()


def _links(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_symlink()]


def test_it_goes_when_there_is_nothing_to_do_and_comes_back(home: Home) -> None:
    for number in range(2):
        run = _journal(home).folder.name
        home.emptied()
        assert _notes(home, run) == ["note 0", "note 1", "note 2"]
        until(lambda: not start.is_running(home.spool), "the courier to go")
        assert not (home.spool / "wake").exists()
        assert len(home.runs()) == number + 1


def test_a_journal_that_was_just_made_is_not_taken_for_one_that_is_done(home: Home) -> None:
    """Between making a journal and opening it, a recorder starts its command: the courier may look just then."""
    chosen, run = home.settings, short_id(os.urandom(8))
    folder = home.spool / run
    made = identify(folder, Identity(run, short_id(os.urandom(8)), chosen.url, chosen.blobs))
    begun = start.rounds(home.spool)
    start.ensure(chosen)
    until(lambda: start.rounds(home.spool) >= begun + 3, "three rounds")
    assert identity_of(folder) == made
    _journal(home, run=run)
    home.emptied()
    assert _notes(home, run) == ["note 0", "note 1", "note 2"]


def test_a_journal_that_nobody_ever_opened_goes_after_a_while(home: Home) -> None:
    chosen, run = home.settings, short_id(os.urandom(8))
    identify(home.spool / run, Identity(run, short_id(os.urandom(8)), chosen.url, chosen.blobs))
    os.utime(home.spool / run / "journal.json", ns=(0, 0))
    home.emptied()
    assert home.runs() == []


def test_it_stays_while_a_run_is_alive(home: Home) -> None:
    trainer = home.begin(
        "import sexton, sys; run = sexton.start(); print(run.id, flush=True); sys.stdin.read(); run.finish()"
    )
    assert trainer.stdout is not None
    run = trainer.stdout.readline().strip()
    rounds = start.rounds(home.spool)
    until(lambda: start.rounds(home.spool) > rounds + 3, "some rounds")  # more than it lingers
    assert start.is_running(home.spool)
    assert home.client.run(run).run.state == "running"
    trainer.communicate("")
    home.emptied()
    assert home.client.run(run).run.state == "finished"


def test_what_a_process_used_is_known_though_it_was_killed(home: Home) -> None:
    trainer = home.begin("import sexton, sys; run = sexton.start(); print(run.id, flush=True); sys.stdin.read()")
    assert trainer.stdout is not None
    folder = home.spool / trainer.stdout.readline().strip()
    until(lambda: list(folder.glob("000001.*.seg")), "a sample of its use")
    trainer.kill()
    trainer.communicate()
    home.emptied()
    ended = home.only_run().run
    assert ended.state in ("killed", "lost")
    assert (ended.cpu_seconds or 0) > 0


def test_a_courier_without_a_log_works(home: Home) -> None:
    """As one that somebody starts by hand."""
    run = _journal(home).folder.name
    argv = [sys.executable, "-m", "sexton.courier", str(home.spool), "--sample-seconds=1", "--linger-seconds=0"]
    ran = subprocess.run(argv, env=home.environment, check=False, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(_notes(home, run)) == 3


def test_it_ends_well_when_told_to(home: Home) -> None:
    _journal(home, ended=False)
    start.ensure(home.settings)
    pid = until(lambda: home.courier_pid, "the courier")
    courier = psutil.Process(pid)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not start.is_running(home.spool), "its end")
    courier.wait(10)
    assert home.courier_said() == ""


# ------------------------------------------------------------------------------------------------------ bad journals


def _spoil_identity(writer: Writer) -> None:
    (writer.folder / "journal.json").write_text("{ no json")


def _lose_first_segment(writer: Writer) -> None:
    segment_path(writer.folder, 0, 0).unlink()
    segment_path(writer.folder, 0, 1).write_bytes(segment.MAGIC + segment.frame(9, b"\x01\x80"))


def _write_newer_version(writer: Writer) -> None:
    segment_path(writer.folder, 0, 0).write_bytes(b"SXJRNL9\n" + b"what a later version writes " * 9)


def _forbid_reading(writer: Writer) -> None:
    path = segment_path(writer.folder, 0, 0)
    path.unlink()
    path.mkdir()  # which can not be read either, and by root neither


def _forbid_reading_on(writer: Writer) -> None:
    """Of a run that goes on: the courier learns of it when it has delivered the first segment."""
    segment_path(writer.folder, 0, 1).mkdir()


def _replace_by_garbage(writer: Writer) -> None:
    segment_path(writer.folder, 0, 0).write_bytes(os.urandom(5_000))


def _name_another_store(writer: Writer) -> None:
    identity = msgspec.structs.replace(identity_of(writer.folder), url="file:/proc/nowhere")
    (writer.folder / "journal.json").write_bytes(msgspec.json.encode(identity))


SPOILERS = [
    _spoil_identity, _lose_first_segment, _write_newer_version, _forbid_reading, _replace_by_garbage,
    _forbid_reading_on, _name_another_store,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__.strip("_"))
def test_a_bad_journal_holds_up_no_other(home: Home, spoil: object) -> None:
    with home.no_courier():
        bad = [
            _journal(home, run=run, ended=False) for run in ("0" * 12, "m" * 12, "z" * 12)
        ]  # before, between and after
        good = [_journal(home, run=run) for run in ("1" * 12, "n" * 12)]
        for writer in bad:
            spoil(writer)  # type: ignore[operator]  # one of several functions
    start.ensure(home.settings)
    until(lambda: not any(writer.folder.exists() for writer in good), f"the good ones\n{home.courier_said()}")
    for writer in good:
        assert len(_notes(home, writer.folder.name)) == 3


def test_a_journal_that_is_none_does_not_keep_the_courier(home: Home) -> None:
    _spoil_identity(_journal(home))
    run = _journal(home).folder.name
    start.ensure(home.settings)
    until(lambda: not (home.spool / run).exists(), "the good one")
    until(lambda: not start.is_running(home.spool), "the courier to go")
    assert "JSON" in home.courier_said()


def test_damage_is_counted_with_the_run(home: Home) -> None:
    writer = _journal(home)
    path = segment_path(writer.folder, 0, 0)
    data = bytearray(path.read_bytes())
    data[data.index(b"note 1")] ^= 0xFF
    path.write_bytes(data)
    home.emptied()
    detail = home.client.run(writer.folder.name)
    assert [note.text for note in detail.notes] == ["note 0", "note 2"]
    assert detail.run.trouble == {"damaged": 1}
    assert (detail.run.state, detail.run.metrics["loss"].count) == ("finished", 3)


def test_a_file_that_is_gone_is_counted_and_stops_nothing(home: Home) -> None:
    with home.no_courier():
        run = sexton.start()
        run.save(__file__, name="gone.py")
        run.save(__file__, name="kept.py")
        run.finish()
        gone = next(one.file for one in Logged(home.spool / run.id).of(records.Saved) if one.name == "gone.py")
        (home.spool / run.id / "files" / gone).unlink()
    home.emptied()
    detail = home.client.run(run.id)
    assert [artifact.name for artifact in detail.artifacts] == ["kept.py"]
    assert detail.run.trouble == {"missing-file": 1}


# --------------------------------------------------------------------------------------------- delivered and discarded


def test_saved_files_arrive_whole_and_the_copies_go(home: Home, tmp_path: Path) -> None:
    contents = {"a.bin": os.urandom(3_000_000), "empty": b"", "again.bin": b"same", "same.bin": b"same"}
    with sexton.start() as run:
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
            run.save(tmp_path / name, kind="checkpoint", step=1, metrics={"acc": 0.5})
    home.emptied()
    artifacts = {artifact.name: artifact for artifact in home.client.run(run.id).artifacts}
    for name, content in contents.items():
        assert home.bytes_of(artifacts[name].digest) == content
    assert artifacts["again.bin"].digest == artifacts["same.bin"].digest
    assert (artifacts["a.bin"].kind, artifacts["a.bin"].step, artifacts["a.bin"].metrics) == (
        "checkpoint",
        1,
        {"acc": 0.5},
    )
    assert list(home.spool.glob("*/")) == []


def test_a_journal_that_somebody_has_just_opened_is_kept(home: Home) -> None:
    """Between the courier's last look and its removing the folder."""
    first = _journal(home)
    seen = reader.epochs(first.folder)
    second = _journal(home, run=first.folder.name, ended=False)
    discard(first.folder, seen)
    assert reader.epochs(first.folder) == [0, 1]
    discard(first.folder, [0, 1])
    assert not first.folder.exists()
    second.append(records.Note(text="a new journal"))  # nothing goes to where nobody looks
    second.close()
    assert reader.epochs(second.folder) == [0]


def test_what_a_killed_courier_was_about_to_discard_is_looked_at_again(home: Home) -> None:
    leaving, delivered = _journal(home), _journal(home)
    leaving.folder.rename(home.spool / f".{leaving.folder.name}.leaving")
    delivered.folder.rename(home.spool / f".{delivered.folder.name}.delivered")
    tidy(home.spool)
    assert [folder.name for folder in reader.runs(home.spool)] == [leaving.folder.name]
    assert len(list(home.spool.glob(".*"))) == 0


def test_a_journal_whose_process_nobody_knows_ends_with_its_silence(home: Home) -> None:
    """Its first record is damaged, so nobody can see it die; and a process that lives may still write to it."""
    writer = _journal(home, ended=False)
    path = segment_path(writer.folder, 0, 0)
    data = bytearray(path.read_bytes())
    data[20] ^= 0xFF
    path.write_bytes(data)
    home.deliver()
    assert writer.folder.exists()
    long_ago = path.stat().st_mtime - 400
    os.utime(path, (long_ago, long_ago))
    home.emptied()
    assert home.client.run(writer.folder.name).run.trouble == {"damaged": 1}


def test_large_records_pass_through_a_server(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.serving import Server

    with Server(f"file:{tmp_path}/store", f"file:{tmp_path}/store/blobs", tmp_path / "server.log") as server:
        home.variables["URL"] = server.url
        monkeypatch.setenv("SEXTON_URL", server.url)
        with home.no_courier():
            run = sexton.start(params={f"p{number}": os.urandom(350_000).hex() for number in range(30)})
            run.log({f"a rather long name of a metric {number}": number for number in range(20_000)}, step=1)
            run.note("x" * (29 << 20))
            run.finish()
        home.emptied()
        detail = home.client.run(run.id)
        assert (len(detail.run.params), len(detail.run.metrics), detail.run.trouble) == (30, 20_000, {})
        assert len(detail.notes[0].text) == 29 << 20


# ------------------------------------------------------------------------------------------- mid-run and across stores


def test_a_courier_that_was_killed_goes_on_in_the_middle_of_a_run(home: Home) -> None:
    """In the middle of a segment too, whose metrics were named before."""
    run = sexton.start()
    for first in range(0, 300, 100):
        for step in range(first, first + 100):
            run.log({"loss": float(step), "acc": 1.0}, step=step)
        assert run.flush()
        home.stop(signal.SIGKILL)
    run.finish()
    home.emptied()
    assert home.steps(run.id, "loss") == list(range(300))
    assert home.client.run(run.id).run.trouble == {}


def test_two_processes_resume_one_run(home: Home) -> None:
    run = sexton.start()
    program = """
        import sys, sexton
        run = sexton.resume(sys.argv[1])
        for step in range(200):
            run.log({"loss": step, f"of {sys.argv[2]}": step}, step=step)
        run.log_params({"who": sys.argv[2]})
        run.finish()
    """
    both = [home.begin(program, run.id, who) for who in ("one", "two")]
    assert [process.communicate(timeout=60)[1] for process in both] == ["", ""]
    run.finish()
    home.emptied()
    told = home.client.run(run.id).run
    assert {name: metric.count for name, metric in told.metrics.items()} == {"loss": 400, "of one": 200, "of two": 200}
    assert told.params["who"] in ("one", "two")
    assert told.trouble == {"conflicting": 1}


@pytest.mark.timeout(240)
def test_postgresql_gives_the_same_answers_as_sqlite(home: Home, postgres_url: str) -> None:
    """For the same journals, whatever is in them."""
    program = """
        import sexton
        for number in range(4):
            params = {"lr": 0.1 * number, "\\0": "\\ud800"}
            with sexton.start(experiment=f"e{number % 2}", params=params, tags=["t"]) as run:
                for step in range(50):
                    run.log({"loss": step * 1.5, "bad": float("nan"), "val": {"acc": float("inf")}}, step=step)
                    run.log({"loss": -step}, step=step + 0.5, context={"split": "val"})
                run.note("a note\\0")
                run.maximize("val/acc")
                run.save(sexton.__file__, name="x.py")
                run.finish("failed" if number == 2 else "finished", message="m\\0")
    """
    with home.no_courier():
        assert home.run(program).stderr == ""
        copies = home.folder / "copies"
        shutil.copytree(home.spool, copies)
    told: dict[str, list[object]] = {}
    for url in (home.settings.url, postgres_url.replace("postgresql+psycopg://", "postgresql://")):
        blobs = f"file:{home.folder}/blobs of {len(told)}"
        for journal in reader.runs(copies):
            identity = msgspec.structs.replace(identity_of(journal), url=url, blobs=blobs)
            target = home.spool / journal.name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(journal, target)
            (target / "journal.json").write_bytes(msgspec.json.encode(identity))
        home.variables |= {"URL": url, "BLOBS": blobs}
        other = Home(home.folder, **{name: str(value) for name, value in home.variables.items()})
        other.emptied()
        told[url] = [_timeless(other, detail) for detail in other.runs()]
        other.close()
    one, two = told.values()
    assert len(one) == 4
    assert one == two


def _timeless(home: Home, detail: object) -> object:
    """All that is known of a run but when, and how often, this store heard of it."""
    plain = msgspec.to_builtins(detail)
    run = plain["run"]
    run.pop("revision")
    plain["series"] = {
        name: msgspec.to_builtins(home.client.series(run["id"], name)) for name in sorted(run["metrics"])
    }
    for note in plain["notes"]:
        note.pop("actor")
    return plain
