"""Uploaders and collectors on one store at once, killed and stopped at random; and one who checks what should be there.

`python -m tests.faults.storm URL BLOBS FOLDER SECONDS SEED` prints what was seen as JSON. There is no grace and leases
are shorter than some of the stops, so nothing but the protocol itself keeps bytes from being collected.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from sexton import clock, errors
from sexton.api import Local
from sexton.model.records import Artifact
from sexton.storage import collect, uploads
from sexton.store import artifacts, held
from tests.batches import fetched, new_run, pack, recipe, records

UPLOADERS, COLLECTORS = 6, 2
KEPT = 25
LEASE_SECONDS = 0.6
POOL = [random.Random(number).randbytes(200 + number * 17) for number in range(60)]
"""Few, so that most of what is saved was saved and let go of before."""


class Seen(msgspec.Struct):
    """What became of a storm."""

    acknowledged: int = 0
    checked: int = 0
    broken: list[str] = []
    live: int = 0
    fenced: int = 0
    revived: int = 0
    collections: int = 0
    kills: int = 0
    stops: int = 0
    leaked: list[str] = []
    failed: list[str] = []


class Storm:
    """The store, and a folder for what its processes tell."""

    def __init__(self, url: str, blobs: str, folder: Path) -> None:
        self.url, self.blobs, self.folder = url, blobs, folder

    def open(self, actor: str) -> Local:
        return Local.open(self.url, self.blobs, actor)

    def tell(self, what: str, line: str = "x") -> None:
        """One write, so that it is there whole or not."""
        with (self.folder / what).open("ab", buffering=0) as file:
            file.write(line.encode() + b"\n")

    def told(self, what: str) -> list[str]:
        try:
            return (self.folder / what).read_text().splitlines()
        except FileNotFoundError:
            return []


# -------------------------------------------------------------------------------------------------------------- parts


def upload(storm: Storm, chance: random.Random) -> NoReturn:
    """Save, for ever, artifacts whose chunks others save too."""
    client = storm.open("uploader")
    run, said = new_run(), 0
    while True:
        try:
            opened = uploads.open_upload(client.database, client.place, "uploader", LEASE_SECONDS).id
            digests = [_save(storm, client, opened, chance) for _ in range(chance.randint(1, 3))]
            facts = [Artifact(at=clock.now(), name="a", digest=digest) for digest in digests]
            client.ingest([records(run, *facts, first=said)])
            said += len(facts)
            storm.tell("acknowledged", "\n".join(digests))
            client.close_upload(opened)
        except (errors.UploadClosed, errors.ChunksMissing, errors.BlobNotFound) as error:
            storm.tell("fenced", error.code)
        except errors.Unavailable:
            continue


def _save(storm: Storm, client: Local, opened: str, chance: random.Random) -> str:
    pieces = chance.sample(POOL, chance.randint(1, 6))
    if chance.random() < 0.3:
        pieces.append(chance.randbytes(500))
    manifest = recipe(*pieces)
    if chance.random() < 0.5 and client.claim(opened, [manifest.digest]):
        return manifest.digest
    missing = set(client.pin(opened, manifest.hashes))
    if len(missing) < len(pieces):
        storm.tell("revived")
    _pause(chance)
    new = [piece for piece, chunk in zip(pieces, manifest.chunks, strict=True) if chunk.hash in missing]
    if new:
        path = pack(storm.folder / f"pack-{os.getpid()}", *new)
        client.put_pack(opened, chance.choice(["weights", "optimizer", "other"]), path)
        path.unlink()
    _pause(chance)
    client.commit_manifest(opened, manifest)
    return manifest.digest


def _pause(chance: random.Random) -> None:
    """Often long enough for a collector to condemn, and for another to delete, what was not pinned."""
    if chance.random() < 0.3:
        clock.sleep(chance.random() * LEASE_SECONDS)


def gather(storm: Storm, chance: random.Random) -> NoReturn:
    """Collect for ever, without a grace."""
    client = storm.open("collector")
    while True:
        try:
            plan = collect.plan(client.database, client.place, clock.now(), grace=0)
            collect.apply(client.database, client.place, "collector", plan, confirm=True)
            storm.tell("collections")
        except errors.Unavailable:
            continue
        clock.sleep(chance.random() / 20)


def retire(storm: Storm, chance: random.Random) -> NoReturn:
    """Let go of the oldest artifacts for ever, each checked before; once `end` is there, look at all that is left."""
    client = storm.open("retention")
    seen = Seen()
    while not storm.told("end"):
        live = _live(client)
        for run, session, seq, digest in live[: max(0, len(live) - KEPT)]:
            _check(client, digest, seen)
            with client.database.write("retention") as tx:
                held.hold(tx, [run])
                artifacts.forget(tx, run, [(session, seq)])
        clock.sleep(0.02)
    _last_look(storm, client, seen)
    (storm.folder / "seen").write_bytes(msgspec.json.encode(seen))
    os._exit(0)


def _live(client: Local) -> list[tuple[str, int, int, str]]:
    question = "SELECT run, session, seq, digest FROM artifacts WHERE deleted_at IS NULL ORDER BY at, run, seq"
    with client.database.read() as connection:
        return [(row.run, row.session, row.seq, row.digest) for row in connection.exec_driver_sql(question)]


def _check(client: Local, digest: str, seen: Seen) -> None:
    seen.checked += 1
    try:
        fetched(client, digest)
    except (errors.SextonError, KeyError, AssertionError) as error:
        seen.broken.append(f"{digest}: {error!r}")


def _last_look(storm: Storm, client: Local, seen: Seen) -> None:
    clock.sleep(LEASE_SECONDS)
    for _ in range(10):
        plan = collect.plan(client.database, client.place, clock.now(), grace=0)
        collect.apply(client.database, client.place, "collector", plan, confirm=True)
        if plan.idle:
            break
    live = _live(client)
    seen.live = len(live)
    for _, _, _, digest in live:
        _check(client, digest, seen)
    wanted = {digest for _, _, _, digest in live}
    with client.database.read() as connection:
        kept = set(connection.exec_driver_sql("SELECT digest FROM manifests").scalars())
        named = set(connection.exec_driver_sql("SELECT key FROM packs UNION SELECT key FROM manifests").scalars())
        known = set(connection.exec_driver_sql("SELECT digest FROM artifacts").scalars())
        bare = "SELECT count(*) FROM chunks WHERE id NOT IN (SELECT chunk FROM manifest_chunks)"
        loose = connection.exec_driver_sql(bare).scalar_one()
    objects = {one.key for prefix in ("packs", "manifests") for one in client.place.list(prefix)}
    seen.leaked = sorted(objects - named) + sorted(kept - wanted) + ["chunk"] * loose
    seen.broken += sorted(named - objects) + sorted(set(storm.told("acknowledged")) - known)


# ------------------------------------------------------------------------------------------------- who starts them


Part = Callable[[Storm, random.Random], NoReturn]


def _start(part: Part, storm: Storm, seed: int) -> int:
    """A process of its own; it is forked before anything is open, and starts in no time."""
    process = os.fork()
    if process:
        return process
    try:
        part(storm, random.Random(seed))
    except BaseException as error:  # noqa: BLE001 - whatever ends a part is what the test is about
        storm.tell("failed", f"{part.__name__}: {error!r}")
    os._exit(1)


def rage(storm: Storm, seconds: float, seed: int) -> Seen:
    """Run all parts so long, killing and stopping uploaders and collectors."""
    chance = random.Random(seed)
    storm.open("first").close()
    checker = _start(retire, storm, seed)
    parts: dict[int, Part] = {}
    wanted: Sequence[Part] = [upload] * UPLOADERS + [gather] * COLLECTORS
    for number, part in enumerate(wanted):
        parts[_start(part, storm, seed + number)] = part
    stopped: dict[int, float] = {}
    kills = stops = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.random() / 2)
        for process, until in list(stopped.items()):
            if time.monotonic() > until:
                os.kill(process, signal.SIGCONT)
                del stopped[process]
        victim = chance.choice(list(parts))
        if chance.random() < 0.7:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            stopped.pop(victim, None)
            part = parts.pop(victim)
            parts[_start(part, storm, chance.getrandbits(40))] = part
            kills += 1
        elif victim not in stopped:
            os.kill(victim, signal.SIGSTOP)
            stopped[victim] = time.monotonic() + chance.random() * 2 * LEASE_SECONDS
            stops += 1
    for process in parts:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    storm.tell("end")
    os.waitpid(checker, 0)
    seen = msgspec.json.decode((storm.folder / "seen").read_bytes(), type=Seen)
    seen.kills, seen.stops, seen.failed = kills, stops, storm.told("failed")
    seen.fenced, seen.revived = len(storm.told("fenced")), len(storm.told("revived"))
    seen.acknowledged, seen.collections = len(storm.told("acknowledged")), len(storm.told("collections"))
    return seen


if __name__ == "__main__":
    url, blobs, folder, seconds, seed = sys.argv[1:]
    done = rage(Storm(url, blobs, Path(folder)), float(seconds), int(seed))
    sys.stdout.write(msgspec.json.encode(done).decode())
