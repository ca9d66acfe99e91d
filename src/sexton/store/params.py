"""Params and tags: one value for each key of a run. The first value of a param stays; of a tag, the newest counts; both
by the log, whatever the order of arrival. A tag is removed by a value too, NULL, or an older one could come back late.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import select

from sexton.model.values import clean_name, encode_param
from sexton.store import schema
from sexton.store.database import Tx, some
from sexton.store.held import Held, plain
from sexton.store.schema import TAG_HEAD
from sexton.store.sessions import Place, Session


class Value(NamedTuple):
    """A value that was said for a key, and where."""

    key: str
    value: str | None
    place: Place
    session: int


Fresh = Mapping[str, Iterable[Value]]
"""By run: values that have just arrived."""


def add_params(tx: Tx, fresh: Fresh, held: Mapping[str, Held], sessions: Mapping[int, Session]) -> None:
    """Take in params. One that was given two values is trouble, and counted once."""
    rows = []
    for run, values in fresh.items():
        known: dict[str, tuple[Value, bool]] = {}
        said = [value._replace(key=clean_name(value.key), value=_json(value.value or "null")) for value in values]
        for row in _stored(tx, held[run], schema.params, {value.key for value in said}):
            known[row.key] = _value(row, sessions), row.conflicting
        for value in said:
            old, conflicting = known.get(value.key, (value, False))
            if old.value != value.value and not conflicting:
                conflicting = True
                held[run].count("conflicting")
            known[value.key] = min(old, value, key=lambda one: one.place), conflicting
        for key in dict.fromkeys(value.key for value in said):
            (_, text, place, session), conflicting = known[key]
            rows.append((run, key, text, place.at, session, place.seq, conflicting))
    tx.upsert(schema.params, rows)


def add_tags(tx: Tx, fresh: Fresh, held: Mapping[str, Held], sessions: Mapping[int, Session]) -> None:
    """Take in tags."""
    rows = []
    for run, values in fresh.items():
        newest: dict[str, Value] = {}
        for value in values:
            said = value._replace(key=clean_name(value.key), value=plain(value.value))
            newest[said.key] = max(newest.get(said.key, said), said, key=lambda one: one.place)
        for row in _stored(tx, held[run], schema.tags, newest.keys()):
            if _value(row, sessions).place > newest[row.key].place:
                del newest[row.key]
        for key, (_, text, place, session) in newest.items():
            head, rest = (None, None) if text is None else (text[:TAG_HEAD], text[TAG_HEAD:])
            rows.append((run, key, head, rest or None, place.at, session, place.seq, tx.actor))
    tx.upsert(schema.tags, rows)


def _stored(tx: Tx, run: Held, table: Any, keys: Iterable[str]) -> list[Any]:
    found: list[Any] = []
    if run.new:
        return found
    for part in some(keys):
        found += tx.connection.execute(select(table).where(table.c.run == run.id, table.c.key.in_(part)))
    return found


def _value(row: Any, sessions: Mapping[int, Session]) -> Value:
    return Value(row.key, row.value, sessions[row.session].place(row.at, row.seq), row.session)


def _json(text: str) -> str:
    """`text` if it is the JSON that it should be, else as JSON of a string: readers need not doubt it."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return encode_param(text)
    return text
