"""What a user types and gets, with real processes: recording, exit codes, JSON, what is undelivered."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sexton.cli import main
from sexton.cli.artifacts import Fetch, Fetched, Files
from sexton.cli.checkup import Checkup
from sexton.cli.difference import Difference
from sexton.cli.main import COMMANDS
from sexton.model.records import Params, Started
from sexton.model.runs import ConsoleText, Detail, Page
from tests import batches
from tests.cli import Home, on_terminal
from tests.serving import Server

NOBODY = "http://127.0.0.1:9"
"""Where no server answers."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.end()


# ----------------------------------------------------------------------------------------------------------------- run


def test_a_command_that_fails_gives_its_code_and_is_recorded(home: Home) -> None:
    done = home("run", "--", "false")
    assert (done.returncode, done.stdout) == (1, "")
    [run] = home.runs()
    assert (run.state, run.cause, run.exit_code, run.argv) == ("failed", "exit", 1, ("false",))
    assert run.id in done.stderr


def test_a_command_prints_what_it_prints_and_we_print_beside_it(home: Home) -> None:
    done = home("run", "--", "sh", "-c", "printf out; printf err >&2")
    before, *_, after = done.stderr.splitlines()
    [run] = home.runs()
    assert done.stdout == "out"
    assert before == f"sexton: recording run {run.id} (sexton show {run.id})"
    assert after.startswith(f"errsexton: run {run.id} finished after ")


def test_quiet_says_nothing_of_our_own(home: Home) -> None:
    done = home("run", "--quiet", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_what_is_said_of_a_run_is_recorded(home: Home) -> None:
    said = ["-e", "digits", "--name", "first", "-t", "baseline", "-t", "tier=a=b", "--project", "vision"]
    said += ["--task", "ML-7", "--hypothesis", "[b]bigger[/b] is better", "--sweep", "s1"]
    home("run", *said, "--", "true")
    [run] = home.runs()
    assert (run.experiment, run.name, run.project, run.sweep) == ("digits", "first", "vision", "s1")
    assert run.tags == {"baseline": "", "tier": "a=b"}
    assert (run.task, run.hypothesis) == ("ML-7", "[b]bigger[/b] is better")


@pytest.mark.parametrize("dashes", [["--"], []], ids=["after --", "without --"])
def test_options_of_the_command_are_its_own(home: Home, dashes: list[str]) -> None:
    done = home("run", *dashes, "sh", "-c", 'echo "$@"', "x", "--json", "-e", "5", "--", "--quiet", "--help")
    assert done.stdout == "--json -e 5 -- --quiet --help\n"


@pytest.mark.parametrize("words", [[], ["--"], ["-e", "digits"], ["--bogus", "true"]])
def test_nothing_to_record_is_a_misuse(home: Home, words: list[str]) -> None:
    done = home("run", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "sexton run --help" in done.stderr
    assert not (home.folder / "home" / "spool").exists()


def test_a_command_that_is_not_there_is_told_of_and_recorded(home: Home) -> None:
    done = home("run", "--quiet", "--", "no-such-command")
    assert done.returncode == 127
    assert "no-such-command: command not found" in done.stderr
    [run] = home.runs()
    assert (run.state, run.cause) == ("failed", "command-not-found")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_command(home: Home, number: signal.Signals) -> None:
    words = home.command("run", "--", "sh", "-c", "echo ready; exec sleep 60")
    process = subprocess.Popen(
        words, cwd=home.work, env=home.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert number.name in said.decode()
    [run] = home.runs()
    assert (run.state, run.signal) == ("killed", number)


def test_a_script_that_uses_the_sdk_joins_the_run_that_records_it(home: Home) -> None:
    (home.work / "train.py").write_text(
        "import sexton\nwith sexton.start(params={'lr': 0.1}) as run: run.log({'x': 1})"
    )
    home("run", "-e", "digits", "--", sys.executable, "train.py")
    [run] = home.runs()
    assert (run.name, run.params, run.metrics["x"].last) == ("train.py", {"lr": 0.1}, 1.0)


# --------------------------------------------------------------------------------------------------------------- lists


def test_what_a_script_has_just_recorded_is_listed(home: Home) -> None:
    home.script("import sexton\nfor i in range(5):\n    with sexton.start(name=f'n{i}') as run: run.log({'loss': i})")
    done = home("ls", "--columns", "name,metrics.loss")
    assert [line.split() for line in done.stdout.splitlines()[1:6]] == [[f"n{i}", str(i)] for i in (4, 3, 2, 1, 0)]


def test_an_empty_store_shows_how_to_record_a_run(home: Home) -> None:
    done = home("ls")
    assert done.returncode == 0
    assert "sexton run -- python train.py" in done.stdout
    assert home.json(Page, "ls") == Page([], 0, None)


def test_a_filter_that_nothing_passes_is_not_an_empty_store(home: Home) -> None:
    home.record(Started(at=batches.T0, experiment="digits"))
    done = home("ls", "-e", "cancer")
    assert "None of the 1 run" in done.stdout


def test_runs_are_filtered_sorted_and_counted(home: Home) -> None:
    for number, name in enumerate(["a", "b", "c", "d"]):
        at = batches.T0 + number * 1_000_000_000
        home.record(Started(at=at, name=name, experiment="digits" if name < "d" else "cancer"))
    page = home.json(Page, "ls", "-e", "digits", "--sort", "name", "-n", "2")
    assert [run.name for run in page.runs] == ["a", "b"]
    assert (page.total, page.next is not None) == (3, True)
    assert [run.name for run in home.json(Page, "ls", "--sort", "-name", "--all").runs] == ["d", "c", "b", "a"]
    assert home.json(Page, "ls", "-s", "finished").total == 0
    assert "2 of 3 runs in digits" in home("ls", "-e", "digits", "-n", "2").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sort", "colour"], "metrics.NAME"),
        (["--state", "done"], "finished"),
        (["--columns", "id,colour"], "params.NAME"),
        (["-n", "0"], "--all"),
        (["-n", "x"], "whole number"),
        (["--colour"], "sexton ls --help"),
        (["extra"], "sexton ls --help"),
    ],
)
def test_a_wish_that_can_not_be_met_is_a_misuse_and_says_what_can(home: Home, words: list[str], told: str) -> None:
    home.record(Started(at=batches.T0))
    done = home("ls", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


# ---------------------------------------------------------------------------------------------------------------- JSON


def test_json_is_what_the_documentation_says(home: Home) -> None:
    home.script(
        "import sexton\n"
        "with sexton.start(params={'lr': float('nan'), 'n': 2**70}) as run:\n"
        "    run.log({'loss': float('nan')}, step=1); run.note('hi'); run.save('script.py')\n"
    )
    [run] = home.runs()
    assert run.params == {"lr": {"$float": "NaN"}, "n": {"$int": str(2**70)}}
    assert run.metrics["loss"].last == "NaN"
    detail = home.json(Detail, "show", run.id)
    assert (detail.run.id, detail.notes[0].text, detail.artifacts[0].name) == (run.id, "hi", "script.py")
    assert home.json(Files, "files", run.id) == Files(detail.artifacts, 1)
    assert home.json(Fetch, "get", run.id, "-o", "x") == Fetch([Fetched("x/script.py", detail.artifacts[0])], 1)
    assert home.json(Difference, "diff", run.id, run.id).params == {}
    assert home.json(ConsoleText, "show", run.id, "--console") == ConsoleText("", 0)
    assert home.json(Checkup, "doctor").ok


# ------------------------------------------------------------------------------------------------------------ one run


def test_a_run_that_is_not_there(home: Home) -> None:
    home.record(Started(at=batches.T0))
    for words in (["show", "zzzz"], ["files", "zzzz"], ["get", "zzzz"], ["tag", "zzzz", "x"], ["note", "zzzz", "x"]):
        done = home(*words)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == (
            "error: There is no run 'zzzz' here. `sexton ls` lists this store's runs; "
            "`sexton doctor` says which store it is.\n"
        )


def test_the_beginning_of_an_id_will_do_and_one_that_is_too_short_lists_what_it_may_mean(home: Home) -> None:
    for run in ("aaaaaaaaaaaa", "aaaaaaaaaabb", "bbbbbbbbbbbb"):
        home.record(Started(at=batches.T0, name=run), run=run)
    assert home.json(Detail, "show", "bb").run.id == "bbbbbbbbbbbb"
    done = home("show", "aaa")
    assert done.returncode == 3
    assert "aaaaaaaaaaaa, aaaaaaaaaabb" in done.stderr
    assert [line.split()[0] for line in home("ls").stdout.splitlines()[1:4]].count("bbbbbbbb") == 1


def test_why_a_run_failed_is_on_its_sheet(home: Home) -> None:
    home.script(
        "import sexton\n"
        "with sexton.start(experiment='digits', params={'solver': 'lbfgs'}) as run:\n"
        "    for i in range(100): run.log({'loss': 1 / (i + 1)}, step=i)\n"
        "    raise ValueError('lbfgs knows no l1')\n"
    )
    shown = home("show", home.runs()[0].id).stdout
    for part in (
        "failed (ValueError)",
        "lbfgs knows no l1",
        'File "',
        "solver  lbfgs",
        "█▁▁",
        "100",
        "cores on average",
    ):
        assert part in shown


def test_the_console_of_a_run_can_be_read_whole_or_at_its_end(home: Home) -> None:
    printed = "".join(f"\x1b[3{i % 8}mline {i}\x1b[0m\n" for i in range(50)) + "last \x1b]0;owned\x07"
    (home.work / "text").write_text(printed)
    home("run", "--quiet", "--", "cat", "text")
    [run] = home.runs()
    assert home("show", run.id, "--console").stdout == printed
    shown = home("show", run.id).stdout
    assert "\x1b" not in shown
    assert "line 49\n  last\n" in shown
    assert "line 30\n" not in shown
    assert f"sexton show {run.id} --console" in shown


def test_what_differs_between_two_runs(home: Home) -> None:
    one = home.record(Started(at=batches.T0, user="ana"), Params(params={"lr": "0.1", "seed": "7", "a": "1"}))
    other = home.record(Started(at=batches.T0, user="ana"), Params(params={"lr": "0.2", "seed": "7", "b": "2"}))
    found = home.json(Difference, "diff", one, other)
    assert found.params == {"lr": {"a": 0.1, "b": 0.2}, "a": {"a": 1}, "b": {"b": 2}}
    assert found.run == {}
    shown = home("diff", one, other).stdout
    assert "seed" not in shown
    assert "seed" in home("diff", one, other, "--all").stdout
    assert "Nothing differs" in home("diff", one, one).stdout


def test_tags_and_notes_that_people_add(home: Home) -> None:
    run = home.record(Started(at=batches.T0))
    tagged = home.json(Detail, "tag", run, "+old", "draft", "tier=passed", "odd=a=b")
    assert tagged.run.tags == {"old": "", "draft": "", "tier": "passed", "odd": "a=b"}
    assert (
        home("tag", run, "-old", "--remove", "draft", "--remove", "never-there").stdout
        == f"{run}  odd=a=b tier=passed\n"
    )
    home("note", run, "first\n\nsecond")
    home("note", run, "-", typed="from *stdin*\n")
    assert [note.text for note in home.json(Detail, "show", run).notes] == ["first\n\nsecond", "from *stdin*"]
    for words in (["-"], [""], []):
        done = home("note", run, *words)
        assert (done.returncode, done.stdout) == (2, "")


def test_a_note_is_written_in_the_users_editor(home: Home) -> None:
    run = home.record(Started(at=batches.T0))
    editor = home.environment | {"VISUAL": "sh -c 'echo written > \"$0\"'"}
    written, code = on_terminal(home.command("note", run), 80, editor, home.work)
    assert (written, code) == (f"{run}  has 1 note\n", 0)
    assert home.json(Detail, "show", run).notes[0].text == "written"
    written, code = on_terminal(home.command("note", run), 80, home.environment | {"VISUAL": "false"}, home.work)
    assert code == 2
    assert "no note was added" in written


# ---------------------------------------------------------------------------------------------------------- exit codes


def test_help_of_every_command_ends_with_an_example(home: Home) -> None:
    for name in COMMANDS:
        done = home(name, "--help")
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1].strip().startswith(f"Example:  sexton {name}")


def test_a_server_that_does_not_answer_is_said_so_with_what_waits_for_it(home: Home) -> None:
    assert home("run", "--quiet", "--", "true", SEXTON_URL=NOBODY).returncode == 0
    done = home("ls", SEXTON_URL=NOBODY)
    assert (done.returncode, done.stdout) == (5, "")
    first, second = done.stderr.splitlines()
    assert first == f"1 run has records that {NOBODY} has not taken yet: sexton doctor"
    assert second.startswith("error: No Sexton server answers")
    assert home("ls").returncode == 0  # another store has nothing to do with it
    found = msgspec.json.decode(home("doctor", "--json", SEXTON_URL=NOBODY).stdout, type=Checkup)
    assert not found.ok
    assert [one.url for one in found.undelivered] == [NOBODY]
    assert all(problem.remedy for problem in found.problems)
    assert home("doctor", SEXTON_URL=NOBODY).returncode == 1


def test_doctor_says_where_each_setting_came_from_and_keeps_secrets(home: Home) -> None:
    (home.work / "sexton.toml").write_text('project = "speech"\n')
    done = home("doctor", SEXTON_EXPERIMENT="from-env", SEXTON_TOKEN="s3cret")
    assert (done.returncode, done.stderr) == (0, "")
    assert "s3cret" not in done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"project speech ({home.work / 'sexton.toml'})" in lines
    assert "experiment from-env (SEXTON_EXPERIMENT)" in lines
    assert "sample_seconds 10.0 (default)" in lines
    assert "All is well." in lines


def test_a_damaged_store_is_no_defect_of_ours(home: Home) -> None:
    (home.folder / "home").mkdir()
    (home.folder / "home" / "sexton.db").write_bytes(b"not a database" * 1000)
    done = home("ls")
    assert done.returncode == 6
    assert done.stderr.startswith("error: ")
    assert home("doctor").returncode == 1


def test_a_home_that_is_no_folder(home: Home) -> None:
    (home.folder / "file").touch()
    nowhere = str(home.folder / "file")
    done = home("ls", SEXTON_HOME=nowhere)
    assert (done.returncode, done.stdout) in [(code, "") for code in (1, 4)]
    assert nowhere in done.stderr
    assert home("doctor", SEXTON_HOME=nowhere).returncode == 1
    ran = home("run", "--", "sh", "-c", "echo out; exit 3", SEXTON_HOME=nowhere)
    assert (ran.returncode, ran.stdout) == (3, "out\n")
    assert "can not be opened" in ran.stderr


def test_a_defect_is_told_as_one_with_the_way_to_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main._failed(ZeroDivisionError("by \x1b[2Jzero"), ["ls", "a b"]) == 70
    assert capsys.readouterr().err == (
        "error: ZeroDivisionError: by \\x1b[2Jzero\n"
        "Nobody foresaw this. `sexton --debug ls 'a b'` shows where it happened.\n"
    )


def test_a_setting_that_makes_no_sense_is_a_misuse(home: Home) -> None:
    done = home("ls", SEXTON_URL="ftp://x")
    assert done.returncode == 2
    assert "SEXTON_URL" in done.stderr


def test_serving_to_the_world_is_refused(home: Home) -> None:
    done = home("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 4
    assert "SSH" in done.stderr


def test_the_same_commands_against_a_server(home: Home) -> None:
    with Server(home.url, f"{home.url}/blobs", home.folder / "server.log") as server:
        home("run", "--quiet", "-t", "x", "--", "echo", "hello", SEXTON_URL=server.url)
        home.environment["SEXTON_URL"] = server.url
        [run] = home.runs()
        assert "hello" in home("show", run.id[:6]).stdout
        assert home("tag", run.id, "y").stdout == f"{run.id}  x y\n"
        assert home.json(Checkup, "doctor").store.url == server.url


def test_a_reader_that_leaves_ends_us_quietly(home: Home) -> None:
    for number in range(3):
        home.record(Started(at=batches.T0 + number))
    words = home.command("ls", "--json")
    process = subprocess.Popen(
        words, cwd=home.work, env=home.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_output_that_is_closed_is_no_reason_to_fail(home: Home) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" >&- 2>&-', "sh", *home.command("run", "--", "sh", "-c", "exit 3")],
        cwd=home.work,
        env=home.environment,
        check=False,
    )
    assert done.returncode == 3
    assert [run.exit_code for run in home.runs()] == [3]
