"""A process is told from a later one with its pid, its death is seen and explained, and its use is counted."""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from sexton import clock
from sexton.capture import cgroup, machine

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how a process ended")


def until(condition: Callable[[], object]) -> None:
    deadline = clock.Deadline(20)
    while not condition():
        assert not deadline.passed, "it did not happen within 20 s"
        clock.sleep(0.005)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


# ------------------------------------------------------------------------------------------------ which process it is


def test_a_process_knows_itself() -> None:
    me = machine.this_process()

    assert me.pid == os.getpid()
    assert me.start
    assert me.boot
    assert me == machine.identify(os.getpid())
    assert machine.is_alive(me) is True


def test_a_later_process_with_the_same_pid_is_another() -> None:
    earlier = msgspec.structs.replace(machine.this_process(), start=machine.this_process().start - 1)
    assert machine.is_alive(earlier) is False


def test_nothing_outlives_a_reboot() -> None:
    before = msgspec.structs.replace(machine.this_process(), boot="another")
    assert machine.is_alive(before) is False


def test_a_process_of_another_host_is_unknown() -> None:
    elsewhere = msgspec.structs.replace(machine.this_process(), host="elsewhere", boot="another")

    assert machine.is_alive(elsewhere) is None
    assert machine.Watch(elsewhere).exit_status() is None
    assert machine.Watch(elsewhere).oom_killed() is None
    assert machine.sample(elsewhere) is None


def test_a_process_is_dead_once_it_is_killed(sleeper: subprocess.Popen[bytes]) -> None:
    process = machine.identify(sleeper.pid)
    assert machine.is_alive(process) is True

    sleeper.kill()
    sleeper.wait()
    assert machine.is_alive(process) is False


def test_a_zombie_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    process = machine.identify(sleeper.pid)
    sleeper.kill()

    until(lambda: machine.is_alive(process) is False)
    os.kill(sleeper.pid, 0)  # it is still there: nobody has waited for it


def test_a_stopped_process_lives(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.send_signal(signal.SIGSTOP)
    os.waitpid(sleeper.pid, os.WUNTRACED)
    assert machine.is_alive(machine.identify(sleeper.pid)) is True


def test_a_name_that_looks_like_the_kernels_own_text(tmp_path: Path) -> None:
    trap = tmp_path / "a) S 1 (b"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", trap)
    with subprocess.Popen([trap, "60"]) as process:
        identity = machine.identify(process.pid)
        assert identity.start >= machine.this_process().start
        assert machine.is_alive(identity) is True
        process.kill()
        process.wait()
        assert machine.is_alive(identity) is False


def test_a_pid_that_nobody_has_is_unknown_to_all() -> None:
    nobody = machine.identify(2**22 + 1)

    assert machine.is_alive(nobody) is None
    assert nobody.host == ""


# --------------------------------------------------------------------------------------------------- seeing it die


def kernel_tells_of_reaped() -> bool:
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    return sys.platform == "linux" and version is not None and tuple(map(int, version.groups())) >= (6, 15)


@pytest.mark.skipif(not kernel_tells_of_reaped(), reason="needs Linux 6.15 or newer")
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("exit 7", machine.ExitStatus(exit_code=7)),
        ("exit 0", machine.ExitStatus(exit_code=0)),
        ("kill -KILL $$", machine.ExitStatus(signal=signal.SIGKILL)),
    ],
)
def test_how_a_process_ended_that_is_not_our_child(end: str, expected: machine.ExitStatus) -> None:
    grandchild = f"sh -c 'echo $$; read line; {end}'; exit 0"
    with subprocess.Popen(["sh", "-c", grandchild], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        process = machine.identify(int(parent.stdout.readline()))
        watch = machine.Watch(process)
        assert watch.exit_status() is None
        parent.communicate(b"now\n")
    assert machine.is_alive(process) is False

    assert watch.exit_status() == expected
    assert watch.exit_status() == expected, "it can be asked again"
    watch.close()


@linux
def test_how_a_process_ended_that_nobody_waited_for() -> None:
    with subprocess.Popen(["sh", "-c", "read line; exit 5"], stdin=subprocess.PIPE) as child:
        watch = machine.Watch(machine.identify(child.pid))
        assert child.stdin
        child.stdin.close()
        until(watch.exit_status)
        assert watch.exit_status() == machine.ExitStatus(exit_code=5)
        watch.close()


def test_a_watch_on_a_pid_that_is_another_process_tells_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    process = machine.identify(sleeper.pid)
    watch = machine.Watch(msgspec.structs.replace(process, start=process.start - 1))
    sleeper.kill()
    sleeper.wait()

    assert watch.exit_status() is None
    assert watch.oom_killed() is None
    watch.close()


def test_a_closed_watch_leaves_no_descriptor_open() -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        watch = machine.Watch(machine.this_process())
        watch.close()
        watch.close()
    assert len(os.listdir("/dev/fd")) == before


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group whose processes may have 40 MB of memory."""
    for controller, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        folder = cgroup.locate(os.getpid(), controller)
        if folder is None or not os.access(folder, os.W_OK):
            continue
        group = folder / f"sexton-test-{os.getpid()}"
        group.mkdir()
        if (group / limit).exists():
            (group / limit).write_text(str(40 << 20))
            yield group
            group.rmdir()
            return
        group.rmdir()
    pytest.skip("this user may not limit the memory of a process here")


def test_a_process_that_the_kernel_killed_for_want_of_memory(small_memory: Path) -> None:
    code = "import sys; sys.stdin.read(); x = b'x' * (400 << 20)"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE) as child:
        (small_memory / "cgroup.procs").write_text(str(child.pid))
        watch = machine.Watch(machine.identify(child.pid))
        assert watch.oom_killed() is False
        child.communicate()

    assert watch.exit_status() in (None, machine.ExitStatus(signal=signal.SIGKILL))
    assert watch.oom_killed() is True
    watch.close()


# --------------------------------------------------------------------------------------------------- what it uses

FAMILY = """
import subprocess, sys, time
def burn():
    while time.process_time() < 0.3: pass
if sys.argv[1:]:
    block = b"x" * (50 << 20)
    burn()
    if sys.argv[1] == "stay":
        print("ready", flush=True)
        sys.stdin.read()
else:
    subprocess.run([sys.executable, "-S", __file__, "go"])
    subprocess.run([sys.executable, "-S", __file__, "stay"])
"""


def test_a_sample_counts_children_those_alive_and_those_waited_for(tmp_path: Path) -> None:
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    with subprocess.Popen(
        [sys.executable, "-S", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "ready\n"
        process = machine.identify(parent.pid)
        sample = machine.sample(process)
        parent.communicate()

    assert sample is not None
    assert sample.processes == 2
    assert parent.pid in sample.pids
    assert sample.threads >= 2
    assert sample.cpu_seconds >= (0.55 if sys.platform == "linux" else 0.25)
    assert 50 << 20 < sample.memory < 1 << 30
    assert machine.sample(process) is None, "it is gone"


def test_the_machine_describes_itself() -> None:
    facts = machine.describe()

    assert facts["host"] == os.uname().nodename
    assert facts["python"] == platform.python_version()
    assert facts["cpu_count"] == os.cpu_count()
    assert isinstance(facts["memory_total"], int)
    assert facts["user"]
    msgspec.json.encode(facts)


def test_nothing_is_loaded_that_a_training_process_may_never_need() -> None:
    code = "import sys, sexton.capture.machine; print({'psutil', 'pynvml', 'subprocess', 'ctypes'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown == "set()\n"
