"""What is said to be stored is what is stored: each chunk once, and what goes with whom."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sexton.api import Local
from sexton.model.records import Artifact, Started
from sexton.model.storage import Footprint, Grouping
from sexton.store import artifacts, footprint, held
from tests.batches import T0, new_run, pack, recipe, records

A, B, C = (bytes(range(first, first + 200)) for first in (0, 20, 40))  # which do not compress


@pytest.fixture
def client(store_url: str, tmp_path: Path) -> Iterator[Local]:
    opened = Local.open(store_url, f"file:{tmp_path / 'blobs'}", "ann")
    upload = opened.open_upload().id
    opened.put_pack(upload, "other", pack(tmp_path / "pack", A, B, C))
    for pieces in ((A,), (A, B), (A, C), (B,), (C, A, A)):
        opened.commit_manifest(upload, recipe(*pieces))
    yield opened
    opened.close()


def ran(client: Local, user: str | None, experiment: str, *saved: tuple[str, str, tuple[bytes, ...]]) -> str:
    run = new_run()
    facts = [
        Artifact(at=T0 + place, name=name, kind=kind, digest=recipe(*pieces).digest)
        for place, (name, kind, pieces) in enumerate(saved)
    ]
    client.ingest([records(run, Started(at=T0, project="p", experiment=experiment, user=user), *facts)])
    return run


def by(client: Local, grouping: Grouping) -> dict[tuple[str | None, ...], tuple[int, int, int, int]]:
    with client.database.read() as connection:
        found = footprint.by(connection, grouping)
    assert [one.stored for one in found] == sorted((one.stored for one in found), reverse=True)
    return {one.key: (one.artifacts, one.logical, one.stored, one.alone) for one in found}


def test_chunks_count_once_in_a_group_and_alone_where_no_other_needs_them(client: Local) -> None:
    first = ran(client, "ann", "e", ("m", "model", (A, B)), ("m", "model", (A,)), ("l", "log", (B,)))
    second = ran(client, None, "f", ("m", "model", (C, A, A)), ("m", "model", (C, A, A)))
    client.ingest([records(new_run(), Artifact(at=T0, name="x", uri="s3://b/k", size=10**9))])
    assert by(client, "project") == {("p",): (5, 2000, 600, 600)}
    assert by(client, "experiment") == {("p", "e"): (3, 800, 400, 200), ("p", "f"): (2, 1200, 400, 200)}
    assert by(client, "user") == {("ann",): (3, 800, 400, 200), (None,): (2, 1200, 400, 200)}
    assert by(client, "kind") == {("model",): (4, 1800, 600, 400), ("log",): (1, 200, 200, 0)}
    assert by(client, "series") == {
        (first, "m"): (2, 600, 400, 0),
        (first, "l"): (1, 200, 200, 0),
        (second, "m"): (2, 1200, 400, 200),
    }
    with client.database.read() as connection:
        total = footprint.total(connection)
        assert len(footprint.by(connection, "series", limit=2)) == 2
    assert (total.artifacts, total.logical, total.stored) == (5, 2000, 600)
    assert total.packs > 600


def test_what_was_let_go_of_counts_no_more(client: Local) -> None:
    run = ran(client, "ann", "e", ("m", "model", (A, B)))
    with client.database.write("ann") as tx:
        held.hold(tx, [run])
        artifacts.forget(tx, run, artifacts.places(tx.connection, run))
    assert by(client, "kind") == {}
    with client.database.read() as connection:
        assert footprint.total(connection).stored == 0


def test_an_empty_file_takes_nothing(client: Local) -> None:
    upload = client.open_upload().id
    client.commit_manifest(upload, recipe())
    run = ran(client, "ann", "e", ("m", "model", ()))
    with client.database.read() as connection:
        assert footprint.by(connection, "series") == [Footprint((run, "m"), 1, 0, 0, 0)]
