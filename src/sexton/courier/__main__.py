"""`python -m sexton.courier SPOOL`: be the courier of a spool, unless it has one."""

import fcntl
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Take the spool's lock before loading what is heavy: of thirty couriers started at once, one goes on."""
    spool = Path(argv[0])
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in argv[1:])
    with (spool / "courier.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        from sexton.courier.rounds import Courier

        courier = Courier(spool, float(flags["sample-seconds"]), float(flags["linger-seconds"]))
        while courier.serve():  # somebody may have come for it between its last look and its giving up the lock
            fcntl.flock(lock, fcntl.LOCK_UN)
            if not courier.wanted():
                return 0
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
