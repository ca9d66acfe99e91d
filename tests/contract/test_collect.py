"""A collection takes what nothing refers to, after its grace, and nothing else; and refuses where it can not know."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from sexton import clock, errors
from sexton.api import Local
from sexton.model.records import Artifact
from sexton.storage import collect, uploads
from sexton.storage.collect import Collected, Plan
from sexton.store import artifacts, chunks, garbage, held
from tests.batches import T0, fetched, new_run, pack, recipe, records, stored

A, B, C = b"a" * 1000, b"b" * 2000, b"c" * 3000


@pytest.fixture
def client(store_url: str, tmp_path: Path) -> Iterator[Local]:
    opened = Local.open(store_url, f"file:{tmp_path / 'blobs'}", "ann")
    opened.close_upload(opened.open_upload().id)
    yield opened
    opened.close()


def keys(client: Local, prefix: str = "") -> list[str]:
    return [one.key for one in client.place.list(prefix)]


def planned(client: Local, grace: int = 0) -> Plan:
    return collect.plan(client.database, client.place, clock.now(), grace)


def collected(client: Local, grace: int = 0, confirm: bool = True) -> Collected:
    return collect.apply(client.database, client.place, "gc", planned(client, grace), confirm)


def collect_all(client: Local) -> None:
    """Until there is nothing left to do."""
    for _ in range(5):
        if planned(client).idle:
            return
        collected(client)
    raise AssertionError(planned(client))


def saved(client: Local, data: bytes) -> str:
    """A run that has an artifact of these bytes."""
    run, digest = new_run(), stored(client, data)
    client.ingest([records(run, Artifact(at=T0, name="a", digest=digest))])
    return run


def forget(client: Local, run: str) -> None:
    with client.database.write("ann") as tx:
        held.hold(tx, [run])
        artifacts.forget(tx, run, list(artifacts.places(tx.connection, run)))


def everything(client: Local) -> tuple[list[str], dict[str, int]]:
    """The objects, and how many rows there are in each table of stored bytes."""
    with client.database.read() as connection:
        counts = {
            table: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
            for table in ("packs", "chunks", "pins", "manifests", "manifest_chunks", "claims", "doomed")
        }
    return keys(client, "packs") + keys(client, "manifests"), counts


def test_what_an_artifact_has_stays_and_what_it_let_go_of_goes(client: Local) -> None:
    kept, gone = saved(client, A), saved(client, B)
    forget(client, gone)
    assert client.run(gone).artifacts[0].state == "deleted"
    assert client.run(gone).run.bytes == 0
    collect_all(client)
    assert fetched(client, recipe(A).digest) == A
    with pytest.raises(errors.BlobNotFound):
        client.manifest(recipe(B).digest)
    objects, rows = everything(client)
    assert len(objects) == 2
    assert set(rows.values()) == {1, 0}
    forget(client, kept)
    collect_all(client)
    assert everything(client) == ([], dict.fromkeys(rows, 0))


def test_bytes_that_two_artifacts_share_stay_for_either(client: Local) -> None:
    one, other = saved(client, A), saved(client, A)
    forget(client, one)
    collect_all(client)
    assert fetched(client, recipe(A).digest) == A
    forget(client, other)
    collect_all(client)
    assert client.locate(recipe(A).hashes) == []


def test_a_plan_changes_nothing_and_says_what_will_go(client: Local) -> None:
    forget(client, saved(client, A))
    saved(client, B)
    before = everything(client)
    plan = planned(client)
    assert (plan.condemned, plan.loose.count) == ([recipe(A).digest], 1)
    assert (plan.deleted, plan.ripe.count, plan.freed.count) == ([], 0, 0)
    assert everything(client) == before
    done = collected(client)
    assert (done.condemned, done.loose, done.packs) == (1, 1, 0)
    plan = planned(client)
    assert (plan.deleted, plan.ripe.count, plan.freed.count) == ([recipe(A).digest], 1, 1)
    done = collected(client)
    assert (done.manifests, done.chunks, done.packs, done.bytes) == (1, 1, 1, plan.freed.bytes)
    assert plan.fingerprint != planned(client).fingerprint


def test_what_is_condemned_stays_for_the_grace_and_can_be_had_again(client: Local) -> None:
    run = saved(client, A)
    forget(client, run)
    collected(client)
    hour = 3600 * clock.SECOND
    assert planned(client, hour).deleted == []
    again = client.open_upload().id
    assert client.claim(again, [recipe(A).digest]) == [recipe(A).digest]
    collect_all(client)
    client.ingest([records(new_run(), Artifact(at=T0, name="b", digest=recipe(A).digest))])
    client.close_upload(again)
    collect_all(client)
    assert fetched(client, recipe(A).digest) == A


def test_what_an_open_upload_pinned_or_claimed_stays_until_it_ends(client: Local, tmp_path: Path) -> None:
    upload = client.open_upload().id
    client.put_pack(upload, "other", pack(tmp_path / "pack", A, B))
    client.commit_manifest(upload, recipe(A))
    collect_all(client)
    client.commit_manifest(upload, recipe(A, B))
    collect_all(client)
    assert fetched(client, recipe(A, B).digest) == A + B
    client.close_upload(upload)
    collect_all(client)
    assert set(everything(client)[1].values()) == {0}


def test_an_upload_whose_lease_has_run_out_is_ended_and_can_not_go_on(client: Local, tmp_path: Path) -> None:
    slow = uploads.open_upload(client.database, client.place, "ann", lease_seconds=1e-6).id
    client.put_pack(slow, "other", pack(tmp_path / "pack", A))
    assert planned(client).uploads == [slow]
    collect_all(client)
    with pytest.raises(errors.UploadClosed):
        client.commit_manifest(slow, recipe(A))
    assert everything(client)[0] == []


def test_objects_that_nothing_names_go_when_their_upload_has_ended(client: Local, tmp_path: Path) -> None:
    upload = client.open_upload().id
    lost = f"packs/other/{upload}/9-0123.pack"
    client.place.put(lost, pack(tmp_path / "pack", A))
    collect_all(client)
    assert lost in keys(client)  # somebody may be about to name it
    client.close_upload(upload)
    assert planned(client, 3600 * clock.SECOND).orphans == []
    collect_all(client)
    assert lost not in keys(client)


def test_objects_of_uploads_that_nobody_knows_are_never_deleted(client: Local, tmp_path: Path) -> None:
    upload = client.open_upload().id
    client.close_upload(upload)
    strange, lost = "packs/other/0000000000000000000x/1-0123.pack", f"packs/other/{upload}/9-0123.pack"
    for key in (strange, lost):
        client.place.put(key, pack(tmp_path / "pack", A))
    plan = planned(client)
    assert ([one.key for one in plan.quarantined], [one.key for one in plan.orphans]) == ([strange], [lost])
    collected(client)
    assert {strange, lost} <= set(keys(client))  # the database may be an older copy, which forgot more than that
    client.place.delete([strange])
    collected(client)
    assert lost not in keys(client)


def test_each_step_is_audited_in_its_own_transaction(client: Local) -> None:
    forget(client, saved(client, A))
    collect_all(client)
    with client.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT actor, act, subject FROM audit ORDER BY id").all()
        log = connection.exec_driver_sql("SELECT actor, freed, ended_at FROM collections ORDER BY id").all()
    said = {(act, subject) for actor, act, subject in rows if actor == "gc"}
    assert {
        ("collect.condemn", "manifests"),
        ("collect.condemn", "chunks"),
        ("collect.delete", "manifests"),
        ("collect.delete", "chunks"),
        ("collect.delete", "packs"),
        ("collect.delete", "objects"),
    } <= said
    assert [row.actor for row in log] == ["gc", "gc"]
    assert log[0].freed == 0
    assert log[1].freed > 0
    assert all(row.ended_at for row in log)


# ------------------------------------------------------------------------------------------------------------- refusals


def refused(client: Local, confirm: bool = False) -> str:
    before = everything(client)
    with pytest.raises(errors.CollectionRefused) as caught:
        collected(client, confirm=confirm)
    assert everything(client) == before
    return str(caught.value)


def test_much_at_once_needs_a_confirmation(client: Local) -> None:
    gone = saved(client, os.urandom(5_000))
    saved(client, os.urandom(5_000))
    collected(client, confirm=False)
    forget(client, gone)
    collected(client, confirm=False)
    assert "of" in refused(client)
    assert "stored bytes would go" in refused(client)
    assert collected(client, confirm=True).packs == 1


def test_a_live_set_that_shrank_needs_a_confirmation(client: Local) -> None:
    gone = saved(client, os.urandom(5_000))
    saved(client, os.urandom(1_000))
    collected(client)
    forget(client, gone)
    assert "bytes are in use" in refused(client)
    collected(client, confirm=True)


def test_a_reference_that_leads_nowhere_is_not_for_deletion_to_judge(client: Local) -> None:
    saved(client, A)
    with client.database.write("oops") as tx:
        tx.connection.exec_driver_sql("UPDATE artifacts SET digest = 'b3:elsewhere'")
    assert "sexton fsck" in refused(client, confirm=True)


def test_a_place_of_another_store_is_left_alone(client: Local) -> None:
    client.place.put_bytes("store.json", b'{"store": "another", "version": 1}', replace=True)
    assert "another" in refused(client, confirm=True)


def test_a_place_that_can_not_be_read_is_left_alone(client: Local) -> None:
    client.place.put_bytes("store.json", b"junk", replace=True)
    assert "can not be looked at" in refused(client, confirm=True)


@pytest.mark.parametrize("seconds", [-400, 400])
def test_clocks_that_disagree_stop_a_collection(client: Local, seconds: int) -> None:
    saved(client, A)
    plan = collect.plan(client.database, client.place, clock.now() + seconds * clock.SECOND, 0)
    assert any("clocks" in one.reason and not one.waivable for one in plan.refusals)
    with pytest.raises(errors.CollectionRefused, match="clocks"):
        collect.apply(client.database, client.place, "gc", plan, confirm=True)


def test_a_clock_that_went_back_stops_a_collection(client: Local) -> None:
    saved(client, A)
    with client.database.write("gc", clock.now() + 400 * clock.SECOND) as tx:
        garbage.begin(tx, "x", 0)
    assert "last collection was later" in refused(client, confirm=True)


def test_a_database_that_is_older_than_its_bytes_stops_a_collection(client: Local) -> None:
    saved(client, A)
    collected(client)
    collected(client)
    with client.database.write("restore") as tx:
        tx.connection.exec_driver_sql("DELETE FROM collections WHERE id > 1")
    assert "fsck --rebuild" in refused(client, confirm=True)


# ------------------------------------------------------------------------------------------------- at the same time


def test_who_waits_for_a_pin_sees_it_before_he_condemns(client: Local, tmp_path: Path) -> None:
    """In PostgreSQL, one statement that looks and condemns would go on with what it saw before it waited."""
    old = client.open_upload().id
    client.put_pack(old, "other", pack(tmp_path / "pack", A))
    client.close_upload(old)
    upload = client.open_upload().id
    with client.database.read() as connection:
        (number,) = garbage.loose_chunks(connection, 0)
    waiting = threading.Event()

    def condemn() -> None:
        waiting.wait()
        with client.database.write("gc") as tx:
            assert garbage.condemn_chunks(tx, [number]) == 0

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(condemn)
        with client.database.write("ann") as tx:
            assert chunks.pin(tx, upload, recipe(A).hashes) == []
            waiting.set()
            _until_blocked(client)
        done.result()
    client.commit_manifest(upload, recipe(A))
    assert fetched(client, recipe(A).digest) == A


def _until_blocked(client: Local) -> None:
    """Until somebody waits for a lock in PostgreSQL. In SQLite a writer waits for all of them from the beginning."""
    deadline = clock.Deadline(20)
    question = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted"
    question += " AND a.datname = current_database()"
    while client.database.kind == "postgresql":
        with client.database.read() as connection:
            if connection.exec_driver_sql(question).scalar_one():
                return
        assert not deadline.passed
        clock.sleep(0.01)


def test_collectors_at_the_same_time_do_each_thing_once(client: Local) -> None:
    for number in range(20):
        forget(client, saved(client, b"%d" % number * 100))
    saved(client, A)
    collected(client)
    plan = planned(client)
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(collect.apply, client.database, client.place, "gc", plan, True) for _ in range(4)]
        done = [one.result() for one in work]
    assert sum(one.manifests for one in done) == 20
    assert sum(one.bytes for one in done) == plan.freed.bytes
    assert fetched(client, recipe(A).digest) == A
    assert len(everything(client)[0]) == 2


def test_a_plan_is_data(client: Local) -> None:
    saved(client, A)
    plan = planned(client)
    again = msgspec.json.decode(msgspec.json.encode(plan), type=Plan)
    assert (again, again.fingerprint) == (plan, plan.fingerprint)
