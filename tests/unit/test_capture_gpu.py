"""What a GPU tells is shown, what it refuses is unknown, and a machine without one pays nothing. The binding is the
real one; only the driver's library is a double."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

ASK = """
import sys, msgspec
from sexton.capture import machine
print(msgspec.json.encode(machine.gpus(map(int, sys.argv[1:]))).decode())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the double in it."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        missing = "cannot run without cc (apt install gcc), on Linux"
        (pytest.fail if os.environ.get("CI") == "true" and sys.platform == "linux" else pytest.skip)(missing)
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml_double.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def ask(library: Path, *pids: int, **environ: str) -> list[dict[str, Any]]:
    """`gpus(pids)` in a process that finds the driver's library in `library`."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(library)} | environ
    command = [sys.executable, "-c", ASK, *map(str, pids)]
    answer = subprocess.run(command, env=environment, check=True, capture_output=True)
    found: list[dict[str, Any]] = msgspec.json.decode(answer.stdout)
    return found


def test_a_device_tells_all(library: Path) -> None:
    first, _ = ask(library, 4242, DOUBLE_UTILIZATION="37", DOUBLE_PID="4242")

    assert first == {
        "index": 0,
        "name": "Double 80GB",
        "uuid": "GPU-0",
        "utilization_percent": 37,
        "memory_used": 3 << 30,
        "memory_total": 80 << 30,
        "power_watts": 250.5,
        "energy_millijoules": 5_000_000_000,
        "ours": True,
    }


def test_what_a_device_refuses_is_unknown(library: Path) -> None:
    _, second = ask(library, 4242, DOUBLE_UTILIZATION="37", DOUBLE_PID="4242")

    assert second["name"] == "Double 80GB"
    assert second["memory_used"] == 3 << 30
    for refused in ("utilization_percent", "power_watts", "energy_millijoules", "ours"):
        assert second[refused] is None


def test_idle_is_zero_not_unknown(library: Path) -> None:
    assert ask(library, DOUBLE_UTILIZATION="0")[0]["utilization_percent"] == 0


def test_a_device_is_not_ours_only_where_pids_can_be_compared(library: Path) -> None:
    in_a_container = os.readlink("/proc/self/ns/pid") != "pid:[4026531836]"
    no = None if in_a_container else False

    assert ask(library, 4242, DOUBLE_PID="1111")[0]["ours"] is no
    assert ask(library, 4242)[0]["ours"] is no


def test_a_driver_that_does_not_start_is_no_driver(library: Path) -> None:
    assert ask(library, DOUBLE_INIT="9") == []


def test_a_library_that_is_none_is_no_driver(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"not a library")
    assert ask(tmp_path) == []
