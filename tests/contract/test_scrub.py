"""Stored bytes are looked at again; what is damaged is told, shown and mended; what is lost is put together again."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sexton import clock, errors
from sexton.api import Local
from sexton.model.records import Artifact, Started
from sexton.storage import collect, fsck, scrub, uploads
from sexton.storage.scrub import Scrubbed
from tests.batches import T0, fetched, new_run, pack, recipe, records, stored

A, B, C = (random.Random(size).randbytes(size) for size in (1000, 2000, 3000))


@pytest.fixture
def client(store_url: str, tmp_path: Path) -> Iterator[Local]:
    opened = Local.open(store_url, f"file:{tmp_path / 'blobs'}", "ann")
    yield opened
    opened.close()


def saved(client: Local, *pieces: bytes, name: str = "model") -> tuple[str, str]:
    """A run with an artifact of these pieces, in a pack of its own: run and digest."""
    run, manifest, upload = new_run(), recipe(*pieces), client.open_upload().id
    folder = Path(client.place.url.removeprefix("file:")).parent
    client.put_pack(upload, "other", pack(folder / f"{run}.pack", *pieces))
    client.commit_manifest(upload, manifest)
    batch = records(run, Started(at=T0, experiment="e"), Artifact(at=T0 + 1, name=name, digest=manifest.digest))
    uploads.keep_receipt(client.database, client.place, "ann", upload, batch)
    client.ingest([batch])
    client.close_upload(upload)
    return run, manifest.digest


def object_of(client: Local, prefix: str = "packs") -> Path:
    """The file of the only object there."""
    (found,) = client.place.list(prefix)
    return Path(client.place.url.removeprefix("file:"), found.key)


def scrubbed(client: Local, budget: float = 1.0) -> Scrubbed:
    return scrub.scrub(client.database, client.place, "ann", scrub.choose(client.database, budget))


def flip(file: Path) -> None:
    """Change a bit of the second chunk."""
    data = bytearray(file.read_bytes())
    data[1500] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1500])


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
def test_what_is_damaged_is_told_with_what_it_is_part_of(client: Local, harm: Callable[[Path], None]) -> None:
    run, _ = saved(client, A, B, C)
    assert scrubbed(client).damaged == []
    harm(object_of(client))
    (damage,) = scrubbed(client).damaged
    assert damage.artifacts == [(run, "model")]
    assert 0 < damage.chunks <= 3
    assert [artifact.state for artifact in client.run(run).artifacts] == ["damaged"]


def test_the_whole_chunks_of_a_damaged_pack_stay_in_use(client: Local) -> None:
    saved(client, A, B, C)
    flip(object_of(client))
    (damage,) = scrubbed(client).damaged
    assert damage.chunks == 1
    assert len(client.locate(recipe(A, B, C).hashes)) == 2


def test_saving_the_same_bytes_again_mends_them(client: Local) -> None:
    run, digest = saved(client, A, B)
    flip(object_of(client))
    scrubbed(client)
    saved(client, A, B)
    assert fetched(client, digest) == A + B
    assert [artifact.state for artifact in client.run(run).artifacts] == ["whole"]


def test_what_was_only_unreadable_for_a_while_is_whole_again(client: Local) -> None:
    _, digest = saved(client, A, B)
    file = object_of(client)
    whole = file.read_bytes()
    flip(file)
    scrubbed(client)
    file.write_bytes(whole)
    assert scrubbed(client).mended == 1
    assert fetched(client, digest) == A + B


def test_a_budget_reads_first_what_was_not_read_for_longest(client: Local) -> None:
    for piece in (A, B, C):
        saved(client, piece)
    read = [scrub.choose(client.database, 0.01)[0].key for _ in range(3) if scrubbed(client, 0.01).packs == 1]
    assert len(set(read)) == 3


def test_one_who_doubts_a_chunk_has_its_pack_read(client: Local) -> None:
    saved(client, A)
    saved(client, B)
    found = scrub.doubt(client.database, client.place, "ann", recipe(A).hashes)
    assert (found.packs, found.damaged) == (1, [])


# ----------------------------------------------------------------------------------------------------------- fsck


def checked(client: Local, repair: bool = False) -> list[str]:
    return [one.what.split()[0] for one in fsck.check(client.database, client.place, "ann", repair).findings]


def test_a_store_that_is_well_has_no_findings(client: Local) -> None:
    saved(client, A, B)
    stored(client, C)
    assert checked(client) == []


@pytest.mark.parametrize("harm", [cut, Path.unlink])
def test_a_pack_that_is_gone_or_cut_is_found_and_marked(client: Local, harm: Callable[[Path], None]) -> None:
    run, _ = saved(client, A, B)
    harm(object_of(client))
    assert checked(client) == ["pack"]
    assert [artifact.state for artifact in client.run(run).artifacts] == ["whole"]
    assert checked(client, repair=True) == ["pack"]
    assert [artifact.state for artifact in client.run(run).artifacts] == ["damaged"]


def test_the_object_of_a_manifest_is_written_again(client: Local) -> None:
    saved(client, A)
    object_of(client, "manifests").unlink()
    assert checked(client, repair=True) == ["manifest"]
    assert checked(client) == []


# -------------------------------------------------------------------------------------------------------- rebuild


@pytest.fixture
def lost(client: Local, tmp_path: Path) -> Iterator[Local]:
    """Another store that has nothing, where the objects of the first are."""
    opened = Local.open(f"file:{tmp_path / 'new'}", client.place.url, "ann")
    yield opened
    opened.close()


def test_a_lost_database_is_put_together_from_the_objects(client: Local, lost: Local) -> None:
    kept = dict(saved(client, piece, C, name=f"model-{len(piece)}") for piece in (A, B))
    with pytest.raises(errors.ForeignPlace):
        lost.open_upload()
    rebuilt = fsck.rebuild(lost.database, lost.place, "ann")
    assert (rebuilt.packs, rebuilt.manifests, rebuilt.findings) == (2, 2, [])
    for run, digest in kept.items():
        assert [artifact.digest for artifact in lost.run(run).artifacts] == [digest]
        assert fetched(lost, digest) == fetched(client, digest)
    assert scrubbed(lost).damaged == []
    assert checked(lost) == []
    saved(lost, A, B)  # and it goes on


def test_a_collection_goes_on_after_a_rebuild(client: Local, lost: Local) -> None:
    saved(client, A)
    for _ in range(3):
        plan = collect.plan(client.database, client.place, clock.now())
        collect.apply(client.database, client.place, "gc", plan, confirm=True)
    fsck.rebuild(lost.database, lost.place, "ann")
    plan = collect.plan(lost.database, lost.place, clock.now())
    assert plan.refusals == []
    assert collect.apply(lost.database, lost.place, "gc", plan).epoch == 4


def test_a_rebuild_may_be_done_again(client: Local, lost: Local) -> None:
    run, _ = saved(client, A, B)
    fsck.rebuild(lost.database, lost.place, "ann")
    fsck.rebuild(lost.database, lost.place, "ann")
    assert len(lost.run(run).artifacts) == 1


def test_objects_that_can_not_be_used_do_not_keep_the_others(client: Local, lost: Local) -> None:
    run, digest = saved(client, A)
    client.place.put_bytes("packs/other/u/0-bad.pack", b"no pack at all, but long enough to be looked into")
    client.place.put_bytes("manifests/u/0-bad.json", b"{}")
    client.place.put_bytes("receipts/u/0-bad.batch", b"\xff")
    rebuilt = fsck.rebuild(lost.database, lost.place, "ann")
    assert len(rebuilt.findings) == 3
    assert fetched(lost, digest) == A
    assert len(lost.run(run).artifacts) == 1


def test_a_store_with_bytes_does_not_take_anothers_place(client: Local, tmp_path: Path) -> None:
    saved(client, A)
    other = Local.open(f"file:{tmp_path / 'other'}", f"file:{tmp_path / 'other-blobs'}", "ann")
    saved(other, B)
    with pytest.raises(errors.ForeignPlace):
        fsck.rebuild(other.database, client.place, "ann")
    other.close()
