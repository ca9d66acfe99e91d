"""A training process that is killed with SIGKILL has lost nothing that it logged."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sexton.journal import reader
from tests.home import Home, Logged

POINTS = 1_000
TRIALS = 20


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def test_killed_right_after_its_last_point_it_has_lost_none(home: Home) -> None:
    program = """
        import os, signal, sys
        import sexton
        for _ in range(int(sys.argv[1])):
            trainer = os.fork()
            if trainer == 0:
                run = sexton.start()
                for step in range(int(sys.argv[2])):
                    run.log({"loss": 1.0 / (step + 1)}, step=step)
                os.kill(os.getpid(), signal.SIGKILL)
            assert os.WTERMSIG(os.waitpid(trainer, 0)[1]) == signal.SIGKILL
    """
    with home.no_courier():
        assert home.run(program, TRIALS, POINTS).stderr == ""
        journals = [Logged(folder) for folder in reader.runs(home.spool)]
    assert [journal.steps for journal in journals] == [list(range(POINTS))] * TRIALS
    home.emptied()
    runs = [detail.run for detail in home.runs()]
    assert [run.metrics["loss"].count for run in runs] == [POINTS] * TRIALS
    assert {run.state for run in runs} <= {"killed", "lost"}
    assert [run.trouble for run in runs] == [{}] * TRIALS


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_moment_it_has_lost_nothing_that_it_had_logged(home: Home, seed: int) -> None:
    """Whatever it does then: new metrics, records, files, several threads."""
    program = """
        import os, threading
        import sexton
        run = sexton.start(params={"a": 1})

        def work(worker):
            for step in range(10**9):
                run.log({f"worker {worker}": step, f"sometimes {step % 7}": 1.0}, step=step)
                os.write(1, f"{worker} {step}\\n".encode())
                if step % 50 == 0:
                    run.note(f"{worker} at {step}")

        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """
    with home.no_courier():
        trainer = home.begin(program)
        assert trainer.stdout is not None
        said = [trainer.stdout.readline() for _ in range(random.Random(seed).randrange(1, 3_000))]
        trainer.send_signal(signal.SIGKILL)
        said += trainer.communicate()[0].splitlines()  # a short write to a pipe is whole or not at all
        (folder,) = reader.runs(home.spool)
        journal = Logged(folder)
    kept = {(name, int(value)) for point in journal.points for name, value in point.items()}
    logged = {(f"worker {worker}", int(step)) for worker, step in map(str.split, said)}
    assert len(logged) == len(said) > 0
    assert logged <= kept
    assert journal.missing == 0
