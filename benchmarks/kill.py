"""What is left of 1,000 calls of `log()`, one a millisecond, when the process is killed right after the last."""

from pathlib import Path
from typing import Any

from benchmarks import peers

CALLS = 1_000


def measure(folder: Path, trials: int) -> list[dict[str, Any]]:
    """For each tracker the points kept in each trial."""
    return [_kill(name, folder / name, trials) for name in ("sexton", *peers.PEERS)]


def _kill(name: str, folder: Path, trials: int) -> dict[str, Any]:
    for _ in range(trials):
        with peers.Tracker(name, folder) as victim:
            victim.tell("die", calls=CALLS, pace=0.001)
            victim.wait_for_death()
    kept = peers.count(name, folder)
    return {"tracker": name, "calls": CALLS, "kept": sorted(kept + [0] * (trials - len(kept)))}
