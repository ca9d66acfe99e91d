"""Questions to an index of many runs, and what keeps it current: `python -m benchmarks.find URL [--rounds 9]`.

The store is one that `benchmarks.generate` filled. Its index is rebuilt first, in a folder of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from sexton import clock
from sexton.index import query
from sexton.index.query import Aggregate, Where
from sexton.index.snapshot import Index
from sexton.ingest import ingest
from sexton.model.records import Batch, Tag, encode
from sexton.store.database import Database, open_database

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Duck

CHANGED = 1_000
MEBI = 1 << 20

_SELECTIVE: Where = ("SELECT run FROM num WHERE key = ? AND value > ?", ["metrics.acc", 0.9995])
_BOTH: Where = (
    "SELECT run FROM num WHERE key = ? AND value > ? INTERSECT SELECT run FROM num WHERE key = ? AND value = ?",
    ["metrics.acc", 0.9, "params.lr", 0.1],
)
_LIKE: Where = ("SELECT run FROM txt WHERE key = ? AND value LIKE ?", ["tags.commit", "%abc%"])

QUESTIONS: dict[str, Callable[["Duck"], Any]] = {
    "filter": lambda duck: query.search(duck, _SELECTIVE, limit=100, after=None),
    "filter_top_100": lambda duck: query.search(duck, _BOTH, "metrics.acc", limit=100, after=None),
    "top_100": lambda duck: query.search(duck, None, "metrics.acc", limit=100, after=None),
    "count": lambda duck: query.search(duck, _BOTH, limit=1, after=None).total,
    "like": lambda duck: query.search(duck, _LIKE, limit=100, after=None),
    "group": lambda duck: query.group(
        duck, ["params.optimizer", "params.model"], [Aggregate("count"), Aggregate("mean", "metrics.cost")]
    ),
    "keys": lambda duck: query.keys(duck, "params.m"),
    "values": lambda duck: query.values(duck, "params.model"),
    "hydrate_100": lambda duck: query.hydrate(duck, query.search(duck, None, limit=100, after=None).ids),
}

_COLD = """
import sys, time
from pathlib import Path
from sexton.index.snapshot import Index
from sexton.store.database import open_database
database = open_database(sys.argv[1])
began = time.perf_counter()
Index(database, Path(sys.argv[2])).refresh(time.time_ns())
print((time.perf_counter() - began) * 1e3)
"""


def measure(url: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of each question (median and 95th percentile), seconds of the rebuild, and memory."""
    database = open_database(url)
    index = Index(database, folder)
    rebuilt = _milliseconds(lambda: index.rebuild(clock.now()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    index.refresh(clock.now())
    found: dict[str, Any] = {"rebuild_s": rebuilt / 1e3, "rebuild_rss": peak, "load_before": os.getloadavg()[0]}
    found |= {"cold_ms": median(_cold(url, folder) for _ in range(3)), "still": _questions(index, rounds)}
    found["bytes"] = sum(file.stat().st_size for file in folder.iterdir())
    ids = _change(database, index)
    found["change_ms"] = _milliseconds(lambda: index.refresh(clock.now()))
    found |= {"changed": len(ids), "runs": len(ids), "after_changes": _questions(index, rounds)}
    with index.reading() as duck:
        found["runs"] = duck.execute("SELECT count(*) FROM runs").fetchall()[0][0]
    index.close()
    database.close()
    return found


def _questions(index: Index, rounds: int) -> dict[str, list[float]]:
    found = {}
    for name, ask in QUESTIONS.items():
        taken = []
        for _ in range(rounds):
            with index.reading() as duck:
                taken.append(_milliseconds(partial(ask, duck)))
        found[name] = [median(taken), sorted(taken)[int(0.95 * len(taken))]]
    return found


def _change(database: Database, index: Index) -> list[str]:
    """Tag runs that are spread over all of them."""
    with index.reading() as duck:
        sql = f"SELECT id FROM runs ORDER BY hash(id) LIMIT {CHANGED}"
        ids = [row[0] for row in duck.execute(sql).fetchall()]
    tag = encode(Tag(at=clock.now(), key="touched", value="yes"))
    with database.write("benchmark") as tx:
        ingest(tx, [Batch(run, f"find-{clock.now()}", 0, 0, 1, [(0, msgspec.Raw(tag))]) for run in ids])
    return ids


def _cold(url: str, folder: Path) -> float:
    argv = [sys.executable, "-c", _COLD, url, str(folder)]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def _milliseconds(act: Callable[[], Any]) -> float:
    began = clock.monotonic()
    act()
    return (clock.monotonic() - began) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="file:FOLDER or postgresql://...")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sexton-find-") as folder:
        print(json.dumps(measure(given.url, Path(folder), given.rounds), indent=1))


if __name__ == "__main__":
    main()
