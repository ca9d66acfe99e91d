"""Every setting can be looked up: docs/settings.md has its name and its variable, and no others."""

import re

import msgspec

from sexton.settings import Settings
from tests import project


def _variables() -> set[str]:
    return {f"SEXTON_{field.name.upper()}" for field in msgspec.structs.fields(Settings)}


def test_every_setting_is_documented() -> None:
    page = project.document("settings.md")
    missing = [f.name for f in msgspec.structs.fields(Settings) if f"`{f.name}`" not in page]
    missing += [variable for variable in _variables() if f"`{variable}`" not in page]
    assert not missing


def test_no_setting_is_documented_that_does_not_exist() -> None:
    assert set(re.findall(r"\bSEXTON_[A-Z_]+", project.document("settings.md"))) <= _variables()
