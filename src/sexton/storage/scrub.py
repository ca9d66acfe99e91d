"""Scrubbing: reading stored bytes again to see that they are still what they were, the longest unread first.

A chunk that is not what its hash says is marked damaged, and with it every artifact that is made of it, until the same
bytes are saved again or are found whole after all. Nothing is deleted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from sexton import errors
from sexton.blobs.packs import unpack
from sexton.blobs.places import Place
from sexton.store import verify
from sexton.store.database import Database, Tx, patiently
from sexton.store.verify import Known, Named, Pack

READ_BYTES = 8 << 20
"""What is read at once of chunks that lie beside each other."""


class Damage(msgspec.Struct, frozen=True):
    """Chunks of a pack that are not what they were, and what they are part of."""

    pack: str
    chunks: int
    reason: str
    artifacts: list[Named]


class Scrubbed(msgspec.Struct):
    """What a scrub read and found."""

    packs: int = 0
    bytes: int = 0
    chunks: int = 0
    damaged: list[Damage] = []
    mended: int = 0
    """Chunks that were thought to be damaged, and are whole."""


def choose(database: Database, budget: float) -> list[Pack]:
    """The packs to read next within `budget`, a share of all stored bytes; at least one, if there is any."""
    with database.read() as connection:
        packs = verify.stalest(connection)
    return list(_within(packs, budget))


def scrub(
    database: Database, place: Place, actor: str, packs: Iterable[Pack], tell: Callable[[int], None] = lambda _: None
) -> Scrubbed:
    """Read these packs; `tell` hears the bytes of each that was read.

    Raises `Unavailable` where the place can not be read; what was found until then is kept.
    """
    done = Scrubbed()
    for pack in packs:
        check(database, place, actor, pack, done)
        tell(pack.bytes)
    return done


def doubt(database: Database, place: Place, actor: str, hashes: Sequence[bytes]) -> Scrubbed:
    """Read the packs again that have these chunks: somebody found that they are not what they should be."""
    with database.read() as connection:
        packs = verify.home(connection, hashes)
    return scrub(database, place, actor, packs)


def check(database: Database, place: Place, actor: str, pack: Pack, done: Scrubbed) -> None:
    """Read one pack, keep what was found, and add it to `done`."""
    with database.read() as connection:
        known = verify.contents(connection, pack.id)
    flaws = dict(_flaws(place, pack, known))
    mended = [one.id for one in known if one.is_damaged and one.id not in flaws]

    def once() -> list[Named]:
        with database.write(actor) as tx:
            return _keep(tx, pack, list(flaws), mended)

    named = patiently(once)
    done.packs, done.bytes, done.chunks = done.packs + 1, done.bytes + pack.bytes, done.chunks + len(known)
    done.mended += len(mended)
    if flaws:
        reason = "; ".join(sorted(set(flaws.values()))[:3])
        done.damaged.append(Damage(pack.key, len(flaws), reason, named))


def _keep(tx: Tx, pack: Pack, damaged: Sequence[int], mended: Sequence[int]) -> list[Named]:
    named = verify.found(tx, pack.id, damaged, mended)
    return named if damaged else []


def _within(packs: Sequence[Pack], budget: float) -> Iterator[Pack]:
    left = sum(pack.bytes for pack in packs) * budget
    for pack in packs:
        if left <= 0:
            return
        left -= pack.bytes
        yield pack


def _flaws(place: Place, pack: Pack, known: Sequence[Known]) -> Iterator[tuple[int, str]]:
    """The chunks of a pack that can not be read, and why."""
    for run in _beside(known):
        start, end = run[0].packed.offset, run[-1].packed.offset + run[-1].packed.stored
        try:
            data = place.read(pack.key, start, end)
        except errors.BlobNotFound:
            yield from ((one.id, "the object is gone") for one in run)
            continue
        except errors.IntegrityError:
            yield from _one_by_one(place, pack, run)
            continue
        for one in run:
            at = one.packed.offset - start
            yield from _flaw(pack, one, data[at : at + one.packed.stored])


def _one_by_one(place: Place, pack: Pack, run: Sequence[Known]) -> Iterator[tuple[int, str]]:
    """A pack that is cut off may have whole chunks before the cut."""
    for one in run:
        try:
            data = place.read(pack.key, one.packed.offset, one.packed.offset + one.packed.stored)
        except errors.IntegrityError:
            yield one.id, "the object is cut off"
        else:
            yield from _flaw(pack, one, data)


def _flaw(pack: Pack, one: Known, stored: bytes) -> Iterator[tuple[int, str]]:
    try:
        unpack(one.packed, stored, f"The pack {pack.key}")
    except errors.IntegrityError as error:
        yield one.id, str(error.fields["reason"])


def _beside(known: Sequence[Known]) -> Iterator[list[Known]]:
    """Chunks that lie beside each other, as many as are read at once."""
    run: list[Known] = []
    for one in known:
        last = run[-1].packed if run else None
        apart = last is not None and one.packed.offset != last.offset + last.stored
        long = run and one.packed.offset + one.packed.stored - run[0].packed.offset > READ_BYTES
        if apart or long:
            yield run
            run = []
        run.append(one)
    if run:
        yield run
