"""Every command and option can be looked up in docs/cli.md, and `--help` shows how it is used."""

import re
from collections.abc import Iterator

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from sexton.cli.main import app
from tests import project


def _commands(command: object, name: str = "sexton") -> Iterator[tuple[str, TyperCommand]]:
    if isinstance(command, TyperGroup):
        for child, subcommand in command.commands.items():
            yield from _commands(subcommand, f"{name} {child}")
    elif isinstance(command, TyperCommand) and not command.hidden:
        yield name, command


COMMANDS = dict(_commands(typer.main.get_command(app)))
HEADING = re.compile(r"^#+ `(sexton [a-z -]+?)`\n(.*?)(?=^#|\Z)", re.DOTALL | re.MULTILINE)


def _documented() -> dict[str, str]:
    return {heading[1]: heading[2] for heading in HEADING.finditer(project.document("cli.md"))}


def test_every_command_is_documented_and_no_other() -> None:
    assert set(_documented()) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_documented(name: str) -> None:
    options = [o for p in COMMANDS[name].params for o in p.opts if o.startswith("--") and o != "--help"]
    section = _documented().get(name, "")
    assert not [option for option in options if f"`{option}" not in section]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_an_example(name: str) -> None:
    command = COMMANDS[name]
    text = f"{command.help or ''} {command.epilog or ''}"
    assert re.search(rf"\b{re.escape(name)}\b", text), f"show how `{name}` is used"
