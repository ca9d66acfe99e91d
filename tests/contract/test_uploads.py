"""Bytes come into a store whole or not at all, and stay while something refers to them or may be about to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sexton import errors
from sexton.api import Local
from sexton.blobs.hashing import hash_of_bytes
from sexton.model import records
from sexton.model.artifacts import Chunk, File, Manifest
from sexton.storage import uploads
from tests.batches import T0, fetched, new_run, pack, recipe, stored
from tests.batches import records as batch

A, B, C = b"a" * 1000, b"b" * 2000, b"c" * 3000


@pytest.fixture
def client(store_url: str, tmp_path: Path) -> Iterator[Local]:
    opened = Local.open(store_url, f"file:{tmp_path / 'blobs'}", "ann")
    yield opened
    opened.close()


@pytest.fixture
def upload(client: Local) -> str:
    return client.open_upload().id


def keys(client: Local, prefix: str = "") -> list[str]:
    return [one.key for one in client.place.list(prefix)]


def test_what_was_committed_is_read_back(client: Local, upload: str, tmp_path: Path) -> None:
    manifest = recipe(A, B, A)
    assert client.pin(upload, manifest.hashes) == sorted(manifest.hashes)
    client.put_pack(upload, "weights", pack(tmp_path / "pack", A, B))
    assert client.pin(upload, manifest.hashes) == []
    client.commit_manifest(upload, manifest)
    assert fetched(client, manifest.digest) == A + B + A
    assert client.manifest(manifest.digest) == manifest
    assert [key.rsplit("/", 1)[0] for key in keys(client, "packs")] == [f"packs/weights/{upload}"]


def test_a_manifest_whose_chunks_the_upload_does_not_pin_is_refused(client: Local, upload: str, tmp_path: Path) -> None:
    client.put_pack(upload, "other", pack(tmp_path / "pack", A, B))
    other = client.open_upload().id
    with pytest.raises(errors.ChunksMissing, match="2 chunks"):
        client.commit_manifest(other, recipe(A, B))
    assert client.pin(other, recipe(A).hashes) == []
    with pytest.raises(errors.ChunksMissing, match="1 chunks"):
        client.commit_manifest(other, recipe(A, B))
    with pytest.raises(errors.BlobNotFound):
        client.manifest(recipe(A, B).digest)


def test_chunks_that_are_here_are_not_stored_twice(client: Local, upload: str, tmp_path: Path) -> None:
    stored(client, A)
    assert client.pin(upload, recipe(A, B).hashes) == recipe(B).hashes
    client.put_pack(upload, "other", pack(tmp_path / "pack", B))
    client.commit_manifest(upload, recipe(A, B))
    assert fetched(client, recipe(A, B).digest) == A + B


def test_of_two_who_bring_the_same_chunk_the_first_wins(client: Local, tmp_path: Path) -> None:
    first, second = client.open_upload().id, client.open_upload().id
    client.put_pack(first, "other", pack(tmp_path / "one", A))
    (before,) = client.locate(recipe(A).hashes)
    client.put_pack(second, "other", pack(tmp_path / "two", A, B))
    assert client.locate(recipe(A).hashes) == [before]
    client.close_upload(first)
    client.commit_manifest(second, recipe(A, B))
    assert fetched(client, recipe(A, B).digest) == A + B


def test_a_damaged_chunk_is_missing_until_it_is_brought_again(client: Local, upload: str, tmp_path: Path) -> None:
    digest = stored(client, A)
    damage(client, A)
    assert client.locate(recipe(A).hashes) == []
    assert client.claim(upload, [digest]) == []
    assert client.pin(upload, recipe(A).hashes) == recipe(A).hashes
    with pytest.raises(errors.ChunksMissing):
        client.commit_manifest(upload, recipe(A))
    client.put_pack(upload, "other", pack(tmp_path / "pack", A))
    client.commit_manifest(upload, recipe(A))
    assert fetched(client, digest) == A
    assert client.claim(upload, [digest]) == [digest]


def test_a_damaged_artifact_takes_the_recipe_of_other_chunks(client: Local, upload: str, tmp_path: Path) -> None:
    digest = stored(client, A + B)
    damage(client, A + B)
    client.put_pack(upload, "other", pack(tmp_path / "pack", A, B))
    client.commit_manifest(upload, recipe(A, B))
    assert recipe(A, B).digest == digest
    assert fetched(client, digest) == A + B
    assert client.claim(upload, [digest]) == [digest]


def damage(client: Local, piece: bytes) -> None:
    """Mark a chunk as a scrub does that found it damaged."""
    with client.database.write("scrub") as tx:
        tx.connection.exec_driver_sql(f"UPDATE chunks SET damaged_at = 1 WHERE size = {len(piece)}")


def test_an_upload_that_was_ended_can_do_nothing(client: Local, upload: str, tmp_path: Path) -> None:
    client.put_pack(upload, "other", pack(tmp_path / "pack", A))
    client.close_upload(upload)
    client.close_upload(upload)
    for act in (
        lambda: client.pin(upload, recipe(A).hashes),
        lambda: client.put_pack(upload, "other", tmp_path / "pack"),
        lambda: client.commit_manifest(upload, recipe(A)),
        lambda: client.claim(upload, [recipe(A).digest]),
        lambda: client.pin("never", recipe(A).hashes),
    ):
        with pytest.raises(errors.UploadClosed):
            act()
    assert len(keys(client, "packs")) == 1


def test_closing_one_that_never_was_is_fine(client: Local) -> None:
    client.close_upload("never")


def test_verbs_may_be_repeated(client: Local, upload: str, tmp_path: Path) -> None:
    for _ in range(2):
        client.put_pack(upload, "other", pack(tmp_path / "pack", A, B))
        client.commit_manifest(upload, recipe(A, B))
    assert fetched(client, recipe(A, B).digest) == A + B


def test_claim_gives_those_that_are_here(client: Local, upload: str) -> None:
    digest = stored(client, A)
    assert client.claim(upload, [recipe(B).digest, digest, digest]) == [digest]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 999}, "not as long as it says"),
        ({"digest": "b3:00"}, "its digest is none"),
        ({"files": [File("../x", 1000, recipe(A).digest, [0])]}, "leads out of the folder"),
        ({"files": [File("", 1000, recipe(A).digest, [1])]}, "made of chunks that are not listed"),
        ({"chunks": [Chunk(b"short", 1000)]}, "has no hash"),
        ({"version": 2}, "newer Sexton"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    client: Local, upload: str, change: dict[str, object], reason: str
) -> None:
    fields = {name: getattr(recipe(A), name) for name in Manifest.__struct_fields__}
    with pytest.raises(errors.InvalidManifest, match=reason):
        client.commit_manifest(upload, Manifest(**(fields | change)))
    assert keys(client, "manifests") == []


def test_what_is_no_pack_no_hash_no_class_no_digest_no_range_is_refused(
    client: Local, upload: str, tmp_path: Path
) -> None:
    (tmp_path / "pack").write_bytes(b"no pack" * 100)
    with pytest.raises(errors.IntegrityError, match="does not end as a pack does"):
        client.put_pack(upload, "other", tmp_path / "pack")
    with pytest.raises(errors.InvalidValue, match="The class of a pack"):
        client.put_pack(upload, "../up", tmp_path / "pack")  # type: ignore[arg-type]  # as a client may send
    with pytest.raises(errors.InvalidValue, match="A hash"):
        client.pin(upload, [b"short"])
    for ask in (lambda: client.claim(upload, ["b3:\x00"]), lambda: client.manifest("b3:\x00")):
        with pytest.raises(errors.InvalidValue, match="A digest"):
            ask()
    with pytest.raises(errors.InvalidValue, match="A range"):
        client.read_pack(1, 5, 3)
    with pytest.raises(errors.BlobNotFound):
        client.read_pack(1, 0, 3)
    assert keys(client, "packs") == []


def test_a_place_of_another_store_is_refused(client: Local, tmp_path: Path) -> None:
    client.open_upload()
    foreign = Local.open(f"file:{tmp_path / 'other'}", f"file:{tmp_path / 'blobs'}", "ann")
    with pytest.raises(errors.ForeignPlace):
        foreign.open_upload()
    foreign.close()


def test_a_record_needs_the_bytes_that_it_names(client: Local) -> None:
    run, data = new_run(), recipe(A)
    saved = records.Artifact(at=T0, name="a", digest=data.digest, size=5, files=1)
    tag = records.Tag(at=T0, key="k")
    with pytest.raises(errors.BlobNotFound, match=data.digest):
        client.ingest([batch(run, tag, saved)])
    with pytest.raises(errors.RunNotFound):
        client.run(run)
    stored(client, A)
    (ack,) = client.ingest([batch(run, tag, saved)])
    assert ack == records.Ack(2, 0)
    (shown,) = client.run(run).artifacts
    assert (shown.digest, shown.size, shown.state, shown.files) == (data.digest, len(A), "whole", 1)
    assert client.run(run).run.bytes == len(A)
    damage(client, A)
    assert [one.state for one in client.run(run).artifacts] == ["damaged"]


def test_a_record_of_bytes_elsewhere_needs_none(client: Local) -> None:
    run = new_run()
    known = records.Artifact(at=T0, name="a", uri="s3://b/k", digest="etag", size=7)
    unknown = records.Artifact(at=T0 + 1, name="b", uri="s3://b/k2")
    nowhere = records.Artifact(at=T0 + 2, name="c")
    client.ingest([batch(run, known, unknown, nowhere)])
    found = client.run(run)
    assert [(one.uri, one.digest, one.size, one.state) for one in found.artifacts] == [
        ("s3://b/k", "etag", 7, "whole"),
        ("s3://b/k2", None, None, "whole"),
    ]
    assert found.run.bytes == 0
    assert found.run.trouble == {"unknown": 1}


def test_many_chunks_are_pinned_and_committed(client: Local, upload: str, tmp_path: Path) -> None:
    pieces = [b"%d" % number for number in range(12_000)]  # more than one statement takes
    manifest = recipe(*pieces)
    client.put_pack(upload, "other", pack(tmp_path / "pack", *pieces))
    assert client.pin(upload, [*manifest.hashes, hash_of_bytes(b"x")]) == [hash_of_bytes(b"x")]
    client.commit_manifest(upload, manifest)
    assert fetched(client, manifest.digest) == b"".join(pieces)


def test_a_lease_is_of_the_upload_that_was_opened(client: Local) -> None:
    opened = uploads.open_upload(client.database, client.place, "ann", lease_seconds=0.6)
    assert (opened.lease_seconds, client.open_upload().lease_seconds) == (0.6, 900)
