"""`python -m sexton.courier SPOOL`: be the courier of a spool, unless it has one."""

import fcntl
import sys
from pathlib import Path
from typing import BinaryIO

from sexton import clock

_TRIES = 5


def main(argv: list[str]) -> int:
    """Take the spool's lock before loading what is heavy: of thirty couriers started at once, one goes on."""
    spool = Path(argv[0])
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in argv[1:])
    with (spool / "courier.lock").open("ab") as lock:
        if not _taken(lock):
            return 0
        from sexton.courier.rounds import Courier

        courier = Courier(spool, float(flags["sample-seconds"]), float(flags["linger-seconds"]))
        while courier.serve():  # somebody may have come for it between its last look and its giving up the lock
            fcntl.flock(lock, fcntl.LOCK_UN)
            if not courier.wanted():
                return 0
            if not _taken(lock):
                return 0
    return 0


def _taken(lock: BinaryIO) -> bool:
    """Whether the lock is ours now. Tried more than once: who only looks whether there is a courier holds it too, for a
    moment, and must not be taken for one."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            clock.sleep(0.02)
        else:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
