"""A series reads the same however it is kept: as sheets, as blocks, as both, in one block or many."""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pytest

from sexton import clock, errors
from sexton.ingest import ingest
from sexton.model.records import Batch, Points
from sexton.model.runs import Series
from sexton.store import series
from sexton.store.columns import BLOCK_ROWS, Axis
from sexton.store.database import Database, open_database
from tests.batches import T0, new_run, points
from tests.postgres import Postgres

NOW = T0 + 3_600 * clock.SECOND


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One store for all tests of the module, which is why each test makes runs of its own."""
    if request.param == "sqlite":
        url = f"file:{tmp_path_factory.mktemp('store')}"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.url(postgres.create_database())
    database = open_database(url)
    yield database
    database.close()


@pytest.fixture
def run() -> str:
    return new_run()


def put(database: Database, *batches: Batch) -> None:
    with database.write("me", NOW) as tx:
        ingest(tx, batches)


def compact(database: Database, run: str) -> None:
    with database.write("me", NOW) as tx:
        series.compact(tx, run)


def read(database: Database, run: str, name: str = "m", count: int | None = None) -> Series:
    with database.read() as connection:
        return series.read(connection, run, name, points=count)


def rows(database: Database, run: str) -> tuple[int, int]:
    """How many sheets and how many blocks the run has."""
    with database.read() as connection:
        counts = [
            connection.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE run = '{run}'").scalar_one()
            for table in ("sheets", "blocks")
        ]
    return counts[0], counts[1]


def logged(
    run: str,
    first: int,
    steps: Sequence[float] | None,
    kind: Literal["none", "int", "float"],
    times: Sequence[int] = (),
) -> Batch:
    """One point for each step; the value is the sequence number."""
    count = 2 if steps is None else len(steps)
    seq = np.arange(count)
    own = b"" if steps is None else np.array(steps, "<i8" if kind == "int" else "<f8").tobytes()
    block = Points(
        keys=["m"],
        rows=count,
        seq=seq.astype("<u4").tobytes(),
        at=(T0 + first + seq).astype("<i8").tobytes(),
        values=(first + seq).astype("<f8").tobytes(),
        steps=own,
        step_kind=kind,
        times=np.array(times, "<i8").tobytes(),
    )
    return Batch(run, "w", 0, first, count, points=[block])


@pytest.mark.parametrize("compacted", [False, True])
def test_steps_of_every_kind_in_one_series(database: Database, run: str, compacted: bool) -> None:
    put(
        database,
        logged(run, 0, [2**63 - 1, -(2**63)], "int"),
        logged(run, 2, [0.5, math.nan], "float"),
        logged(run, 4, None, "none"),
        logged(run, 6, [3, 3], "int", times=[5, -7]),
    )
    if compacted:
        compact(database, run)
        assert rows(database, run) == (0, 1)
    found = read(database, run)
    assert found.steps == [2**63 - 1, -(2**63), 0.5, None, None, None, 3, 3]
    assert found.times == [*range(T0, T0 + 6), 5, -7]
    assert found.values == [float(n) for n in range(8)]


def test_a_series_without_steps_has_none(database: Database, run: str) -> None:
    put(database, logged(run, 0, None, "none"))
    assert read(database, run).steps is None


def test_values_are_exact_before_and_after_compaction(database: Database, run: str) -> None:
    values = [0.1, math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308]
    put(database, points(run, {"m": values}))
    for _ in range(2):
        found = read(database, run).values
        assert found == [0.1, "NaN", "Infinity", "-Infinity", 0.0, 5e-324, 1.7976931348623157e308]
        assert math.copysign(1, float(found[4])) == -1
        compact(database, run)


def test_compaction_changes_no_answer_however_points_arrive(database: Database, run: str) -> None:
    """Three blocks and a half, then late points that reach back into the second, then more at the end."""
    size, choose = 1_000, random.Random(1)
    whole = int(3.5 * BLOCK_ROWS) // size * size
    firsts = list(range(0, whole, size))
    late = [first for first in firsts if first > BLOCK_ROWS + size and choose.random() < 0.1]
    prompt = [first for first in firsts if first not in late]
    choose.shuffle(prompt)

    def batch(first: int) -> Batch:
        return points(run, {"m": np.arange(first, first + size, dtype=float).tolist()}, first=first, step=first)

    def expect(present: Sequence[int]) -> None:
        found = read(database, run)
        expected = [float(n) for first in sorted(present) for n in range(first, first + size)]
        assert found.values == expected
        assert found.steps == expected
        thinned = read(database, run, count=300)
        assert thinned.count == len(expected)
        assert len(thinned.values) <= 300
        assert (thinned.values[0], thinned.values[-1]) == (expected[0], expected[-1])

    put(database, *(batch(first) for first in prompt))
    expect(prompt)
    compact(database, run)
    expect(prompt)
    untouched = _first_block(database, run)
    put(database, *(batch(first) for first in late))
    expect(firsts)
    compact(database, run)
    expect(firsts)
    assert _first_block(database, run) == untouched
    assert np.all(np.diff(_times_of_blocks(database, run)) > 0)
    again = rows(database, run)
    compact(database, run)
    assert rows(database, run) == again == (0, 4)
    put(database, batch(whole))
    expect([*firsts, whole])


def _first_block(database: Database, run: str) -> Any:
    with database.read() as connection:
        return connection.exec_driver_sql(f"SELECT min(id) FROM blocks WHERE run = '{run}'").scalar_one()


def _times_of_blocks(database: Database, run: str) -> Any:
    with database.read() as connection:
        blocks = connection.exec_driver_sql(f"SELECT axis, rows FROM blocks WHERE run = '{run}' ORDER BY id").all()
    return np.concatenate([Axis(axis, count)["at"] for axis, count in blocks])


def test_metrics_that_come_together_now_and_then_keep_their_own_rows(database: Database, run: str) -> None:
    both: dict[str, Sequence[float]] = {"loss": [1.0, 2.0], "acc": [10.0, 20.0]}
    put(database, points(run, both, first=0), points(run, {"loss": [3.0]}, first=5))
    compact(database, run)
    put(database, points(run, {"acc": [30.0]}, first=6), points(run, {"acc": [40.0], "loss": [4.0]}, first=7))
    for _ in range(2):
        assert read(database, run, "loss").values == [1.0, 2.0, 3.0, 4.0]
        assert read(database, run, "acc").values == [10.0, 20.0, 30.0, 40.0]
        compact(database, run)


def test_a_small_sheet_after_many_is_folded_without_rewriting_what_is_full(database: Database, run: str) -> None:
    put(database, points(run, {"m": np.zeros(2 * BLOCK_ROWS).tolist()}, first=0))
    compact(database, run)
    put(database, points(run, {"m": [1.0]}, first=2 * BLOCK_ROWS))
    compact(database, run)
    assert rows(database, run) == (0, 3)
    assert read(database, run).count == 2 * BLOCK_ROWS + 1


def test_a_metric_that_the_run_has_not_is_an_error_that_says_so(database: Database, run: str) -> None:
    put(database, points(run, {"m": [1.0]}), points(new_run(), {"other": [1.0]}))
    for name in ("other", "nobody's", 'm{"split":"val"}'):
        with pytest.raises(errors.MetricNotFound, match=run):
            read(database, run, name)
