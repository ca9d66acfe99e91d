"""How values are written for people."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.cli import text
from sexton.model.runs import Run

SECOND = 1_000_000_000
NOW = 1_750_000_000 * SECOND

PAYLOADS = {
    "clear the screen": "\x1b[2J\x1b[H",
    "set the title": "\x1b]0;owned\x07",
    "set the title, other end": "\x1b]2;owned\x1b\\",
    "C1 control": "\x9b31mred",
    "backspaces": "safe\x08\x08\x08\x08evil",
    "carriage return": "failed\rfinished",
    "reordered": "\u202egnp.exe",
    "line separator": "one\u2028two",
    "lone surrogate": "\ud800",
    "null": "\x00",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "unfinished": "\x1b]0;never ends",
}
DANGEROUS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
@pytest.mark.parametrize("written", [text.plain, text.prose, text.screen])
def test_nothing_that_a_run_wrote_controls_a_terminal(payload: str, written: object) -> None:
    assert callable(written)
    assert not DANGEROUS.search(written(payload))


@given(st.text())
def test_whatever_it_wrote(value: str) -> None:
    for written in (text.plain, text.prose, text.screen):
        assert not DANGEROUS.search(written(value))
    assert "\n" not in text.plain(value)


@given(st.text())
def test_a_whole_output_on_a_terminal_sets_colours_and_nothing_else(value: str) -> None:
    shown = re.sub(r"\x1b\[[0-9;:]*m", "", text.coloured(value))
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", shown)


def test_colours_of_a_whole_output_stay() -> None:
    assert text.coloured("\x1b[32mok\x1b[0m\n\x1b[2J") == "\x1b[32mok\x1b[0m\n\\x1b[2J"


def test_what_cannot_harm_is_shown_as_it_is() -> None:
    assert text.plain("Größe 大きさ 👩‍🔬 [bold]x[/]") == "Größe 大きさ 👩‍🔬 [bold]x[/]"


def test_of_an_overwritten_line_the_end_is_shown() -> None:
    assert text.screen("epoch 1\repoch 2\repoch 3\r\ndone\r\n") == "epoch 3\ndone\n"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "-"),
        (0.0, "0"),
        (30.0, "30"),
        (0.971234567, "0.97123"),
        (1.5e-7, "1.5e-07"),
        (123_456_789.0, "123456789"),
        (1e300, "1e+300"),
        ("NaN", "nan"),
        ("Infinity", "inf"),
        ("-Infinity", "-inf"),
        (math.nan, "nan"),
    ],
)
def test_a_number(value: float | str | None, written: str) -> None:
    assert text.number(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("rbf", "rbf"),
        (0.30000000000000004, "0.30000000000000004"),
        (True, "True"),
        (None, "None"),
        ([1, "a"], "[1, 'a']"),
        ({"$float": "NaN"}, "nan"),
        ({"$int": "92233720368547758080"}, "92233720368547758080"),
        ({"$repr": "<Lock>", "$type": "threading.Lock"}, "<Lock>"),
        ({"$cut": '"aaa', "$length": 10_000_000, "$sha256": "x"}, '"aaa… (10,000,000 characters)'),
        ({"a": {"$float": "Infinity"}}, "{'a': inf}"),
        ("x\x1b[2J", "x\\x1b[2J"),
    ],
)
def test_a_param(value: object, written: str) -> None:
    assert text.param(value) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (None, "-"),
        (0.0, "0ms"),
        (0.0204, "20ms"),
        (0.9999, "1.0s"),
        (4.21, "4.2s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (192, "3m12s"),
        (3599.9, "1h00m"),
        (3840, "1h04m"),
        (86_399.9, "1d00h"),
        (183_600, "2d03h"),
        (-1.0, "0ms"),
    ],
)
def test_a_duration(seconds: float | None, written: str) -> None:
    assert text.duration(seconds) == written


@pytest.mark.parametrize(
    ("size", "written"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_999, "1 MB"), (1_440_000_000, "1.44 GB")],
)
def test_a_size(size: int | None, written: str) -> None:
    assert text.size(size) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0 s ago"),
        (-2, "0 s ago"),
        (12, "12 s ago"),
        (200, "3 min ago"),
        (18_000, "5 h ago"),
        (172_800, "2 d ago"),
        (-3600, "in the future"),
    ],
)
def test_how_long_ago(seconds: int, written: str) -> None:
    assert text.ago(NOW - seconds * SECOND, NOW) == written


def test_long_ago_is_a_date() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", text.ago(NOW - 90 * 86_400 * SECOND, NOW))
    assert text.ago(None, NOW) == "-"


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"state": "finished", "cause": "exit", "exit_code": 0}, "finished"),
        ({"state": "running"}, "running"),
        ({"state": "failed", "cause": "exit", "exit_code": 3}, "failed (exit 3)"),
        ({"state": "failed", "cause": "exception", "message": "ValueError: bad"}, "failed (ValueError)"),
        (
            {"state": "failed", "cause": "exception", "message": "torch.cuda.OutOfMemoryError"},
            "failed (OutOfMemoryError)",
        ),
        ({"state": "failed", "cause": "exception", "message": "\x1b[2J"}, "failed (exception)"),
        ({"state": "failed", "cause": "command-not-found", "exit_code": 127}, "failed (command not found)"),
        ({"state": "failed", "cause": "signal", "signal": 11}, "failed (SIGSEGV)"),
        ({"state": "killed", "cause": "signal", "signal": 9}, "killed (SIGKILL)"),
        ({"state": "killed", "cause": "signal", "signal": 200}, "killed (signal 200)"),
        ({"state": "killed", "cause": "oom", "signal": 9}, "killed (out of memory)"),
        ({"state": "killed", "cause": "interrupt"}, "killed (Ctrl-C)"),
        ({"state": "lost"}, "lost (silent)"),
        ({"state": "lost", "cause": "vanished"}, "lost (vanished)"),
    ],
)
def test_how_a_run_ended(fields: dict[str, object], written: str) -> None:
    run = Run(id="x", project="p", experiment="e", created_at=0, **fields)  # type: ignore[arg-type]  # the table's
    assert text.ending(run) == written


def test_a_password_is_not_shown() -> None:
    assert text.address("postgresql://ml:s3cret@db:5432/sexton") == "postgresql://ml:***@db:5432/sexton"
    assert text.address("postgresql://ml@db/sexton") == "postgresql://ml@db/sexton"


def test_short_ids_stay_apart() -> None:
    ids = ["aaaaaaaaaaaa", "aaaaaaaaaabb", "bbbbbbbbbbbb"]
    assert text.short_ids(ids) == {
        "aaaaaaaaaaaa": "aaaaaaaaaaa",
        "aaaaaaaaaabb": "aaaaaaaaaab",
        "bbbbbbbbbbbb": "bbbbbbbb",
    }


@given(st.sets(st.text("01ab", min_size=12, max_size=12), min_size=1))
def test_short_ids_name_one_run_each(ids: set[str]) -> None:
    for run, short in text.short_ids(ids).items():
        assert [other for other in ids if other.startswith(short)] == [run]


def test_a_sparkline_follows_the_series() -> None:
    assert text.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert text.sparkline([1, "NaN", 1]) == "▄×▄"
    assert text.sparkline(["Infinity", "NaN"]) == "××"
    assert len(text.sparkline([float(i) for i in range(1000)])) == 20
    assert text.sparkline([-1.7e308, 1.7e308]) == "▁█"


@given(st.lists(st.floats() | st.sampled_from(["NaN", "Infinity", "-Infinity"])))
def test_a_sparkline_of_anything(values: list[float | str]) -> None:
    assert len(text.sparkline(values)) == min(len(values), 20)
