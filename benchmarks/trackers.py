"""Each tracker's `log` behind one signature, in a process that the benchmarks tell what to do.

    python -P trackers.py TRACKER open|count FOLDER

Runs in the tracker's own environment, so it knows the standard library and, of the rest, only what it is asked to
measure. `open` takes one JSON command a line and answers each with one line; `count` prints how many points of
`metric/0` each run in the folder has kept.
"""

import json
import os
import random
import signal
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from importlib import import_module
from math import exp
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any, NamedTuple

Log = Callable[[dict[str, Any], int], object]


class Opened(NamedTuple):
    """An open run: its `log`, and what ends it and returns when all that was logged is where the tracker keeps it."""

    log: Log
    close: Callable[[], object]


# --------------------------------------------------------------------------------------------------------------- open


def open_nothing(_: Path) -> Opened:
    """An empty function: what the timer and the call alone cost."""
    return Opened(lambda _metrics, _step: None, lambda: None)


def open_write(folder: Path) -> Opened:
    """One write of 64 bytes: the least that can survive the process."""
    file, data = os.open(folder / "bytes", os.O_WRONLY | os.O_CREAT | os.O_APPEND), bytes(64)
    return Opened(lambda _metrics, _step: os.write(file, data), lambda: os.close(file))


def open_sexton(_: Path) -> Opened:
    run = import_module("sexton").start(experiment="benchmark")

    def close() -> None:
        run.finish()
        if not run.flush():
            raise TimeoutError("the courier did not deliver")

    return Opened(run.log, close)


def open_trackio(_: Path) -> Opened:
    trackio = import_module("trackio")
    trackio.init(project="benchmark", embed=False, auto_log_gpu=False, auto_log_cpu=False)
    return Opened(trackio.log, trackio.finish)


def open_wandb(folder: Path) -> Opened:
    """Without `step`, for with one W&B holds each row back until the next."""
    run = import_module("wandb").init(project="benchmark", mode="offline", dir=folder)
    return Opened(lambda metrics, _step: run.log(metrics), run.finish)


def open_tensorboardx(folder: Path) -> Opened:
    writer = import_module("tensorboardX").SummaryWriter(folder / f"run-{os.getpid()}")
    add = writer.add_scalar

    def log(metrics: dict[str, Any], step: int) -> None:
        for name, value in metrics.items():
            add(name, value, step)

    return Opened(log, writer.close)


def open_mlflow(_: Path) -> Opened:
    mlflow = import_module("mlflow")
    mlflow.start_run()

    def close() -> None:
        mlflow.flush_async_logging()
        mlflow.end_run()

    return Opened(lambda metrics, step: mlflow.log_metrics(metrics, step=step, synchronous=False), close)


# -------------------------------------------------------------------------------------------------------------- count


def count_sexton(_: Path) -> list[int]:
    load = import_module("sexton.settings").load()
    left = import_module("sexton.courier.start").drain(load, 60)
    if left:
        raise TimeoutError(f"not delivered: {left}")
    client = import_module("sexton.client").connect(load.url, blobs=load.blobs)
    page = client.runs(import_module("sexton.model.runs").RunFilter(limit=1000))
    counts = [run.metrics["metric/0"].count if "metric/0" in run.metrics else 0 for run in page.runs]
    client.close()
    return counts


def _rows(database: Path, query: str) -> list[int]:
    with import_module("sqlite3").connect(database) as connection:
        return [count for (count,) in connection.execute(query)]


def count_trackio(folder: Path) -> list[int]:
    return _rows(folder / "trackio" / "benchmark.db", "SELECT count(*) FROM metrics GROUP BY run_name")


def count_mlflow(folder: Path) -> list[int]:
    return _rows(folder / "mlflow.db", "SELECT count(*) FROM metrics WHERE key = 'metric/0' GROUP BY run_uuid")


def count_tensorboardx(folder: Path) -> list[int]:
    return [sum(1 for _ in _events(path.read_bytes())) - 1 for path in folder.glob("run-*/events*")]


def _events(data: bytes) -> Iterator[bytes]:
    """The whole records of an event file: u64 length, u32 crc, bytes, u32 crc. The first only tells the version."""
    at = 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        if at + 16 + size > len(data):
            return
        yield data[at + 12 : at + 12 + size]
        at += 16 + size


def count_wandb(folder: Path) -> list[int]:
    record = import_module("wandb.proto.wandb_internal_pb2").Record
    return [
        sum(record.FromString(one).WhichOneof("record_type") == "history" for one in _wandb_records(path.read_bytes()))
        for path in folder.glob("wandb/offline-run-*/*.wandb")
    ]


def _wandb_records(data: bytes) -> Iterator[bytes]:
    """The whole records of a W&B file: 7 bytes of its own, then LevelDB's log (blocks of 32 KiB; 7-byte heads of crc,
    length and kind: 1 whole, 2 first, 3 middle, 4 last)."""
    block, at, parts = 32 << 10, 7, b""
    while at + 7 <= len(data):
        left = block - at % block
        if left < 7:  # too little for a head: the rest of the block is empty
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0 or at + 7 + size > len(data):
            return
        parts = data[at + 7 : at + 7 + size] if kind in (1, 2) else parts + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield parts


# ----------------------------------------------------------------------------------------------------------- commands


def _value_maker(kind: str) -> Callable[[float], Any]:
    """What turns a Python float into the kind of number that a training loop has in its hands."""
    modules = {"float": "builtins", "float32": "numpy", "float64": "numpy", "tensor": "torch"}
    make: Callable[[float], Any] = getattr(import_module(modules[kind]), kind)
    return make


def timed(log: Log, kind: str, metrics: int, calls: int, seconds: float, pace: float) -> list[int]:
    """Nanoseconds of each call, made one after the other or with a pause of `pace` seconds before each. The dict is
    fresh for every call, as in life, and made outside the measured time."""
    make, names, taken = _value_maker(kind), [f"metric/{number}" for number in range(metrics)], array("q")
    until = perf_counter_ns() + int(seconds * 1e9)
    for step in range(calls):
        if pace:
            sleep(pace)
        values = {name: make(random.random()) for name in names}
        began = perf_counter_ns()
        log(values, step)
        ended = perf_counter_ns()
        taken.append(ended - began)
        if ended > until:
            break
    return taken.tolist()


def fill(log: Log, metrics: int, calls: int) -> None:
    """What metrics look like: noise around a slow fall, every second one computed in 32 bits."""
    names, noise = [f"metric/{number}" for number in range(metrics)], random.Random(7).gauss
    single = struct.Struct("<f")
    for step in range(calls):
        fall = exp(-step / 300)
        values = [fall + noise(0, 0.05) for _ in names]
        values[::2] = [single.unpack(single.pack(value))[0] for value in values[::2]]
        log(dict(zip(names, values, strict=True)), step)


def fill_and_die(log: Log, calls: int, pace: float) -> None:
    """Log one metric, and be killed by signal 9 before the interpreter does anything else."""
    for step in range(calls):
        sleep(pace)
        log({"metric/0": random.random()}, step)
    os.kill(os.getpid(), signal.SIGKILL)


def obey(opened: Opened, command: dict[str, Any]) -> Any:
    """Carry out one command; what it answers."""
    match command.pop("do"):
        case "timed":
            return timed(opened.log, **command)
        case "fill":
            began = perf_counter_ns()
            fill(opened.log, **command)
            return perf_counter_ns() - began
        case "die":
            return fill_and_die(opened.log, **command)
        case "close":
            began = perf_counter_ns()
            opened.close()
            return perf_counter_ns() - began
    raise ValueError("no such command")


def main() -> None:
    name, what, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what trackers print is not an answer
    if what == "count":
        print(json.dumps(globals()[f"count_{name}"](folder)), file=answers, flush=True)
        return
    opened = globals()[f"open_{name}"](folder)
    print("null", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(opened, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
