"""Every dependency has a reason that is written down, and is pinned by hash."""

import re
import tomllib
from itertools import chain
from typing import Any

import pytest

from tests import project

PROJECT: dict[str, Any] = tomllib.loads(project.text("pyproject.toml"))
BASE = PROJECT["project"]["dependencies"]
EXTRAS = chain.from_iterable(PROJECT["project"].get("optional-dependencies", {}).values())
GROUPS = chain.from_iterable(PROJECT["dependency-groups"].values())


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}


def _pinned(name: str) -> dict[str, str]:
    """Package -> what the file says of it, its hashes included."""
    entries = re.split(r"\n(?=[a-z0-9])", project.text(f"requirements/{name}.txt"))
    return {re.split(r"==", entry)[0]: entry for entry in entries if "==" in entry}


DEVELOPMENT = _names([group for group in GROUPS if isinstance(group, str)]) - {"uv", "hatchling"}
DIRECT = _names(BASE) | _names(list(EXTRAS)) | DEVELOPMENT


def test_the_pinned_files_hold_what_the_project_asks_for() -> None:
    assert set(_pinned("dev")) >= DIRECT
    assert set(_pinned("base")) >= _names(BASE)
    assert set(_pinned("demo")) >= _names(BASE + PROJECT["dependency-groups"]["demo"])
    assert set(_pinned("setup")) >= {"uv", "hatchling"}


@pytest.mark.parametrize("name", ["base", "demo", "dev", "setup"])
def test_every_package_is_pinned_by_hash(name: str) -> None:
    assert not [p for p, entry in _pinned(name).items() if "--hash=sha256:" not in entry]


def test_every_dependency_has_its_reason() -> None:
    written = set(re.findall(r"^\| ([\w.-]+)", project.text("docs/decisions/dependencies.md"), re.MULTILINE))
    assert not DIRECT - {name.lower() for name in written}
