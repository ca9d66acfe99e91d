"""Fill a store with runs that look like a team's: `python -m benchmarks.generate URL --runs 10000`.

Goes through `ingest`, like all run data. The same seed makes the same runs. Shapes: `team` has 50 experiments of uneven
size whose runs share some keys and have others of their own (20 params, 10 metrics, 8 tags); `wide` has 50 experiments
of equal size with 150 params a run.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import msgspec
import numpy as np

from sexton import clock
from sexton.ingest import ingest
from sexton.model.records import Batch, Direction, Finished, Params, Points, Record, Started, Tag, encode
from sexton.model.values import encode_param, short_id
from sexton.store import series
from sexton.store.database import Database, open_database

EXPERIMENTS = 50
TOGETHER = 100  # runs in one transaction
SECOND = 1_000_000_000
FIRST = 1_767_225_600 * SECOND  # 2026-01-01

COMMON_PARAMS: dict[str, list[Any]] = {
    "lr": [0.3, 0.1, 0.03, 0.01, 0.001],
    "optimizer": ["sgd", "adam", "adamw", "lion", "rmsprop"],
    "batch_size": [16, 32, 64, 128, 256],
    "epochs": [5, 10, 20, 50, 100],
    "model": [f"net-{number}" for number in range(40)],
    "dataset": [f"data-v{number}" for number in range(25)],
    "dropout": [0.0, 0.1, 0.5],
}
COMMON_METRICS = ("loss", "acc", "cost")
COMMON_TAGS: dict[str, list[str]] = {
    "tier": ["baseline", "candidate", "passed-eval"],
    "team": ["vision", "text", "ads"],
}
Ending = tuple[Literal["finished", "failed", "killed"], str, int | None]
WELL: Ending = ("finished", "exit", 0)
ENDINGS: list[Ending] = [*[WELL] * 17, ("failed", "exception", 1), ("failed", "exit", 2), ("killed", "oom", None)]


@dataclass(frozen=True)
class Shape:
    """How many keys of its own an experiment draws from how large a pool."""

    params: int
    param_pool: int
    metrics: int = 7
    metric_pool: int = 57
    tags: int = 6
    tag_pool: int = 40
    even: bool = False


SHAPES = {"team": Shape(12, 92), "wide": Shape(142, 1500, even=True)}


def batches(runs: int, points: int, shape: Shape, seed: int) -> Iterator[Batch]:
    """One batch a run: all that it ever said."""
    weights = [1.0 if shape.even else 1 / (rank + 1) for rank in range(EXPERIMENTS)]
    choose = random.Random(seed)
    for number, experiment in enumerate(choose.choices(range(EXPERIMENTS), weights, k=runs)):
        yield _run(number, experiment, points, shape, seed)


def _run(number: int, experiment: int, points: int, shape: Shape, seed: int) -> Batch:
    draw = random.Random(f"{seed}/{number}")
    own = random.Random(f"{seed}/experiment/{experiment}")
    at = FIRST + number * 60 * SECOND
    records: list[Record] = [
        Started(
            at=at,
            experiment=f"experiment-{experiment:02}",
            name=f"{draw.choice(('brisk', 'calm', 'dim', 'eager', 'fair'))}-{number}",
            user=f"user-{draw.randrange(30)}",
            host=f"node-{draw.randrange(12)}",
            argv=("python", "train.py", f"--seed={number}"),
        ),
        Params(at=at + 1, params=_params(number, draw, own, shape)),
        Direction(at=at + 2, metric="acc", direction="max"),
    ]
    records += [Tag(at=at + 3, key=key, value=value) for key, value in _tags(draw, own, shape).items()]
    metrics = [*COMMON_METRICS, *(f"metric/{n:02}" for n in own.sample(range(shape.metric_pool), shape.metrics))]
    block = _points(metrics, points, at, len(records), seed + number)
    seconds = points * draw.uniform(0.5, 20)
    state, cause, code = draw.choice(ENDINGS)
    end = Finished(
        at=at + int(seconds * SECOND),
        state=state,
        cause=cause,
        exit_code=code,
        cpu_seconds=seconds * draw.uniform(0.3, 4),
    )
    sent = [(place, msgspec.Raw(encode(record))) for place, record in enumerate(records)]
    if draw.random() > 0.02:  # the others are still running
        sent.append((len(records) + points, msgspec.Raw(encode(end))))
    identity = short_id(draw.randbytes(12))
    return Batch(identity, "generated", 0, 0, len(records) + points + 1, sent, [block] if points else [])


def _params(number: int, draw: random.Random, own: random.Random, shape: Shape) -> dict[str, str]:
    found: dict[str, Any] = {key: draw.choice(values) for key, values in COMMON_PARAMS.items()} | {"seed": number}
    for key in own.sample(range(shape.param_pool), shape.params):
        found[f"param/{key:03}"] = draw.choice((draw.randrange(10), draw.random(), f"choice-{draw.randrange(5)}", True))
    return {key: encode_param(value) for key, value in found.items()}


def _tags(draw: random.Random, own: random.Random, shape: Shape) -> dict[str, str]:
    found = {key: draw.choice(values) for key, values in COMMON_TAGS.items()}
    for key in own.sample(range(shape.tag_pool), shape.tags - 1):
        found[f"tag-{key:02}"] = f"value-{draw.randrange(8)}"
    return found | {"commit": f"{draw.getrandbits(160):040x}"}


def _points(metrics: list[str], rows: int, at: int, first: int, seed: int) -> Points:
    """A falling curve for each metric, half of them computed in 32 bits, with a second between steps, more or less."""
    rng = np.random.default_rng(seed)
    values = np.exp(-np.arange(rows) * 3 / max(rows, 1)) + rng.normal(0, 0.05, (len(metrics), rows))
    values[::2] = values[::2].astype(np.float32)
    values[1] = np.round(1 - values[1] / 2, 4)
    times = at + SECOND * np.arange(1, rows + 1) + rng.integers(0, SECOND // 100, rows)
    return Points(
        keys=list(metrics),
        rows=rows,
        seq=np.arange(first, first + rows, dtype="<u4").tobytes(),
        at=times.astype("<i8").tobytes(),
        values=values.tobytes(),
        steps=np.arange(rows, dtype="<i8").tobytes(),
        step_kind="int",
    )


def fill(database: Database, made: Iterator[Batch]) -> int:
    """Ingest the batches and compact what they finished; how many there were."""
    count = 0
    while some := list(islice(made, TOGETHER)):
        with database.write("generator") as tx:
            ingest(tx, some)
        with database.write("generator") as again:
            for run in sorted(tx.due):
                series.compact(again, run)
        count += len(some)
    return count


def _bytes(database: Database) -> int:
    """What the store takes on the disk."""
    if database.kind == "sqlite":
        question = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    else:
        question = "SELECT pg_database_size(current_database())"
    with database.read() as connection:
        return int(connection.exec_driver_sql(question).scalar_one())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="file:FOLDER or postgresql://...")
    parser.add_argument("--runs", type=int, help="how many; 10,000 of a team's, 75,000 of wide ones")
    parser.add_argument("--points", type=int, default=100, help="of each metric of a run")
    parser.add_argument("--shape", choices=SHAPES, default="team")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    runs = given.runs or (75_000 if given.shape == "wide" else 10_000)
    database = open_database(given.url)
    began = clock.monotonic()
    count = fill(database, batches(runs, given.points, SHAPES[given.shape], given.seed))
    seconds = (clock.monotonic() - began) / SECOND
    size = _bytes(database)
    print(f"{count} runs in {seconds:.1f} s: {count / seconds:.0f} runs/s, {size:,} bytes, {size / count:,.0f} a run")
    database.close()


if __name__ == "__main__":
    main()
