"""Control groups: the kernel's own account of a set of processes, which no child can leave by forking.

Linux only; everywhere else, and where the user may not write to them, there is none and callers fall back. Everything
unknown is None. Knows nothing of how a command is started.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


class Cgroup:
    """A cgroup v2 directory. Made by `create`; `Cgroup(path)` opens one that another process made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, pid: int) -> None:
        """Moves a process here; 0 is the caller. Raises OSError. Fit for a forked child: plain system calls."""
        descriptor = os.open(self.path / "cgroup.procs", os.O_WRONLY)
        try:
            os.write(descriptor, b"%d" % pid)
        finally:
            os.close(descriptor)

    def cpu_seconds(self) -> float | None:
        """CPU time of every process that was ever in it, and of the groups inside it."""
        microseconds = _counter(self.path / "cpu.stat", "usage_usec")
        return None if microseconds is None else microseconds / 1e6

    def memory_peak(self) -> int | None:
        """The most bytes its processes had together; None without the memory controller."""
        try:
            return int((self.path / "memory.peak").read_text())
        except (OSError, ValueError):
            return None

    def oom_kills(self) -> int | None:
        """How many of its processes the kernel killed for want of memory; None without the memory controller."""
        return _counter(self.path / "memory.events", "oom_kill")

    def processes(self) -> list[int]:
        """Pids now alive in it or in groups inside it."""
        pids: list[int] = []
        for folder, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError):
                pids += map(int, Path(folder, "cgroup.procs").read_text().split())
        return pids

    def is_populated(self) -> bool:
        """Whether a process is still in it, or on its way out of it, or of groups inside it."""
        return _counter(self.path / "cgroup.events", "populated") == 1

    def remove(self) -> bool:
        """Removes it and the groups inside it. True when it is gone, False while processes are in it."""
        for folder, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not self.path.exists()


def create(name: str) -> Cgroup | None:
    """A new child of the caller's own cgroup v2; None where there is none, it is read-only or `name` exists."""
    parent = locate(os.getpid())
    if parent is None or not os.access(parent / "cgroup.procs", os.W_OK):
        return None
    try:
        (parent / name).mkdir()
    except OSError:
        return None
    return Cgroup(parent / name)


class OomCounter:
    """Counts OOM kills in the nearest control group that accounts memory for `pid`, from now on.

    It says that somebody in that group was killed, which may be more than this process's family.
    """

    def __init__(self, pid: int) -> None:
        self._file = _oom_file(pid)
        self._before = self._count()

    def _count(self) -> int | None:
        return None if self._file is None else _counter(self._file, "oom_kill")

    def rose(self) -> bool | None:
        """Whether there was one since this was made; None where nobody counts."""
        now = self._count()
        return None if now is None or self._before is None else now > self._before


def _oom_file(pid: int) -> Path | None:
    v2 = locate(pid)
    if v2 is not None:
        for folder in (v2, *v2.parents):
            if (folder / "memory.events").exists():
                return folder / "memory.events"
    v1 = locate(pid, "memory")
    return None if v1 is None else v1 / "memory.oom_control"


def locate(pid: int, controller: str = "", proc: Path = Path("/proc")) -> Path | None:
    """Where the control group of `pid` can be read: of cgroup v2, or of a v1 controller; None: it is out of sight."""
    try:
        groups = (proc / str(pid) / "cgroup").read_text().splitlines()
        mounts = list(_mounts(proc, controller))
    except (OSError, ValueError):
        return None
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if controller in controllers.split(","):
            inside = (point / os.path.relpath(group, root) for root, point in mounts if _within(group, root))
            return next((path for path in inside if path.is_dir()), None)
    return None


def _mounts(proc: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """(group that is mounted, where) of each mount of the hierarchy; a container sees only part of it."""
    for line in (proc / "self" / "mountinfo").read_text().splitlines():
        where, _, what = line.partition(" - ")
        root, point = where.split()[3:5]
        kind, _, options = what.split(maxsplit=2)
        if kind == ("cgroup" if controller else "cgroup2") and (not controller or controller in options.split(",")):
            yield root, Path(point)


def _within(group: str, root: str) -> bool:
    return ".." not in group.split("/") and os.path.commonpath([group, root]) == root


def _counter(file: Path, key: str) -> int | None:
    """The number after `key` in a file of `key number` lines."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key} ")), None)
