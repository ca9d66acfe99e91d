"""A place on a bad day: what a key has is whole or not there, and whoever tries again comes to the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sexton import errors
from sexton.blobs.folder import DRAFTS, Folder
from sexton.blobs.places import Bucket, Place
from tests.faults.proxy import Proxy
from tests.s3 import S3

BYTES = os.urandom(3_000_000)
KEY = "packs/weights/u1/0-00ff.pack"
PATIENCE = 0.5  # seconds
DAY = 24 * 3600

# ------------------------------------------------------------------------------------------------------------- folder

PUT = """
import sys
from pathlib import Path
from sexton import errors
from sexton.blobs.folder import Folder
place, key, path, how = Folder(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
try:
    place.put(key, path) if how == "put" else place.put_bytes(key, path.read_bytes(), replace=how == "replace")
except errors.Unavailable as error:
    print(error)
    sys.exit(3)
"""

KILLS = [
    *(("put", "fsync", number) for number in (1, 2, 3, 5)),
    *(("put", call, 1) for call in ("link", "mkdir", "utimensat")),
    *(("put_bytes", call, number) for call in ("write", "fsync") for number in (1, 3)),
    *(("put_bytes", call, 1) for call in ("link", "unlink")),
    *(("replace", call, 1) for call in ("fsync", "rename")),
]

FAILURES = [
    ("put", "fsync", 1, "EIO", "Input/output error"),
    ("put", "fsync", 2, "EIO", "Input/output error"),
    ("put", "fsync", 5, "EIO", "Input/output error"),
    ("put", "link", 1, "ENOSPC", "No space left on device"),
    ("put", "mkdir", 1, "EROFS", "Read-only file system"),
    ("put_bytes", "write", 2, "ENOSPC", "No space left on device"),
    ("put_bytes", "fsync", 2, "EIO", "Input/output error"),
    ("replace", "rename", 1, "ENOSPC", "No space left on device"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "place")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(BYTES)
    return path


def _put(folder: Folder, source: Path, how: str, inject: str) -> subprocess.CompletedProcess[str]:
    """Another process puts the file, and at a system call of that name this happens to it."""
    strace = ["strace", "-f", "-o", os.devnull, "-e", f"inject={inject}"]
    argv = [*strace, sys.executable, "-B", "-c", PUT, str(folder.path), KEY, str(source), how]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)


def _whole(place: Place, key: str) -> bytes:
    return place.read(key, 0, place.size(key))


def _drafts(folder: Folder) -> list[Path]:
    return list((folder.path / DRAFTS).glob("*"))


@pytest.mark.needs("strace")
@pytest.mark.parametrize(("how", "call", "number"), KILLS)
def test_killed_while_putting(folder: Folder, source: Path, how: str, call: str, number: int) -> None:
    killed = _put(folder, source, how, f"{call}:signal=KILL:when={number}")
    assert killed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), "it came to that"
    assert all(_whole(folder, stored.key) == BYTES for stored in folder.list(""))
    folder.put(KEY, source)
    assert _whole(folder, KEY) == BYTES
    for draft in _drafts(folder):
        os.utime(draft, (time.time() - DAY - 60,) * 2)
    folder.tidy()
    assert _drafts(folder) == []
    assert [stored.key for stored in folder.list("")] == [KEY]


@pytest.mark.needs("strace")
@pytest.mark.parametrize(("how", "call", "number", "error", "reason"), FAILURES)
def test_a_disk_that_fails(
    folder: Folder, source: Path, how: str, call: str, number: int, error: str, reason: str
) -> None:
    failed = _put(folder, source, how, f"{call}:error={error}:when={number}")
    assert failed.returncode == 3, failed.stderr
    assert str(folder.path) in failed.stdout
    assert reason in failed.stdout
    assert list(folder.list("")) == [], "a disk tells only once that it failed: what is there now can not be believed"
    assert _drafts(folder) == []
    folder.put(KEY, source)
    assert _whole(folder, KEY) == BYTES


@pytest.mark.needs("strace")
def test_a_folder_that_is_removed_as_empty_before_the_object_is_in_it(folder: Folder, source: Path) -> None:
    """A delete looks for empty folders while somebody, held up for a while, is about to use one."""
    held = ["strace", "-f", "-o", os.devnull, "-e", "inject=link:delay_enter=500000:when=1"]
    argv = [*held, sys.executable, "-B", "-c", PUT, str(folder.path), KEY, str(source), "put"]
    with subprocess.Popen(argv) as putting:
        while putting.poll() is None and not (folder.path / KEY).parent.exists():
            pass
        folder.delete([f"{KEY}.never"])
        assert putting.wait(30) == 0
    assert _whole(folder, KEY) == BYTES


@pytest.mark.needs("strace")
def test_put_is_durable_on_return(folder: Folder, source: Path, tmp_path: Path) -> None:
    """The bytes before they have the name, and then every folder on the way to it."""
    trace = tmp_path / "trace"
    argv = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,link,linkat", sys.executable, "-B", "-c", PUT]
    subprocess.run([*argv, str(folder.path), KEY, str(source), "put"], check=True, timeout=60)
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines() if "sync(" in line or "link" in line]
    named = next(at for at, call in enumerate(calls) if call.startswith("link"))
    assert any(f"<{source}>" in call for call in calls[:named])
    synced = {call.partition("<")[2].partition(">")[0] for call in calls[named:] if call.startswith("fsync")}
    above = (folder.path / KEY).parents
    assert {str(above[depth]) for depth in range(4)} <= synced
    assert any(f"<{tmp_path}>" in call for call in calls), "the folder of the place was new"


def test_a_draft_that_somebody_may_still_write_stays(folder: Folder) -> None:
    folder.put_bytes("a", b"1")
    draft = folder.path / DRAFTS / "draft"
    draft.write_bytes(b"1")
    folder.tidy()
    assert draft.exists()
    assert [stored.key for stored in folder.list("")] == ["a"]


def test_a_file_on_another_disk_is_copied(folder: Folder, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other disk")
    source = other / f"sexton-{tmp_path.name}-{os.getpid()}"
    source.write_bytes(BYTES)
    try:
        folder.put(KEY, source)
    finally:
        source.unlink()
    assert _whole(folder, KEY) == BYTES
    assert _drafts(folder) == []


# ------------------------------------------------------------------------------------------------------------- bucket


class Flipping(Proxy):
    """Changes a bit of what is sent, on its way."""

    async def _forward(self, request: bytes) -> bytes:
        method, flipped = request.split(b" ", 1)[0], bytes([request[-1] ^ 1])
        return await super()._forward(request[:-1] + flipped if method == b"PUT" else request)


@pytest.fixture
def behind(s3: S3, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Proxy], Bucket]:
    """The bucket, reached through a proxy."""

    def through(proxy: Proxy) -> Bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        return Bucket(s3_url, PATIENCE)

    return through


Behind = Callable[[Proxy], Bucket]


@pytest.mark.parametrize("fault", ["refuse", "fail oddly", "hang", "cut the request", "cut the reply"])
def test_a_provider_that_fails_is_away_and_not_empty(
    s3: S3, s3_url: str, behind: Behind, source: Path, fault: str
) -> None:
    Bucket(s3_url).put_bytes("a", BYTES)
    with Proxy(s3.port, faults=(fault,), rate=1.0) as proxy:
        bucket = behind(proxy)
        for verb in (lambda: bucket.read("a", 0, len(BYTES)), lambda: list(bucket.list(""))):
            if fault != "cut the request":  # half of a request without a body is no request, and waits
                with pytest.raises(errors.Unavailable, match=bucket.url):
                    verb()
        if fault != "cut the reply":  # that to a put has no body
            with pytest.raises(errors.Unavailable, match=bucket.url):
                bucket.put_bytes(KEY, BYTES)
        proxy.calm()
        bucket.put(KEY, source)
        assert _whole(bucket, KEY) == BYTES


def test_a_put_whose_reply_was_lost_is_done(s3: S3, behind: Behind, source: Path) -> None:
    """The second time the key has bytes: our own."""
    with Proxy(s3.port) as proxy:
        faults = iter(["drop the reply"])
        proxy.fault = lambda line: next(faults, None) if line.startswith("PUT") else None
        bucket = behind(proxy)
        bucket.put(KEY, source)
        assert proxy.done["drop the reply"] == 1
        assert _whole(bucket, KEY) == BYTES


def test_bytes_that_change_on_their_way_are_not_stored(s3: S3, behind: Behind, source: Path) -> None:
    with Flipping(s3.port, rate=0.0) as proxy:
        bucket = behind(proxy)
        with pytest.raises((errors.Unavailable, errors.Denied)):
            bucket.put(KEY, source)
        with pytest.raises((errors.Unavailable, errors.Denied)):
            bucket.put_bytes("a", BYTES, replace=True)
        assert list(bucket.list("")) == []


def test_a_slow_provider_is_waited_for(s3: S3, behind: Behind, source: Path) -> None:
    with Proxy(s3.port, faults=("dawdle",), rate=1.0) as proxy:
        bucket = behind(proxy)
        bucket.put(KEY, source)
        assert _whole(bucket, KEY) == BYTES


def test_who_tries_again_comes_to_the_end(s3: S3, behind: Behind, source: Path) -> None:
    faults = ("refuse", "fail oddly", "drop the reply", "cut the reply")
    keys = [f"packs/{number}" for number in range(4)]
    with Proxy(s3.port, seed=7, faults=faults, rate=0.4) as proxy:
        bucket = behind(proxy)
        for key in keys:
            _until_done(lambda key=key: bucket.put(key, source))  # type: ignore[misc]  # mypy knows no such lambda
        _until_done(lambda: bucket.put_bytes("deleted", b"1"))
        _until_done(lambda: bucket.delete(["deleted"]))
        proxy.calm()
        assert sorted(stored.key for stored in bucket.list("")) == keys
        assert all(_whole(bucket, key) == BYTES for key in keys)


def _until_done(verb: Callable[[], None]) -> None:
    for _ in range(50):
        try:
            return verb()
        except errors.Unavailable:
            pass
    raise AssertionError("it never came to an end")


def test_a_provider_that_is_down(s3: S3, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(errors.Unavailable, match=s3_url):
        Bucket(s3_url, PATIENCE).size("a")
