"""What this machine has recorded and the store has not taken yet, and what the courier says about it."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from sexton.cli import render, text
from sexton.courier import start
from sexton.journal import reader
from sexton.journal.journal import identity_of
from sexton.settings import Settings

DRAIN_SECONDS = 2.0
"""How long a command that reads waits for what is on its way."""


class Told(msgspec.Struct, frozen=True):
    """What the courier of a spool last said of itself."""

    pid: int | None = None
    runs: int = 0
    failing: dict[str, str] = {}
    """Stores that do not take records now, and why."""
    stuck: dict[str, str] = {}
    """Runs whose journal can not be delivered, and why."""


def told(spool: Path) -> Told:
    """The courier's report; an empty one where there is none that can be read."""
    try:
        return msgspec.json.decode((spool / "courier.json").read_bytes(), type=Told)
    except (OSError, msgspec.DecodeError):
        return Told()


def deliver(chosen: Settings) -> None:
    """Have what this machine recorded for the store delivered, so that a reader sees what a script did just before.
    Where that does not succeed, say so."""
    if not any(_goes_to(folder, chosen.url) for folder in reader.runs(chosen.spool)):
        return
    goal = start.rounds(chosen.spool) + 2
    try:
        left = [one for one in start.drain(chosen, DRAIN_SECONDS) if one.url == chosen.url]
    except OSError as error:
        render.say(f"the courier can not be started ({text.plain(error)}): what was recorded here last may be missing")
        return
    held = held_up(chosen.spool, left)
    if held:
        render.say(f"{_runs_have(held)} records that {text.address(chosen.url)} has not taken yet: sexton doctor")
    elif left and start.rounds(chosen.spool) < goal:
        render.say(f"{_runs_have(left)} records still on their way: ask again in a moment")


def held_up(spool: Path, left: Sequence[reader.Backlog]) -> list[reader.Backlog]:
    """Those of the undelivered runs that something stands in the way of: not those that a courier is just getting to,
    as it always is with a run that goes on."""
    if not start.is_running(spool):
        return list(left)
    report = told(spool)
    return [one for one in left if one.url in report.failing or one.run in report.stuck]


def _runs_have(some: Sequence[reader.Backlog]) -> str:
    return "1 run has" if len(some) == 1 else f"{len(some):,} runs have"


def _goes_to(folder: Path, url: str) -> bool:
    try:
        return identity_of(folder).url == url
    except (OSError, msgspec.DecodeError):  # just delivered and removed, or not ours to judge
        return False
