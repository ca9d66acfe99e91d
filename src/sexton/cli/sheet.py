"""One run on one screen: what it was, how it ended and why, what went in, what came out, what it printed last."""

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sexton import errors
from sexton.cli import listing, text
from sexton.cli.render import GAP, Column, Screen, Span, cell_width, pairs, say
from sexton.model.runs import ConsoleText, Detail, Run, Summary

if TYPE_CHECKING:
    from sexton.client import Client

SPARKLINES = 20
METRICS = 40
FILES = 10
TRACEBACK_LINES = 12
CONSOLE_LINES = 20
LINE_CHARACTERS = 400

TROUBLE = {
    "lost": "could not be written to disk where it ran, and are lost",
    "damaged": "could not be read back from the journal",
    "unknown": "are of a kind that this version of Sexton does not know; they are kept",
    "conflicting": "gave a param that was fixed already another value; the first stayed",
    "dropped": "could not be recorded as they were given",
    "missing-file": "named a file that was gone before it was stored",
    "courier": "found no courier to deliver them at once",
}
"""What `Run.trouble` counts, in words that follow `3 records`."""


def print_run(client: "Client", detail: Detail, now: int) -> None:
    """The whole sheet. Series and console are asked for as they are needed."""
    screen, run = Screen(), detail.run
    name = [GAP, text.plain(run.name)] if run.name else []
    screen.line(Span(run.id, "bold"), *name, GAP, Span(text.ending(run), text.STATE_STYLES[run.state]))
    _print_failure(screen, detail)
    screen.line()
    pairs(screen, _facts(detail, now))
    if run.trouble:
        screen.heading("record")
        for kind, number in sorted(run.trouble.items()):
            screen.line(GAP, Span(_trouble(kind, number), "yellow"))
    if run.params:
        screen.heading("params")
        _flow(screen, [(text.plain(key), text.param(value)) for key, value in run.params.items()])
    if run.metrics:
        screen.heading("metrics")
        _print_metrics(screen, client, run)
    if detail.artifacts:
        screen.heading("files")
        _print_files(screen, detail)
    for note in detail.notes:
        screen.heading(f"note of {text.plain(note.actor)}, {text.ago(note.at, now)}")
        _indented(screen, text.prose(note.text).split("\n"))
    _print_tail(screen, client.console(run.id), run.id)


def print_console(printed: ConsoleText) -> None:
    """What the command printed, as it was; a terminal gets nothing but text and colours of it."""
    sys.stdout.write(text.coloured(printed.text) if sys.stdout.isatty() else printed.text)
    if printed.skipped:
        sys.stdout.flush()
        say(f"{printed.skipped:,} bytes in the middle were not kept")


# -------------------------------------------------------------------------------------------------------------- parts


def _print_failure(screen: Screen, detail: Detail) -> None:
    run = detail.run
    if run.message and run.state != "finished":
        _indented(screen, text.prose(run.message).split("\n")[:TRACEBACK_LINES], "red")
    if detail.traceback and run.state == "failed":
        lines = text.prose(detail.traceback.rstrip().removesuffix(run.message or "").rstrip()).split("\n")
        if len(lines) > TRACEBACK_LINES:
            lines = ["...", *lines[-TRACEBACK_LINES:]]
        screen.line()
        _indented(screen, lines, "dim")


def _facts(detail: Detail, now: int) -> Iterator[tuple[str, Any]]:
    run, captured = detail.run, detail.captured
    yield "experiment", text.plain(run.experiment) + (f" (project {text.plain(run.project)})" if run.project else "")
    yield "started", f"{text.moment(run.created_at)}, {text.ago(run.created_at, now)}"
    if run.ended_at is not None:
        yield "ended", f"{text.moment(run.ended_at)}, after {text.duration(run.seconds)}"
    elif run.state == "running":
        yield "running", f"for {text.duration(listing.seconds(run, now))}, last heard {text.ago(run.heard_at, now)}"
    else:
        yield "last heard", f"{text.moment(run.heard_at)}, {text.ago(run.heard_at, now)}"
    yield "where", text.plain(f"{run.user or text.UNKNOWN}@{run.host or text.UNKNOWN}:{run.cwd or text.UNKNOWN}")
    yield "command", text.plain(shlex.join(run.argv))
    yield "code", _code(_section(captured, "code"))
    yield "machine", _machine(_section(captured, "machine"))
    yield "cpu", _cpu(run)
    yield "memory", f"{text.size(run.max_rss)} at most" if run.max_rss is not None else text.UNKNOWN
    for name in ("task", "hypothesis", "sweep", "parent"):
        yield name, text.plain(getattr(run, name) or "")
    if run.outcome:
        yield "outcome", text.plain(run.outcome) + (f": {text.plain(run.takeaway)}" if run.takeaway else "")
    yield "tags", text.labels(run.tags)


def _section(captured: dict[str, Any], name: str) -> dict[str, Any]:
    found = captured.get(name)
    return found if isinstance(found, dict) else {}


def _code(facts: dict[str, Any]) -> str:
    commit = str(facts.get("commit") or "")[:12]
    parts = [commit or "no git commit"]
    parts += [f"{word} {facts[key]}" for word, key in (("on", "branch"), ("of", "remote")) if facts.get(key)]
    if facts.get("entry"):
        parts.append(f"for {facts['entry']}")
    if commit:
        dirty = facts.get("dirty")
        parts.append("(changes not captured)" if dirty is None else "with changes" if dirty else "unchanged")
    return text.plain(" ".join(parts)) if facts else text.UNKNOWN


def _machine(facts: dict[str, Any]) -> str:
    if not facts:
        return text.UNKNOWN
    usable, cpus = facts.get("cpu_usable"), facts.get("cpu_count")
    cpu = f"{usable if usable is not None else cpus or text.UNKNOWN} CPUs"
    if usable is not None and cpus is not None and usable != cpus:
        cpu += f" of {cpus}"
    if facts.get("cpu_model"):
        cpu += f" ({facts['cpu_model']})"
    total = facts.get("memory_total")
    memory = text.size(total) if isinstance(total, int) else text.UNKNOWN
    system = facts.get("system") or facts.get("platform") or text.UNKNOWN
    return text.plain(f"{cpu}, {memory} memory, {system}, Python {facts.get('python') or text.UNKNOWN}")


def _cpu(run: Run) -> str:
    if run.cpu_seconds is None:
        return text.UNKNOWN
    how = text.plain(", ".join(filter(None, [run.cpu_method, run.cpu_coverage])))
    share = f", {run.cpu_seconds / run.seconds:.2g} cores on average" if run.seconds else ""
    return f"{text.duration(run.cpu_seconds)}{share}{f' ({how})' if how else ''}"


def _trouble(kind: str, number: int) -> str:
    return f"{text.count(number, 'record')} {TROUBLE.get(kind, text.plain(kind))}"


def _print_metrics(screen: Screen, client: "Client", run: Run) -> None:
    names = listing.ranked_metrics([run])
    shown = {name: run.metrics[name] for name in names[:METRICS]}
    directed = any(summary.direction for summary in shown.values())

    def numbers(field: str) -> list[str]:
        return [text.number(getattr(summary, field)) for summary in shown.values()]

    columns = [
        Column("", [text.plain(name) + _arrow(summary) for name, summary in shown.items()], most=36),
        Column("course", _courses(client, run.id, shown), rank=1, style="cyan"),
        Column("last", numbers("last"), right=True),
        *([Column("best", numbers("best"), right=True, style="bold")] if directed else []),
        Column("min", numbers("min"), rank=4, right=True),
        Column("max", numbers("max"), rank=4, right=True),
        Column("points", [f"{summary.count:,}" for summary in shown.values()], rank=5, right=True),
        Column("step", numbers("step"), rank=6, right=True),
    ]
    screen.table(columns, indent=GAP)
    if len(names) > METRICS:
        screen.line(GAP, Span(f"and {len(names) - METRICS:,} more: sexton show {run.id} --json", "dim"))


def _arrow(summary: Summary) -> str:
    return {"max": " ↑", "min": " ↓", None: ""}[summary.direction]


def _courses(client: "Client", run: str, names: Iterable[str]) -> list[str]:
    courses = []
    for place, name in enumerate(names):
        try:
            values = client.series(run, name, points=40).values if place < SPARKLINES else []
        except errors.MetricNotFound:
            values = []
        courses.append(text.sparkline(values) if len(values) > 1 else "")
    return courses


def _print_files(screen: Screen, detail: Detail) -> None:
    newest = detail.artifacts[-FILES:]
    screen.table(
        [
            Column("", [text.plain(one.name) for one in newest], most=48),
            Column("", [text.plain(one.kind) for one in newest], rank=2, most=16),
            Column("", ["" if one.step is None else f"step {text.number(one.step)}" for one in newest], rank=1),
            Column("", [text.size(one.size) for one in newest], right=True),
        ],
        indent=GAP,
        titles=False,
    )
    if len(detail.artifacts) > FILES:
        rest = len(detail.artifacts) - FILES
        screen.line(GAP, Span(f"and {rest:,} before: sexton files {detail.run.id}", "dim"))


def _print_tail(screen: Screen, printed: ConsoleText, run: str) -> None:
    lines = text.screen(printed.text.rstrip()).split("\n")
    if lines == [""]:
        return
    tail = lines[-CONSOLE_LINES:]
    title = "console"
    if len(tail) < len(lines) or printed.skipped:
        title += f", last {len(tail)} lines (all: sexton show {run} --console)"
    screen.heading(title)
    _indented(screen, [line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]}…" for line in tail])


def _indented(screen: Screen, lines: Iterable[str], style: str = "") -> None:
    for line in lines:
        screen.line(GAP, Span(line, style))


def _flow(screen: Screen, items: Sequence[tuple[str, str]]) -> None:
    """Names and values in as many columns as the terminal has room for, read downwards; elsewhere in one."""
    names = max(cell_width(name) for name, _ in items)
    values = max(cell_width(value) for _, value in items)
    wide = len(GAP) + names + len(GAP) + min(values, 40)
    across = 1 if screen.width is None or values > 40 else max(1, (screen.width + len(GAP)) // (wide + len(GAP)))
    down = -(-len(items) // across)
    for row in range(down):
        spans: list[Span | str] = []
        for name, value in items[row::down]:
            spans += [GAP, Span(name + " " * (names - cell_width(name)), "dim"), GAP]
            spans += [value + " " * (min(values, 40) - cell_width(value)), GAP]
        screen.line(*spans)
