"""Measure Sexton beside its peers, and put the figures into `docs/benchmarks.json` and the tables of
`docs/benchmarks.md`.

    python -m benchmarks [--quick] [SECTION ...]

Without sections it measures all, in turn. A section measured alone replaces its own figures and leaves the others.
`--quick` only shows that everything works: few rounds, nothing kept.
"""

import argparse
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks import (
    artifacts,
    courier_memory,
    import_cost,
    ingest,
    kill,
    log,
    log_batch,
    peers,
    saving,
    series,
    tables,
)
from sexton.capture import machine

DOCS = Path(__file__).parent.parent / "docs"
FIGURES, PAGE = DOCS / "benchmarks.json", DOCS / "benchmarks.md"

Measure = Callable[[Path, bool], Any]

MEASURES: dict[str, Measure] = {
    "import": lambda folder, quick: import_cost.measure(folder, repeats=2 if quick else 15),
    "log": lambda folder, quick: log.measure(folder, rounds=1 if quick else 5),
    "kill": lambda folder, quick: kill.measure(folder, trials=2 if quick else 20),
    "courier": lambda folder, quick: courier_memory.measure(folder, seconds=10 if quick else 60),
    "disk": lambda folder, _: series.measure_disk(folder),
    "million": lambda folder, quick: series.measure_million(folder, repeats=2 if quick else 9),
    "ingest": lambda _, quick: [
        ingest.measure(points, max(2, requests // 20) if quick else requests)
        for points, requests in ingest.SHAPES.items()
    ],
    "log_batch": lambda folder, quick: log_batch.measure(folder, seconds=2 if quick else 10),
    "storage": artifacts.measure,
    "saving": lambda folder, quick: saving.measure(folder, *((2, 2.0) if quick else ())),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing kept")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(MEASURES))
    chosen = parser.parse_args()
    unknown = set(chosen.sections) - MEASURES.keys()
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    for name in peers.PEERS:
        peers.python(name)  # installs before anything is measured
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for name in chosen.sections or MEASURES:
        print(f"{name} ...", flush=True)
        figures[name] = _measured(MEASURES[name], chosen.quick)
        print(f"\n{tables.SECTIONS[name](figures[name]['results'])}\n", flush=True)
        if not chosen.quick:
            FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
            PAGE.write_text(_filled(PAGE.read_text(), figures))


def _measured(measure: Measure, quick: bool) -> dict[str, Any]:
    """The results of one section, with what one must know to judge them."""
    began, before = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="sexton-bench-", ignore_cleanup_errors=True) as folder:
        results = measure(Path(folder), quick)
    return {
        "measured": time.strftime("%Y-%m-%d"),
        "seconds": round(time.monotonic() - began),
        "load_before": round(before, 2),
        "machine": _machine(),
        "versions": {name: peers.version(name) for name in peers.PEERS},
        "results": results,
    }


def _machine() -> str:
    known = machine.describe()
    memory = psutil.virtual_memory().total / (1 << 30)
    return (
        f"{known.get('cpu_model') or platform.processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}"
    )


def _filled(page: str, figures: dict[str, Any]) -> str:
    """The page with the newest table between each section's marks."""

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in figures:
            return found[0]
        one = figures[name]
        versions = ", ".join(f"{peers.TITLES[peer].split()[0]} {number}" for peer, number in one["versions"].items())
        origin = f"*{one['measured']}, {one['seconds']} s, load before {one['load_before']}. {one['machine']}."
        return (
            f"<!-- {name} -->\n\n{tables.SECTIONS[name](one['results'])}\n\n{origin} {versions}.*\n\n<!-- /{name} -->"
        )

    return re.sub(r"<!-- (?P<name>\w+) -->.*?<!-- /(?P=name) -->", table, page, flags=re.DOTALL)


if __name__ == "__main__":
    main()
