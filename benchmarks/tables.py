"""Figures as Markdown tables. A ratio is against Sexton's figure of the same run."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.artifacts import SERIES
from benchmarks.peers import TITLES

KINDS = {"float": "", "float32": ", numpy float32", "float64": ", numpy float64", "tensor": ", torch tensor"}
MEBI = 1 << 20


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    lines.insert(1, "|---" + "|---:" * (len(head) - 1) + "|")
    return "\n".join(lines)


def _times(figure: float, own: float) -> str:
    """How many times Sexton's figure this is."""
    ratio = figure / own
    return f"{ratio:,.1f}×" if ratio < 20 else f"{ratio:,.0f}×"


def _short(number: float) -> str:
    """Three figures or so, as people write them."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def log(results: list[dict[str, Any]]) -> str:
    """Median / 99th percentile of a call, hot and paced, in microseconds."""
    found = {(r["tracker"], r["kind"], r["pace"], r["metrics"]): r for r in results}
    cases = sorted({(r["tracker"], r["kind"]) for r in results}, key=_order)
    counts = sorted({r["metrics"] for r in results})
    tables = []
    for pace, title in (("hot", "One call after the other"), ("paced", "One call a millisecond")):
        rows = [
            [f"{TITLES[name]}{KINDS[kind]}", *(_call(found, name, kind, pace, count) for count in counts)]
            for name, kind in cases
        ]
        head = [f"{title}, µs", *(f"{n} metric{'s' * (n > 1)}" for n in counts)]
        tables.append(_table(head, rows))
    return "\n\n".join(tables)


def _order(case: tuple[str, str]) -> tuple[int, int]:
    return list(TITLES).index(case[0]), list(KINDS).index(case[1])


def _call(found: dict[tuple[str, str, str, int], dict[str, Any]], name: str, kind: str, pace: str, count: int) -> str:
    one, own = found[name, kind, pace, count], found["sexton", "float", pace, count]
    cell = f"{_short(one['median'])} / {_short(one['p99'])}"
    compared = one is not own and name not in ("nothing", "write")
    return f"{cell} ({_times(one['median'], own['median'])})" if compared else cell


def kill(results: list[dict[str, Any]]) -> str:
    """Points kept of those logged."""
    rows = []
    for one in results:
        kept, calls = one["kept"], one["calls"]
        lost = sorted(calls - count for count in kept)
        rows.append([TITLES[one["tracker"]], f"{sum(kept):,} of {calls * len(kept):,}", f"{lost[0]} – {lost[-1]}"])
    return _table(["", "points kept", "lost in a trial"], rows)


def imports(results: list[dict[str, Any]]) -> str:
    """Milliseconds and MiB over bare Python."""
    rows = [
        [TITLES[one["tracker"]], f"{one['milliseconds']:,.0f} ms", f"{one['bytes'] / MEBI:,.0f} MiB"] for one in results
    ]
    return _table(["`import`", "time", "memory"], rows)


def courier(one: dict[str, Any]) -> str:
    """Memory and CPU of one courier."""
    row = [f"{one['runs']} runs", f"{one['rss'] / MEBI:.0f} MiB", f"{one['pss'] / MEBI:.0f} MiB", f"{one['cpu']:.0%}"]
    return _table(["", "resident", "its share (PSS)", "of one core"], [row])


def ingest(results: list[dict[str, Any]]) -> str:
    """Points a second through `sexton serve`, native client."""
    rows = [
        [
            f"{one['points_a_request']:,}",
            f"{one['points_a_second']:,.0f}",
            f"{one['requests_a_second']:,.0f}",
            f"{one['median_ms']:.1f} / {one['p99_ms']:.1f} ms",
        ]
        for one in results
    ]
    return _table(["points a request", "points a second", "requests a second", "median / p99"], rows)


def log_batch(results: list[dict[str, Any]]) -> str:
    """Points a second of both servers under the same Python client."""
    found = {(one["server"], one["points"]): one for one in results}
    rows = []
    for points in sorted({points for _, points in found}):
        own, theirs = found["sexton", points], found["mlflow", points]
        rows.append(
            [
                f"{points:,}",
                *(f"{one['points_a_second']:,.0f} ({one['median_ms']:,.0f} ms)" for one in (own, theirs)),
                _times(own["points_a_second"], theirs["points_a_second"]),
            ]
        )
    return _table(["points a request", "**Sexton**, points a second (median)", "MLflow", "ratio"], rows)


def disk(results: list[dict[str, Any]]) -> str:
    """Bytes a point and seconds until all is there."""
    own = results[0]
    rows = [
        [
            TITLES[one["tracker"]],
            f"{_short(one['bytes_a_point'])} B",
            _times(one["bytes_a_point"], own["bytes_a_point"]) if one is not own else "",
            f"{_short(one['seconds'])} s",
        ]
        for one in results
    ]
    return _table(["", "a point", "", "100,000 points logged and stored"], rows)


def million(one: dict[str, Any]) -> str:
    """The long series."""
    row = [
        f"{one['points']:,} points",
        f"{one['bytes_a_point']:.1f} B",
        f"{one['seconds']:.1f} s",
        f"{one['median_ms']:.1f} ms",
        f"{one['first_ms']:.1f} ms",
    ]
    head = ["", "a point", "logged and stored", f"read as {one['shown']:,} points", "the first time"]
    return _table(head, [row])


def storage(results: list[dict[str, Any]]) -> str:
    """Bytes kept, and megabytes that a second of one core takes in and gives back."""
    kept, rates = [], []
    for one in results:
        own, size = one["sexton"], one["bytes"]
        title = f"{SERIES[one['series']]} ({one['files']} files, {size / 1e6:,.0f} MB)"
        more = f"{(own['stored'] - own['first']) / own['first']:.1%}" if "first" in own else ""
        kept.append([title, f"{own['stored'] / size:.1%}", more, f"{one['xet']['stored'] / size:.1%}"])
        costs = (own["ingest_cpu"], own["again_cpu"], own["restore_cpu"], *(one[way]["ingest_cpu"] for way in _OTHERS))
        rates.append([SERIES[one["series"]], *(f"{size / 1e6 / cost:,.0f}" for cost in costs)])
    first = _table(["kept of the bytes saved", "**Sexton**", "more than the first alone", "hf_xet"], kept)
    second = _table(["MB a second of CPU", "**Sexton**, in", "again", "back, verified", "hf_xet, in", "copied"], rates)
    return f"{first}\n\n{second}"


_OTHERS = ("xet", "copy")


def saving(one: dict[str, Any]) -> str:
    """What training feels of its checkpoints."""
    row = [
        f"{one['megabytes']} MB an epoch",
        f"{one['slowdown']:+.1%}",
        f"{one['save_ms']:.0f} / {one['save_max_ms']:.0f} ms",
        f"{one['courier_rss'] / MEBI:.0f} MiB",
    ]
    return _table(["", "training slower by", "a call of `save()`, median / most", "courier, most"], [row])


SECTIONS: dict[str, Callable[[Any], str]] = {
    "log": log,
    "kill": kill,
    "import": imports,
    "courier": courier,
    "ingest": ingest,
    "log_batch": log_batch,
    "disk": disk,
    "million": million,
    "storage": storage,
    "saving": saving,
}
