"""A process that writes the index is killed at any point: afterwards the index says what the store says."""

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sexton import clock
from sexton.index.snapshot import Index
from sexton.store.database import open_database
from tests.home import until
from tests.indexes import History, expected, held

# Imports once, and then has children that write without end; says the number of each.
WRITERS = """
    import os, sys
    import duckdb, sqlalchemy
    from pathlib import Path
    import numpy
    from sexton.index import fold
    from sexton.index.snapshot import Index
    from sexton.store.database import open_database

    for line in sys.stdin:
        now = int(line)
        child = os.fork()
        if child:
            print(child, flush=True)
            os.waitpid(child, 0)
            print("ended", flush=True)
            continue
        database = open_database(f"file:{sys.argv[1]}")
        index = Index(database, Path(sys.argv[1], "index"))
        while True:
            index.fold(now)
            index.rebuild(now)
            (Path(sys.argv[1], "index") / "written").touch()
"""


@pytest.mark.timeout(400)  # of a loaded machine
@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.faults_long)])
def test_the_index_is_right_after_a_writer_was_killed_at_any_point(tmp_path: Path, kills: int) -> None:
    folder, draw = tmp_path / "store", random.Random(3)
    database = open_database(f"file:{folder}")
    history = History(database, seed=5)
    for _ in range(40):
        history.act()
    writers = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITERS), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writers.stdin
    assert writers.stdout
    left, written, whole = 0, folder / "index" / "written", 0.0
    for _ in range(kills):
        for _ in range(3):
            history.act()
        writers.stdin.write(f"{history.now}\n")
        writers.stdin.flush()
        child = int(writers.stdout.readline())
        if whole:
            _wait(draw.uniform(0, 1.2 * whole))
        else:  # the first writes once to its end, which says how long that takes here
            began = clock.monotonic()
            until(written.exists, "an index")
            whole = (clock.monotonic() - began) / clock.SECOND
        os.kill(child, signal.SIGKILL)
        assert writers.stdout.readline() == "ended\n"
        names = {path.name for path in (folder / "index").glob("*")}
        left += any(name.endswith((".new", ".wal")) or name.startswith("work-") for name in names)
        index = Index(database, folder / "index")
        index.refresh(history.now)
        assert held(index) == expected(database, history.now)
        index.close()
    writers.communicate()
    database.close()
    assert left or kills < 50, "none was killed while it wrote"


def _wait(seconds: float) -> None:
    """The time after which a writer is killed is what differs; nothing waits for it."""
    subprocess.run(["sleep", str(seconds)], check=True)
