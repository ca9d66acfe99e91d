"""Where answers go: lines and tables on a terminal or into a pipe, and JSON.

On a terminal a table is as wide as the terminal and may be coloured; anywhere else it is plain text in which nothing is
cut or wrapped. Every string that gets here from a run has passed `sexton.cli.text` before.
"""

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

GAP = "  "
ROOM = 10
"""The least width that a column is cut to rather than left out."""

ESSENTIAL = 3
"""Columns of this rank or lower are worth cutting names for."""


class Span(NamedTuple):
    """Text in a style of Rich."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column of a table. `rank` says what gives way where the terminal is narrow: the highest goes first, those of
    rank 0 never. A cell is cut at `most` characters."""

    title: str
    cells: Sequence[Span | str]
    rank: int = 0
    right: bool = False
    most: int = 40
    style: str = ""


class Screen:
    """A stream that a person or a program reads."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.width: int | None = None
        """Columns of the terminal; None where it is none."""
        self._console: Console | None = None
        if self._stream is not None and self._stream.isatty():
            self.width = shutil.get_terminal_size().columns
            self._console = _coloured(self._stream)

    def line(self, *spans: Span | str) -> None:
        """One line, which the terminal may wrap."""
        parts = [span if isinstance(span, Span) else Span(span) for span in spans]
        while parts and not parts[-1].text.rstrip():
            parts.pop()
        if parts:
            parts[-1] = Span(parts[-1].text.rstrip(), parts[-1].style)
        if self._console is None:
            print("".join(span.text for span in parts), file=self._stream)
            return
        from rich.text import Text

        text = Text.assemble(*parts, no_wrap=True, overflow="ignore", end="\n")
        self._console.print(text, soft_wrap=True)

    def heading(self, title: str) -> None:
        """The title of a part of the answer."""
        self.line()
        self.line(Span(title, "bold"))

    def table(self, columns: Sequence[Column], indent: str = "", titles: bool = True) -> list[str]:
        """A table; the titles of the columns that had no place."""
        if self.width is not None:
            columns = [column._replace(cells=[_cut(cell, column.most) for cell in column.cells]) for column in columns]
        widths = [column_width(column, titles) for column in columns]
        shown = [*range(len(columns))]
        if self.width is not None:
            widths, shown = fitted(widths, columns, self.width - len(indent))
        if titles:
            heads = [Span(_cut(Span(columns[i].title), widths[i]).text, "bold") for i in shown]
            self._row(heads, [columns[i] for i in shown], [widths[i] for i in shown], indent)
        for number in range(max((len(column.cells) for column in columns), default=0)):
            cells = [_cut(columns[i].cells[number], widths[i], columns[i].style) for i in shown]
            self._row(cells, [columns[i] for i in shown], [widths[i] for i in shown], indent)
        return [column.title for i, column in enumerate(columns) if i not in shown]

    def _row(self, cells: Sequence[Span], columns: Sequence[Column], widths: Sequence[int], indent: str) -> None:
        spans: list[Span | str] = [indent]
        for place, (cell, column, width) in enumerate(zip(cells, columns, widths, strict=True)):
            space = " " * (width - cell_width(cell.text))
            last = place == len(cells) - 1
            spans += [space, cell] if column.right else [cell, "" if last else space]
            spans += [] if last else [GAP]
        self.line(*spans)


def fitted(widths: list[int], columns: Sequence[Column], width: int) -> tuple[list[int], list[int]]:
    """The widths to use, and the columns to show. Long text is cut short where that makes room for what matters."""
    ranks = [column.rank for column in columns]
    shown = fitting(widths, ranks, width)
    for cap in (16, 12):
        if all(i in shown for i, rank in enumerate(ranks) if rank <= ESSENTIAL):
            break
        capped = zip(widths, columns, strict=True)
        widths = [old if column.right or column.rank == 0 else min(old, cap) for old, column in capped]
        shown = fitting(widths, ranks, width)
    _squeeze(widths, shown, width)
    return widths, shown


def fitting(widths: Sequence[int], ranks: Sequence[int], width: int) -> list[int]:
    """Which columns to show in `width`: as many as there is room for, by rank, in the order they came."""
    left = width
    shown: list[int] = []
    for place in sorted(range(len(widths)), key=lambda i: (ranks[i], i)):
        needed = widths[place] + (len(GAP) if shown else 0)
        if needed <= left or ranks[place] == 0:
            shown.append(place)
            left -= needed
    return sorted(shown)


def _squeeze(widths: list[int], shown: Sequence[int], width: int) -> None:
    """Make the widest of the shown columns narrower until all fit, down to `ROOM` each."""
    excess = sum(widths[i] for i in shown) + len(GAP) * (len(shown) - 1) - width
    while excess > 0:
        widest = max(shown, key=lambda i: widths[i])
        if widths[widest] <= ROOM:
            return
        widths[widest] -= 1
        excess -= 1


def column_width(column: Column, titles: bool = True) -> int:
    """Width of the widest cell, title included."""
    cells = [cell_width(cell.text if isinstance(cell, Span) else cell) for cell in column.cells]
    return max([*cells, cell_width(column.title) if titles else 0, 1])


def cell_width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _cut(cell: Span | str, width: int, style: str = "") -> Span:
    """At most `width` columns of a cell: its beginning and its end, by which names of runs differ."""
    text, own = (cell.text, cell.style) if isinstance(cell, Span) else (cell, style)
    if cell_width(text) <= width:
        return Span(text, own)
    head, tail = text[: width // 2], text[len(text) - (width - 1) // 2 :]
    while cell_width(head) + cell_width(tail) > width - 1:
        head, tail = (head[:-1], tail) if cell_width(head) > cell_width(tail) else (head, tail[1:])
    return Span(f"{head}…{tail}", own)


def _coloured(stream: TextIO) -> "Console | None":
    """Rich's console, or None where colours are not wanted (NO_COLOR) or not possible (TERM=dumb)."""
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    return None if console.no_color or console.color_system is None else console


# ------------------------------------------------------------------------------------------------------------ answers


def emit(value: object) -> None:
    """A value as JSON on stdout: on one line, or indented where a person reads it."""
    data = msgspec.json.encode(value)
    if sys.stdout.isatty():
        data = msgspec.json.format(data, indent=2)
    print(data.decode())


def say(*spans: Span | str) -> None:
    """A line to the person at the terminal, which is no part of the answer."""
    Screen(sys.stderr).line(*spans)


def pairs(screen: Screen, rows: Iterable[tuple[str, Any]], indent: str = "") -> None:
    """Names and what they stand for, one a line, those that stand for nothing left out. Long values run on."""
    kept = [(name, value) for name, value in rows if value not in (None, "", ())]
    width = max((cell_width(name) for name, _ in kept), default=0)
    for name, value in kept:
        spans = value if isinstance(value, tuple) and not isinstance(value, Span) else (value,)
        screen.line(indent, Span(name + " " * (width - cell_width(name)), "dim"), GAP, *spans)
