"""What a store of bytes promises: what it has is whole, is what its digest says, and never changes."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from sexton import errors
from sexton.blobs.local import Blobs, chunks, digest

BYTES = os.urandom(3_000_000)
DIGEST = f"b3:{blake3(BYTES).hexdigest()}"
NOBODYS = "b3:" + "0" * 64


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "deep" / "blobs")


def files(blobs: Blobs) -> list[Path]:
    return [path for path in blobs.folder.rglob("*") if path.is_file()]


def test_what_was_put_comes_back(blobs: Blobs, tmp_path: Path) -> None:
    assert not blobs.has(DIGEST)
    blobs.put(DIGEST, [BYTES[:1000], b"", BYTES[1000:]])
    assert blobs.has(DIGEST)
    blobs.get(DIGEST, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == BYTES
    assert digest(tmp_path / "copy") == DIGEST
    with blobs.open(DIGEST) as file:
        assert b"".join(chunks(file)) == BYTES


def test_empty_bytes_are_bytes(blobs: Blobs, tmp_path: Path) -> None:
    name = f"b3:{blake3(b'').hexdigest()}"
    blobs.put(name, [])
    blobs.get(name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


def test_bytes_under_a_wrong_digest_are_refused_and_leave_nothing(blobs: Blobs) -> None:
    with pytest.raises(errors.DigestMismatch) as caught:
        blobs.put(NOBODYS, [BYTES])
    assert caught.value.fields == {"expected": NOBODYS, "actual": DIGEST}
    assert not blobs.has(NOBODYS)
    assert files(blobs) == []


def test_a_source_that_fails_leaves_nothing(blobs: Blobs) -> None:
    def pieces() -> Iterator[bytes]:
        yield BYTES[:100]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        blobs.put(DIGEST, pieces())
    assert not blobs.has(DIGEST)
    assert files(blobs) == []


def test_stored_bytes_are_never_overwritten(blobs: Blobs) -> None:
    blobs.put(DIGEST, [BYTES])
    (path,) = files(blobs)
    before = path.stat()
    with blobs.draft(DIGEST) as draft:  # as one does who did not find it there a moment ago
        draft.write(BYTES)
        draft.keep()
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert files(blobs) == [path]


def test_many_may_put_the_same_bytes_at_once(blobs: Blobs) -> None:
    failures: list[BaseException] = []

    def put() -> None:
        try:
            blobs.put(DIGEST, [BYTES])
        except BaseException as error:  # noqa: BLE001 - the test's own thread: told below
            failures.append(error)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(files(blobs)) == 1


def test_damaged_bytes_are_never_handed_out(blobs: Blobs, tmp_path: Path) -> None:
    blobs.put(DIGEST, [BYTES])
    (path,) = files(blobs)
    damaged = bytearray(BYTES)
    damaged[1_234_567] ^= 1
    path.write_bytes(damaged)
    target = tmp_path / "copy"
    target.write_bytes(b"what was there before")
    with pytest.raises(errors.IntegrityError):
        blobs.get(DIGEST, target)
    assert target.read_bytes() == b"what was there before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "deep"]


def test_unknown_bytes_are_not_found(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(errors.BlobNotFound):
        blobs.get(NOBODYS, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b3:",
        "../../etc/passwd",
        "b3:../../../../etc/passwd",
        "b3:" + "0" * 63,
        "b3:" + "0" * 65,
        "b3:" + "0" * 64 + "\n",
        "b3:" + "A" * 64,
        "b3:" + "/" * 64,
        "b3:" + "." * 64,
        "b3:" + "\u0661" * 64,
        "sha256:" + "0" * 64,
    ],
)
def test_only_a_digest_leads_to_a_path(blobs: Blobs, text: str) -> None:
    for use in (blobs.has, blobs.open, lambda digest: blobs.put(digest, [])):
        with pytest.raises(errors.InvalidValue):
            use(text)
    assert not blobs.folder.exists()


def test_others_on_the_machine_can_not_read_or_plant_bytes(blobs: Blobs) -> None:
    before = os.umask(0)
    try:
        blobs.put(DIGEST, [BYTES])
    finally:
        os.umask(before)
    for path in [blobs.folder, *blobs.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_disk_that_does_not_take_bytes_may_take_them_later(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file where the folder should be")
    with pytest.raises(errors.Unavailable) as caught:
        Blobs(tmp_path / "blobs").put(DIGEST, [BYTES])
    assert caught.value.transient


KILLED_WHILE_WRITING = """
import os, sys
from pathlib import Path
from sexton.blobs.local import Blobs
def pieces():
    yield b"half of it"
    os.kill(os.getpid(), 9)
Blobs(Path(sys.argv[1])).put(sys.argv[2], pieces())
"""


def test_a_writer_killed_half_way_leaves_no_bytes_under_the_digest(blobs: Blobs) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(blobs.folder), DIGEST], check=False)
    assert done.returncode == -9
    assert not blobs.has(DIGEST)
    blobs.put(DIGEST, [BYTES])
    assert blobs.has(DIGEST)
