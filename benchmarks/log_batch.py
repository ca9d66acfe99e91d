"""MLflow's `log-batch` and Sexton's ingest under the same Python client: 30 threads, each with a run of its own, the
same points, each request in the body that the server documents; the next is sent when the last is acknowledged.

Both servers are processes of their own on fresh SQLite stores. With this client Sexton waits for Python; what its
server takes from a faster one is `benchmarks/ingest.py`.
"""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgspec
import numpy as np
import psutil

from benchmarks import ingest, peers
from sexton.model.records import Batch, Points, Started, encode

THREADS, METRICS = 30, 10
POINTS = 100, 1_000
"""Points a request; 1,000 metrics are the most that MLflow takes in one."""
KEYS: list[str | tuple[str, str]] = [f"metric/{number}" for number in range(METRICS)]
BEGAN = 1_700_000_000_000  # ms; any will do

Request = Callable[[int], tuple[str, bytes, str]]
"""Path, body and content type of a client's request of this number."""


def measure(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Points a second and latencies of both, for each number of points a request."""
    results = []
    with _mlflow(folder) as mlflow:
        for points in POINTS:
            runs = [_mlflow_run(mlflow) for _ in range(THREADS)]
            requests = [_log_batch(run, points // METRICS) for run in runs]
            results.append({"server": "mlflow", "points": points, **_load(mlflow, requests, points, seconds)})
            store = folder / f"sexton-{points}"
            store.mkdir(parents=True)
            with ingest.server(store) as (url, _):
                own = [_ingest(number, points // METRICS) for number in range(THREADS)]
                results.append({"server": "sexton", "points": points, **_load(url, own, points, seconds)})
    return results


# --------------------------------------------------------------------------------------------------------- the client


def _load(url: str, requests: list[Request], points: int, seconds: float) -> dict[str, float]:
    address = url.rpartition("/")[2]
    taken: list[float] = []
    troubles: list[str] = []
    until = time.monotonic() + seconds

    def client(request: Request) -> None:
        connection = HTTPConnection(address, timeout=120)
        number = 0
        while time.monotonic() < until and not troubles:
            path, body, kind = request(number)
            began = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": kind})
            reply = connection.getresponse()
            text = reply.read()
            taken.append(time.perf_counter() - began)
            if reply.status != 200:
                troubles.append(f"{reply.status} {text[:300]!r}")
            number += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(request,)) for request in requests]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.monotonic() - began  # with the requests that were under way at the end
    if troubles:
        raise RuntimeError(troubles[0])
    return {
        "requests_a_second": len(taken) / spent,
        "points_a_second": len(taken) * points / spent,
        "median_ms": median(taken) * 1e3,
        "p99_ms": quantiles(taken, n=100)[98] * 1e3,
    }


def _values(rows: int) -> Callable[[int], "np.ndarray[Any, np.dtype[np.float64]]"]:
    pool = np.random.default_rng(7).normal(0.5, 0.05, (64, METRICS, rows))
    return lambda number: pool[number % len(pool)]


# ------------------------------------------------------------------------------------------------------------- Sexton


def _ingest(client: int, rows: int) -> Request:
    run = f"{rows:06}" + "".join("0123456789abcdefghjkmnpqrstvwxyz"[client * 7 + place & 31] for place in range(6))
    values, places = _values(rows), np.arange(rows, dtype="<i8")
    started = msgspec.Raw(encode(Started(at=BEGAN * 10**6, experiment="log-batch")))

    def request(number: int) -> tuple[str, bytes, str]:
        steps = places + (1 + number * rows)
        block = Points(
            keys=KEYS,
            rows=rows,
            seq=places.astype("<u4").tobytes(),
            at=(BEGAN * 10**6 + steps * 10**6).tobytes(),
            values=values(number).tobytes(),
            steps=steps.tobytes(),
            step_kind="int",
        )
        batch = Batch(run, f"writer-{client}", 0, 1 + number * rows, rows, points=[block])
        batches = [batch] if number else [Batch(run, f"writer-{client}", 0, 0, 1, records=[(0, started)]), batch]
        return "/api/v1/ingest", msgspec.msgpack.encode(batches), "application/msgpack"

    return request


# ------------------------------------------------------------------------------------------------------------- MLflow


def _log_batch(run: str, rows: int) -> Request:
    values = _values(rows)

    def request(number: int) -> tuple[str, bytes, str]:
        metrics = [
            {"key": key, "value": value, "timestamp": BEGAN + step, "step": step}
            for key, column in zip(KEYS, values(number).tolist(), strict=True)
            for step, value in enumerate(column, number * rows)
        ]
        body = json.dumps({"run_id": run, "metrics": metrics, "params": [], "tags": []}).encode()
        return "/api/2.0/mlflow/runs/log-batch", body, "application/json"

    return request


def _mlflow_run(url: str) -> str:
    body = json.dumps({"experiment_id": "0", "start_time": BEGAN})
    return str(_post(url, "/api/2.0/mlflow/runs/create", body)["run"]["info"]["run_id"])


def _post(url: str, path: str, body: str) -> Any:
    connection = HTTPConnection(url.rpartition("/")[2], timeout=60)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    reply = json.loads(connection.getresponse().read())
    connection.close()
    return reply


@contextmanager
def _mlflow(folder: Path) -> Iterator[str]:
    """An `mlflow server` as it comes, on a new SQLite store: its address."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(peers.python("mlflow")).with_name("mlflow")
    options = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "server", *options, "--default-artifact-root", str(folder / "artifacts")],
            env={**peers.surroundings(folder), "PATH": f"{program.parent}:{peers.surroundings(folder)['PATH']}"},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_healthy(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            peers.end([*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)])
            process.wait(10)


def _wait_until_healthy(port: int) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            connection.getresponse().read()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
