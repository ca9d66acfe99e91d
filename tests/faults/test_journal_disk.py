"""Disks that are full, read-only or pulled away, and processes that do everything at once: training goes on, what could
not be kept is told once and counted, and what was kept is whole."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sexton.journal import journal, segment
from sexton.journal.journal import Identity, Writer, segment_path
from sexton.journal.reader import EpochReader, Piece, Position, epochs
from sexton.model import records

RUN = "0123456789ab"
AS_ROOT = os.geteuid() == 0


class Journal:
    """A writer, what it told, and what a reader finds."""

    def __init__(self, spool: Path) -> None:
        self.told: list[str] = []
        self.folder = spool / RUN
        self.writer = Writer(self.folder, lambda _forked: records.Started(), self.told.append, self._identity)

    def _identity(self) -> Identity:
        return Identity(RUN, "w", "file:/nowhere", "file:/nowhere")

    def rows(self, first: int, count: int) -> int:
        """Log `count` rows; how many of them were kept."""
        return sum(self.writer.row({"x": float(number)}, number) for number in range(first, first + count))

    def pieces(self, epoch: int) -> Iterator[Piece]:
        reader = EpochReader(self.folder, epoch, Position())
        while (piece := reader.read()) is not None:
            yield piece

    def found(self, epoch: int | None = None) -> list[Any]:
        """In order: the steps of rows, and the records but for those that say that a session began."""
        found: list[Any] = []
        for each in epochs(self.folder) if epoch is None else [epoch]:
            for frame in (frame for piece in self.pieces(each) for frame in piece.frames):
                if frame.kind == segment.RECORD:
                    record = records.decode(frame.payload[1:])
                    found += [record] if not isinstance(record, records.Started) else []
                elif frame.kind != segment.SHAPE:
                    found.append(int.from_bytes(frame.payload[13:21], "little"))
        return found

    def begins(self) -> list[type[Any]]:
        """The first record of each epoch."""
        firsts = [next(iter(self.pieces(epoch))).frames[0] for epoch in epochs(self.folder)]
        return [type(records.decode(frame.payload[1:])) for frame in firsts]

    def numbers(self) -> list[int]:
        """The sequence numbers in the file of the first segment, as they stand there."""
        return [frame.sequence for frame in segment.scan(segment_path(self.folder, 0, 0).read_bytes())]

    def missing(self) -> int:
        return sum(piece.count - len(piece.frames) for epoch in epochs(self.folder) for piece in self.pieces(epoch))


# ---------------------------------------------------------------------------------------------------------- full disk


class Disk:
    """A disk of about 1 MB that can be filled and freed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted = AS_ROOT and self._mount("size=1m")
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self._ballast = folder / "ballast"

    def _mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def fill(self, left: int = 0, file: Path | None = None) -> None:
        """Leave about `left` bytes: of the disk, or where none could be mounted of what `file` may grow by."""
        if not self.mounted:
            size = file.stat().st_size if file and file.exists() else 0
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + left, self._limits[1]))
            return
        with self._ballast.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(b"\0" * 4096)
        if left:
            os.truncate(self._ballast, self._ballast.stat().st_size - left)

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        self.free()
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


def test_a_disk_that_fills_and_is_freed_costs_only_what_came_between(disk: Disk) -> None:
    log = Journal(disk.folder)
    assert log.rows(0, 100) == 100
    disk.fill(left=0, file=segment_path(log.folder, 0, 0))
    kept = log.rows(100, 1_000)
    assert log.writer.lost == 1_000 - kept > 0
    disk.free()
    assert log.rows(5_000, 100) == 100
    log.writer.close()
    found = log.found()
    assert found[-1].kind == "lost"
    assert found[-1].count == log.writer.lost
    assert found[:100] == list(range(100))
    assert found[-101:-1] == list(range(5_000, 5_100))
    assert len(found) == 200 + kept + 1
    assert log.missing() == 0
    assert len(log.told) <= 2  # full; and, where the last record fit in half, that it did
    assert str(log.folder) in log.told[0]


def test_a_disk_that_is_full_from_the_start(disk: Disk) -> None:
    disk.fill()
    log = Journal(disk.folder)
    assert log.rows(0, 10) == 0
    assert log.writer.lost == 10
    assert len(log.told) == 1
    disk.free()
    assert log.rows(10, 10) == 10
    log.writer.close()
    assert log.begins() == [records.Started]
    assert log.found()[:10] == list(range(10, 20))
    assert log.found()[-1].count == 10


def test_a_journal_whose_first_record_did_not_fit_begins_with_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could say whose the other records are, or see their process die."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        (tmp_path / RUN).mkdir()
        log = Journal.__new__(Journal)
        log.told, log.folder = [], tmp_path / RUN
        opening = records.Started(hypothesis="long " * 100)
        (log.folder / "journal.json").write_text("{}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
        log.writer = Writer(log.folder, lambda _forked: opening, log.told.append, log._identity)
        assert log.rows(0, 2) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.rows(2, 2) == 2
    log.writer.close()
    assert log.begins() == [records.Started]
    assert log.found()[:2] == [2, 3]
    assert (log.writer.lost, log.found()[-1].count) == (2, 2)
    assert len(list(log.folder.glob("*.seg"))) == 1


def test_rows_are_never_taken_for_those_of_other_metrics(tmp_path: Path) -> None:
    """The names of a new set of metrics do not fit any more, but its shorter row would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = Journal(tmp_path)
    path = segment_path(log.folder, 0, 0)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 60, limits[1]))
        log.writer.row({"a name longer than its value, as names so often are": 1.0}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.writer.row({"other": 2.0}, 2)
    log.writer.close()
    (piece,) = log.pieces(0)
    rows = [frame for frame in piece.frames if frame.kind & segment.ROW]
    named = [piece.shapes[int.from_bytes(frame.payload[1:5], "little")] for frame in rows]
    assert (named, log.found()[0]) == ([["other"]], 2)
    assert log.writer.lost == 1


def test_half_a_record_is_taken_back(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = Journal(tmp_path)
    log.rows(0, 1)
    path = segment_path(log.folder, 0, 0)
    whole = path.stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 20, limits[1]))
        assert log.rows(1, 3) == 0
        assert path.stat().st_size == whole
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.rows(4, 1) == 1
    log.writer.close()
    assert log.found()[:2] == [0, 4]
    assert log.missing() == 0


# ------------------------------------------------------------------------------------------ read-only and pulled away


@pytest.fixture(params=["no permission", "in the way"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A spool in which nothing can be made."""
    spool = tmp_path / "spool"
    if request.param == "in the way":
        spool.write_text("a file of that name")
        yield spool
        return
    spool.mkdir()
    if AS_ROOT:  # whom permissions do not stop
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(spool)], check=True)
    spool.chmod(0o500) if not AS_ROOT else None
    yield spool
    if AS_ROOT:
        subprocess.run(["umount", str(spool)], check=True)


def test_a_folder_that_can_not_be_written_is_told_once_and_counted(unusable: Path) -> None:
    log = Journal(unusable)
    assert log.rows(0, 50) == 0
    assert not log.writer.append(records.Note(text="x"))
    log.writer.sync()
    log.writer.close()
    assert log.writer.lost == 52  # the last says how many were lost
    assert len(log.told) == 1
    assert str(unusable) in log.told[0]


def test_a_journal_that_is_removed_begins_again(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.rows(0, 10)
    shutil.rmtree(log.folder)
    log.rows(10, 5)
    log.writer.sync()  # as the keeper does every second
    assert log.rows(15, 5) == 5
    log.writer.append(records.Finished(state="finished"))
    log.writer.close()
    assert log.begins() == [records.Started]
    assert log.found()[:5] == list(range(15, 20))
    assert isinstance(log.found()[5], records.Finished)
    assert log.found()[-1].count == log.writer.lost >= 15
    assert len(log.told) == 1
    assert "removed" in log.told[0]


def test_a_journal_that_is_removed_before_it_ends_still_tells_the_end(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.rows(0, 10)
    shutil.rmtree(log.folder)
    log.writer.append(records.Finished(state="failed"))
    log.writer.close()
    assert log.begins() == [records.Started]
    assert log.found()[0].state == "failed"


def test_a_segment_that_is_removed_shows_as_a_gap(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.rows(0, 10)
    segment_path(log.folder, 0, 0).unlink()
    log.writer.sync()
    log.rows(10, 10)
    log.writer.close()
    assert log.found() == list(range(10, 20))
    assert log.missing() == 12  # with the beginning and the names
    assert len(log.told) == 1


def test_a_process_with_too_many_files_goes_on(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.rows(0, 10)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        log.writer.sync()
        assert log.rows(10, 10) == 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    log.writer.sync()
    log.writer.close()
    assert log.found() == list(range(20))
    assert (len(log.told), log.writer.lost) == (1, 0)


def test_all_that_was_appended_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also full segments, the folder that names them and the file that says whose they are."""
    synced: set[int] = set()
    real = journal._fdatasync

    def fdatasync(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(journal, "_fdatasync", fdatasync)
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 90)
    log = Journal(tmp_path)
    log.rows(0, 20)
    log.writer.sync()
    kept = [log.folder, log.folder.parent, *log.folder.glob("*.seg"), log.folder / "journal.json"]
    assert len(kept) > 8
    assert {path.stat().st_ino for path in kept} <= synced
    log.writer.close()


# ------------------------------------------------------------------------------------------ threads, signals, forks


def test_eight_threads_lose_nothing_and_each_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 20_000)
    log = Journal(tmp_path)
    every = 400

    def work(number: int) -> None:
        for count in range(every):
            log.writer.row({f"of {number % 3}": 1.0}, number * every + count)
            if count % 50 == 0:
                log.writer.sync()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.writer.close()
    found = log.found()
    assert sorted(found) == list(range(8 * every))
    for number in range(8):
        own = [step for step in found if step // every == number]
        assert own == sorted(own)
    assert log.missing() == 0


@contextlib.contextmanager
def _interrupted(action: Any, seconds: float = 0.0003) -> Iterator[None]:
    """Have `action` done in the middle of whatever goes on, again and again."""
    before = signal.signal(signal.SIGPROF, lambda *_: action())
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def test_a_signal_handler_may_log(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    handled: list[int] = []

    def handler() -> None:
        handled.append(10**9 + len(handled))
        log.writer.row({"from a handler": 1.0}, handled[-1])

    rows = 0
    with _interrupted(handler):
        while len(handled) < 60:
            rows += log.rows(rows, 100)
    log.writer.close()
    found = log.found()
    assert [step for step in found if step < 10**9] == list(range(rows))
    assert [step for step in found if step >= 10**9] == handled
    assert log.numbers() == list(range(len(log.numbers())))
    assert log.missing() == 0


def test_a_signal_handler_may_raise(tmp_path: Path) -> None:
    """As Ctrl-C does: what was logged before and after is there, and nothing twice."""
    log = Journal(tmp_path)
    raised, kept, tried = 0, [], 0

    def handler() -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), _interrupted(handler):
        while raised < 100:
            try:
                while True:
                    tried += 1
                    log.rows(tried, 1)
                    kept.append(tried)
            except KeyboardInterrupt:
                raised += 1
    log.writer.append(records.Finished(state="killed"))
    log.writer.close()
    found = log.found()
    assert isinstance(found[-1], records.Finished)
    assert found[:-1] == sorted(set(found[:-1]))
    assert set(kept) <= set(found[:-1])
    assert len(log.numbers()) == len(set(log.numbers()))


FORKING = """
import os, sys, threading
from pathlib import Path
from sexton.journal.journal import Identity, Writer
from sexton.model.records import Finished, Started

def identity():
    return Identity(sys.argv[2], "w", "file:/nowhere", "file:/nowhere")

def complain(text):
    sys.exit(text)

writer = Writer(Path(sys.argv[1]), lambda forked: Started(role="joined" if forked else "owner"), complain, identity)
forked, done = threading.Event(), []

def work():
    step = 0
    while not forked.is_set() or step % 500:
        assert writer.row({"x": 1.0}, step)
        step += 1
        if step % 100 == 0:
            writer.sync()
    done.append(step)

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
children = []
for number in range(10):
    pid = os.fork()
    if pid == 0:
        for step in range(200):
            assert writer.row({"x": 1.0, "child": 2.0}, step)
        if number == 0:  # a grandchild too
            if os.fork() == 0:
                assert writer.row({"x": 1.0}, 7)
                os._exit(0)
            assert os.wait()[1] == 0
        writer.close()
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
forked.set()
for thread in threads:
    thread.join()
writer.append(Finished(state="finished"))
writer.close()
print(sum(done))
"""


def test_a_child_forked_while_threads_log_goes_on_by_itself(tmp_path: Path) -> None:
    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(FORKING)]
    ran = subprocess.run(
        [*program, str(tmp_path / RUN), RUN], check=False, capture_output=True, text=True, timeout=60
    )  # a deadlock ends here
    assert (ran.returncode, ran.stderr) == (0, "")
    log = Journal.__new__(Journal)
    log.folder = tmp_path / RUN
    owners = [e for e in epochs(log.folder) if isinstance(log.found(e)[-1], records.Finished)]
    assert owners == [0]
    assert len(log.found(0)) == int(ran.stdout) + 1
    children = [log.found(epoch) for epoch in epochs(log.folder) if epoch != 0]
    assert sorted(map(len, children)) == [1] + [200] * 10
    assert all(steps in (list(range(200)), [7]) for steps in children)
    assert log.missing() == 0


def test_two_processes_share_a_journal(tmp_path: Path) -> None:
    """Each in an epoch of its own, in the journal of whoever was first."""
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.rows(0, 3)
    second.rows(10, 3)
    first.rows(3, 3)
    first.writer.close()
    second.writer.close()
    assert (first.writer.epoch, second.writer.epoch) == (0, 1)
    assert (first.found(0), first.found(1)) == ([0, 1, 2, 3, 4, 5], [10, 11, 12])
