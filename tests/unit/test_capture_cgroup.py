"""A control group counts what processes use even when they detach; where there is none, callers are told so."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sexton import clock
from sexton.capture import cgroup

BURN = "import time\nwhile time.process_time() < 0.2: pass"


@pytest.fixture
def group() -> Iterator[cgroup.Cgroup]:
    made = cgroup.create(f"sexton-test-{os.getpid()}-{clock.monotonic()}")
    if made is None:
        pytest.skip("this user may not make control groups here")
    yield made
    assert gone(made), "a process was left in the control group"


def gone(group: cgroup.Cgroup) -> bool:
    """Whether it can be removed; the kernel may take a moment after a process was waited for."""
    deadline = clock.Deadline(20)
    while not group.remove() and not deadline.passed:
        clock.sleep(0.005)
    return not group.path.exists()


def enter(group: cgroup.Cgroup, code: str) -> subprocess.Popen[bytes]:
    """A process that is in the group before its code runs."""
    waiting = f"import sys; sys.stdin.read()\n{code}"
    process = subprocess.Popen([sys.executable, "-S", "-c", waiting], stdin=subprocess.PIPE)
    group.add(process.pid)
    assert process.stdin
    process.stdin.close()
    return process


def test_cpu_of_a_process_that_is_gone_stays_counted(group: cgroup.Cgroup) -> None:
    assert enter(group, BURN).wait() == 0

    seconds = group.cpu_seconds()
    assert seconds is not None
    assert seconds >= 0.19
    assert group.processes() == []


def test_a_group_with_a_process_is_not_removed(group: cgroup.Cgroup) -> None:
    process = enter(group, "import signal; signal.pause()")
    assert group.processes() == [process.pid]
    assert group.is_populated()
    assert not group.remove()
    assert group.path.exists()

    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(group)
    assert group.remove(), "what is gone stays gone"


def test_groups_inside_count_and_go_with_it(group: cgroup.Cgroup) -> None:
    (group.path / "inside").mkdir()
    process = enter(cgroup.Cgroup(group.path / "inside"), BURN)
    assert process.pid in group.processes()
    process.wait()

    assert (group.cpu_seconds() or 0) >= 0.19
    assert gone(group)


def test_a_name_that_exists_gives_none(group: cgroup.Cgroup) -> None:
    assert cgroup.create(group.path.name) is None


def test_a_name_that_can_not_be_gives_none() -> None:
    assert cgroup.create("no/such/parent") is None


def test_a_group_that_is_gone_is_unknown_not_zero(tmp_path: Path) -> None:
    gone = cgroup.Cgroup(tmp_path / "gone")

    assert gone.cpu_seconds() is gone.memory_peak() is gone.oom_kills() is None
    assert gone.processes() == []


V2 = "31 23 0:28 {root} {mount} rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 {root} {mount} rw,relatime - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("mounts", "groups", "controller", "found"),
    [
        pytest.param([(V2, "/")], "0::/user.slice/a", "", "user.slice/a", id="systemd"),
        pytest.param([(V2, "/")], "0::/", "", "", id="a container with a namespace of its own"),
        pytest.param([(V1, "/docker/7")], "4:memory:/docker/7/x\n0::/docker/7", "memory", "x", id="one without"),
        pytest.param([(V1, "/")], "4:cpu,memory:/a\n0::/b", "memory", "a", id="hybrid"),
        pytest.param([(V1, "/")], "4:memory:/a\n0::/b", "", None, id="v1 only"),
        pytest.param([(V2, "/")], "0::/a", "memory", None, id="v2 only"),
        pytest.param([(V2, "/")], "0::/../a", "", None, id="outside the namespace"),
        pytest.param([(V2, "/docker/7")], "0::/docker/77", "", None, id="a neighbour"),
        pytest.param([(V2, "/")], "0::/a (deleted)", "", None, id="removed"),
        pytest.param([], "0::/a", "", None, id="not mounted"),
        pytest.param(None, None, "", None, id="not Linux"),
    ],
)
def test_where_a_group_is_mounted(
    tmp_path: Path, mounts: list[tuple[str, str]] | None, groups: str | None, controller: str, found: str | None
) -> None:
    mount = tmp_path / "mount"
    for folder in ("user.slice/a", "a", "b", "x", "docker/7", "../77"):
        (mount / folder).mkdir(parents=True)
    if mounts is not None and groups is not None:
        for name in ("self", "42"):
            (tmp_path / name).mkdir()
        lines = [line.format(root=root, mount=mount) for line, root in mounts]
        (tmp_path / "self" / "mountinfo").write_text("22 27 0:21 / /proc rw - proc proc rw\n" + "\n".join(lines))
        (tmp_path / "42" / "cgroup").write_text(groups + "\n")

    assert cgroup.locate(42, controller, proc=tmp_path) == (None if found is None else mount / found)
