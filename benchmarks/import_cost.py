"""What `import` costs a script before it has done anything, against the same interpreter that imports nothing."""

import subprocess
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import psutil

from benchmarks import peers

MODULES = {
    "sexton": "sexton",
    "trackio": "trackio",
    "wandb": "wandb",
    "tensorboardx": "tensorboardX",
    "mlflow": "mlflow",
}


def measure(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds and resident bytes over bare Python: medians of runs that take turns."""
    runs: dict[tuple[str, bool], list[tuple[float, int]]] = {}
    for turn in range(-1, repeats):
        for name, module in MODULES.items():
            for full in (False, True):
                run = _run(folder, name, f"import {module}" if full else "pass")
                if turn >= 0:  # the first reads the disk and compiles
                    runs.setdefault((name, full), []).append(run)
    medians = {case: [median(figures) for figures in zip(*found, strict=True)] for case, found in runs.items()}
    return [
        {
            "tracker": name,
            "milliseconds": medians[name, True][0] - medians[name, False][0],
            "bytes": medians[name, True][1] - medians[name, False][1],
            "bare_milliseconds": medians[name, False][0],
            "bare_bytes": medians[name, False][1],
        }
        for name in MODULES
    ]


def _run(folder: Path, name: str, statement: str) -> tuple[float, int]:
    """Milliseconds from the start of an interpreter to the end of the statement, and its resident bytes then."""
    program = f"{statement}\nprint(flush=True)\ninput()"
    began = perf_counter_ns()
    with subprocess.Popen(
        [peers.python(name), "-c", program],
        env=peers.surroundings(folder),
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        milliseconds = (perf_counter_ns() - began) / 1e6
        resident = psutil.Process(process.pid).memory_info().rss
        process.stdin.write(b"\n")
        process.stdin.close()
        process.wait(60)
    return milliseconds, resident
