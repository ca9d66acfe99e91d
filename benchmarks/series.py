"""Bytes a point on disk and how soon they are there, and a series of a million points read as a thousand."""

from pathlib import Path
from statistics import median
from time import perf_counter_ns, sleep
from typing import Any

from benchmarks import peers
from sexton.client import connect
from sexton.courier import start
from sexton.model.runs import RunFilter

CALLS, METRICS = 1_000, 100
MILLION = 1_000_000


def measure_disk(folder: Path) -> list[dict[str, Any]]:
    """For each tracker, what one more run of 100,000 points adds to a folder that has one already."""
    results = []
    for name in ("sexton", *peers.PEERS):
        first, seconds = _fill(name, folder / name, METRICS, CALLS)
        second, _ = _fill(name, folder / name, METRICS, CALLS)
        results.append(
            {
                "tracker": name,
                "calls": CALLS,
                "metrics": METRICS,
                "bytes_a_point": (second - first) / (CALLS * METRICS),
                "seconds": seconds,
            }
        )
    return results


def measure_million(folder: Path, repeats: int) -> dict[str, Any]:
    """One metric, a million steps: what it adds to a store that has one, and how soon it is read as 1,000 points."""
    first, _ = _fill("sexton", folder, 1, MILLION)
    second, seconds = _fill("sexton", folder, 1, MILLION)
    client = connect(f"file:{folder}/sexton", blobs=f"file:{folder}/sexton/blobs")
    run = client.runs(RunFilter()).runs[0]
    taken, shown = [], []
    for _ in range(repeats + 1):
        began = perf_counter_ns()
        series = client.series(run.id, "metric/0", points=1_000)
        taken.append((perf_counter_ns() - began) / 1e6)
        shown.append((series.count, len(series.values)))
    client.close()
    ((count, points),) = set(shown)
    return {
        "points": count,
        "bytes_a_point": (second - first) / MILLION,
        "seconds": seconds,
        "shown": points,
        "first_ms": taken[0],
        "median_ms": median(taken[1:]),
    }


def _fill(name: str, folder: Path, metrics: int, calls: int) -> tuple[int, float]:
    """Bytes that a tracker's folder has after one more run, and seconds from its first call until all is kept there."""
    with peers.Tracker(name, folder) as tracker:
        nanoseconds = tracker.ask("fill", metrics=metrics, calls=calls) + tracker.ask("close")
    for lock in folder.rglob("courier.lock"):
        while start.is_running(lock.parent):  # until it goes, the write-ahead log of the database counts too
            sleep(0.05)
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
    return sum(path.stat().st_size for path in files), nanoseconds / 1e9
