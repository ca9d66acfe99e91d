"""What a place promises, the same for a folder and for a bucket: what has a key is whole, stays, and is found."""

import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sexton import errors
from sexton.blobs.places import Bucket, Folder, Place, attach, open_place, probe
from tests.s3 import READER_KEY, S3

BYTES = os.urandom(5_000_000)
KEY = "packs/weights/u1/0-00ff.pack"
HOUR_NS = 3600 * 1_000_000_000


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return open_place(f"file:{tmp_path / 'deep' / 'place'}")
    return open_place(request.getfixturevalue("s3_url"))


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / f"file{len(list(tmp_path.glob('file*')))}"
        path.write_bytes(data)
        return path

    return write


Files = Callable[[bytes], Path]


def whole(place: Place, key: str) -> bytes:
    return place.read(key, 0, place.size(key))


def keys(place: Place, prefix: str = "") -> list[str]:
    return sorted(stored.key for stored in place.list(prefix))


def test_what_was_put_comes_back_also_in_parts(place: Place, file: Files) -> None:
    path = file(BYTES)
    place.put(KEY, path)
    path.unlink()
    assert place.size(KEY) == len(BYTES)
    assert whole(place, KEY) == BYTES
    assert place.read(KEY, 4_000_000, 4_000_010) == BYTES[4_000_000:4_000_010]
    assert place.read(KEY, 7, 7) == b""


def test_nothing_is_something(place: Place, file: Files) -> None:
    place.put("a", file(b""))
    place.put_bytes("b", b"")
    assert (place.size("a"), whole(place, "b")) == (0, b"")


def test_again_is_fine_and_other_bytes_are_refused(place: Place, file: Files) -> None:
    place.put(KEY, file(BYTES))
    place.put(KEY, file(BYTES))
    place.put_bytes(KEY, BYTES)
    for other in (BYTES[:-1], BYTES[:-1] + bytes([BYTES[-1] ^ 1]), BYTES + b"0", b""):
        with pytest.raises(errors.KeyTaken):
            place.put(KEY, file(other))
        with pytest.raises(errors.KeyTaken):
            place.put_bytes(KEY, other)
    assert whole(place, KEY) == BYTES
    assert keys(place) == [KEY]


def test_replaced_only_when_asked(place: Place) -> None:
    place.put_bytes("a/b", b"first", replace=True)
    place.put_bytes("a/b", b"other", replace=True)
    assert whole(place, "a/b") == b"other"


def test_what_is_not_there_is_not_found(place: Place) -> None:
    place.put_bytes("a/b", b"1")
    for key in ("a/c", "b", "c/d/e"):
        with pytest.raises(errors.BlobNotFound):
            place.size(key)
        with pytest.raises(errors.BlobNotFound):
            place.read(key, 0, 1)


def test_an_object_that_is_too_short_is_damaged_and_not_read_as_if_it_were_whole(place: Place) -> None:
    place.put_bytes("a", b"12345")
    for start, end in ((0, 6), (4, 9), (5, 6), (9, 12)):
        with pytest.raises(errors.IntegrityError):
            place.read("a", start, end)


def test_a_listing_has_what_begins_with_whole_parts(place: Place) -> None:
    assert keys(place) == []
    for key in ("packs/w/1", "packs/w/2", "packs/w-2/1", "packs2/w/1", "packs.json"):
        place.put_bytes(key, b"12345")
    assert keys(place, "packs") == keys(place, "packs/") == ["packs/w-2/1", "packs/w/1", "packs/w/2"]
    assert keys(place, "packs/w") == ["packs/w/1", "packs/w/2"]
    assert keys(place, "packs/none") == keys(place, "none") == []
    assert len(keys(place)) == 5


def test_a_listing_tells_size_and_age(place: Place, file: Files) -> None:
    old = file(BYTES)
    os.utime(old, (1, 1))
    place.put(KEY, old)
    [stored] = place.list("")
    assert (stored.key, stored.size) == (KEY, len(BYTES))
    assert abs(stored.modified_at - time.time_ns()) < HOUR_NS, "the object is new, however old the file"


def test_a_long_listing_is_complete(place: Place) -> None:
    expected = sorted(f"many/{number % 7}/{number}" for number in range(2_100))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: place.put_bytes(key, b"1"), expected))
    assert keys(place, "many") == expected
    place.delete(expected[:2_050])
    assert keys(place, "many") == expected[2_050:]


def test_deleted_is_gone_and_what_is_not_there_is_fine(place: Place) -> None:
    for key in ("a/b/c", "a/b/d", "e"):
        place.put_bytes(key, b"1")
    place.delete([])
    place.delete(["a/b/c", "a/b/never", "never/there", "e"])
    assert keys(place) == ["a/b/d"]
    place.delete(["a/b/d", "a/b/d"])
    assert keys(place) == []
    place.put_bytes("a/b/c", b"new")
    assert whole(place, "a/b/c") == b"new"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "a/..",
        ".",
        ".drafts/x",
        "A",
        "a b",
        "a\\b",
        "a\n",
        "é",
        "a%2fb",
        "a" * 600,
    ],
)
def test_what_is_no_key_leads_nowhere(tmp_path: Path, s3_url: str, key: str) -> None:
    path = tmp_path / "path"
    path.write_bytes(b"1")
    for place in (open_place(f"file:{tmp_path / 'place'}"), open_place(s3_url)):
        for verb in (
            lambda place: place.put(key, path),
            lambda place: place.put_bytes(key, b"1"),
            lambda place: place.read(key, 0, 1),
            lambda place: place.size(key),
            lambda place: place.delete(["a", key]),
            lambda place: list(place.list(f"{key}?")),
        ):
            with pytest.raises(errors.InvalidName):
                verb(place)
    assert sorted(os.listdir(tmp_path)) == ["path"]


def test_of_those_who_race_for_a_key_one_wins_and_its_object_is_whole(place: Place, file: Files) -> None:
    versions = [bytes([number]) * 1_000_000 for number in range(12)]
    paths = [file(version) for version in versions]
    start = threading.Barrier(12)

    def run(path: Path) -> bool:
        start.wait()
        try:
            place.put(KEY, path)
        except errors.KeyTaken:
            return False
        return True

    with ThreadPoolExecutor(12) as racers:
        won = list(racers.map(run, paths))
    assert won.count(True) == 1
    assert whole(place, KEY) == versions[won.index(True)]


def test_putting_and_deleting_beside_each_other_loses_nothing(place: Place) -> None:
    """A folder removes what is empty while somebody is about to put something into it."""

    def run(writer: int) -> None:
        for number in range(40):
            place.put_bytes(f"packs/{number}/{writer}", b"1")
            if writer % 2:
                place.delete([f"packs/{number}/{writer}"])

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(run, range(4)))
    assert keys(place) == sorted(f"packs/{number}/{writer}" for number in range(40) for writer in (0, 2))


def test_a_place_that_creates_once_is_told_from_others(place: Place) -> None:
    assert probe(place)
    assert keys(place) == []


@pytest.mark.parametrize("race", [True, False])
def test_a_place_that_replaces_is_told(tmp_path: Path, race: bool) -> None:
    """Those who race write numbers."""

    class Replacing(Folder):
        def put_bytes(self, key: str, data: bytes, *, replace: bool = False) -> None:
            super().put_bytes(key, data, replace=data.isdigit() == race)

    assert not probe(Replacing(tmp_path / "replacing"))


def test_what_has_no_key_is_not_ours_and_not_listed(tmp_path: Path, s3: S3, s3_url: str) -> None:
    """So that nobody takes it for something left over, and deletes it."""
    folder, bucket = Folder(tmp_path), Bucket(s3_url)
    for place in (folder, bucket):
        place.put_bytes("packs/1", b"1")
    (tmp_path / "packs" / "Thumbs.db").write_bytes(b"1")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "1").write_bytes(b"1")
    s3.store().put(f"{s3_url.rpartition('/')[2]}/packs/Thumbs.db", b"1")
    assert keys(folder) == keys(bucket) == ["packs/1"]


def test_a_place_belongs_to_one_store(place: Place) -> None:
    attach(place, "store1", is_used=False)
    attach(place, "store1", is_used=False)
    with pytest.raises(errors.ForeignPlace) as caught:
        attach(place, "store2", is_used=False)
    assert caught.value.fields == {"place": place.url, "owner": "store1", "store": "store2"}
    assert keys(place) == ["store.json"]


def test_a_used_place_that_is_empty_is_not_taken_for_a_new_one(place: Place) -> None:
    """An empty mount point: what is written there would be gone once the disk is back."""
    with pytest.raises(errors.Unavailable, match="is it mounted"):
        attach(place, "store1", is_used=True)
    assert keys(place) == []
    attach(place, "store1", is_used=False)
    attach(place, "store1", is_used=True)


def test_of_stores_that_race_for_a_place_one_has_it(place: Place) -> None:
    def run(store: str) -> bool:
        try:
            attach(place, store, is_used=False)
        except errors.ForeignPlace:
            return False
        return True

    names = [f"store{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as racers:
        attached = [name for name, won in zip(names, racers.map(run, names), strict=True) if won]
    assert len(attached) == 1
    attach(place, attached[0], is_used=False)


@pytest.mark.parametrize("text", [b"", b"{}", b'{"store": 1}', b'{"store":"store1","version":2}', b"\xff"])
def test_a_place_whose_owner_can_not_be_told_is_left_alone(place: Place, text: bytes) -> None:
    place.put_bytes("store.json", text)
    with pytest.raises(errors.IntegrityError):
        attach(place, "store1", is_used=False)
    assert whole(place, "store.json") == text


def test_a_folder_has_no_addresses_for_others(tmp_path: Path) -> None:
    place: Place = Folder(tmp_path)
    assert place.sign("GET", "a", 60) is None


def _request(url: str, data: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data, method="GET" if data is None else "PUT")
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return bytes(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            raise (PermissionError if error.code == 403 else error) from None


def test_a_signed_address_allows_one_act_on_one_object(s3_url: str) -> None:
    bucket = Bucket(s3_url)
    bucket.put_bytes("a/b", b"bytes")
    assert _request(bucket.sign("GET", "a/b", 60)) == b"bytes"
    with pytest.raises(PermissionError):
        _request(bucket.sign("GET", "a/b", 60), b"other")
    with pytest.raises(PermissionError):
        _request(bucket.sign("GET", "a/b", 60).replace("a/b", "a/c"))
    _request(bucket.sign("PUT", "a/c", 60), b"put")
    assert whole(bucket, "a/c") == b"put"


def test_who_may_only_read_is_told_what_to_set(
    s3: S3, s3_url: str, monkeypatch: pytest.MonkeyPatch, file: Files
) -> None:
    open_place(s3_url).put_bytes("a", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    reader = open_place(s3_url)
    assert whole(reader, "a") == b"1"
    verbs: list[Callable[[], None]] = [
        lambda: reader.put("b", file(b"1")),
        lambda: reader.put_bytes("a", b"2", replace=True),
        lambda: reader.delete(["a"]),
    ]
    for verb in verbs:
        with pytest.raises(errors.Denied, match="AWS_ACCESS_KEY_ID"):
            verb()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(errors.Denied, match="AWS_ACCESS_KEY_ID"):
        open_place(s3_url).size("a")


def test_a_bucket_that_is_missing_is_not_taken_for_an_empty_one(s3_url: str, file: Files) -> None:
    """Else everything in it would be taken for lost."""
    place = open_place("s3://missing/prefix")
    for verb in (
        lambda: place.put("a", file(b"1")),
        lambda: place.read("a", 0, 1),
        lambda: place.size("a"),
        lambda: place.delete(["a"]),
        lambda: list(place.list("")),
        lambda: attach(place, "store1", is_used=False),
    ):
        with pytest.raises(errors.Unavailable, match=r"s3://missing/prefix.*NoSuchBucket"):
            verb()


@pytest.mark.parametrize("url", ["s3:", "s3://", "s3:///a", "gs://", "az://", "ftp://a/b", "/a/b", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(errors.UsageError):
        open_place(url)


def test_the_other_providers_are_built_from_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built, and their addresses signed, which needs no network; whoever has such buckets can try the rest."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    signed = Bucket("az://container/pre/fix").sign("GET", "a/b", 60)
    assert signed.startswith("https://account.blob.core.windows.net/container/pre/fix/a/b?")
    assert open_place("gs://bucket/pre/fix").url == "gs://bucket/pre/fix"
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(errors.UsageError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        open_place("az://container/pre/fix")


def test_without_obstore_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(errors.UsageError, match=r"pip install 'sexton\[gcs\]'"):
        open_place("gs://bucket")
