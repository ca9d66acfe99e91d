"""Collection: letting go of bytes that nothing refers to, as a plan and its application (docs/spec/deletion.md).

What goes was looked at under its lock, in the transaction that lets it go: neither a plan that has aged nor a clock nor
another collection can make it take bytes that something refers to. Clocks only decide how long bytes stay that could
go. Everything here may be interrupted anywhere and done again, by several at once.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection

from sexton import clock, errors
from sexton.blobs.hashing import hash_of_bytes
from sexton.blobs.keys import Stored
from sexton.blobs.places import Place, attach
from sexton.model.artifacts import text_of
from sexton.store import garbage, verify
from sexton.store.database import Database, Tx, patiently, some
from sexton.store.garbage import BATCH, Sum

GRACE = 72 * 3600 * clock.SECOND
"""How long condemned bytes stay, in ns: so that there is something to go back to."""

SKEW = 300 * clock.SECOND
SHRUNK, FREED = 0.5, 0.1
"""Shares of the live and of the stored bytes that do not go without a confirmation."""

EPOCH = "epoch.json"
_CLOCK = "clock/now.json"


class Refusal(msgspec.Struct, frozen=True):
    """Why a plan is not applied, and what to do about it."""

    reason: str
    waivable: bool = False
    """Whether a confirmation is enough."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection would do. Bytes are as stored, times UTC ns."""

    at: int
    until: int
    """What was condemned by then is to be deleted."""
    epoch: int
    uploads: list[str]
    """To be ended: their leases have run out."""
    condemned: list[str]
    """Digests of manifests to be condemned, and `loose` their chunks, and others that nothing makes stay."""
    loose: Sum
    deleted: list[str]
    """Digests of manifests to be deleted; `ripe` are the chunks, `freed` the packs: bytes that one gets back."""
    ripe: Sum
    freed: Sum
    orphans: list[Stored]
    """Objects of ended uploads that nothing names; they are deleted only while nothing is quarantined."""
    quarantined: list[Stored]
    """Objects of uploads that this store has never heard of; they are never deleted."""
    stored: Sum
    live: Sum
    refusals: list[Refusal]

    @property
    def fingerprint(self) -> str:
        """Names the plan: what it saw and would do."""
        return text_of(hash_of_bytes(msgspec.msgpack.encode(self)))

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        some_rows = self.uploads or self.condemned or self.deleted or self.orphans
        return not (some_rows or self.loose.count or self.ripe.count or self.freed.count)


class Collected(msgspec.Struct):
    """What a collection did."""

    epoch: int
    uploads: int = 0
    condemned: int = 0
    """Manifests; `loose` chunks."""
    loose: int = 0
    manifests: int = 0
    """Deleted, as `chunks` and `packs`, which had `bytes`."""
    chunks: int = 0
    packs: int = 0
    bytes: int = 0
    objects: int = 0
    orphans: int = 0


def plan(database: Database, place: Place, now: int, grace: int = GRACE) -> Plan:
    """What a collection would do at `now`. Changes nothing but an object that shows the clock of the place."""
    until = now - grace
    refusals = _of_place(database, place, now)
    orphans, quarantined = ([], []) if refusals else _strays(database, place, until)
    with database.read() as connection:
        last = garbage.last(connection)
        stored, live = garbage.stored(connection), garbage.live(connection, now)
        freed = garbage.freed(connection, now, until)
        refusals += _of_state(garbage.dangling(connection), last, now, stored, live, freed)
        return Plan(
            at=now,
            until=until,
            epoch=last.epoch,
            uploads=garbage.expired(connection, now),
            condemned=garbage.free_manifests(connection, now),
            loose=garbage.loose(connection, now),
            deleted=garbage.ripe_manifests(connection, until),
            ripe=garbage.ripe(connection, now, until),
            freed=freed,
            orphans=orphans,
            quarantined=quarantined,
            stored=stored,
            live=live,
            refusals=refusals,
        )


def apply(database: Database, place: Place, actor: str, planned: Plan, confirm: bool = False) -> Collected:
    """Do what a plan says, as far as it is still so. `confirm` waives the refusals that a confirmation can.

    Raises `CollectionRefused`, and what database and place do; what was done until then stays done.
    """
    refusals = planned.refusals + _of_place(database, place, clock.now())
    reasons = [one.reason for one in refusals if not (confirm and one.waivable)]
    if reasons:
        raise errors.CollectionRefused(reason="; ".join(dict.fromkeys(reasons)))
    work = _Work(database, actor)
    done = Collected(work.write(lambda tx: garbage.begin(tx, planned.fingerprint, planned.live.bytes)))
    _raise_epoch(place, done.epoch)
    _let_go(work, planned, done)
    for digests in some(planned.condemned, BATCH):
        done.condemned += work.write(partial(garbage.condemn_manifests, digests=digests))
    for numbers in work.all(garbage.loose_chunks):
        done.loose += work.write(partial(garbage.condemn_chunks, numbers=numbers))
    done.objects = _bury(work, place)
    if not planned.quarantined:
        done.orphans = _bury_orphans(work, place, planned)
    place.tidy()
    work.write(lambda tx: garbage.finish(tx, done.epoch, done.bytes))
    return done


T = TypeVar("T")


class _Work(NamedTuple):
    """In whose name, on which store."""

    database: Database
    actor: str

    def write(self, step: Callable[[Tx], T]) -> T:
        """A step in a transaction of its own."""

        def once() -> T:
            with self.database.write(self.actor) as tx:
                return step(tx)

        return patiently(once)

    def all(self, find: Callable[[Connection, int], list[int]]) -> Iterator[list[int]]:
        """Numbers of rows, a batch at a time, each read when the one before it was dealt with."""
        after = 0
        while True:
            with self.database.read() as connection:
                numbers = find(connection, after)
            if not numbers:
                return
            yield numbers
            after = numbers[-1]


def _let_go(work: _Work, planned: Plan, done: Collected) -> None:
    """End the uploads whose leases have run out, and delete the rows of what was condemned long enough ago."""
    until = planned.until
    for upload in planned.uploads:
        done.uploads += work.write(partial(garbage.abort, upload=upload))
    for digests in some(planned.deleted, BATCH):
        done.manifests += work.write(partial(garbage.delete_manifests, digests=digests, until=until))
    for numbers in work.all(partial(garbage.ripe_chunks, until=until)):
        done.chunks += work.write(partial(garbage.delete_chunks, numbers=numbers, until=until))
    for numbers in work.all(garbage.empty_packs):
        gone = work.write(partial(garbage.delete_packs, numbers=numbers))
        done.packs, done.bytes = done.packs + gone.count, done.bytes + gone.bytes


# -------------------------------------------------------------------------------------------------------------- objects


def _bury(work: _Work, place: Place) -> int:
    """Delete the objects of rows that were deleted, then forget their keys."""
    buried = 0
    while True:
        with work.database.read() as connection:
            keys = garbage.doomed(connection)
        if not keys:
            return buried
        place.delete(keys)
        work.write(partial(garbage.bury, keys=keys))
        buried += len(keys)


def _strays(database: Database, place: Place, until: int) -> tuple[list[Stored], list[Stored]]:
    """The objects that nothing names: those not changed since `until` of uploads that have ended, which nobody can name
    any more; and those of uploads that are not known here."""
    orphans: list[Stored] = []
    unknown: list[Stored] = []
    for prefix in ("packs", "manifests"):
        for part in some(place.list(prefix), BATCH):
            ended, foreign = _unnamed(
                database, part
            )  # after they were listed: an upload that has ended by now names no more
            orphans += [one for one in ended if one.modified_at <= until]
            unknown += foreign
    return orphans, unknown


def _unnamed(database: Database, objects: Sequence[Stored]) -> tuple[list[Stored], list[Stored]]:
    with database.read() as connection:
        states = garbage.states(connection, map(_upload, objects))
        named = garbage.named(connection, (one.key for one in objects))
    rest = [one for one in objects if one.key not in named]
    ended = [one for one in rest if states.get(_upload(one), "open") != "open"]
    return ended, [one for one in rest if _upload(one) not in states]


def _upload(stored: Stored) -> str:
    """The upload in a key: the part before the last."""
    return stored.key.rpartition("/")[0].rpartition("/")[2]


def _bury_orphans(work: _Work, place: Place, planned: Plan) -> int:
    buried = 0
    for part in some(planned.orphans, BATCH):
        keys = [one.key for one in _unnamed(work.database, part)[0]]
        place.delete(keys)
        buried += work.write(partial(garbage.told, act="delete", what="orphans", count=len(keys)))
    return buried


# ------------------------------------------------------------------------------------------------------------- refusals


def _of_place(database: Database, place: Place, now: int) -> list[Refusal]:
    """What about the place forbids to delete in it."""
    try:
        with database.read() as connection:
            is_used = not verify.is_empty(connection)
        attach(place, database.store_id, is_used)
        place.put_bytes(_CLOCK, b"{}", replace=True)
        shown = max(one.modified_at for one in place.list("clock"))
        ahead = epoch_of(place)
    except errors.SextonError as error:
        return [Refusal(f"the stored bytes can not be looked at ({error})")]
    with database.read() as connection:  # after the place's: a collection that begins raises the database's first
        epoch = garbage.last(connection).epoch
    found = []
    if abs(shown - now) > SKEW:
        seconds = abs(shown - now) // clock.SECOND
        found.append(
            Refusal(f"the clocks of {place.url} and of this machine are {seconds} s apart; correct the wrong one")
        )
    if ahead > epoch:
        reason = f"{place.url} has seen {ahead} collections and this database {epoch}: it is an older copy"
        found.append(Refusal(f"{reason}; `sexton fsck --rebuild` finds what it has never heard of"))
    return found


def _of_state(dangling: int, last: garbage.Last, now: int, stored: Sum, live: Sum, freed: Sum) -> list[Refusal]:
    """What about the references forbids to delete by them."""
    found = []
    if dangling:
        reason = f"{dangling} artifacts name bytes whose manifest is not here, so what they need is unknown"
        found.append(Refusal(f"{reason}; run `sexton fsck`"))
    if now < last.at - SKEW:
        found.append(Refusal("the last collection was later than this machine's clock says it is now; correct it"))
    if live.bytes < SHRUNK * last.live:
        reason = f"{live.bytes:,} bytes are in use, of {last.live:,} at the last collection"
        found.append(Refusal(f"{reason}; look at what was deleted, then confirm", waivable=True))
    if freed.bytes > FREED * stored.bytes:
        reason = f"{freed.bytes:,} of {stored.bytes:,} stored bytes would go; look at the plan, then confirm"
        found.append(Refusal(reason, waivable=True))
    return found


class _Epoch(msgspec.Struct):
    epoch: int


def epoch_of(place: Place) -> int:
    """How many collections the place has seen."""
    try:
        return msgspec.json.decode(place.read(EPOCH, 0, place.size(EPOCH)), type=_Epoch).epoch
    except errors.BlobNotFound:
        return 0
    except msgspec.DecodeError as error:
        raise errors.IntegrityError(what=f"{EPOCH} in {place.url}", reason=str(error)) from None


def _raise_epoch(place: Place, epoch: int) -> None:
    """Let the place see that a collection begins, once the database has: it is never ahead of its own database."""
    if epoch_of(place) < epoch:
        place.put_bytes(EPOCH, msgspec.json.encode(_Epoch(epoch)), replace=True)
