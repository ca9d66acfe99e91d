"""`import sexton` goes into every training process: it must be light, and mean what it says."""

import subprocess
import sys

import sexton

HEAVY = [
    *("alembic", "httpx", "litestar", "numpy", "pcodec", "psutil", "psycopg", "pynvml", "rich"),
    *("sqlalchemy", "tsdownsample", "typer", "uvicorn", "uvloop", "zstandard"),
]

EXPORTED = [
    "Run",
    "connect",
    "errors",
    "load",
    "resume",
    "start",
]


def _loaded_by(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_importing_sexton_loads_nothing_heavy() -> None:
    assert _loaded_by("import sexton") & set(HEAVY) == set()


def test_what_training_uses_loads_nothing_heavy() -> None:
    loaded = _loaded_by("import sexton; sexton.start, sexton.resume, sexton.Run")
    assert loaded & {*HEAVY, "sexton.client", "sexton.sdk.loading", "sexton.sdk.saving"} == set()


def test_the_exported_names_are_these() -> None:
    assert sorted(sexton.__all__) == sorted(EXPORTED)


def test_every_exported_name_is_there_and_says_what_it_is_for() -> None:
    silent = [name for name in sexton.__all__ if not getattr(sexton, name).__doc__]
    assert not silent


def test_the_version_is_the_one_of_the_distribution() -> None:
    from importlib.metadata import version

    assert sexton.__version__ == version("sexton")
