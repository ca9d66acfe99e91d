"""Metric series: sheets as points arrive, blocks of columns once compacted, and reading both as one series.

Points are in log order whatever the order they arrived in. Compaction is idempotent and changes no answer: it folds the
sheets of a run into blocks, rewriting only the blocks that are not full or that late points reach back into.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from sexton import errors
from sexton.model.runs import ENDED, Series
from sexton.model.values import spell
from sexton.store import metrics, schema
from sexton.store.columns import (
    AXIS,
    BLOCK_ROWS,
    FLOAT_STEP,
    INT_STEP,
    Axis,
    Floats,
    Ints,
    Sheet,
    decode_sheet,
    encode_axis,
    is_ordered,
    joined,
    log_order,
    pack,
    picked,
    thin,
    unpack,
)
from sexton.store.database import Tx
from sexton.store.held import Held

LOOSE_LIMIT = 500
"""How loose the series of a run may get before they are compacted; see `looseness`."""


def looseness(rows: int, metrics: int) -> int:
    """What a sheet adds to how loose its run's series are: 1, and 1 more for every 1,000 points."""
    return 1 + rows * metrics // 1000


def is_due(run: Held) -> bool:
    """Whether the series of a run are worth compacting: it has ended, or they have become too loose."""
    return run.loose >= LOOSE_LIMIT or (run.loose > 0 and run.state in ENDED)


Kept = tuple[str, int, int, bytes, bytes]
"""Run, session, rows, the numbers of its metrics as int64, and what `encode_sheet` made of the rows."""


def add(tx: Tx, sheets: Sequence[Kept]) -> None:
    """Keep sheets."""
    tx.insert(schema.sheets, sheets)


def read(connection: Connection, run: str, name: str, context: str = "", points: int | None = None) -> Series:
    """The points of a metric in log order, at most about `points` of them. `name` may end in the context, as the keys
    of `Run.metrics` do. Raises `MetricNotFound`."""
    axes, values = _points(connection, run, _metric(connection, run, name, context))
    order = _order(connection, run, axes)
    values = values if order is None else values[order]
    chosen = np.arange(len(values)) if points is None else thin(values, points)
    kinds, steps, times = (
        picked(axes, part, chosen) if order is None else joined(axes, part)[order[chosen]]
        for part in ("kind", "step", "time")
    )
    return Series(
        name=name,
        count=len(values),
        steps=_steps(kinds, steps),
        times=times.tolist(),
        values=[spell(value) for value in values[chosen].tolist()],
    )


def _steps(kinds: Ints, bits: Ints) -> list[int | float | None] | None:
    if not kinds.any():
        return None
    fractions = np.ascontiguousarray(bits).view(np.float64)
    known = (kinds == INT_STEP) | ((kinds == FLOAT_STEP) & np.isfinite(fractions))
    both = zip(known.tolist(), kinds.tolist(), bits.tolist(), fractions.tolist(), strict=True)
    return [(whole if kind == INT_STEP else fraction) if is_known else None for is_known, kind, whole, fraction in both]


def _metric(connection: Connection, run: str, name: str, context: str) -> int:
    table = schema.summaries
    numbers = metrics.find(connection, name, context)
    mine = select(table.c.metric).where(table.c.run == run, table.c.metric.in_(numbers))
    here = set(connection.scalars(mine))
    for number in numbers:
        if number in here:
            return number
    raise errors.MetricNotFound(run=run, name=name)


def _points(connection: Connection, run: str, metric: int) -> tuple[list[Mapping[str, Ints]], Floats]:
    blocks, columns, kept = schema.blocks, schema.columns, schema.sheets
    query = select(blocks.c.rows, blocks.c.axis, columns.c.data).join(columns, columns.c.block == blocks.c.id)
    query = query.where(blocks.c.run == run, columns.c.metric == metric).order_by(blocks.c.id)
    axes: list[Mapping[str, Ints]] = []
    values: list[Floats] = []
    for row in connection.execute(query):
        axes.append(Axis(row.axis, row.rows))
        values.append(unpack(row.data))
    for row in connection.execute(select(kept).where(kept.c.run == run).order_by(kept.c.id)):
        numbers = _numbers(row)
        if metric in numbers:
            sheet = decode_sheet(row.data, row.rows, row.session)
            axes.append(sheet.axis)
            values.append(sheet.values[numbers.index(metric)])
    return axes, values[0] if len(values) == 1 else np.concatenate(values)


def _numbers(kept: Any) -> list[int]:
    numbers: list[int] = np.frombuffer(kept.metrics, "<i8").tolist()
    return numbers


def _order(connection: Connection, run: str, axes: Sequence[Mapping[str, Ints]]) -> Ints | None:
    """The permutation that puts the rows of all axes into log order; None where they are."""
    if is_ordered(axes):
        return None
    table = schema.sessions
    mine = select(table.c.id).where(table.c.run == run).order_by(table.c.writer, table.c.epoch)
    numbers = np.fromiter(connection.scalars(mine), np.int64)
    ranks = np.zeros(int(numbers.max()) + 1, np.int64)
    ranks[numbers] = np.arange(len(numbers))
    return log_order(joined(axes, "at"), ranks[joined(axes, "session")], joined(axes, "seq"))


# -------------------------------------------------------------------------------------------------------- compaction


_LOCK = select(schema.runs.c.id).where(schema.runs.c.id == bindparam("run")).with_for_update()
_SHEETS = select(schema.sheets).where(schema.sheets.c.run == bindparam("run")).order_by(schema.sheets.c.id)
_BLOCKS = (
    select(schema.blocks)
    .where(schema.blocks.c.run == bindparam("run"))
    .where((schema.blocks.c.rows < BLOCK_ROWS) | (schema.blocks.c.until >= bindparam("first")))
    .order_by(schema.blocks.c.id)
)
_FOLDED = delete(schema.sheets).where(schema.sheets.c.run == bindparam("run"))
_TIGHT = update(schema.runs).where(schema.runs.c.id == bindparam("one")).values(loose=0)
_BLOCK = insert(schema.blocks).returning(schema.blocks.c.id)


def compact(tx: Tx, run: str) -> None:
    """Fold the sheets of a run into blocks. Holds the run, so none can arrive meanwhile."""
    one = {"run": run}
    tx.connection.execute(_LOCK, one)
    fresh = tx.connection.execute(_SHEETS, one).all()
    if not fresh:
        return
    sheets = [(_numbers(row), decode_sheet(row.data, row.rows, row.session)) for row in fresh]
    sheets += _reopened(tx, run, min(int(sheet.axis["at"].min()) for _, sheet in sheets))
    for numbers, group in _groups(sheets):
        _write(tx, run, numbers, _sorted(tx, run, numbers, group))
    tx.connection.execute(_FOLDED, one)
    tx.connection.execute(_TIGHT, {"one": run})


Numbers = list[int]


def _reopened(tx: Tx, run: str, first: int) -> list[tuple[Numbers, Sheet]]:
    """Take out the blocks that are not full, or that end after `first`."""
    blocks, columns = schema.blocks, schema.columns
    sheets = []
    for block in tx.connection.execute(_BLOCKS, {"run": run, "first": first}).all():
        mine = columns.c.block == block.id
        rows = tx.connection.execute(select(columns.c.metric, columns.c.data).where(mine)).all()
        axis = dict(Axis(block.axis, block.rows).items())
        sheets.append(([row.metric for row in rows], Sheet(axis, np.stack([unpack(row.data) for row in rows]))))
        tx.connection.execute(delete(columns).where(mine))
        tx.connection.execute(delete(blocks).where(blocks.c.id == block.id))
    return sheets


def _groups(sheets: Sequence[tuple[Numbers, Sheet]]) -> Iterable[tuple[Numbers, list[tuple[Numbers, Sheet]]]]:
    """The metrics that are in the same sheets, hence have the same rows, with those sheets."""
    within: dict[int, list[int]] = defaultdict(list)
    for place, (numbers, _) in enumerate(sheets):
        for metric in numbers:
            within[metric].append(place)
    groups: dict[tuple[int, ...], Numbers] = defaultdict(list)
    for metric, places in within.items():
        groups[tuple(places)].append(metric)
    return ((numbers, [sheets[place] for place in places]) for places, numbers in groups.items())


def _sorted(tx: Tx, run: str, numbers: Numbers, sheets: Sequence[tuple[Numbers, Sheet]]) -> Sheet:
    """The rows of these metrics from all sheets, in log order."""
    axes = [sheet.axis for _, sheet in sheets]
    axis = {name: joined(axes, name) for name in AXIS}
    values = np.concatenate([_of(numbers, mine, sheet.values) for mine, sheet in sheets], axis=1)
    order = _order(tx.connection, run, axes)
    if order is None:
        return Sheet(axis, values)
    return Sheet({name: array[order] for name, array in axis.items()}, values[:, order])


def _of(numbers: Numbers, mine: Numbers, values: Floats) -> Floats:
    if numbers == mine:
        return values
    places = {metric: place for place, metric in enumerate(mine)}
    return values[[places[metric] for metric in numbers]]


def _write(tx: Tx, run: str, numbers: Numbers, sheet: Sheet) -> None:
    for start in range(0, sheet.rows, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        axis = {name: array[part] for name, array in sheet.axis.items()}
        rows, until = len(axis["at"]), int(axis["at"][-1])
        block = {"run": run, "rows": rows, "until": until, "axis": encode_axis(axis)}
        number = tx.connection.execute(_BLOCK, block).scalar_one()
        columns = [(number, metric, pack(values[part])) for metric, values in zip(numbers, sheet.values, strict=True)]
        tx.insert(schema.columns, columns)
