"""Whatever is done in any order: what an artifact, a pin or a claim makes stay is read; what nothing does, goes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sexton import clock, errors
from sexton.api import Local
from sexton.model.records import Artifact
from sexton.storage import collect
from sexton.store import artifacts, held
from tests.batches import T0, fetched, new_run, pack, recipe, records

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""No machine fails here, so that syncing would only cost time."""

PIECES = [bytes([65 + number]) * (number + 1) * 50 for number in range(5)]
FILES = [recipe(*(PIECES[place] for place in places)) for places in ((0,), (0, 1), (1, 2), (2, 3, 2), (3, 4), (4,))]
pieces = st.sets(st.sampled_from(PIECES), min_size=1, max_size=3)
files = st.sampled_from(FILES)
HASH = {piece: recipe(piece).hashes[0] for piece in PIECES}


class Held:
    """What an upload makes stay."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.ended = self.expired = False
        self.pins: set[bytes] = set()
        self.claims: set[str] = set()


class Bytes(RuleBasedStateMachine):
    """The verbs of uploads, runs that name and forget artifacts, and collections without a grace."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.path = Path(self.folder.name)
        self.client = Local.open(f"file:{self.path}", f"file:{self.path}/blobs", "ann")
        self.uploads: list[Held] = []
        self.named: list[tuple[str, str]] = []

    def teardown(self) -> None:
        self.client.close()
        self.folder.cleanup()

    @rule()
    def open(self) -> None:
        self.uploads.append(Held(self.client.open_upload().id))

    def _one(self, data: st.DataObject) -> Held:
        return data.draw(st.sampled_from(self.uploads))

    @contextmanager
    def _renewed(self, upload: Held) -> Iterator[None]:
        """A verb in the name of an upload: it renews the lease, or the upload has ended and nothing happens."""
        try:
            yield
        except errors.UploadClosed:
            closed = True
        else:
            closed = upload.expired = False
        assert closed == upload.ended

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), some=pieces)
    def pin(self, data: st.DataObject, some: set[bytes]) -> None:
        upload = self._one(data)
        with self._renewed(upload):
            missing = set(self.client.pin(upload.id, [HASH[piece] for piece in some]))
            assert not upload.pins & missing
            upload.pins |= {HASH[piece] for piece in some} - missing

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), some=pieces)
    def put(self, data: st.DataObject, some: set[bytes]) -> None:
        upload = self._one(data)
        with self._renewed(upload):
            self.client.put_pack(upload.id, "other", pack(self.path / "pack", *sorted(some)))
            upload.pins |= {HASH[piece] for piece in some}

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), number=st.integers(0, len(FILES) - 1))
    def commit(self, data: st.DataObject, number: int) -> None:
        upload, manifest = self._one(data), FILES[number]
        with self._renewed(upload):
            missing = 0
            try:
                self.client.commit_manifest(upload.id, manifest)
                upload.claims.add(manifest.digest)
            except errors.ChunksMissing as error:
                missing = int(str(error.fields["count"]))
            assert missing == len(set(manifest.hashes) - upload.pins)

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), number=st.integers(0, len(FILES) - 1))
    def claim(self, data: st.DataObject, number: int) -> None:
        upload = self._one(data)
        with self._renewed(upload):
            claimed = self.client.claim(upload.id, [FILES[number].digest])
            assert FILES[number].digest not in self._kept() or claimed
            upload.claims |= set(claimed)

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        upload = self._one(data)
        self.client.close_upload(upload.id)
        upload.ended = True

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        upload = self._one(data)
        with self.client.database.write("time") as tx:
            tx.connection.exec_driver_sql("UPDATE uploads SET lease_until = 0 WHERE id = ?", (upload.id,))
        upload.expired = True

    @rule(number=st.integers(0, len(FILES) - 1))
    def name(self, number: int) -> None:
        run, digest = new_run(), FILES[number].digest
        try:
            self.client.ingest([records(run, Artifact(at=T0, name="a", digest=digest))])
            self.named.append((run, digest))
        except errors.BlobNotFound:
            kept = digest in self._kept()
            assert not kept

    @precondition(lambda self: self.named)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        run, digest = data.draw(st.sampled_from(self.named))
        self.named.remove((run, digest))
        with self.client.database.write("ann") as tx:
            held.hold(tx, [run])
            artifacts.forget(tx, run, artifacts.places(tx.connection, run))

    @rule()
    def collect(self) -> None:
        plan = collect.plan(self.client.database, self.client.place, clock.now(), grace=0)
        collect.apply(self.client.database, self.client.place, "gc", plan, confirm=True)
        for upload in self.uploads:
            upload.ended |= upload.expired

    @rule()
    def collect_all(self) -> None:
        """Twice: what the first condemns, the second deletes."""
        self.collect()
        self.collect()
        with self.client.database.read() as connection:
            manifests = set(connection.exec_driver_sql("SELECT digest FROM manifests").scalars())
            chunks = set(connection.exec_driver_sql("SELECT hash FROM chunks").scalars())
            keys = set(connection.exec_driver_sql("SELECT key FROM packs UNION SELECT key FROM manifests").scalars())
        assert manifests == self._kept()
        assert chunks == self._pinned() | {one for file in FILES if file.digest in manifests for one in file.hashes}
        objects = {one.key for prefix in ("packs", "manifests") for one in self.client.place.list(prefix)}
        going = [upload.id for upload in self.uploads if not upload.ended]
        assert keys <= objects
        assert all(key.split("/")[-2] in going for key in objects - keys)

    def _kept(self) -> set[str]:
        claimed = [upload.claims for upload in self.uploads if not upload.ended]
        return {digest for _, digest in self.named}.union(*claimed)

    def _pinned(self) -> set[bytes]:
        return set[bytes]().union(*(upload.pins for upload in self.uploads if not upload.ended))

    @invariant()
    def what_is_kept_is_read(self) -> None:
        for digest in self._kept():
            fetched(self.client, digest)
        pinned = self._pinned()
        assert {where.chunk.hash for where in self.client.locate(sorted(pinned))} == pinned


TestBytes = Bytes.TestCase
TestBytes.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
