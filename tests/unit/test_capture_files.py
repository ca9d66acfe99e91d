"""A private copy has the bytes of one moment, or is known to be of no use."""

import os
import socket
import threading
from pathlib import Path

import pytest

from sexton import errors
from sexton.capture import files
from sexton.capture.files import INLINE_BYTES, Seen, discard, entries_of, open_taken, settle, take, take_folder

LARGE = INLINE_BYTES + 1


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system without clones, as most are."""
    monkeypatch.setattr(files, "_CLONE", 0)
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


def _nothing() -> None: ...


def _read(target: Path) -> bytes:
    file, _ = open_taken(target)
    with file:
        return file.read()


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_small_file_is_copied_at_once(copies: Path, source: Path, size: int) -> None:
    data = os.urandom(size)
    source.write_bytes(data)
    taken = take(source, copies / "a")
    source.write_bytes(b"other")
    assert (taken.size, taken.pending) == (size, [])
    assert _read(copies / "a") == data
    assert (copies / "a").stat().st_mode & 0o777 == 0o600


def test_a_large_file_is_linked_and_copied_later(copies: Path, source: Path) -> None:
    data = os.urandom(LARGE)
    source.write_bytes(data)
    taken = take(source, copies / "a")
    [(target, seen)] = taken.pending
    assert _tree(copies) == {"a.link"}
    assert (target, seen) == (copies / "a", Seen(taken.size, taken.mtime))
    source.unlink()  # or replaced
    source.write_bytes(b"other")
    file, linked = open_taken(target)
    with file:
        assert (file.read(), linked, Seen.of(file.fileno())) == (data, True, seen)
    assert settle(target, seen, _nothing)
    assert _tree(copies) == {"a"}
    assert _read(target) == data
    assert settle(target, seen, _nothing)


@pytest.mark.parametrize("change", ["grow", "rewrite", "truncate"])
def test_a_large_file_that_is_written_to_before_it_is_copied(copies: Path, source: Path, change: str) -> None:
    source.write_bytes(bytes(LARGE))
    taken = take(source, copies / "a")
    with source.open("r+b") as writing:
        if change == "truncate":
            writing.truncate(LARGE - 1)
        else:
            writing.seek(0, os.SEEK_END if change == "grow" else os.SEEK_SET)
            writing.write(b"x")
    assert not settle(*taken.pending[0], _nothing)
    assert _tree(copies) == {"a.link"}
    file, linked = open_taken(copies / "a")
    with file:
        assert linked
        assert Seen.of(file.fileno()) != taken.pending[0][1]


def test_a_large_file_that_is_written_to_while_it_is_copied(copies: Path, source: Path) -> None:
    source.write_bytes(bytes(LARGE))
    os.truncate(source, files._SLICE * 2)
    with source.open("r+b") as file:
        file.seek(files._SLICE)
        file.write(b"1" * files._SLICE)  # so that there is more than one slice of data
        file.seek(0)
        file.write(b"1" * files._SLICE)
    taken = take(source, copies / "a")
    pauses = []

    def write() -> None:
        with source.open("r+b") as file:
            file.write(b"x")
        pauses.append(1)

    assert not settle(*taken.pending[0], write)
    assert pauses
    assert _tree(copies) == {"a.link"}


def test_a_copy_that_nobody_waits_for_any_more_is_not_left(copies: Path, source: Path) -> None:
    source.write_bytes(b"1" * LARGE)
    taken = take(source, copies / "a")
    assert settle(*taken.pending[0], lambda: discard(copies / "a"))
    discard(copies / "a")
    assert _tree(copies) == set()
    taken = take(source, copies / "b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_SLICE", 1 << 20)
        assert settle(*taken.pending[0], lambda: discard(copies / "b"))
    assert _tree(copies) == set()


def test_a_sparse_file_stays_sparse(copies: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "INLINE_BYTES", 1 << 40)
    with source.open("wb") as file:
        file.seek(1 << 30)
        file.write(b"data in the middle")
        file.truncate(20 << 30)
    taken = take(source, copies / "a")
    assert taken.pending == []
    status = (copies / "a").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (20 << 30, True)
    with (copies / "a").open("rb") as file:
        file.seek(1 << 30)
        assert file.read(30) == b"data in the middle" + bytes(12)


def test_another_file_system_is_copied_at_once(copies: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "another disk")

    source.write_bytes(b"1" * LARGE)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    assert take(source, copies / "a").pending == []
    assert _read(copies / "a") == b"1" * LARGE


def test_what_a_symbolic_link_leads_to_is_taken(copies: Path, source: Path) -> None:
    for size in (10, LARGE):
        source.write_bytes(b"1" * size)
        (source.parent / "link").unlink(missing_ok=True)
        (source.parent / "link").symlink_to(source)
        take(source.parent / "link", copies / str(size))
        assert _read(copies / str(size)) == b"1" * size


def test_a_file_that_never_stands_still_is_refused(copies: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.write_bytes(b"1")
    copy = files._copy

    def disturbed(*given: object) -> None:
        copy(*given)  # type: ignore[arg-type]  # what the real one is given
        with source.open("ab") as file:
            file.write(b"1")

    monkeypatch.setattr(files, "_copy", disturbed)
    with pytest.raises(errors.FileChanged, match="source"):
        take(source, copies / "a")
    assert _tree(copies) == set()


@pytest.fixture
def special(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_what_is_no_file_is_refused_at_once(copies: Path, special: Path, tmp_path: Path) -> None:
    for path in (special, Path(os.devnull), tmp_path / "nothing", copies):
        with pytest.raises(OSError):
            take(path, copies / "a")
    assert _tree(copies) == set()


def test_a_folder_is_taken_with_what_is_in_it(copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    (folder / "sub" / "deep").mkdir(parents=True)
    for path in ("b", "a", "sub/deep/12:30", "sub/é", "ü"):
        (folder / path).write_text(path)
    (folder / "link").symlink_to(folder / "a")
    (folder / "sub" / "up").symlink_to(folder)
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
        told: list[str] = []
        monkeypatch.setattr(files, "INLINE_FILES", 3)
        taken = take_folder(folder, copies / "f", told.append)
    entries = entries_of(copies / "f")
    assert [entry.path for entry in entries] == ["a", "b", "link", "sub/deep/12:30", "sub/é", "ü"]
    assert len(taken.pending) == 3
    for target, seen in taken.pending:
        assert settle(target, seen, _nothing)
    contents = [_read(copies / "f" / str(place)).decode() for place in range(6)]
    assert contents == ["a", "b", "a", "sub/deep/12:30", "sub/é", "ü"]
    assert sorted(word for text in told for word in ("fifo", "socket", "up") if f"{word} in" in text) == [
        "fifo",
        "socket",
        "up",
    ]
    discard(copies / "f")
    assert _tree(copies) == set()


@pytest.mark.parametrize("name", [b"\xff", b"a\\b", b"c:x"])
def test_a_name_that_is_not_safe_everywhere_refuses_the_folder(copies: Path, tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).touch()
    with pytest.raises(errors.InvalidName, match="folder"):
        take_folder(folder, copies / "f", print)


def test_a_link_that_leads_nowhere_refuses_the_folder(copies: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="gone"):
        take_folder(tmp_path / "folder", copies / "f", print)


def test_files_that_vanish_are_taken_or_refuse_the_folder(copies: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(300):
        (folder / str(number)).write_text("x")
    stop = threading.Event()

    def remove() -> None:
        for path in folder.iterdir():
            if stop.is_set():
                return
            path.unlink()

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        take_folder(folder, copies / "f", print)
    except FileNotFoundError:
        pass
    else:
        assert all(_read(copies / "f" / str(place)) == b"x" for place in range(len(entries_of(copies / "f"))))
    finally:
        stop.set()
        thread.join()
