"""Runs any command under observation: its output, its end, what it used. Knows no run and no journal.

Invariant: the command behaves as it would without an observer. Its bytes reach our own output unchanged and at once, a
terminal stays a terminal, signals sent to us reach it, and nothing that happens to us, short of SIGKILL, ends it.
"""

import contextlib
import functools
import os
import resource
import select
import selectors
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import NamedTuple, Self

import msgspec

from sexton import clock
from sexton.capture import cgroup, machine
from sexton.model.records import Process

_TICK_SECONDS = 0.5
_QUIET_SECONDS = 1.0
_DRAIN_SECONDS = 5.0
_EXIT_SECONDS = 0.2
_READ_BYTES = 64 << 10
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of getrusage, in bytes

_FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
)

_LEFT_BEHIND = "without what processes left running in the background use from now on"
_WAITED_FOR = "only processes that were waited for"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended and what it used; None is unknown. One that could not be started has a `failure`, which
    says why, and the code that a shell would give: 127 or 126.

    `cpu_method` is how CPU time was read, `cpu_coverage` "complete" or what it leaves out. `max_rss` is the bytes of
    the largest single process; one no larger than the observer hides behind its size and is None. `memory_peak` is
    the bytes of all together. `oom_killed`: the kernel killed somebody in the command's memory group meanwhile.
    """

    exit_code: int | None = None
    signal: int | None = None
    wall_ns: int = 0
    cpu_seconds: float | None = None
    cpu_method: str | None = None
    cpu_coverage: str | None = None
    max_rss: int | None = None
    memory_peak: int | None = None
    oom_killed: bool | None = None
    failure: str | None = None


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    on_output: Callable[[str, bytes], None],
    on_start: Callable[[Process, str | None], None],
    cgroup_name: str,
    on_tick: Callable[[], None] = lambda: None,
) -> Outcome:
    """Runs `argv` to its end. Only the main thread may call this: it takes over the signals meanwhile.

    In this thread it calls `on_start(process, path of its control group or None)` once it runs, `on_output("stdout" or
    "stderr", bytes)` with all that it prints, and `on_tick()` about twice a second; what they raise goes to the caller.
    Where stdout and stderr are one terminal, all output is "stdout". stdin is inherited. What processes left in the
    background print is followed until they are silent for 1 s, for at most 5 s.
    """
    oom = cgroup.OomCounter(os.getpid())
    lines = _lines()
    began = clock.monotonic()
    with _Relay(lines) as relay:
        try:
            child, group = _start(argv, env, lines, cgroup_name)
        except OSError as error:
            return _not_started(argv[0], error)
        relay.to(child.pid)
        on_start(machine.identify(child.pid), str(group.path) if group else None)
        end = _follow(child.pid, lines, relay.wake, on_output, on_tick)
        child.returncode = end.status  # it was waited for, if not by its own object
        return _outcome(end, began, group, oom)  # still in here: a second Ctrl-C must not cost the account


# ------------------------------------------------------------------------------------------------------------- output


class _Line(NamedTuple):
    """A way for output: the command writes to `write`, we read at `read` and pass on to `sink`, if that is open."""

    name: str
    read: int
    write: int
    sink: int | None
    terminal: bool


def _lines() -> tuple[_Line, _Line]:
    """For stdout and stderr. One terminal stays one line, so that what is printed keeps its order."""
    out = _line("stdout", None if sys.__stdout__ is None else 1)
    if out.terminal and os.isatty(2) and os.fstat(1).st_rdev == os.fstat(2).st_rdev:
        return out, out
    return out, _line("stderr", None if sys.__stderr__ is None else 2)


def _line(name: str, sink: int | None) -> _Line:
    if sink is None or not os.isatty(sink):
        return _Line(name, *os.pipe(), sink, terminal=False)
    line = _Line(name, *os.openpty(), sink, terminal=True)
    modes = termios.tcgetattr(line.write)
    modes[1] &= ~termios.OPOST  # the real terminal does that; here it would change bytes
    termios.tcsetattr(line.write, termios.TCSANOW, modes)
    _resize(line)
    return line


def _resize(line: _Line) -> None:
    with contextlib.suppress(termios.error):  # a terminal that has gone
        termios.tcsetwinsize(line.read, termios.tcgetwinsize(line.sink or 1))


def _pass_on(line: _Line, on_output: Callable[[str, bytes], None]) -> bool:
    """Moves what is there to be read; False at the end of the line."""
    try:
        data = os.read(line.read, _READ_BYTES)
    except OSError:  # how Linux says that nobody has the other end of a terminal any more
        data = b""
    if data:
        if line.sink is not None:
            _write_all(line.sink, data)
        on_output(line.name, data)
    return bool(data)


def _write_all(sink: int, data: bytes) -> None:
    """Passes output on. Where it can't go, as to a closed `head -1` or a full disk, the command still goes on."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(sink, rest) :]
        except BlockingIOError:  # somebody who shares our output made it non-blocking
            select.select([], [sink], [])
        except OSError:
            return


# ------------------------------------------------------------------------------------------------------------ signals


class _Relay:
    """While entered, signals that come for us go to the command's process group, and `wake` is readable after each.

    A signal that we were told to ignore, as by nohup, stays ignored for both.
    """

    def __init__(self, lines: tuple[_Line, _Line]) -> None:
        self._lines = lines
        self._group: int | None = None
        self._early: list[int] = []
        self._leave = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.wake, woken = os.pipe()
        for descriptor in (self.wake, woken, *{line.read for line in self._lines}):
            self._leave.callback(os.close, descriptor)
        os.set_blocking(self.wake, False)
        os.set_blocking(woken, False)
        self._leave.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(woken, warn_on_full_buffer=False))
        self._take(signal.SIGCHLD, lambda *_: None)
        self._take(signal.SIGTSTP, self._pause)
        self._take(signal.SIGWINCH, self._new_size)
        for number in _FORWARDED:
            self._take(number, self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.close()

    def _take(self, number: signal.Signals, act: Callable[[int, FrameType | None], None]) -> None:
        before = signal.getsignal(number)
        if before is not signal.SIG_IGN or number is signal.SIGCHLD:
            signal.signal(number, act)
            self._leave.callback(signal.signal, number, signal.SIG_DFL if before is None else before)

    def to(self, group: int) -> None:
        """The command runs now; what came for it before is sent."""
        self._group = group
        for number in self._early:
            self._forward(number, None)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if self._group is None:
            self._early.append(number)
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._group, number)

    def _pause(self, _number: int, _frame: FrameType | None) -> None:
        """A session of its own is deaf to SIGTSTP, so the command gets SIGSTOP; SIGCONT to us is forwarded."""
        self._forward(signal.SIGSTOP, None)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _new_size(self, number: int, _frame: FrameType | None) -> None:
        for line in self._lines:
            if line.terminal:
                _resize(line)
        self._forward(number, None)


# ------------------------------------------------------------------------------------------------- beginning and end


class _End(NamedTuple):
    status: int
    usage: resource.struct_rusage
    at: int
    silent: bool = True


def _start(
    argv: Sequence[str], env: Mapping[str, str], lines: tuple[_Line, _Line], cgroup_name: str
) -> tuple[subprocess.Popen[bytes], cgroup.Cgroup | None]:
    """The command in a session of its own, so that a Ctrl-C reaches it once, and in a control group if one can be."""
    group = cgroup.create(cgroup_name)
    try:
        if group:
            with contextlib.suppress(subprocess.SubprocessError):  # where it may not be entered after all
                return _spawn(argv, env, lines, functools.partial(group.add, 0)), group
            group.remove()
        return _spawn(argv, env, lines, None), None
    except OSError:
        if group:
            group.remove()
        raise
    finally:
        for descriptor in {line.write for line in lines}:
            os.close(descriptor)


def _spawn(
    argv: Sequence[str], env: Mapping[str, str], lines: tuple[_Line, _Line], first: Callable[[], None] | None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        env=env,
        stdin=subprocess.DEVNULL if sys.__stdin__ is None else None,
        stdout=lines[0].write,
        stderr=lines[1].write,
        start_new_session=True,
        preexec_fn=first,  # noqa: PLW1509 - it makes three system calls and takes no lock
    )


def _not_started(command: str, error: OSError) -> Outcome:
    missing = isinstance(error, FileNotFoundError)
    reason = f"{command}: {'command not found' if missing else error.strerror}"
    if os.path.isfile(command):
        reason += f". The file {command} is there: name the program that runs it, as in `python {command}`"
    return Outcome(exit_code=127 if missing else 126, failure=reason)


def _follow(
    pid: int,
    lines: tuple[_Line, _Line],
    wake: int,
    on_output: Callable[[str, bytes], None],
    on_tick: Callable[[], None],
) -> _End:
    tick = clock.Deadline(_TICK_SECONDS)
    with selectors.DefaultSelector() as selector:
        selector.register(wake, selectors.EVENT_READ)
        for line in dict.fromkeys(lines):
            selector.register(line.read, selectors.EVENT_READ, line)
        while (end := _reap(pid)) is None:
            _turn(selector, tick.left, on_output)
            if tick.passed:
                on_tick()
                tick = clock.Deadline(_TICK_SECONDS)
        quiet, drained = clock.Deadline(_QUIET_SECONDS), clock.Deadline(_DRAIN_SECONDS)
        while len(selector.get_map()) > 1 and not quiet.passed and not drained.passed:
            if _turn(selector, quiet.left, on_output):
                quiet = clock.Deadline(_QUIET_SECONDS)
        return end._replace(silent=len(selector.get_map()) == 1)


def _turn(selector: selectors.BaseSelector, seconds: float, on_output: Callable[[str, bytes], None]) -> bool:
    """Waits for output, or a signal, for at most `seconds`; whether there was output."""
    moved = False
    for key, _ in selector.select(seconds):
        if key.data is None:
            os.read(key.fd, _READ_BYTES)
        elif _pass_on(key.data, on_output):
            moved = True
        else:
            selector.unregister(key.fd)
    return moved


def _reap(pid: int) -> _End | None:
    reaped, status, usage = os.wait4(pid, os.WNOHANG)
    return _End(status, usage, clock.monotonic()) if reaped else None


def _emptied(group: cgroup.Cgroup) -> bool:
    """Whether nothing of the command runs on. A process that has closed its output may take a moment to be gone."""
    deadline = clock.Deadline(_EXIT_SECONDS)
    while group.is_populated() and not deadline.passed:
        clock.sleep(0.005)
    return not group.is_populated()


def _cpu(end: _End, group: cgroup.Cgroup | None) -> tuple[float, str, str]:
    """CPU seconds, the method, and what it covers: by the kernel's account of the group, else by what `wait` gave."""
    if group:
        emptied = _emptied(group)
        seconds = group.cpu_seconds()
        if seconds is not None:
            return seconds, "cgroup2", "complete" if emptied else _LEFT_BEHIND
    return end.usage.ru_utime + end.usage.ru_stime, "wait4", _WAITED_FOR if end.silent else _LEFT_BEHIND


def _outcome(end: _End, began: int, group: cgroup.Cgroup | None, oom: cgroup.OomCounter) -> Outcome:
    ended = machine.ExitStatus.of(end.status)
    cpu_seconds, cpu_method, cpu_coverage = _cpu(end, group)
    own_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    oom_kills = group.oom_kills() if group else None
    outcome = Outcome(
        exit_code=ended.exit_code,
        signal=ended.signal,
        wall_ns=end.at - began,
        cpu_seconds=cpu_seconds,
        cpu_method=cpu_method,
        cpu_coverage=cpu_coverage,
        max_rss=end.usage.ru_maxrss * _RSS_UNIT if end.usage.ru_maxrss > own_rss else None,
        memory_peak=group.memory_peak() if group else None,
        oom_killed=oom.rose() if oom_kills is None else oom_kills > 0,
    )
    if group:
        group.remove()
    return outcome
