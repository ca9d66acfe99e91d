"""A command under observation behaves as it would alone, and all that it did is known at its end.

Every test runs the observer as a process of its own, with real pipes, terminals and signals around it.
"""

import contextlib
import hashlib
import os
import resource
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from sexton import clock
from sexton.capture import cgroup, machine
from sexton.capture.command import Outcome
from sexton.model.records import Process

OBSERVER = """
import os, sys, msgspec
from sexton.capture import command
report, group, *argv = sys.argv[1:]
started, output, ticks = [], [], []
file = open(report, "wb")  # as any caller has files open, where stdout is closed even as descriptor 1
command._DRAIN_SECONDS = float(os.environ.get("DRAIN", 5))
outcome = command.run(
    argv,
    env=os.environ,
    on_output=lambda *piece: output.append(piece),
    on_start=lambda *where: started.append(where),
    cgroup_name=group,
    on_tick=lambda: ticks.append(1),
)
with file:
    file.write(msgspec.msgpack.encode([outcome, output, started, len(ticks)]))
"""


class Report(msgspec.Struct, array_like=True):
    outcome: Outcome
    output: list[tuple[str, bytes]]
    started: list[tuple[Process, str | None]]
    ticks: int

    def printed(self, stream: str) -> bytes:
        return b"".join(data for name, data in self.output if name == stream)


class Observer:
    """Starts observers, and reads what they report."""

    def __init__(self, folder: Path) -> None:
        self._report = folder / "report"

    @contextlib.contextmanager
    def start(self, *argv: str | Path, cgroup_name: str = "", **options: Any) -> Iterator[subprocess.Popen[Any]]:
        """An observer that has ended when this is left; one that hangs is ended where the test notices."""
        name = cgroup_name or f"sexton-test-{os.getpid()}-{clock.monotonic()}"
        command = [sys.executable, "-c", OBSERVER, self._report, name, *argv]
        with subprocess.Popen(command, **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options)) as process:
            try:
                yield process
                process.wait()
            except BaseException:
                process.kill()
                raise

    def report(self) -> Report:
        return msgspec.msgpack.decode(self._report.read_bytes(), type=Report)

    def run(self, *argv: str | Path, **options: Any) -> tuple[Report, bytes, bytes]:
        """What was reported, and what came out of the observer's own stdout and stderr."""
        with self.start(*argv, **options) as process:
            stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        return self.report(), stdout, stderr


@pytest.fixture
def observer(tmp_path: Path) -> Observer:
    return Observer(tmp_path)


def until(condition: Callable[[], object]) -> None:
    deadline = clock.Deadline(20)
    while not condition():
        assert not deadline.passed, "it did not happen within 20 s"
        clock.sleep(0.005)


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-S", "-c", code


# ------------------------------------------------------------------------------------------------------------- its end


@pytest.mark.parametrize("code", [0, 255])
def test_its_exit_code(observer: Observer, code: int) -> None:
    report, _, _ = observer.run("sh", "-c", f"exit {code}")
    assert (report.outcome.exit_code, report.outcome.signal) == (code, None)


def test_the_signal_that_killed_it(observer: Observer) -> None:
    report, _, _ = observer.run("sh", "-c", "kill -KILL $$")
    assert (report.outcome.exit_code, report.outcome.signal) == (None, signal.SIGKILL)


def test_a_command_that_is_not_there(observer: Observer) -> None:
    report, stdout, stderr = observer.run("no-such-command")

    assert report.outcome.exit_code == 127
    assert report.outcome.failure == "no-such-command: command not found"
    assert report.started == []
    assert stdout == stderr == b""


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_script_that_can_not_be_executed(observer: Observer, tmp_path: Path, mode: int) -> None:
    script = tmp_path / "train.py"
    script.write_text("print()")
    script.chmod(mode)
    report, _, _ = observer.run(script)

    assert report.outcome.exit_code == 126
    assert f"`python {script}`" in (report.outcome.failure or "")
    assert report.started == []


def test_a_script_that_is_here_but_not_on_path(observer: Observer, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print()")
    report, _, _ = observer.run("train.py", cwd=tmp_path)

    assert report.outcome.exit_code == 127
    assert "`python train.py`" in (report.outcome.failure or "")


def test_the_process_is_told_when_it_starts(observer: Observer) -> None:
    report, stdout, _ = observer.run("sh", "-c", "echo $$")

    ((process, _),) = report.started
    assert process.pid == int(stdout)
    assert process.host == machine.this_process().host
    assert process.start >= machine.this_process().start
    assert machine.is_alive(process) is False


def test_the_observer_of_a_silent_command_is_heard_of_meanwhile(observer: Observer) -> None:
    report, _, _ = observer.run("sleep", "0.7")

    assert report.ticks >= 1
    assert 0.7e9 <= report.outcome.wall_ns < 60e9


# -------------------------------------------------------------------------------------------------------- its output


def test_output_is_passed_on_and_recorded_by_stream(observer: Observer) -> None:
    report, stdout, stderr = observer.run("sh", "-c", "echo out; echo err >&2; printf 'no newline'")

    assert stdout == report.printed("stdout") == b"out\nno newline"
    assert stderr == report.printed("stderr") == b"err\n"


def test_bytes_that_are_no_text(observer: Observer) -> None:
    report, stdout, _ = observer.run(*python("import os; os.write(1, bytes(range(256)) * 3)"))
    assert stdout == report.printed("stdout") == bytes(range(256)) * 3


def test_more_output_than_any_buffer(observer: Observer) -> None:
    code = "import os\nfor n in range(3000): os.write(1 + n % 2, b'%09d\\n' % n * 1000)"
    report, stdout, stderr = observer.run(*python(code))

    for stream, passed in (("stdout", stdout), ("stderr", stderr)):
        assert len(passed) == 15_000_000
        assert hashlib.sha256(passed).digest() == hashlib.sha256(report.printed(stream)).digest()
    assert stdout.endswith(b"000002998\n")


def test_output_is_passed_on_at_once(observer: Observer) -> None:
    with observer.start("sh", "-c", "printf 'name? '; read name; echo hello $name", stdin=subprocess.PIPE) as process:
        assert process.stdout
        assert os.read(process.stdout.fileno(), 100) == b"name? "
        stdout, _ = process.communicate(b"ada\n")
    assert stdout == b"hello ada\n"


def test_a_reader_that_goes_away_does_not_end_the_command(observer: Observer) -> None:
    code = "for n in range(20000): print(n)"
    with observer.start(*python(code)) as process:
        assert process.stdout
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        process.wait()
    report = observer.report()

    assert report.outcome.exit_code == 0
    assert report.printed("stdout").endswith(b"\n19999\n")


def test_an_output_that_is_closed(observer: Observer) -> None:
    with observer.start("echo", "hi", preexec_fn=lambda: os.close(1), stdout=None) as process:
        _, stderr = process.communicate()
    assert stderr == b""
    assert observer.report().printed("stdout") == b"hi\n"


def test_an_output_that_somebody_made_non_blocking(observer: Observer) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with observer.start(*python("print('x' * 1_000_000)"), stdout=writer):
        os.close(writer)
        shown = b""
        while some := os.read(reader, 5000):  # slow enough that it is full at times, and has room for a part at others
            shown += some
        os.close(reader)
    assert shown == b"x" * 1_000_000 + b"\n"


# ---------------------------------------------------------------------------------------------------------- terminals


class Terminal:
    """A terminal of 50 lines and 120 columns with a reader."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        termios.tcsetwinsize(self.master, (50, 120))
        self.shown = b""

    def read(self) -> bytes:
        """What was shown so far."""
        while select.select([self.master], [], [], 0)[0]:
            self.shown += os.read(self.master, 1 << 16)
        return self.shown


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    os.close(made.master)
    os.close(made.slave)


LOOK = "import os; print([os.isatty(n) for n in range(3)], os.get_terminal_size(1))"


def test_a_terminal_stays_a_terminal(observer: Observer, terminal: Terminal) -> None:
    report, _, _ = observer.run(
        *python(LOOK), stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave, start_new_session=True
    )

    expected = b"[True, True, True] os.terminal_size(columns=120, lines=50)\n"
    assert report.printed("stdout") == expected
    assert terminal.read() == expected.replace(b"\n", b"\r\n"), "the terminal itself adds the return, once"


def test_one_terminal_keeps_the_order_of_both_streams(observer: Observer, terminal: Terminal) -> None:
    code = "import os\nfor n in range(200): os.write(1 + n % 2, b'%d ' % n)"
    report, _, _ = observer.run(*python(code), stdout=terminal.slave, stderr=terminal.slave)
    assert report.printed("stdout") == b"".join(b"%d " % n for n in range(200))


def test_a_progress_bar_on_a_terminal_beside_a_pipe(observer: Observer, terminal: Terminal) -> None:
    code = "import os, sys; print(os.isatty(1), flush=True); print(os.isatty(2), '\\r', file=sys.stderr, end='')"
    report, stdout, _ = observer.run(*python(code), stderr=terminal.slave)

    assert stdout == report.printed("stdout") == b"False\n"
    assert terminal.read() == report.printed("stderr") == b"True \r"


def test_a_new_size_of_the_terminal_reaches_it(observer: Observer, terminal: Terminal) -> None:
    code = """
import os, signal, sys
signal.signal(signal.SIGWINCH, lambda *_: print(os.get_terminal_size(1)) or sys.exit())
print("ready", flush=True)
while True: signal.pause()
"""
    with observer.start(*python(code), stdout=terminal.slave, stderr=subprocess.DEVNULL) as process:
        until(lambda: b"ready" in terminal.read())
        termios.tcsetwinsize(terminal.master, (10, 20))
        process.send_signal(signal.SIGWINCH)
    assert b"columns=20, lines=10" in observer.report().printed("stdout")


# ------------------------------------------------------------------------------------------------------------ signals

HEAR = r"""
import os, signal
def hear(number, frame):
    os.write(1, signal.Signals(number).name.encode() + b"\n")
    if number == signal.SIGTERM: os._exit(7)
for name in "HUP INT QUIT USR1 USR2 TERM".split(): signal.signal(signal.Signals["SIG" + name], hear)
if os.environ.get("CHILD"): os.fork()
signal.alarm(60)  # should the test fail
os.write(1, b"ready\n")
while True: signal.pause()
"""


def test_signals_to_the_observer_reach_the_command(observer: Observer) -> None:
    with observer.start(*python(HEAR)) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        for number in ("SIGHUP", "SIGINT", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM"):
            process.send_signal(signal.Signals[number])
            assert process.stdout.readline().decode() == f"{number}\n"
    report = observer.report()

    assert (report.outcome.exit_code, report.outcome.signal) == (7, None)


def test_its_children_get_the_signal_too(observer: Observer) -> None:
    with observer.start(*python(HEAR), env=os.environ | {"CHILD": "1"}) as process:
        assert process.stdout
        assert process.stdout.readline() == process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
    assert observer.report().printed("stdout").count(b"SIGTERM\n") == 2


def test_a_signal_that_ends_the_command_ends_the_observer_after_it(observer: Observer) -> None:
    with observer.start("sh", "-c", "echo ready; exec sleep 60") as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert observer.report().outcome.signal == signal.SIGTERM


def test_what_nohup_made_deaf_stays_deaf(observer: Observer) -> None:
    code = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, flush=True); input()"
    deaf: Callable[[], object] = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731 - reads as it acts
    with observer.start(*python(code), stdin=subprocess.PIPE, preexec_fn=deaf) as process:
        assert process.stdout
        assert process.stdout.readline() == b"True\n"
        process.send_signal(signal.SIGHUP)
        process.communicate(b"\n")
    assert observer.report().outcome.exit_code == 0


def stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def test_ctrl_z_stops_both_and_continuing_continues_both(observer: Observer) -> None:
    with observer.start("sh", "-c", "echo $$; read line; exit 3", stdin=subprocess.PIPE) as process:
        assert process.stdout
        command = int(process.stdout.readline())
        process.send_signal(signal.SIGTSTP)
        until(lambda: stopped(command) and stopped(process.pid))
        process.send_signal(signal.SIGCONT)
        until(lambda: not stopped(command) and not stopped(process.pid))
        process.communicate(b"\n")
    assert observer.report().outcome.exit_code == 3


# --------------------------------------------------------------------------------------------------------- what it used

BURN = "while time.process_time() < {}: pass"
ORPHAN = f"""
import os, time
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setpgid(0, 0)
        {BURN.format(0.5)}
        os.write(writer, b"done")
    os._exit(0)
os.wait()
os.read(reader, 4)
"""
SHORT = f"""
import os, time
for _ in range(60):
    if os.fork() == 0:
        {BURN.format(0.01)}
        os._exit(0)
    os.wait()
"""


def test_cpu_of_an_orphan_is_counted_or_said_to_be_missing(observer: Observer) -> None:
    report, _, _ = observer.run(*python(ORPHAN))
    outcome = report.outcome

    assert outcome.cpu_seconds is not None
    if outcome.cpu_method == "cgroup2":
        assert outcome.cpu_seconds >= 0.5
        assert outcome.cpu_coverage == "complete"
    else:
        assert outcome.cpu_method == "wait4"
        assert outcome.cpu_coverage == "only processes that were waited for"


@pytest.mark.parametrize("name", ["", "no/such/parent"], ids=["cgroup", "no cgroup"])
def test_cpu_of_many_short_children_is_counted(observer: Observer, name: str) -> None:
    report, _, _ = observer.run(*python(SHORT), cgroup_name=name)

    assert (report.outcome.cpu_seconds or 0) >= 0.6
    if name:
        assert report.started[0][1] is None
        assert report.outcome.cpu_method == "wait4"
        assert report.outcome.cpu_coverage == "only processes that were waited for"


def test_the_control_group_is_told_and_is_gone_afterwards(observer: Observer) -> None:
    report, stdout, _ = observer.run("cat", "/proc/self/cgroup")
    if report.outcome.cpu_method != "cgroup2":
        pytest.skip("this user may not make control groups here")

    path = report.started[0][1]
    assert path
    assert Path(path).name.encode() in stdout, "the command was in it from its first instruction on"
    assert not Path(path).exists()


def test_memory_of_the_largest_process(observer: Observer) -> None:
    size = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) + (300 << 20)  # more than the observer hides
    report, _, _ = observer.run(*python(f"x = b'x' * {size}"))

    assert report.outcome.max_rss is not None
    assert size < report.outcome.max_rss < size + (100 << 20)


def test_memory_that_the_observer_hides_is_unknown(observer: Observer) -> None:
    report, _, _ = observer.run("true")
    assert report.outcome.max_rss is None


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group whose processes may have 200 MB of memory."""
    for controller, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        folder = cgroup.locate(os.getpid(), controller)
        if folder is None or not os.access(folder, os.W_OK):
            continue
        group = folder / f"sexton-test-{os.getpid()}-memory"
        group.mkdir()
        if (group / limit).exists():
            (group / limit).write_text(str(200 << 20))
            yield group
            group.rmdir()
            return
        group.rmdir()
    pytest.skip("this user may not limit the memory of a process here")


def test_a_command_that_the_kernel_killed_for_want_of_memory(observer: Observer, small_memory: Path) -> None:
    enter = lambda: (small_memory / "cgroup.procs").write_text("0")  # noqa: E731 - reads as it acts
    report, _, _ = observer.run(*python("x = b'x' * (1 << 30)"), preexec_fn=enter)

    assert report.outcome.signal == signal.SIGKILL
    assert report.outcome.oom_killed is True


# ------------------------------------------------------------------------------------------------ what it leaves behind


def until_removed(report: Report) -> None:
    """The control group can be removed once what was left behind has ended."""
    group = report.started[0][1]
    if group:
        until(cgroup.Cgroup(Path(group)).remove)


def test_a_background_process_that_holds_the_output_does_not_hold_up_the_end(observer: Observer) -> None:
    report, stdout, _ = observer.run("sh", "-c", "sleep 60 & echo $!; exit 4")
    os.kill(int(stdout), signal.SIGKILL)

    assert report.outcome.exit_code == 4
    assert "left running in the background" in (report.outcome.cpu_coverage or "")
    until_removed(report)


def test_a_background_process_that_never_stops_printing_does_not_either(observer: Observer) -> None:
    script = "(while sleep 0.05; do echo x; done) & exit 4"
    report, stdout, _ = observer.run("sh", "-c", script, env=os.environ | {"DRAIN": "0.5"})

    assert report.outcome.exit_code == 4
    assert stdout.startswith(b"x\nx\n")
    until_removed(report)


def test_the_last_words_of_a_background_process_are_kept(observer: Observer) -> None:
    report, stdout, _ = observer.run("sh", "-c", "(sleep 0.3; echo late) & exit 0")
    assert stdout == report.printed("stdout") == b"late\n"
