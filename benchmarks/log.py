"""What one `log()` call costs the training loop: one after the other ("hot"), and one a millisecond ("paced").

The trackers take turns, round by round, in an order that changes, each in a process of its own; before each turn the
debts of the turn before are settled. So noise of the machine hits all alike. The timer's own cost is not subtracted;
the row of the empty function shows it.
"""

import random
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import peers

METRICS = 1, 10, 100
HOT = {"calls": 5_000, "seconds": 0.1, "pace": 0}
PACED = {"calls": 300, "seconds": 0.6, "pace": 0.001}
KINDS = ("float32", "float64", "tensor") if find_spec("torch") else ("float32", "float64")


def measure(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Median and 99th percentile, in microseconds, of each tracker, kind of number, pace and count of metrics."""
    names = (*peers.OWN, *peers.PEERS)
    cases = [(name, "float") for name in names] + [("sexton", kind) for kind in KINDS]
    taken: dict[tuple[str, str, str, int], list[int]] = {}
    with peers.trackers(names, folder) as opened:
        for turn in range(-1, rounds):  # the first is to warm up
            for name, kind in random.sample(cases, len(cases)):
                _take_turn(opened, name, kind, taken if turn >= 0 else {}, brief=turn < 0)
    return [
        {
            "tracker": name,
            "kind": kind,
            "pace": pace,
            "metrics": metrics,
            "calls": len(times),
            "median": median(times) / 1e3,
            "p99": quantiles(times, n=100)[98] / 1e3,
        }
        for (name, kind, pace, metrics), times in taken.items()
    ]


def _take_turn(
    opened: dict[str, peers.Tracker],
    name: str,
    kind: str,
    taken: dict[tuple[str, str, str, int], list[int]],
    brief: bool,
) -> None:
    for metrics in METRICS:
        for pace, bounds in (("hot", HOT), ("paced", PACED)):
            peers.settle(opened.values())
            times = opened[name].ask("timed", kind=kind, metrics=metrics, **bounds | ({"calls": 10} if brief else {}))
            taken.setdefault((name, kind, pace, metrics), []).extend(times)
