"""Batches as a courier sends them, for the tests of everything that takes them."""

import secrets
from collections.abc import Sequence

import msgspec
import numpy as np

from sexton.model.records import Batch, Points, Record, Started, encode
from sexton.model.values import short_id

T0 = 1_750_000_000_000_000_000
"""When the tests' runs began, in UTC ns."""


def new_run() -> str:
    """An id that no other test has."""
    return short_id(secrets.token_bytes(8))


def records(run: str, *facts: Record, first: int = 0, writer: str = "w") -> Batch:
    """Those records, and nothing else."""
    numbered = [(offset, msgspec.Raw(encode(fact))) for offset, fact in enumerate(facts)]
    return Batch(run, writer, 0, first, len(facts), records=numbered)


def started(run: str, experiment: str, **said: str) -> Batch:
    """The beginning of a run."""
    return records(run, Started(at=T0, experiment=experiment, **said))  # type: ignore[arg-type]  # all of them text


def points(run: str, values: dict[str, Sequence[float]], *, first: int = 1, writer: str = "w", step: int = 0) -> Batch:
    """One row for each place in the lists, a millisecond and a step apart."""
    rows = len(next(iter(values.values())))
    block = Points(
        keys=list(values),
        rows=rows,
        seq=np.arange(rows, dtype="<u4").tobytes(),
        at=(T0 + (first + np.arange(rows, dtype="<i8")) * 1_000_000).tobytes(),
        values=np.array(list(values.values()), dtype="<f8").tobytes(),
        steps=(step + np.arange(rows, dtype="<i8")).tobytes(),
        step_kind="int",
    )
    return Batch(run, writer, 0, first, rows, points=[block])
