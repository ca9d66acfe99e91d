"""Points a second that `ingest` takes by itself, in one process, each call committed.

    python -m benchmarks.ingest_embedded [URL]

What the server adds to it is in `benchmarks.ingest`. CPU time is of this process, hence of one core; compaction, which
the server does after its acks, is counted apart.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator

import msgspec
import numpy as np

from sexton.ingest import ingest
from sexton.model.records import Batch, Points, Started, encode
from sexton.store import series
from sexton.store.database import Database, open_database

RUNS = 30
SHAPES = [(30, 10, 10, 200), (256, 10, 10, 40), (30, 100, 10, 60), (30, 1, 100, 30), (1, 100_000, 10, 3)]
"""Batches a call, rows and metrics of each, and calls."""

T0 = 1_767_225_600_000_000_000


def calls(batches: int, rows: int, metrics: int, count: int) -> Iterator[list[Batch]]:
    """Calls whose batches come from the runs in turn, each going on where its run's last one ended."""
    noise = np.random.default_rng(0)
    reached: dict[int, int] = defaultdict(lambda: 1)
    keys: list[str | tuple[str, str]] = [f"metric/{number}" for number in range(metrics)]
    started = msgspec.Raw(encode(Started(at=T0, experiment="embedded")))
    yield [Batch(_run(run, batches, rows), "w", 0, 0, 1, records=[(0, started)]) for run in range(RUNS)]
    for call in range(count):
        made = []
        for place in range(batches):
            run = (call * batches + place) % RUNS
            first, reached[run] = reached[run], reached[run] + rows
            steps = np.arange(first, first + rows, dtype="<i8")
            block = Points(
                keys=keys,
                rows=rows,
                seq=np.arange(rows, dtype="<u4").tobytes(),
                at=(T0 + steps * 100_000_000 + noise.integers(0, 1_000_000, rows)).astype("<i8").tobytes(),
                values=noise.normal(0, 1, (metrics, rows)).astype(np.float32).astype("<f8").tobytes(),
                steps=steps.tobytes(),
                step_kind="int",
            )
            made.append(Batch(_run(run, batches, rows), "w", 0, first, rows, points=[block]))
        yield made


def _run(number: int, batches: int, rows: int) -> str:
    """A run that no other shape has: they may share a store."""
    return f"{batches:03}{rows:06}{number:03}"


def measure(database: Database, batches: int, rows: int, metrics: int, count: int) -> str:
    """A line of the table."""
    began, cpu, wall, after = 0.0, [], [], 0.0
    for made in calls(batches, rows, metrics, count):
        began, busy = time.perf_counter(), time.process_time()
        with database.write("benchmark") as tx:
            ingest(tx, made)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - busy)
        busy = time.process_time()
        for run in sorted(tx.due):
            with database.write("benchmark") as compaction:
                series.compact(compaction, run)
        after += time.process_time() - busy
    points, total = batches * rows * metrics, batches * rows * metrics * count
    cheapest, mean = min(cpu[1:]), sum(cpu[1:]) / count
    return (
        f"{batches:4} x {rows:6} x {metrics:3}: {points / min(wall[1:]) / 1e6:6.2f} M/s wall at best,"
        f" {points / cheapest / 1e6:6.2f} M/s of CPU at best, {points / mean / 1e6:6.2f} in the mean,"
        f" {cheapest / batches * 1e6:6.0f} us a batch; compaction {after / total * 1e9:4.0f} ns a point"
    )


def main() -> None:
    print("batches x rows x metrics a call")
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            database = open_database(sys.argv[1] if len(sys.argv) > 1 else f"file:{folder}")
            print(measure(database, *shape), flush=True)
            database.close()


if __name__ == "__main__":
    main()
