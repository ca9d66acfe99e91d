"""What reaches a terminal and what a pipe: widths, colours, and nothing that a run could do to either."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sexton.cli.render import cell_width
from sexton.model.records import Artifact, Console, Direction, Finished, Note, Params, Started, Tag
from tests import batches
from tests.cli import Home, on_terminal

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b5n\r\x08\u202e[red]x[/red][link=http://e]y[/link]"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.end()


def _terminal(home: Home, width: int, *words: str, **variables: str) -> str:
    return on_terminal(home.command(*words), width, home.environment | variables, home.work)[0]


def _many(home: Home, count: int) -> None:
    """Runs that differ in many params, with names and tags of all lengths."""
    with home.store() as client:
        for number in range(count):
            run = batches.new_run()
            at = batches.T0 + number * 1_000_000_000
            params = {f"param{key}": str(number * key) for key in range(20)}
            facts = [
                Started(at=at, experiment=f"experiment-{number % 3}", name=f"run {'long ' * (number % 20)}{number}"),
                Params(at=at, params=params),
                Direction(at=at, metric="val/accuracy", direction="max"),
                Tag(at=at, key="tag" * (number % 30 + 1), value="大" * (number % 5)),
                Finished(
                    at=at + 10**9, state="failed" if number % 2 else "finished", cause="exit", exit_code=number % 2
                ),
            ]
            client.ingest([batches.records(run, *facts)])
            client.ingest([batches.points(run, {"loss": [0.5, 0.25], "val/accuracy": [0.5, number / 100]}, first=5)])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_list_is_as_wide_as_the_terminal(home: Home, width: int) -> None:
    _many(home, 60)
    lines = COLOUR.sub("", _terminal(home, width, "ls", "-n", "60")).splitlines()
    table = lines[:61]
    assert max(map(cell_width, table)) <= width
    assert all(len(line.split()[0]) >= 8 for line in table[1:])
    assert lines[-1].startswith("60 runs")
    assert ("val/accuracy" in table[0]) == (width > 40)
    assert ("param1" in table[0]) == (width == 200)


def test_a_pipe_gets_plain_text_and_nothing_cut(home: Home) -> None:
    _many(home, 60)
    done = home("ls", "--all", "--columns", "id,name,tags,params.param3,metrics.loss")
    assert "\x1b" not in done.stdout
    assert "…" not in done.stdout
    assert f"run {'long ' * 19}59" in done.stdout
    assert "tag" * 30 in done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) == 63
    ends = {cell_width(line) for line in lines[:61]}
    assert len(ends) == 1, "aligned to the right at the last column"


def test_colours_only_where_somebody_looks_and_wants_them(home: Home) -> None:
    run = home.record(Started(at=batches.T0), Finished(at=batches.T0 + 1, state="failed"))
    for words in (["ls"], ["show", run]):
        assert COLOUR.search(_terminal(home, 100, *words)), words
        assert "\x1b" not in home(*words).stdout
    assert "\x1b" not in _terminal(home, 100, "ls", NO_COLOR="1")
    assert "\x1b" not in _terminal(home, 100, "ls", TERM="dumb")
    recorded = _terminal(home, 100, "run", "--", "sh", "-c", "exit 1", NO_COLOR="1")
    assert "\x1b" not in recorded


def test_nothing_that_a_run_wrote_acts_on_the_terminal(home: Home) -> None:
    at = batches.T0
    run = home.record(
        Started(
            at=at,
            name=EVIL,
            experiment=EVIL,
            user=EVIL,
            host=EVIL,
            argv=(EVIL, "b"),
            cwd=EVIL,
            task=EVIL,
            hypothesis=EVIL,
        ),
        Params(
            at=at,
            params={
                EVIL: f'"{EVIL}"'.replace("\x1b", "\\u001b")
                .replace("\r", "\\r")
                .replace("\x08", "\\b")
                .replace("\x07", "\\u0007")
            },
        ),
        Tag(at=at, key=EVIL, value=EVIL),
        Note(at=at, text=EVIL),
        Artifact(at=at, name=EVIL, uri=EVIL, digest=EVIL, size=1, kind=EVIL, metrics={EVIL: 1.0}),
        Console(at=at, stream="stdout", offset=0, data=EVIL.encode()),
        Finished(at=at + 1, state="failed", cause=EVIL, message=EVIL, traceback=EVIL),
    )
    for words in (
        ["ls"],
        ["show", run],
        ["show", run, "--console"],
        ["files", run],
        ["diff", run, run, "--all"],
        ["tag", run, "x"],
    ):
        written = _terminal(home, 400, *words)
        rest = COLOUR.sub("", written).replace("\n", "")
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", rest.replace("\r", "") if "--console" in words else rest), (
            words
        )
        if words[0] == "show":
            assert "[red]x[/red][link=http://e]y[/link]" in rest, words


def test_json_for_a_person_is_indented_and_for_a_program_on_one_line(home: Home) -> None:
    home.record(Started(at=batches.T0))
    assert _terminal(home, 80, "ls", "--json").startswith('{\n  "runs": [\n')
    assert home("ls", "--json").stdout.count("\n") == 1


def test_a_terminal_of_another_encoding_still_works(home: Home) -> None:
    run = home.record(Started(at=batches.T0, name="Größe 大"), Direction(at=batches.T0, metric="x", direction="max"))
    done = home("show", run, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "Gr\\xf6\\xdfe" in done.stdout
