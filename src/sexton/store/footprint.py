"""What artifacts take: the bytes that people saved, and those that are stored for them, where each is counted once.

Only artifacts that make bytes stay count; what is at an address elsewhere takes nothing.
"""

from sqlalchemy import ColumnElement, Connection, case, func, select

from sexton.model.storage import Footprint, Grouping, Total
from sexton.store import schema

_a, _r, _m, _c = schema.artifacts.c, schema.runs.c, schema.manifests.c, schema.chunks.c
_edges = schema.manifest_chunks.c

_KEYS: dict[Grouping, tuple[ColumnElement[str], ...]] = {
    "project": (_r.project,),
    "experiment": (_r.project, _r.experiment),
    "user": (_r.user,),
    "kind": (_a.kind,),
    "series": (_a.run, _a.name),
}


def total(connection: Connection) -> Total:
    """The footprint of all artifacts, and of the packs."""
    count, logical = connection.execute(select(func.count(), func.sum(_a.size)).where(*_here())).one()
    needed = select(_edges.chunk).join(schema.manifests, _m.id == _edges.manifest)
    needed = needed.join(schema.artifacts, _a.digest == _m.digest).where(*_here())
    stored = connection.scalar(select(func.sum(_c.stored)).where(_c.id.in_(needed)))
    packs = connection.scalar(select(func.sum(schema.packs.c.bytes)))
    return Total(count, int(logical or 0), int(stored or 0), int(packs or 0))


def by(connection: Connection, grouping: Grouping, limit: int = 1_000) -> list[Footprint]:
    """The footprints of groups, those with the most stored bytes first."""
    keys = [key.label(f"key{place}") for place, key in enumerate(_KEYS[grouping])]
    named = [key.name for key in keys]
    saved = select(*keys, func.count().label("artifacts"), func.sum(_a.size).label("logical"))
    saved_in = saved.join_from(schema.artifacts, schema.runs, _r.id == _a.run).where(*_here()).group_by(*keys).cte()
    recipes = (
        select(*keys, _m.id.label("manifest")).distinct().join_from(schema.artifacts, schema.runs, _r.id == _a.run)
    )
    wanted = recipes.join(schema.manifests, _m.digest == _a.digest).where(*_here()).cte()
    pairs = select(*(wanted.c[name] for name in named), _edges.chunk).distinct()
    needed = pairs.join_from(wanted, schema.manifest_chunks, _edges.manifest == wanted.c.manifest).cte()
    shares = select(needed.c.chunk, func.count().label("groups")).group_by(needed.c.chunk).cte()
    mine = [needed.c[name] for name in named]
    alone = func.sum(case((shares.c.groups == 1, _c.stored), else_=0))
    stored = select(*mine, func.sum(_c.stored).label("stored"), alone.label("alone")).group_by(*mine)
    stored_in = stored.join_from(needed, shares, shares.c.chunk == needed.c.chunk)
    found = stored_in.join(schema.chunks, _c.id == needed.c.chunk).cte()
    same = [saved_in.c[name].is_not_distinct_from(found.c[name]) for name in named]
    query = select(saved_in, func.coalesce(found.c.stored, 0).label("stored"), func.coalesce(found.c.alone, 0))
    query = query.join_from(saved_in, found, onclause=_all(same), isouter=True)
    rows = connection.execute(query.order_by(func.coalesce(found.c.stored, 0).desc(), *saved_in.c).limit(limit)).all()
    width = len(keys)
    return [Footprint(tuple(row[:width]), *map(int, row[width:])) for row in rows]


def _all(conditions: list[ColumnElement[bool]]) -> ColumnElement[bool]:
    first, *others = conditions
    for other in others:
        first = first & other
    return first


def _here() -> tuple[ColumnElement[bool], ...]:
    return _a.uri.is_(None), _a.deleted_at.is_(None)
