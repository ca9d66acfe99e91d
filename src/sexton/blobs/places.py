"""Where objects are: the folder or bucket that a store's packs and manifests lie in.

An object never changes: keys are not used twice, and `put` gives a key bytes once. A place belongs to one store, whose
id it has in `store.json`. Knows no chunks.
"""

import logging
import secrets
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from sexton import errors
from sexton.blobs.bucket import SCHEMES, Bucket
from sexton.blobs.folder import Folder
from sexton.blobs.keys import Stored

__all__ = ["Bucket", "Folder", "Place", "Stored", "attach", "open_place", "probe"]

log = logging.getLogger(__name__)

OWNER = "store.json"
_RACERS = 12


class Place(Protocol):
    """A folder or a bucket, for any number of threads and processes at once.

    Every verb raises `Unavailable` where trying again can help, `Denied` where the credentials do not suffice, and
    `InvalidName` for what is no key.
    """

    url: str

    def put(self, key: str, path: Path) -> None:
        """Make an object of a file, whole and durable on return, never torn; again is fine. Whoever wrote the file may
        remove it afterwards but not write to it any more.

        Raises `KeyTaken` where the key has other bytes.
        """

    def put_bytes(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """As `put`; with `replace`, whatever the key has."""

    def read(self, key: str, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`. Raises `BlobNotFound`, and `IntegrityError` where it is shorter."""

    def size(self, key: str) -> int:
        """Bytes of an object. Raises `BlobNotFound`."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """The objects whose keys begin with these whole parts (`packs/weights`; all for an empty prefix), streamed.
        What was put before the listing began and is not deleted is in it."""

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are fine."""

    def sign(self, method: Literal["GET", "PUT"], key: str, seconds: int) -> str | None:
        """An address with which anybody may do this to this one object for so long; None where there is none."""

    def tidy(self) -> None:
        """Remove what processes that were killed have left behind and nothing lists."""


def open_place(url: str) -> Place:
    """The place at `file:PATH`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`. Reaches nothing.

    Raises `UsageError` where the address or what it needs is missing.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        return Folder(Path(rest.removeprefix("//")))
    if scheme in SCHEMES and rest.strip("/"):
        return Bucket(url)
    raise errors.UsageError(reason=f"{url!r} is no place for bytes: file:PATH, s3://, gs:// or az://BUCKET/PREFIX is")


class _Owner(msgspec.Struct, frozen=True):
    store: str
    version: int = 1


def attach(place: Place, store: str, is_used: bool) -> None:
    """Make the place that of a store, or see that it is; `is_used` says whether the store has bytes in it.

    Raises `ForeignPlace` where another store has it, `Unavailable` where a used one shows no trace of it,
    `IntegrityError`.
    """
    try:
        owner = _owner(place)
    except errors.BlobNotFound:
        if is_used:  # an empty mount point looks like this
            reason = f"it has no {OWNER}, though this store has bytes there: is it mounted, is it the right one?"
            raise errors.Unavailable(what=f"The place {place.url}", reason=reason) from None
        if not isinstance(place, Folder) and not probe(place):
            log.warning("%s gives a key bytes twice: nothing is lost by it, but one guard is missing", place.url)
        with suppress(errors.KeyTaken):  # somebody was faster
            place.put_bytes(OWNER, msgspec.json.encode(_Owner(store)))
        owner = _owner(place)
    if owner != store:
        raise errors.ForeignPlace(place=place.url, owner=owner, store=store)


def adopt(place: Place, store: str) -> None:
    """Make the place that of a store, whoever had it before: of one whose own is lost."""
    place.put_bytes(OWNER, msgspec.json.encode(_Owner(store)), replace=True)


def _owner(place: Place) -> str:
    """The id of the store that has the place."""
    data = place.read(OWNER, 0, place.size(OWNER))
    try:
        owner = msgspec.json.decode(data, type=_Owner)
    except msgspec.DecodeError as error:
        raise errors.IntegrityError(what=f"{OWNER} in {place.url}", reason=str(error)) from None
    if owner.version != 1:
        reason = f"it has version {owner.version}, and this is written by a newer Sexton"
        raise errors.IntegrityError(what=f"{OWNER} in {place.url}", reason=reason)
    return owner.store


def probe(place: Place) -> bool:
    """Whether the place lets a key be given bytes only once: of two in a row the first stays, of twelve at once one.

    Nothing is lost where it does not, since keys are not used twice; it is worth knowing that one guard is missing.
    """
    twice, race = (f"probe/{secrets.token_hex(8)}" for _ in range(2))
    start = threading.Barrier(_RACERS)

    def run(racer: int) -> bool:
        start.wait()
        return _creates(place, race, b"%d" % racer)

    try:
        first, second = _creates(place, twice, b"first"), _creates(place, twice, b"second")
        with ThreadPoolExecutor(_RACERS) as racers:
            winners = [racer for racer, won in enumerate(racers.map(run, range(_RACERS))) if won]
        return first and not second and len(winners) == 1 and _creates(place, race, b"%d" % winners[0])
    finally:
        place.delete([twice, race])


def _creates(place: Place, key: str, data: bytes) -> bool:
    try:
        place.put_bytes(key, data)
    except errors.KeyTaken:
        return False
    return True
