"""How values are written for people: one spelling each for numbers, times, sizes, states, and for what is unknown.

Pure. What came from a run (names, notes, output) passes `plain`, `prose` or `screen` before it may reach a terminal:
none of them lets a control character through, so nothing that a run wrote can move a cursor or forge a line.
"""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sexton.clock import SECOND
from sexton.model.runs import Run, Summary, signal_name
from sexton.model.values import thaw, unspell

UNKNOWN = "-"

STATE_STYLES = {
    "scheduled": "dim",
    "running": "cyan",
    "finished": "green",
    "failed": "red",
    "killed": "magenta",
    "lost": "yellow",
}

# Controls, and the invisible characters that reorder or break a line.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\ufffb]"
)
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^_`-~]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]*)(?::|$)")
_BARS = "▁▂▃▄▅▆▇█"


# --------------------------------------------------------------------------------------------------------------- text


def plain(value: object) -> str:
    """One line that can do nothing but be read: control characters are shown as escapes."""
    return _UNSAFE.sub(_escape, str(value))


def prose(text: str) -> str:
    """As `plain`, but lines stay lines."""
    return "\n".join(plain(line.expandtabs(4)) for line in text.splitlines())


def screen(text: str) -> str:
    """What a terminal would show of a command's output, without colours: of a line that was overwritten, the end."""
    lines = _SEQUENCE.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(plain(line.rstrip("\r").rpartition("\r")[2].expandtabs(4)) for line in lines)


def coloured(text: str) -> str:
    """A command's output for a terminal: as it was, but the only sequences that work are those that set colours."""
    pieces = _COLOUR.split(text)
    colours = [*_COLOUR.findall(text), ""]
    return "".join(_paged(piece) + colour for piece, colour in zip(pieces, colours, strict=True))


def _paged(text: str) -> str:
    return _UNSAFE.sub(lambda found: found[0] if found[0] in "\n\t\r" else _escape(found), text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def address(url: str) -> str:
    """A store's address without a password."""
    return plain(re.sub(r"(//[^:/@]*):[^@/]*@", r"\1:***@", url))


def count(number: int, noun: str) -> str:
    """`1 run`, `12 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# ------------------------------------------------------------------------------------------------------------- values


def number(value: float | str | None) -> str:
    """A measured number, with five digits of what is not whole."""
    if value is None:
        return UNKNOWN
    value = unspell(value)
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.5g}"


def param(value: Any) -> str:
    """A param as Python would write it; text without quotes."""
    value = thaw(value)
    match value:
        case str():
            return plain(value)
        case {"$repr": text}:
            return plain(text)
        case {"$cut": text, "$length": length}:
            return f"{plain(text)}… ({length:,} characters)"
        case _:
            return plain(repr(value))


def duration(seconds: float | None) -> str:
    """`20ms`, `4.2s`, `42s`, `3m12s`, `1h04m`, `2d03h`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes}m{rest:02}s"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h" if days else f"{hours}h{minutes:02}m"


def size(bytes_: int | None) -> str:
    """`0 B`, `512 kB`, `1.4 GB`: thousands, as disks are sold."""
    if bytes_ is None:
        return UNKNOWN
    amount, units = float(bytes_), ["B", "kB", "MB", "GB", "TB", "PB"]
    while round(amount) >= 1000 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{amount:.3g} {units[0]}"


def ago(at: int | None, now: int) -> str:
    """How long before `now` (both UTC ns); a date where that is more than a month."""
    if at is None:
        return UNKNOWN
    seconds = (now - at) / SECOND
    if seconds < -60:
        return "in the future"
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 36), ("d", 86_400, 31)):
        if seconds < most * length:
            return f"{max(round(seconds / length), 0)} {unit} ago"
    return moment(at)[:10]


def moment(at: int | None) -> str:
    """Date and time of the reader's zone, with the zone."""
    if at is None:
        return UNKNOWN
    return datetime.fromtimestamp(at / SECOND, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


# --------------------------------------------------------------------------------------------------------------- runs


def ending(run: Run) -> str:
    """The state, and why it is that where it is not well: `failed (exit 1)`, `killed (SIGKILL)`."""
    why = "" if run.state in ("finished", "running", "scheduled") else _why(run)
    return f"{run.state} ({why})" if why else run.state


def _why(run: Run) -> str:
    match run.cause:
        case "exit" if run.exit_code is not None:
            return f"exit {run.exit_code}"
        case "signal" if run.signal is not None:
            return signal_name(run.signal)
        case "exception":
            found = _EXCEPTION.match(run.message or "")
            return plain(found[1].rpartition(".")[2]) if found else "exception"
        case "oom":
            return "out of memory"
        case "interrupt":
            return "Ctrl-C"
        case None | "":
            return "silent" if run.state == "lost" else ""
        case other:
            return plain(other.replace("-", " "))


def headline(summary: Summary) -> float | str:
    """The one number for a metric of a run: its best where a direction was declared, else its last."""
    return summary.last if summary.best is None else summary.best


def labels(tags: dict[str, str]) -> str:
    """Tags as they are typed."""
    return " ".join(plain(f"{key}={value}" if value else key) for key, value in sorted(tags.items()))


def short_ids(ids: Iterable[str], least: int = 8) -> dict[str, str]:
    """For each id its beginning, at least `least` long, that no other of them has."""
    known = sorted(set(ids))
    shared = dict.fromkeys(known, least - 1)
    for one, other in itertools.pairwise(known):
        common = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
        shared[one], shared[other] = max(shared[one], common), max(shared[other], common)
    return {one: one[: length + 1] for one, length in shared.items()}


def sparkline(values: Sequence[float | str], width: int = 20) -> str:
    """The course of a series in at most `width` characters; `×` where a point is not finite."""
    numbers = [unspell(value) for value in values]
    if len(numbers) > width:
        numbers = [numbers[(i + 1) * len(numbers) // width - 1] for i in range(width)]
    finite = [value for value in numbers if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = high / 2 - low / 2  # halves, because the whole may overflow

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return "×"
        return _BARS[int((value / 2 - low / 2) / scale * 7.999)] if scale > 0 else _BARS[3]

    return "".join(map(bar, numbers))
