"""What one courier takes while 30 processes log 10 metrics every 100 ms each."""

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks import peers

RUNS, METRICS, PACE = 30, 10, 0.1


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """Memory of the courier, as the highest seen in a second's steps, and its share of one core."""
    with ExitStack() as stack:
        live = [stack.enter_context(peers.Tracker("sexton", folder)) for _ in range(RUNS)]
        for run in live:
            run.tell("timed", kind="float", metrics=METRICS, calls=10**9, seconds=seconds, pace=PACE)
        taken, used = _watch(_courier(folder), seconds)
        calls = sum(len(run.answer()) for run in live)
        for run in live:
            run.ask("close")
    return {
        "runs": RUNS,
        "metrics": METRICS,
        "points": calls * METRICS,
        "seconds": seconds,
        "rss": max(rss for rss, _ in taken),
        "pss": max(pss for _, pss in taken),
        "cpu": used / seconds,
    }


def _courier(folder: Path) -> psutil.Process:
    """The process of the courier: who holds the spool says so in `courier.json`."""
    state = folder / "sexton" / "spool" / os.uname().nodename / "courier.json"
    until = time.monotonic() + 30
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.1)
    return psutil.Process(json.loads(state.read_bytes())["pid"])


def _watch(courier: psutil.Process, seconds: float) -> tuple[list[tuple[int, int]], float]:
    """Resident and proportional bytes, second by second, and the CPU seconds used meanwhile."""
    began, before = time.monotonic(), courier.cpu_times()
    taken = []
    while time.monotonic() - began < seconds - 1:
        memory = courier.memory_full_info()
        taken.append((memory.rss, getattr(memory, "pss", memory.uss)))
        time.sleep(1)
    after = courier.cpu_times()
    return taken, after.user + after.system - before.user - before.system
