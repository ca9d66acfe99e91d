"""Fsck: whether tables and objects agree, and putting the tables together again from the objects.

A check reads no chunk (a scrub does): it compares what the tables say is there with what a listing finds. Packs say
which chunks they have and manifests what is made of them, so that a store whose database is lost can be known again;
receipts say which run each artifact was of.
"""

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from sexton import errors
from sexton.blobs.keys import Stored
from sexton.blobs.packs import read_footer
from sexton.blobs.places import Place, adopt, attach
from sexton.ingest import ingest
from sexton.model.artifacts import CLASSES, Manifest, flaw
from sexton.model.records import Batch
from sexton.storage import scrub
from sexton.storage.collect import epoch_of
from sexton.storage.scrub import Scrubbed
from sexton.storage.uploads import RECEIPTS
from sexton.store import garbage, manifests, verify
from sexton.store.database import Database, Tx, patiently
from sexton.store.verify import Recipe


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it should be."""

    what: str
    reason: str
    is_repaired: bool = False


class Checked(msgspec.Struct):
    """What an fsck looked at and found."""

    packs: int = 0
    manifests: int = 0
    findings: list[Finding] = []


class Rebuilt(msgspec.Struct):
    """What a rebuild put together, and what it found but could not use."""

    packs: int = 0
    chunks: int = 0
    manifests: int = 0
    artifacts: int = 0
    findings: list[Finding] = []


def check(database: Database, place: Place, actor: str, repair: bool = False) -> Checked:
    """Compare tables and objects. With `repair`, what is missing or cut off is marked as damaged, and objects of
    manifests are written again from the tables."""
    objects = {stored.key: stored.size for prefix in ("packs", "manifests") for stored in place.list(prefix)}
    done = Checked()
    with database.read() as connection:
        packs, recipes = verify.stalest(connection), list(verify.recipes(connection))
    for pack in packs:
        done.packs += 1
        size = objects.get(pack.key)
        if size != pack.bytes:
            reason = "its object is gone" if size is None else f"its object has {size:,} bytes and not {pack.bytes:,}"
            if repair:
                scrub.check(database, place, actor, pack, Scrubbed())
            done.findings.append(Finding(f"pack {pack.key}", reason, repair))
    for recipe in recipes:
        done.manifests += 1
        done.findings += _of_recipe(database, place, recipe, recipe.key in objects, repair)
    with database.read() as connection:
        lost = verify.dangling(connection)
    for named in lost:
        if repair:
            _write(database, actor, partial(verify.give_up, named=named))
        reason = "its bytes are not in this store; with --repair it is shown as deleted"
        done.findings.append(Finding(f"{named.name} of run {named.run}", reason, repair))
    return done


def _of_recipe(database: Database, place: Place, recipe: Recipe, is_there: bool, repair: bool) -> Iterator[Finding]:
    with database.read() as connection:
        try:
            manifest = manifests.read(connection, recipe.digest)
        except errors.BlobNotFound:  # collected since the list was made
            return
        unnamed = verify.unnamed(connection, recipe, manifest)
    what = f"manifest {recipe.digest}"
    if unnamed:
        yield Finding(what, f"{unnamed} of its chunks are not kept for its sake: please tell the makers of Sexton")
    if not is_there:
        if repair:
            place.put_bytes(recipe.key, msgspec.json.encode(manifest))
        yield Finding(what, "its object is gone, from which a lost database would be rebuilt", repair)


# ---------------------------------------------------------------------------------------------------------- rebuild


def rebuild(database: Database, place: Place, actor: str) -> Rebuilt:
    """Put the tables of stored bytes together from the objects of a place, which becomes this store's. Artifacts get
    their runs back as far as the receipts go; what else was known of those runs is not in the place.

    May be interrupted and done again. Raises `ForeignPlace` where the place is another store's and this one has bytes.
    """
    with database.read() as connection:
        if verify.is_empty(connection):
            adopt(place, database.store_id)
    attach(place, database.store_id, is_used=True)
    done = Rebuilt()
    for prefix, act in (("packs", _pack), ("manifests", _recipe), (RECEIPTS, _receipt)):
        for stored in place.list(prefix):
            try:
                step = act(place, stored, done)
                _write(database, actor, step)
            except (errors.IntegrityError, errors.BlobNotFound, errors.InvalidRecord, msgspec.DecodeError) as error:
                done.findings.append(Finding(stored.key, str(error)))  # it does not keep the others
    _write(database, actor, partial(garbage.catch_up, epoch=epoch_of(place)))
    return done


Step = Callable[[Tx], None]


def _write(database: Database, actor: str, step: Step) -> None:
    def once() -> None:
        with database.write(actor) as tx:
            step(tx)

    patiently(once)


def _pack(place: Place, stored: Stored, done: Rebuilt) -> Step:
    _, word, upload, _ = stored.key.split("/")
    kind = next((known for known in CLASSES if known == word), None)
    if kind is None:
        raise errors.IntegrityError(what=stored.key, reason=f"{word} is no class of chunks")
    packed = read_footer(partial(place.read, stored.key), stored.size, stored.key)

    def step(tx: Tx) -> None:
        verify.adopt_pack(tx, upload, stored.key, kind, stored.size, packed)
        done.packs, done.chunks = done.packs + 1, done.chunks + len(packed)

    return step


def _recipe(place: Place, stored: Stored, done: Rebuilt) -> Step:
    manifest = msgspec.json.decode(place.read(stored.key, 0, stored.size), type=Manifest)
    reason = flaw(manifest)
    if reason:
        raise errors.IntegrityError(what=stored.key, reason=reason)

    def step(tx: Tx) -> None:
        missing = verify.adopt_manifest(tx, stored.key, manifest)
        if missing:
            raise errors.IntegrityError(what=stored.key, reason=f"{missing} of its chunks are in no pack")
        done.manifests += 1

    return step


def _receipt(place: Place, stored: Stored, done: Rebuilt) -> Step:
    batch = msgspec.msgpack.decode(place.read(stored.key, 0, stored.size), type=Batch)

    def step(tx: Tx) -> None:
        done.artifacts += sum(ack.new for ack in ingest(tx, [batch]))

    return step
