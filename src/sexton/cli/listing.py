"""A list of runs as a table: which columns tell these runs apart, and which of them there is room for.

Pure: runs and `now` in, columns out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from sexton import errors
from sexton.cli import text
from sexton.cli.render import Column, Span
from sexton.model.runs import Page, Run, Summary
from sexton.model.values import unspell

PIPED_MOST = 12
"""Params, and metrics, that a table shows of itself where no width limits it."""


class _Field(NamedTuple):
    show: Callable[[Run, int], str]
    right: bool = False


FIELDS: dict[str, _Field] = {
    "name": _Field(lambda run, _: text.plain(run.name or text.UNKNOWN)),
    "project": _Field(lambda run, _: text.plain(run.project)),
    "experiment": _Field(lambda run, _: text.plain(run.experiment)),
    "state": _Field(lambda run, _: text.ending(run)),
    "age": _Field(lambda run, now: text.ago(run.created_at, now), right=True),
    "time": _Field(lambda run, now: text.duration(seconds(run, now)), right=True),
    "created": _Field(lambda run, _: text.moment(run.created_at)),
    "ended": _Field(lambda run, _: text.moment(run.ended_at)),
    "user": _Field(lambda run, _: text.plain(run.user or text.UNKNOWN)),
    "host": _Field(lambda run, _: text.plain(run.host or text.UNKNOWN)),
    "command": _Field(lambda run, _: text.plain(" ".join(run.argv) or text.UNKNOWN)),
    "task": _Field(lambda run, _: text.plain(run.task or text.UNKNOWN)),
    "sweep": _Field(lambda run, _: text.plain(run.sweep or text.UNKNOWN)),
    "parent": _Field(lambda run, _: text.plain(run.parent or text.UNKNOWN)),
    "outcome": _Field(lambda run, _: text.plain(run.outcome or text.UNKNOWN)),
    "takeaway": _Field(lambda run, _: text.plain(run.takeaway or text.UNKNOWN)),
    "message": _Field(lambda run, _: text.plain(run.message or text.UNKNOWN)),
    "cpu": _Field(lambda run, _: text.duration(run.cpu_seconds), right=True),
    "memory": _Field(lambda run, _: text.size(run.max_rss), right=True),
    "files": _Field(lambda run, _: text.size(run.bytes), right=True),
    "tags": _Field(lambda run, _: text.labels(run.tags)),
}
"""What `--columns` may name besides `id`, `params.NAME`, `metrics.NAME` and `tags.NAME`."""


def seconds(run: Run, now: int) -> float | None:
    """How long a run took, or has been going on; None where that is unknown."""
    if run.seconds is None and run.state == "running":
        return (now - run.created_at) / 1e9
    return run.seconds


def columns(runs: Sequence[Run], now: int, narrow: bool) -> list[Column]:
    """The columns that tell these runs apart. What is the same for all of them is left out."""
    metrics, params = ranked_metrics(runs), varying_params(runs)
    if not narrow:
        metrics, params = metrics[:PIPED_MOST], params[:PIPED_MOST]
    found = [_ids(runs), _field("name", runs, now, rank=1, most=24)]
    if len({(run.project, run.experiment) for run in runs}) > 1:
        found.append(_field("experiment", runs, now, rank=2, most=20))
    found.append(_states(runs))
    found.append(_field("age", runs, now, rank=4))
    found.append(_field("time", runs, now, rank=5))
    found += [_param(name, runs, rank=6 + place, most=16) for place, name in enumerate(params)]
    found += [_metric(name, runs, rank=3 if place == 0 else 6 + place) for place, name in enumerate(metrics)]
    if any(run.tags for run in runs):
        found.append(_field("tags", runs, now, rank=8, most=30))
    return found


def chosen_columns(names: Iterable[str], runs: Sequence[Run], now: int) -> list[Column]:
    """The columns that the user asked for. Raises `InvalidValue`."""
    return [_chosen(name.strip(), runs, now) for name in names]


def _chosen(name: str, runs: Sequence[Run], now: int) -> Column:
    if name == "id":
        return _ids(runs)
    if name == "state":
        return _states(runs)
    if name in FIELDS:
        return _field(name, runs, now)
    kind, dot, key = name.partition(".")
    if dot and kind == "params":
        return _param(key, runs)
    if dot and kind == "metrics":
        return _metric(key, runs)
    if dot and kind == "tags":
        return Column(text.plain(key), [text.plain(run.tags.get(key, text.UNKNOWN)) for run in runs])
    known = f"id, {', '.join(FIELDS)}, params.NAME, metrics.NAME, tags.NAME"
    raise errors.InvalidValue(what="a column", value=repr(name), reason=f"the columns are {known}")


def footer(page: Page, running: int, left_out: Sequence[str]) -> str:
    """What a list does not show: how many there are, how many go on, which columns had no place, where to look next."""
    total = text.count(page.total, "run")
    parts = [total if len(page.runs) == page.total else f"{len(page.runs):,} of {total}"]
    homes = {run.experiment for run in page.runs}
    if len(homes) == 1:
        parts[0] += f" in {text.plain(homes.pop())}"
    if running:
        parts.append(f"{running:,} running")
    if left_out:
        few = ", ".join(left_out[:4])
        parts.append(f"no room for {few}{f' and {len(left_out) - 4} more' if len(left_out) > 4 else ''}")
    return " · ".join([*parts, "sexton show ID"])


# --------------------------------------------------------------------------------------------------- which there are


def varying_params(runs: Sequence[Run]) -> list[str]:
    """The params that are not the same in all runs, those that most runs have first, those that are the same wherever
    they are last. One run has nothing to compare with, so all of its params count."""
    shown = {name: [text.param(run.params[name]) for run in runs if name in run.params] for name in _names(runs)}
    varying = [
        name for name, values in shown.items() if len(runs) == 1 or len(set(values)) > 1 or len(values) < len(runs)
    ]

    def importance(name: str) -> tuple[bool, int, bool, str]:
        values = shown[name]
        return len(set(values)) == 1, -len(values), max(map(len, values)) > 16, name

    return sorted(varying, key=importance)


def _names(runs: Sequence[Run]) -> set[str]:
    return {name for run in runs for name in run.params}


def ranked_metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics of the runs: those with a declared direction first, then those that most runs have."""
    directed = {name for run in runs for name, summary in run.metrics.items() if summary.direction}
    having = Counter(name for run in runs for name in run.metrics)
    return sorted(having, key=lambda name: (name not in directed, -having[name], name))


# ------------------------------------------------------------------------------------------------------------ columns


def _ids(runs: Sequence[Run]) -> Column:
    short = text.short_ids(run.id for run in runs)
    return Column("id", [short[run.id] for run in runs])


def _states(runs: Sequence[Run]) -> Column:
    return Column("state", [Span(text.ending(run), text.STATE_STYLES[run.state]) for run in runs])


def _field(name: str, runs: Sequence[Run], now: int, rank: int = 0, most: int = 60) -> Column:
    field = FIELDS[name]
    return Column(name, [field.show(run, now) for run in runs], rank, field.right, most)


def _param(name: str, runs: Sequence[Run], rank: int = 0, most: int = 40) -> Column:
    cells = [text.param(run.params[name]) if name in run.params else text.UNKNOWN for run in runs]
    right = all(isinstance(run.params[name], int | float) for run in runs if name in run.params)
    return Column(text.plain(name), cells, rank, right, most)


def _metric(name: str, runs: Sequence[Run], rank: int = 0) -> Column:
    found = [run.metrics.get(name) for run in runs]
    direction = next((summary.direction for summary in found if summary and summary.direction), None)
    values = [None if summary is None else text.headline(summary) for summary in found]
    best = _best(found)
    cells = [Span(text.number(value), "bold green" if value is not None and value == best else "") for value in values]
    arrow = {"max": " ↑", "min": " ↓", None: ""}[direction]
    return Column(text.plain(name) + arrow, cells, rank, right=True, most=24)


def _best(found: Iterable[Summary | None]) -> float | str | None:
    """The best value among the runs, where a direction says what that is."""
    known = [summary for summary in found if summary and summary.direction and summary.best not in (None, "NaN")]
    if not known:
        return None
    pick = max if known[0].direction == "max" else min
    return pick((summary.best for summary in known if summary.best is not None), key=unspell)
