"""The audit: what people did to the record, written in the transaction that did it."""

from collections.abc import Iterable

from sexton.store import schema
from sexton.store.database import Tx
from sexton.store.held import plain


def add(tx: Tx, acts: Iterable[tuple[str, str, str]]) -> None:
    """Keep acts of the transaction's actor: what was done, to which run, with what."""
    rows = [(tx.now, tx.actor, act, subject, plain(detail)) for act, subject, detail in acts]
    tx.insert(schema.audit, rows)
