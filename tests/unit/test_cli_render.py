"""Which columns a table shows, and that none of its lines is wider than the terminal."""

import io

import pytest

from sexton.cli.render import Column, Screen, Span, _cut, cell_width, fitting


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def _table(columns: list[Column], width: int | None, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """The lines of a table, and the columns it has no place for."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width or 20))
    stream = Terminal() if width else io.StringIO()
    left_out = Screen(stream).table(columns)
    return stream.getvalue().splitlines(), left_out


COLUMNS = [
    Column("id", ["a1", "b2"]),
    Column("name", ["short", "a name that is rather long"], rank=1),
    Column("loss", ["0.1", "0.25"], rank=2, right=True),
    Column("tags", ["", "grid"], rank=3),
]


def test_a_pipe_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, left_out = _table(COLUMNS, None, monkeypatch)
    assert lines == [
        "id  name                        loss  tags",
        "a1  short                        0.1",
        "b2  a name that is rather long  0.25  grid",
    ]
    assert left_out == []


@pytest.mark.parametrize("width", range(4, 60))
def test_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, left_out = _table(COLUMNS, width, monkeypatch)
    assert len(lines) == 3
    assert max(map(cell_width, lines)) <= width
    assert all(title not in lines[0] for title in left_out)


def test_what_matters_least_gives_way_first(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, left_out = _table(COLUMNS, 37, monkeypatch)
    assert (lines[2], left_out) == ("b2  a name t…er long  0.25  grid", [])
    assert _table(COLUMNS, 27, monkeypatch)[1] == ["tags"]
    assert _table(COLUMNS, 21, monkeypatch)[1] == ["loss", "tags"]


def test_a_column_that_must_stay_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, _ = _table([Column("id", ["a1"]), Column("text", ["x" * 100], most=200)], 30, monkeypatch)
    assert lines[1] == "a1  " + "x" * 13 + "…" + "x" * 12


def test_a_cut_cell_keeps_its_end() -> None:
    name = "resnet50-augmented-lr0.001-seed17"
    assert _cut(name, 16).text == "resnet50…-seed17"
    assert [_cut("大きさ" * 9, width).text for width in (1, 2, 5, 6)] == ["…", "…", "大…さ", "大…さ"]


def test_wide_letters_stay_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [Column("a", ["大きさ", "x"]), Column("b", ["1", "2"])]
    lines, _ = _table(columns, 40, monkeypatch)
    assert lines == ["a       b", "大きさ  1", "x       2"]


def test_columns_keep_their_order_however_they_were_chosen() -> None:
    assert fitting([4, 4, 4], ranks=[2, 0, 1], width=10) == [1, 2]


def test_markup_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    Screen(stream).line(Span("[bold]x[/] :smile: [link=file:///]y[/link]", "red"))
    assert "[bold]x[/] :smile: [link=file:///]y[/link]" in stream.getvalue()
    assert stream.getvalue().startswith("\x1b[31m")
