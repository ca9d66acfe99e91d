"""Finding, waking and starting the courier of a spool. Light: runs inside training.

<spool>/courier.lock    held by the courier while it lives
        wake            a FIFO; a byte in it ends the courier's pause
        round           how many rounds the courier has made
        courier.json    what it is doing, for `sexton doctor`
        courier.log     what it has to say
"""

import contextlib
import fcntl
import os
import sys
from pathlib import Path

from sexton import clock
from sexton.journal import reader
from sexton.settings import Settings

_START_SECONDS = 0.3  # until one that was started holds the lock; who waits for it asks more often
_on_its_way: dict[Path, clock.Deadline] = {}


def wake(spool: Path) -> bool:
    """End the pause of the spool's courier. False where none is running."""
    try:
        fd = os.open(spool / "wake", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    with contextlib.suppress(BlockingIOError):  # full of earlier calls: it will wake anyhow
        os.write(fd, b"!")
    os.close(fd)
    return True


def is_running(spool: Path) -> bool:
    """Whether a courier holds the spool's lock."""
    try:
        with (spool / "courier.lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def ensure(settings: Settings, hurry: bool = True) -> None:
    """See that the spool has a courier, and unless told otherwise that it makes its next round, and tries what it would
    try later, at once. Raises `OSError` where a process can not be started."""
    spool = settings.spool
    if (hurry and wake(spool)) or is_running(spool) or not _on_its_way.get(spool, clock.Deadline(0)).passed:
        return
    _on_its_way[spool] = clock.Deadline(_START_SECONDS)
    import subprocess  # most calls find a courier and need not load it

    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = [f"--sample-seconds={settings.sample_seconds}", f"--linger-seconds={settings.linger_seconds}"]
    with (spool / "courier.log").open("ab") as log:
        # By way of a shell that is gone at once: a process that trains has no child that it did not start, to wait for
        # or to be measured with.
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-m", "sexton.courier", str(spool), *flags],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the terminal, or the end of it, is not meant for the courier
        )


def drain(settings: Settings, seconds: float) -> list[reader.Backlog]:
    """Have the courier deliver what is in the spool now, and wait for it; the journals of which some is left after
    `seconds`.

    Waits for two rounds, so that whatever was written or had died before the call is in the store after it; not for
    what a run that goes on writes meanwhile.
    """
    spool = settings.spool
    goals = {folder: reader.ends(folder) for folder in reader.runs(spool)}
    deadline = clock.Deadline(seconds)
    round_ = rounds(spool) + 2
    while goals and not deadline.passed:
        ensure(settings)
        if rounds(spool) >= round_:
            goals = {folder: goal for folder, goal in goals.items() if not reader.reached(folder, goal)}
        clock.sleep(0.02)
    left = {folder.name for folder in goals}
    return [one for one in reader.backlog(spool) if one.run in left] if left else []


def rounds(spool: Path) -> int:
    """How many rounds couriers have made over this spool."""
    try:
        return int((spool / "round").read_text())
    except (OSError, ValueError):
        return 0
