"""What a process can tell about itself and its machine, and what an outsider can observe of another process.

Invariant: never raises for what a machine lacks; unknown is None, and nobody is called dead or idle on a guess. Knows
no run: it is handed processes and gives values back.
"""

import contextlib
import functools
import os
import pwd
import struct
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sexton.capture.cgroup import OomCounter
from sexton.model.records import Process


class ExitStatus(msgspec.Struct, frozen=True):
    """How a process ended: one of the two is set."""

    exit_code: int | None = None
    signal: int | None = None

    @classmethod
    def of(cls, wait_status: int) -> "ExitStatus":
        """From the number that `wait` gives."""
        code = os.waitstatus_to_exitcode(wait_status)
        return cls(exit_code=code) if code >= 0 else cls(signal=-code)


class Sample(msgspec.Struct, frozen=True):
    """A process and its descendants at one moment. Memory is the sum of resident bytes: shared pages count once each.

    `cpu_seconds` is of those alive and of the children they waited for, so it can shrink when one dies unwaited.
    """

    pids: tuple[int, ...]
    threads: int
    cpu_seconds: float
    memory: int
    read_bytes: int | None
    write_bytes: int | None

    @property
    def processes(self) -> int:
        return len(self.pids)


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One device. `ours` says whether one of the asked pids computes on it; None where the driver hides that."""

    index: int
    name: str | None = None
    uuid: str | None = None
    utilization_percent: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    power_watts: float | None = None
    energy_millijoules: int | None = None
    ours: bool | None = None


# ------------------------------------------------------------------------------------------------ which process it is


def this_process() -> Process:
    """The caller, so that a later process with its pid is not taken for it."""
    return identify(os.getpid())


def identify(pid: int) -> Process:
    """The process that now has `pid` here. One that can't be seen has no host, and `is_alive` gives None for it."""
    with contextlib.suppress(OSError):
        seen = _see(pid)
        if seen:
            return Process(pid, seen.start, _boot(), _host())
    return Process(pid, 0, "", "")


def is_alive(process: Process) -> bool | None:
    """Whether it still runs; a zombie does not. None where that can't be known, as of a process of another host."""
    if process.host != _host():
        return None
    try:
        seen = _seen(process)
    except OSError:
        return None
    return seen is not None and not seen.zombie


class _Seen(NamedTuple):
    start: int
    zombie: bool
    wait_status: int | None = None


def _seen(process: Process) -> _Seen | None:
    """What is left of this very process; None when another has its pid. Raises OSError where it can't be known."""
    if (process.host, process.boot) != (_host(), _boot()):
        return None
    seen = _see(process.pid)
    return seen if seen and seen.start == process.start else None


def _host() -> str:
    return os.uname().nodename


if sys.platform == "linux":

    @functools.cache
    def _boot() -> str:
        with contextlib.suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return ""

    def _see(pid: int) -> _Seen | None:
        try:
            text = Path(f"/proc/{pid}/stat").read_bytes()
            owner = os.stat(f"/proc/{pid}").st_uid
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = text[text.rindex(b")") + 2 :].split()  # the name before them may hold spaces and parentheses
        zombie = fields[0] in b"ZX"
        # The kernel shows 0 in place of the exit status of another user's process.
        status = int(fields[49]) if zombie and owner == os.geteuid() else None
        return _Seen(int(fields[19]), zombie, status)

else:

    @functools.cache
    def _boot() -> str:
        return _sysctl("kern.bootsessionuuid") or ""  # kern.boottime moves when the clock is set

    def _see(pid: int) -> _Seen | None:
        import psutil

        try:
            process = psutil.Process(pid)
            return _Seen(round(process.create_time() * 1e6), process.status() == psutil.STATUS_ZOMBIE)
        except psutil.ZombieProcess:
            return _Seen(-1, zombie=True)
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied as error:
            raise PermissionError(str(error)) from None


def _sysctl(name: str) -> str | None:
    """A text that the macOS kernel knows under `name`."""
    import ctypes

    value, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    try:
        failed = ctypes.CDLL(None).sysctlbyname(name.encode(), value, ctypes.byref(size), None, 0)
    except (OSError, AttributeError):
        return None
    return None if failed else value.value.decode(errors="replace")


# --------------------------------------------------------------------------------------------------- seeing it die


class Watch:
    """Sees one process die: how, where the kernel tells, even when somebody else is its parent."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pidfd = _open_pidfd(process.pid)
        self._oom: OomCounter | None = OomCounter(process.pid)
        if identify(process.pid) != process:  # it is gone, and its pid may be another's already
            self.close()
            self._oom = None

    def exit_status(self) -> ExitStatus | None:
        """How it ended; None while it runs and where the kernel can't tell (Linux before 6.15, once it was reaped)."""
        status = self._reaped_status()
        if status is None:
            with contextlib.suppress(OSError):
                seen = _seen(self._process)
                status = seen and seen.wait_status
        if status is None:  # it may have been reaped between the two questions
            status = self._reaped_status()
        return None if status is None else ExitStatus.of(status)

    def _reaped_status(self) -> int | None:
        return None if self._pidfd is None else _reaped_status(self._pidfd)

    def oom_killed(self) -> bool | None:
        """Whether the kernel killed somebody in its memory group since the watch began; None where nobody counts."""
        return self._oom.rose() if self._oom else None

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


if sys.platform == "linux":
    import fcntl

    _PIDFD_INFO_EXIT = 1 << 3
    _PIDFD_INFO = struct.Struct("=Q52xi")  # mask, what we don't ask for, wait status
    _PIDFD_GET_INFO = 3 << 30 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11

    def _open_pidfd(pid: int) -> int | None:
        try:
            return os.pidfd_open(pid)
        except OSError:
            return None

    def _reaped_status(pidfd: int) -> int | None:
        info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0))
        try:
            fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
        except OSError:
            return None
        mask, status = _PIDFD_INFO.unpack(info)
        return status if mask & _PIDFD_INFO_EXIT else None

else:

    def _open_pidfd(_pid: int) -> int | None:
        return None

    def _reaped_status(_pidfd: int) -> int | None:
        return None


# --------------------------------------------------------------------------------------------------- what it uses


def sample(process: Process) -> Sample | None:
    """What it and its descendants use now; None when it is gone. A child that detached itself is not found."""
    import psutil

    if not is_alive(process):
        return None
    try:
        first = psutil.Process(process.pid)
        tree = [first, *first.children(recursive=True)]
    except psutil.Error:
        return None
    parts = [part for member in tree if (part := _sample_one(member))]
    if not parts:
        return None
    return Sample(
        pids=tuple(pid for part in parts for pid in part.pids),
        threads=sum(part.threads for part in parts),
        cpu_seconds=sum(part.cpu_seconds for part in parts),
        memory=sum(part.memory for part in parts),
        read_bytes=_total([part.read_bytes for part in parts]),
        write_bytes=_total([part.write_bytes for part in parts]),
    )


def _sample_one(process: Any) -> Sample | None:
    import psutil

    try:
        with process.oneshot():
            cpu, memory, threads = process.cpu_times(), process.memory_info(), process.num_threads()
    except psutil.Error:
        return None
    io = None
    with contextlib.suppress(psutil.Error, AttributeError):  # macOS has no such counters
        io = process.io_counters()
    return Sample(
        pids=(process.pid,),
        threads=threads,
        cpu_seconds=cpu.user + cpu.system + cpu.children_user + cpu.children_system,
        memory=memory.rss,
        read_bytes=io.read_bytes if io else None,
        write_bytes=io.write_bytes if io else None,
    )


def _total(parts: list[int | None]) -> int | None:
    """The sum, unknown when one part is."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def gpus(pids: Collection[int] = ()) -> list[Gpu]:
    """Every NVIDIA device that the driver shows now; empty without a driver, which is found out once."""
    nvml = _nvml()
    count = None if nvml is None else _ask(nvml.nvmlDeviceGetCount)
    return [_gpu(nvml, index, frozenset(pids)) for index in range(count or 0)]


@functools.cache
def _nvml() -> Any:
    """The driver's library, opened; None where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _gpu(nvml: Any, index: int, pids: frozenset[int]) -> Gpu:
    device = _ask(nvml.nvmlDeviceGetHandleByIndex, index)
    if device is None:
        return Gpu(index=index)
    utilization = _ask(nvml.nvmlDeviceGetUtilizationRates, device)
    memory = _ask(nvml.nvmlDeviceGetMemoryInfo, device)
    milliwatts = _ask(nvml.nvmlDeviceGetPowerUsage, device)
    return Gpu(
        index=index,
        name=_ask(nvml.nvmlDeviceGetName, device),
        uuid=_ask(nvml.nvmlDeviceGetUUID, device),
        utilization_percent=utilization.gpu if utilization else None,
        memory_used=memory.used if memory else None,
        memory_total=memory.total if memory else None,
        power_watts=None if milliwatts is None else milliwatts / 1000,
        energy_millijoules=_ask(nvml.nvmlDeviceGetTotalEnergyConsumption, device),
        ours=_ours(_ask(nvml.nvmlDeviceGetComputeRunningProcesses, device), pids),
    )


def _ours(computing: list[Any] | None, pids: frozenset[int]) -> bool | None:
    """A driver speaks of the host's pids, so inside a container finding none of ours there proves nothing."""
    if computing is None:
        return None
    if any(process.pid in pids for process in computing):
        return True
    return False if _pids_are_the_hosts() else None


@functools.cache
def _pids_are_the_hosts() -> bool:
    try:
        return os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"  # PROC_PID_INIT_INO, fixed in the kernel
    except OSError:
        return False


def _ask(function: Callable[..., Any], *args: Any) -> Any:
    """A driver's answer; None for what this device does not tell, such as the utilization of a partitioned one."""
    import pynvml

    try:
        return function(*args)
    except pynvml.NVMLError:
        return None


# ------------------------------------------------------------------------------------------------ the machine itself


def describe() -> dict[str, object]:
    """The machine and the interpreter, in a few milliseconds; None for what it does not tell. GPUs: see `gpus`."""
    system = os.uname()
    return {
        "host": system.nodename,
        "user": _known(lambda: pwd.getpwuid(os.getuid()).pw_name),
        "platform": f"{system.sysname} {system.release} {system.machine}",
        "system": _known(_system),
        "python": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        "cpu_count": os.cpu_count(),
        "cpu_usable": _known(_cpu_usable),
        "cpu_model": _known(_cpu_model),
        "memory_total": _known(lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
    }


def _known(fact: Callable[[], object]) -> object:
    try:
        return fact()
    except (OSError, ValueError, LookupError, AttributeError):
        return None


if sys.platform == "linux":

    def _system() -> str:
        import platform

        return platform.freedesktop_os_release()["PRETTY_NAME"]

    def _cpu_usable() -> int | None:
        return len(os.sched_getaffinity(0))

    def _cpu_model() -> str | None:
        with open("/proc/cpuinfo", errors="replace") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)

else:

    def _system() -> str:
        import platform

        return f"macOS {platform.mac_ver()[0]}"

    def _cpu_usable() -> int | None:
        return None

    def _cpu_model() -> str | None:
        return _sysctl("machdep.cpu.brand_string")
