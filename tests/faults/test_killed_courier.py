"""A courier that is killed anywhere, and started again, has delivered everything exactly once."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import sexton
from sexton.courier import start
from sexton.journal import journal, reader
from tests.home import Home, until

STEPS = 40
SYSCALLS = (
    *("write", "pwrite64", "ftruncate", "fsync", "fdatasync"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir"),
    *("sendto", "flock"),
)
KEPT = {"courier.lock", "courier.json", "courier.log", "round", "wake", ".round", ".courier.json"}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left: one that ended well, in several segments, and one that did not tell its end."""
    home = Home(tmp_path_factory.mktemp("left"))
    program = """
        import os, sys
        import sexton
        from sexton.journal import journal
        journal.SEGMENT_BYTES = 1_500
        for ending in ("well", "untold"):
            run = sexton.start(experiment=ending, params={"a": 1}, tags=["t"])
            for step in range(int(sys.argv[1])):
                run.log({"loss": step, f"sometimes {step % 3}": 1.0}, step=step)
                if step % 10 == 0:
                    run.note(f"at {step}")
            for number in range(3):
                with open(sys.argv[2], "w") as file:
                    file.write(f"file {number // 2}")  # the first two are the same
                run.save(sys.argv[2], name=f"file {number}")
            if ending == "well":
                run.finish()
        os._exit(0)
    """
    with home.no_courier():
        ran = home.run(program, STEPS, home.folder / "file")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert len(list(home.spool.rglob("*.seg"))) > 4
    return home.spool


def _put(home: Home, spool: Path) -> None:
    """A copy of the spool in this home."""
    shutil.copytree(spool, home.spool)
    for folder in reader.runs(home.spool):
        identity = journal.identity_of(folder)
        (folder / "journal.json").unlink()
        journal.identify(folder, type(identity)(identity.run, identity.writer, home.settings.url, home.settings.blobs))


def _check(home: Home) -> None:
    """Everything is there, once, and nothing is left."""
    for path in home.spool.rglob("*.seg"):  # whose session nobody knows is given up after five minutes of silence
        os.utime(path, (path.stat().st_mtime - 400,) * 2)
    home.emptied()
    runs = {detail.run.experiment: detail for detail in home.runs()}
    assert set(runs) == {"well", "untold"}
    for detail in runs.values():
        run = detail.run
        assert home.steps(run.id, "loss") == list(range(STEPS))
        assert sum(run.metrics[f"sometimes {number}"].count for number in range(3)) == STEPS
        assert [note.text for note in detail.notes] == [f"at {step}" for step in range(0, STEPS, 10)]
        assert sorted(artifact.name for artifact in detail.artifacts) == [f"file {number}" for number in range(3)]
        assert (run.params, run.tags, run.trouble) == ({"a": 1}, {"t": ""}, {})
    assert runs["well"].run.state == "finished"
    assert (runs["untold"].run.state, runs["untold"].run.cause) == ("lost", "vanished")
    if _left(home):  # of a journal that was being removed: for the next courier
        until(lambda: not start.is_running(home.spool), "the courier to go")
        start.ensure(home.settings)
        until(lambda: not _left(home), "nothing to be left")


def _left(home: Home) -> set[str]:
    return {path.name for path in home.spool.iterdir()} - KEPT


def _courier(home: Home, *trace: str) -> int:
    """Run a courier until it goes or is killed: its exit status."""
    with (home.spool / "courier.log").open("ab") as log:
        argv = [*trace, *_argv(home)]
        return subprocess.run(argv, env=home.environment, stdout=log, stderr=log, check=False, timeout=100).returncode


def _argv(home: Home) -> list[str]:
    return [sys.executable, "-m", "sexton.courier", str(home.spool), "--sample-seconds=9", "--linger-seconds=0"]


def _traced(home: Home, *options: str) -> list[str]:
    return ["strace", "-f", "-o", str(home.folder / "trace"), *options]


def _calls(home: Home, spool: Path) -> dict[str, tuple[int, int]]:
    """For each system call: how often it is made before the first journal is read, and until the courier goes."""
    _put(home, spool)
    assert _courier(home, *_traced(home, "-e", f"trace={','.join(SYSCALLS)},openat")) == 0
    before: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for name, rest in re.findall(r"^\d+ +(\w+)\((.*)$", (home.folder / "trace").read_text(), re.MULTILINE):
        if name == "openat" and "journal.json" in rest and not before:
            before = total.copy()
            before["openat"] += 1
        total[name] += 1
    return {name: (before[name], total[name]) for name in SYSCALLS if total[name] > before[name]}


@pytest.mark.needs("strace")
@pytest.mark.timeout(200)
def test_killed_at_some_system_calls(tmp_path: Path, spool: Path) -> None:
    """A sample, the same each time, spread over all kinds of calls; the long suite tries them all."""
    calls = _calls(Home(tmp_path / "counted"), spool)
    assert {"rename", "unlink", "fdatasync", "pwrite64"} <= set(calls)
    points = [(name, before + 1 + place) for name, (before, total) in calls.items() for place in range(total - before)]
    chosen = random.Random(1).sample(points, 6)
    killed = [_kill_at(Home(tmp_path / f"{name} {number}"), spool, name, number) for name, number in chosen]
    assert sum(killed) >= 4


@pytest.mark.needs("strace")
@pytest.mark.faults_long
@pytest.mark.timeout(3_600)
def test_killed_at_every_kind_of_system_call(tmp_path: Path, spool: Path) -> None:
    """At each call, but of those that are made by the hundred, at some forty."""
    tried = killed = 0
    for name, (before, total) in _calls(Home(tmp_path / "counted"), spool).items():
        for number in range(before + 1, total + 1, max(1, (total - before) // 40)):
            tried += 1
            killed += _kill_at(Home(tmp_path / f"{name} {number}"), spool, name, number)
            shutil.rmtree(tmp_path / f"{name} {number}", ignore_errors=True)
    assert killed > tried * 0.9


def _kill_at(home: Home, spool: Path, name: str, number: int) -> bool:
    """Whether it came to that: which call is the nth of its name differs a little from run to run."""
    _put(home, spool)
    status = _courier(home, *_traced(home, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}"))
    assert status in (0, -signal.SIGKILL, 128 + signal.SIGKILL), home.courier_said()
    try:
        _check(home)
    except AssertionError as error:
        raise AssertionError(f"killed at {name} number {number}") from error
    finally:
        home.close()
    return status != 0


@pytest.mark.needs("strace")
@pytest.mark.faults_long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_system_call_that_fails(tmp_path: Path, spool: Path, error: str) -> None:
    """Once, at each place: the courier tries again, or another does, and everything arrives."""
    full = {"write", "pwrite64", "mkdir", "link"}
    for name, (before, total) in _calls(Home(tmp_path / "counted"), spool).items():
        if error == "ENOSPC" and name not in full:
            continue
        for number in range(before + 1, total + 1, max(1, (total - before) // 10)):
            home = Home(tmp_path / f"{name} {number}")
            _put(home, spool)
            inject = f"inject={name}:error={error}:when={number}"
            with (home.spool / "courier.log").open("ab") as log:
                argv = [*_traced(home, "-e", f"trace={name}", "-e", inject), *_argv(home)]
                courier = subprocess.Popen(argv, env=home.environment, stdout=log, stderr=log)
            until(lambda: home.courier_pid or courier.poll() is not None, "the courier")  # noqa: B023 - called at once
            try:
                _check(home)
            except AssertionError as failed:
                raise AssertionError(f"{error} at {name} number {number}\n{home.courier_said()}") from failed
            finally:
                home.close()
                courier.wait()
            shutil.rmtree(home.folder, ignore_errors=True)


def test_killed_again_and_again_while_a_run_goes_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    chance = random.Random(7)
    run = sexton.start()
    for round_number in range(5):
        for step in range(round_number * 200, (round_number + 1) * 200):
            run.log({"loss": float(step)}, step=step)
        run.flush(chance.random() * 1.5)  # starts one where there is none, and lets it get somewhere
        home.stop(signal.SIGKILL)
    run.finish()
    home.emptied()
    assert home.steps(run.id, "loss") == list(range(1_000))
    assert home.client.run(run.id).run.trouble == {}
