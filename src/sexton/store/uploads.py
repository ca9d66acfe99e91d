"""Uploads: the right to add bytes to the store. What an open one pins and claims stays.

The fence is the state, never the time: a client that slept past its lease can do nothing in the name of an upload that
was ended meanwhile, and one that was not ended may go on. A lease only says when a collection may end it.
"""

from typing import Literal

from sqlalchemy import bindparam, delete, update

from sexton import errors
from sexton.store import schema
from sexton.store.database import Tx

_t = schema.uploads
_HOLD = (
    update(_t)
    .where(_t.c.id == bindparam("upload"), _t.c.state == "open")
    .values(lease_until=bindparam("now") + _t.c.lease, objects=_t.c.objects + bindparam("more"))
    .returning(_t.c.objects)
)
_END = (
    update(_t)
    .where(_t.c.id == bindparam("upload"), _t.c.state == "open", _t.c.lease_until <= bindparam("until"))
    .values(state=bindparam("end"))
    .returning(_t.c.id)
)
_FOREVER = 2**63 - 1


def start(tx: Tx, upload: str, lease: int) -> None:
    """Open an upload, which each `hold` of it gives `lease` ns from then on."""
    tx.ensure(_t, [(upload, "open", lease, tx.now + lease, 0, tx.actor, tx.now)])


def hold(tx: Tx, upload: str, objects: int = 0) -> int:
    """Lock an open upload for this transaction and renew its lease. `objects` numbers for keys of objects are taken,
    which nobody had before; the last of all is given. Raises `UploadClosed`."""
    found = tx.connection.execute(_HOLD, {"upload": upload, "now": tx.now, "more": objects}).scalar_one_or_none()
    if found is None:
        raise errors.UploadClosed(upload=upload)
    return int(found)


def end(tx: Tx, upload: str, state: Literal["done", "aborted"], until: int = _FOREVER) -> bool:
    """End an upload that is open and whose lease has run out by `until`, and let go of what it holds; whether it was
    this call that ended it."""
    ended = tx.connection.execute(_END, {"upload": upload, "end": state, "until": until}).scalar_one_or_none()
    if ended is not None:
        for table in (schema.pins, schema.claims):
            tx.connection.execute(delete(table).where(table.c.upload == upload))
    return ended is not None
