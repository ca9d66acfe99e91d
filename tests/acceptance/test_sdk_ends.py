"""However a training process ends, its run says so; and the process ends as it would have without a run."""

import os
import platform
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sexton.model import records
from sexton.model.runs import Detail
from tests.home import Home, Logged, until

KERNEL = tuple(map(int, re.findall(r"\d+", platform.release())[:2])) if platform.system() == "Linux" else (0, 0)
TELLS_EXITS = KERNEL >= (6, 15)  # of processes that are not the asker's children

PRELUDE = """
import os, signal, sys, time
import sexton

run = sexton.start(experiment=sys.argv[1])
run.log({"loss": 0.5}, step=1)
while len(list(run._writer.folder.glob("*.seg"))) < 2:  # until the courier watches
    time.sleep(0.01)
"""


class End(NamedTuple):
    """A program's last lines, its exit status, and what its run should say. `seen` where only an observer can know."""

    program: str
    status: int
    state: str
    cause: str
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    seen: bool = False


ENDS = {
    "with a block": End("with run: pass", 0, "finished", ""),
    "with finish": End("run.finish('failed', 'not good enough')", 0, "failed", "", message="not good enough"),
    "with exit in a block": End("with run: sys.exit(3)", 3, "failed", "exit", 3),
    "with text in a block": End("with run: sys.exit('no data')", 1, "failed", "exit", 1, message="no data"),
    "with an exception in a block": End(
        "with run: raise ValueError('bad batch')", 1, "failed", "exception", message="ValueError: bad batch"
    ),
    "with an open run": End("pass", 0, "finished", records.ASSUMED),
    "with a forgotten run": End("del run; import gc; gc.collect()", 0, "finished", records.ASSUMED),
    "with an exception": End(
        "raise ValueError('bad batch')", 1, "failed", "exception", message="ValueError: bad batch"
    ),
    "with exit": End("sys.exit(3)", 3, "failed", "exit", 3, seen=True),
    "with Ctrl-C": End(
        "os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, "killed", "interrupt", message="keyboard"
    ),
    "with Ctrl-C in a block": End(
        "with run: os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", -signal.SIGINT, "killed", "interrupt"
    ),
    "at once": End("os._exit(0)", 0, "finished", "exit", 0, seen=True),
    "at once with a code": End("os._exit(4)", 4, "failed", "exit", 4, seen=True),
    "by SIGKILL": End("os.kill(os.getpid(), signal.SIGKILL)", -9, "killed", "signal", None, 9, "SIGKILL", seen=True),
    "by SIGTERM": End("os.kill(os.getpid(), signal.SIGTERM)", -15, "killed", "signal", None, 15, "SIGTERM", seen=True),
    "by a crash": End("os.kill(os.getpid(), signal.SIGSEGV)", -11, "failed", "signal", None, 11, "SIGSEGV", seen=True),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Detail, int, str]]]:
    """All programs, at once: what became of the runs, their exit statuses, and what they wrote to stderr."""
    home = Home(tmp_path_factory.mktemp("ends"), LINGER_SECONDS="5", SAMPLE_SECONDS="60")
    begun = {name: home.begin(PRELUDE + end.program, name) for name, end in ENDS.items()}
    told = {name: process.communicate(timeout=60)[1] for name, process in begun.items()}
    home.emptied()
    runs = {detail.run.experiment: detail for detail in home.runs()}
    yield {name: (runs[name], begun[name].returncode, told[name]) for name in ENDS}
    home.close()


@pytest.mark.parametrize("name", ENDS)
def test_a_run_ends_as_its_process_does(ends: dict[str, tuple[Detail, int, str]], name: str) -> None:
    detail, status, _ = ends[name]
    expected, run = ENDS[name], detail.run
    assert status == expected.status
    if expected.seen and not TELLS_EXITS:
        assert (run.state, run.cause) in {("lost", "vanished"), ("finished", records.ASSUMED)}
        return
    assert (run.state, run.cause, run.exit_code, run.signal) == expected[2:6]
    assert expected.message in (run.message or "")
    assert run.metrics["loss"].count == 1
    assert run.ended_at is not None
    assert run.trouble == {}


@pytest.mark.parametrize("name", ["with an exception", "with an exception in a block"])
def test_an_exception_is_shown_and_recorded(ends: dict[str, tuple[Detail, int, str]], name: str) -> None:
    detail, _, stderr = ends[name]
    assert stderr.rstrip().endswith("ValueError: bad batch")
    assert (detail.traceback or "").rstrip().endswith("ValueError: bad batch")
    assert stderr.count("Traceback") == 1


def test_a_good_end_writes_nothing(ends: dict[str, tuple[Detail, int, str]]) -> None:
    assert {name: stderr for name, (_, status, stderr) in ends.items() if status == 0 and stderr} == {}


# --------------------------------------------------------------------------------------------------------- processes


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def test_the_courier_is_no_child_of_the_training_process(home: Home) -> None:
    """Who waits for its children must not wait for it, and who measures them must not measure it."""
    ran = home.run(
        """
        import os, sexton
        with sexton.start() as run:
            run.log({"a": 1.0})
            assert run.flush()
            try:
                os.waitpid(-1, os.WNOHANG)
                print("has a child")
            except ChildProcessError:
                print("has none")
        """
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("has none\n", "", 0)


def test_a_program_that_takes_warnings_for_errors_sees_none(home: Home) -> None:
    program = """
        import gc, sexton
        with sexton.start(params={"a": 1}) as run:
            run.log({"a": 1.0})
            run.flush()
        del run
        gc.collect()
    """
    command = home.command(program)
    command[1:1] = ["-X", "dev", "-W", "error"]
    ran = subprocess.run(command, env=home.environment, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stderr, ran.returncode) == ("", 0)


def test_flush_waits_until_it_is_in_the_store(home: Home) -> None:
    ran = home.run(
        """
        import sexton
        run = sexton.start()
        for step in range(1_000):
            run.log({"a": step}, step=step)
        print(run.id, run.flush(50), flush=True)
        import os; os._exit(0)
        """
    )
    run, flushed = ran.stdout.split()
    assert flushed == "True"
    assert home.steps(run, "a") == list(range(1_000))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_log_to_the_run_of_their_parent(home: Home, method: str) -> None:
    program = home.folder / "train.py"
    program.write_text(
        f"""
import multiprocessing, sexton

def work(number, run_id):
    run = sexton.resume(run_id) if {method!r} == "spawn" else RUN
    for step in range(50):
        run.log({{f"worker {{number}}": step}}, step=step)
    if {method!r} == "spawn":
        run.finish()

if __name__ == "__main__":
    RUN = sexton.start()
    context = multiprocessing.get_context({method!r})
    workers = [context.Process(target=work, args=(number, RUN.id)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(worker.exitcode == 0 for worker in workers)
    RUN.log({{"parent": 1.0}})
    RUN.finish()
"""
    )
    command = [home.command("")[0], "-W", "ignore::DeprecationWarning", str(program)]
    ran = subprocess.run(command, env=home.environment, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stderr, ran.returncode) == ("", 0)
    home.emptied()
    run = home.only_run().run
    assert run.state == "finished"
    assert {name: metric.count for name, metric in run.metrics.items()} == {
        "parent": 1,
        **{f"worker {number}": 50 for number in range(3)},
    }


def test_it_works_where_nothing_can_be_written(home: Home) -> None:
    (home.folder / "sexton").write_text("a file in the way")
    ran = home.run(
        """
        import sexton
        with sexton.start(params={"a": 1}) as run:
            for step in range(1_000):
                run.log({"a": step}, step=step)
            run.save(sexton.__file__)
            print(run.lost >= 1_000, run.flush(0.1))
        """
    )
    assert (ran.stdout, ran.returncode) == ("True False\n", 0)
    assert "Traceback" not in ran.stderr
    assert ran.stderr.count("can not be opened") == 1


def test_it_works_in_a_folder_that_was_removed(home: Home) -> None:
    with home.no_courier():
        ran = home.run(
            """
            import os, sys, sexton
            os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])
            with sexton.start() as run:
                run.log({"a": 1.0})
            """,
            home.folder / "gone",
        )
        assert (ran.stderr, ran.returncode) == ("", 0)
        (folder,) = [path.parent for path in home.spool.glob("*/journal.json")]
        assert Logged(folder).of(records.Started)[0].cwd is None


def test_arguments_in_no_encoding_are_recorded(home: Home) -> None:
    with home.no_courier():
        program = "import sexton; run = sexton.start(); run.note(repr(1)); run.finish()"
        command = [*map(os.fsencode, home.command(program)), b"\xff.csv"]
        ran = subprocess.run(command, env=home.environment, capture_output=True, text=True, check=False, timeout=60)
        assert (ran.stderr, ran.returncode) == ("", 0)
        (folder,) = [path.parent for path in home.spool.glob("*/journal.json")]
        assert Logged(folder).of(records.Started)[0].argv[1:] == ("?.csv",)


def test_an_exit_does_not_wait_for_a_server_that_is_away(home: Home) -> None:
    home.variables["URL"] = "http://127.0.0.1:9"  # nobody listens there
    ran = home.run("import sexton; run = sexton.start(); run.log({'a': 1.0}); print(run.flush(0.5))")
    assert (ran.stdout, ran.stderr.count("\n"), ran.returncode) == ("False\n", 1, 0)
    until(lambda: "127.0.0.1:9" in home.courier_said(), "a word about it in the courier's log")
