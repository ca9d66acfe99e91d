"""What it costs training to save a checkpoint of 200 MB each epoch, and what the courier takes for it.

Two processes take turns, each on the same work: epochs of multiplying matrices on one thread, at the end of each a
checkpoint written to a file of its own. One also hands the file to Sexton. The difference is what training feels.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

EPOCHS, EPOCH_SECONDS, MEGABYTES = 5, 10.0, 200

_SOURCE = "from benchmarks import saving; import sys; saving.train(*sys.argv[1:])"


def train(folder: str, how: str, epochs: str, seconds: str) -> None:
    """Train, and print for each epoch its steps, the seconds it took and those that handing over took."""
    import sexton

    run = sexton.start(experiment="saving") if how == "saved" else None
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(MEGABYTES << 18,)).astype(np.float32)
    a = rng.normal(size=(600, 600))
    steps = 0
    for epoch in range(int(epochs)):
        began = time.monotonic()
        if epoch == 0:  # as many steps as the first epoch takes, then the same in each
            while time.monotonic() - began < float(seconds):
                a @ a
                steps += 1
        else:
            for _ in range(steps):
                a @ a
        worked = time.monotonic()
        path = Path(folder, f"epoch-{epoch}.bin")
        weights[epoch::16] += 1e-3
        weights.tofile(path)
        written = time.monotonic()
        if run is not None:
            run.save(path, kind="checkpoint", step=epoch)
        saved = time.monotonic()
        print(json.dumps({"steps": steps, "work": worked - began, "write": written - worked, "save": saved - written}))
    if run is not None:
        run.finish()


def measure(folder: Path, epochs: int = EPOCHS, seconds: float = EPOCH_SECONDS) -> dict[str, Any]:
    """Steps a second of training with and without saving, taking turns; the time of `save`; the courier's memory."""
    rates: dict[str, list[float]] = {"plain": [], "saved": []}
    handing: list[float] = []
    peak = 0
    for turn, how in enumerate(["plain", "saved", "saved", "plain", "plain", "saved"]):
        place = folder / f"{turn}-{how}"
        place.mkdir()
        told, seen = _trained(place, how, epochs, seconds)
        rates[how] += [one["steps"] / (one["work"] + one["save"]) for one in told[1:]]
        handing += [one["save"] for one in told] if how == "saved" else []
        peak = max(peak, seen)
    plain, saved = median(rates["plain"]), median(rates["saved"])
    return {
        "megabytes": MEGABYTES,
        "slowdown": plain / saved - 1,
        "save_ms": median(handing) * 1e3,
        "save_max_ms": max(handing) * 1e3,
        "courier_rss": peak,
    }


def _trained(place: Path, how: str, epochs: int, seconds: float) -> tuple[list[dict[str, float]], int]:
    """What each epoch told, and the most memory that the courier had."""
    environ = os.environ | {"SEXTON_HOME": str(place / "home"), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _SOURCE, str(place), how, str(epochs), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _courier_rss(place / "home"))
            time.sleep(0.2)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    deadline = time.monotonic() + 120
    while (rss := _courier_rss(place / "home")) and time.monotonic() < deadline:
        peak = max(peak, rss)
        time.sleep(0.2)
    return [json.loads(line) for line in lines], peak


def _courier_rss(home: Path) -> int:
    """Resident bytes of the courier of this home; 0 where none runs."""
    try:
        (state,) = home.glob("spool/*/courier.json")
        return int(psutil.Process(json.loads(state.read_bytes())["pid"]).memory_info().rss)
    except (ValueError, OSError, psutil.Error):
        return 0
