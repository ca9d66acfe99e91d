"""Artifacts come back from every kind of store as they were, and nothing else on the disk is touched."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sexton import errors
from sexton.capture.files import Seen
from sexton.client import Client, connect
from sexton.client.transfers import Sent, Source, digest_of, download, manifest_of, upload
from sexton.model.artifacts import Chunk, File, Manifest, hash_of, text_of
from tests.batches import pack, recipe, stored
from tests.serving import Server


class Shop(NamedTuple):
    """A store, which all tests of the module share, and where its objects are."""

    client: Client
    place: Path


@pytest.fixture(scope="module", params=["file", "http"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp(request.param)
    store, blobs = f"file:{folder}/store", f"file:{folder}/store/blobs"
    with ExitStack() as stack:
        if request.param == "http":
            store = stack.enter_context(Server(store, blobs, folder / "log")).url
        client = connect(store, blobs=blobs)
        stack.callback(client.close)
        yield Shop(client, folder / "store" / "blobs")


@pytest.fixture
def client(shop: Shop) -> Client:
    return shop.client


@pytest.fixture
def packs(shop: Shop) -> Callable[[], list[Path]]:
    """The packs that the test has added."""
    before = set(shop.place.rglob("*.pack"))
    return lambda: sorted(set(shop.place.rglob("*.pack")) - before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is sent and received."""
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def _source(path: Path, name: str = "") -> Source:
    status = path.stat()
    return Source(name, path, Seen(status.st_size, status.st_mtime_ns))


def send(client: Client, *sources: Source, drop: tuple[str, ...] = ()) -> Sent:
    """Send an artifact; what makes packs is beside the files."""
    work = sources[0].target.parent / "packs"
    work.mkdir(exist_ok=True)
    under = client.open_upload().id
    sent = upload(client, under, sources, work, drop)
    assert list(work.iterdir()) == []
    work.rmdir()
    return sent


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
def test_a_file_comes_back(client: Client, folder: Path, size: int) -> None:
    data = os.urandom(size)
    (folder / "a").write_bytes(data)
    sent = send(client, _source(folder / "a"))
    arrived: list[int] = []
    manifest = download(client, sent.digest, folder / "back", arrived.append)
    assert (folder / "back").read_bytes() == data
    assert (manifest.size, sum(arrived)) == (sent.size, sent.size)
    assert stat.S_IMODE((folder / "back").stat().st_mode) == 0o600


def test_a_folder_comes_back(client: Client, folder: Path) -> None:
    contents = {"a": b"1", "empty": b"", "sub/deep/b": os.urandom(300_000), "sub/same": b"1", "ü": b"2"}
    sources = []
    for number, (path, data) in enumerate(sorted(contents.items(), key=lambda item: item[0].encode())):
        (folder / str(number)).write_bytes(data)
        sources.append(_source(folder / str(number), path))
    sent = send(client, *sources)
    download(client, sent.digest, folder / "back")
    found = {str(one.relative_to(folder / "back")): one for one in (folder / "back").rglob("*") if one.is_file()}
    assert {path: one.read_bytes() for path, one in found.items()} == contents
    assert send(client, *sources) == sent


def test_a_larger_file_is_sent_piece_by_piece(
    client: Client, folder: Path, packs: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of many gigabytes is: with several rounds of questions, and several packs."""
    monkeypatch.setattr("sexton.client.transfers.CLAIM_BYTES", 0)
    monkeypatch.setattr("sexton.client.transfers.HELD_BYTES", 1_000_000)
    monkeypatch.setattr("sexton.blobs.packs.PACK_CHUNKS", 30)
    monkeypatch.setattr("sexton.client.transfers.READ_BYTES", 300_000)
    monkeypatch.setattr("sexton.client.transfers._WINDOW", 50)
    data = os.urandom(9_000_000) * 2
    (folder / "a").write_bytes(data)
    sent = send(client, _source(folder / "a"))
    assert len(packs()) > 2
    assert sum(one.stat().st_size for one in packs()) < 9_500_000
    download(client, sent.digest, folder / "back")
    assert (folder / "back").read_bytes() == data


def test_what_is_there_is_not_sent_again(
    client: Client, folder: Path, packs: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(2_000_000)
    (folder / "a").write_bytes(data)
    send(client, _source(folder / "a"))
    before = packs()
    send(client, _source(folder / "a"))
    monkeypatch.setattr("sexton.client.transfers.CLAIM_BYTES", 0)
    send(client, _source(folder / "a"))
    assert packs() == before
    (folder / "a").write_bytes(data[:1_000_000] + b"in between" + data[1_000_000:])
    send(client, _source(folder / "a"))
    [more] = set(packs()) - set(before)
    assert more.stat().st_size < 600_000


def test_the_state_of_an_optimizer_can_be_left_out(
    client: Client, folder: Path, packs: Callable[[], list[Path]]
) -> None:
    tensors = {name: np.random.default_rng(1).random(300_000) for name in ("layer.w", "optimizer.exp_avg")}
    save_file(tensors, folder / "a")
    sent = send(client, _source(folder / "a"), drop=("optimizer",))
    assert sent.shed == ("optimizer",)
    download(client, sent.digest, folder / "back")
    back = load_file(folder / "back")
    assert np.array_equal(back["layer.w"], tensors["layer.w"])
    assert not back["optimizer.exp_avg"].any()
    assert sum(one.stat().st_size for one in packs()) < 2_500_000
    assert send(client, _source(folder / "a")).digest != sent.digest


def test_a_download_goes_on_where_it_was(client: Client, folder: Path, packs: Callable[[], list[Path]]) -> None:
    """Also after its bytes on the disk were damaged."""
    data = os.urandom(3_000_000)
    (folder / "a").write_bytes(data)
    sent = send(client, _source(folder / "a"))
    (folder / "back").write_bytes(data[:1_000_000] + bytes(500_000) + data[1_500_000:2_000_000] + b"x" * 2_000_000)
    for one in packs():  # what is there already can not come from here
        read = one.read_bytes()
        at = read.find(data[100_000:100_100])
        one.write_bytes(read[:at] + b"\0" + read[at + 1 :])
    download(client, sent.digest, folder / "back")
    assert (folder / "back").read_bytes() == data


def test_damaged_bytes_are_told_with_what_to_do(client: Client, folder: Path, packs: Callable[[], list[Path]]) -> None:
    (folder / "a").write_bytes(os.urandom(300_000))
    sent = send(client, _source(folder / "a"))
    [one] = packs()
    data = bytearray(one.read_bytes())
    data[1000] ^= 1
    one.write_bytes(data)
    with pytest.raises(errors.IntegrityError, match=r"b3:.*Saving the same bytes again"):
        download(client, sent.digest, folder / "back")
    one.unlink()
    with pytest.raises(errors.BlobNotFound):
        download(client, sent.digest, folder / "back")


def test_what_a_reader_finds_damaged_the_store_knows(
    client: Client, folder: Path, packs: Callable[[], list[Path]]
) -> None:
    (folder / "a").write_bytes(os.urandom(3_000_000))
    sent = send(client, _source(folder / "a"))
    hashes = client.manifest(sent.digest).hashes
    client.doubt(hashes[:100])
    assert len(client.locate(hashes)) == len(hashes)  # on nobody's word alone
    [one] = packs()
    data = bytearray(one.read_bytes())
    data[1000] ^= 1
    one.write_bytes(data)
    with pytest.raises(errors.IntegrityError):
        download(client, sent.digest, folder / "back")
    assert len(client.locate(hashes)) == len(hashes) - 1
    send(client, _source(folder / "a"))
    download(client, sent.digest, folder / "back")
    assert (folder / "back").read_bytes() == (folder / "a").read_bytes()


def test_what_nobody_stored_is_not_found(client: Client, folder: Path) -> None:
    with pytest.raises(errors.BlobNotFound):
        download(client, "b3:" + "3" * 64, folder / "back")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("text", ["", "b3:xyz", "../../etc/passwd", "%2e%2e%2f"])
def test_what_is_no_digest_leads_nowhere(client: Client, folder: Path, text: str) -> None:
    with pytest.raises((errors.UsageError, errors.NotFound)):
        download(client, text, folder / "back")


def test_nothing_is_written_through_a_link(client: Client, folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    alone, inside = send(client, _source(folder / "a")), send(client, _source(folder / "a", "sub/a"))
    victim = folder / "victim"
    victim.mkdir()
    (victim / "a").write_bytes(b"precious")
    (folder / "link").symlink_to(victim / "a")
    os.link(victim / "a", folder / "other name")
    (folder / "tree").mkdir()
    (folder / "tree" / "sub").symlink_to(victim)
    (folder / "root").symlink_to(victim)
    for digest, target in [(alone, "link"), (alone, "other name"), (inside, "tree"), (inside, "root")]:
        with pytest.raises(OSError):
            download(client, digest.digest, folder / target)
    assert (victim / "a").read_bytes() == b"precious"
    assert [one.name for one in victim.iterdir()] == ["a"]


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", "a//b", "", ".", "c:\\x", "a\0b"])
def test_a_manifest_that_leads_out_of_the_folder_is_refused(client: Client, folder: Path, path: str) -> None:
    """By the store, and by a client whose store does not."""
    digest = stored(client, b"x")
    files = [File(path, 1, digest, [0]), File("ok", 1, digest, [0])]
    bad = Manifest(digest_of(files), 2, [Chunk(hash_of(digest), 1)], files)
    with pytest.raises(errors.InvalidManifest):
        client.commit_manifest(client.open_upload().id, bad)

    class Lying:
        def manifest(self, digest: str) -> Manifest:
            return bad

    with pytest.raises(errors.IntegrityError):
        manifest_of(Lying(), bad.digest)  # type: ignore[arg-type]  # all that is asked of it


def test_a_pack_that_lies_is_refused(folder: Path, tmp_path: Path) -> None:
    with Server(f"file:{tmp_path}/store", f"file:{tmp_path}/store/blobs", tmp_path / "log") as server:
        client = connect(server.url, blobs="")
        under = client.open_upload().id
        path = pack(folder / "pack", b"good bytes")
        path.write_bytes(path.read_bytes().replace(b"good bytes", b"bad bytes!"))
        with pytest.raises(errors.IntegrityError, match="are others"):
            client.put_pack(under, "other", path)
        assert client.pin(under, recipe(b"good bytes").hashes) == recipe(b"good bytes").hashes
        assert list((tmp_path / "store").rglob("*.pack")) == []
        client.close()


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _change(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"more")


def _shrink(path: Path) -> None:
    os.truncate(path, 100_000)


@pytest.mark.parametrize("change", [_grow, _change, _shrink])
@pytest.mark.parametrize("claim", [0, 1 << 30])
def test_a_link_whose_file_was_written_to_is_not_believed(
    client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], claim: int
) -> None:
    monkeypatch.setattr("sexton.client.transfers.CLAIM_BYTES", claim)
    (folder / "original").write_bytes(os.urandom(700_000))
    seen = _source(folder / "original").seen
    os.link(folder / "original", folder / "a.link")
    source = Source("", folder / "a", seen)
    good = send(client, source)
    change(folder / "original")
    with pytest.raises(errors.FileChanged):
        send(client, source)
    download(client, good.digest, folder / "back")


def test_an_upload_that_was_closed_takes_nothing(client: Client, folder: Path) -> None:
    (folder / "a").write_bytes(b"x")
    under = client.open_upload().id
    client.close_upload(under)
    client.close_upload(under)
    with pytest.raises(errors.UploadClosed):
        upload(client, under, [_source(folder / "a")], folder)


def test_the_digest_of_a_folder_is_that_of_its_list() -> None:
    """A released format: it must never change."""
    one, two = (File(path, 1, text_of(bytes([number]) * 32), []) for number, path in enumerate(["a", "b/ü"]))
    assert digest_of([one, two]) == "b3:417ea3365af756e029f943d71e1fc038a95afff0717fe7738a2952866d31c4ec"
    assert digest_of([File("", 1, one.digest, [])]) == one.digest
    assert digest_of([]) == "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
