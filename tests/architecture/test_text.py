"""The project speaks of itself alone: no registry's address, no folder of somebody's machine, no dead link."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests import project

TEXT = project.files(
    *("", ".cfg", ".css", ".csv", ".html", ".in", ".ini", ".js", ".json", ".lock", ".mako", ".md", ".py"),
    *(".sh", ".sql", ".svelte", ".svg", ".toml", ".ts", ".txt", ".yaml", ".yml"),
)

# Whoever builds this chooses where packages come from. Spelled in parts so that this file passes.
REGISTRIES = re.compile(
    "|".join(
        re.escape(".".join(parts))
        for parts in [
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("registry", "npmjs"),
            ("npmjs", "com"),
            ("yarnpkg", "com"),
            ("deb", "debian", "org"),
            ("archive", "ubuntu", "com"),
            ("conda", "anaconda", "org"),
            ("crates", "io"),
            ("proxy", "golang", "org"),
        ]
    )
)
MACHINE = re.compile(r"(?<![\w.~:/-])/(?:home|root|Users|work|opt/(?:pypi|wheels)|mnt)/[\w.-]+")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|!\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.DOTALL | re.MULTILINE)
IGNORED = re.compile(r"#\s*(?:noqa|type:\s*ignore)\b(?P<rest>.*)")
RULES = re.compile(r"^\s*(?::\s*[A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*|\[[\w, -]+\])")


def _lines(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """`FILE:NUMBER` and the line, for all of them."""
    for path in paths:
        for number, line in enumerate(project.text(path).splitlines(), 1):
            yield f"{path}:{number}", line


def test_no_registry_and_no_machine_is_named() -> None:
    named = [
        f"{at}: {line.strip()[:100]}" for at, line in _lines(TEXT) if REGISTRIES.search(line) or MACHINE.search(line)
    ]
    assert not named, "\n".join(named)


def _anchors(markdown: str) -> set[str]:
    """The anchors that a heading gets where Markdown is shown."""
    headings = re.findall(r"^#+\s+(.+?)\s*$", CODE.sub(_keep_inline, markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def _keep_inline(code: re.Match[str]) -> str:
    return "" if code[1] else code[0]


def _is_dead(path: Path, address: str) -> bool:
    if re.match(r"[a-z+]+:", address):
        return False
    name, _, anchor = address.partition("#")
    target = (project.ROOT / path.parent / name).resolve() if name else project.ROOT / path
    if not target.exists():
        return True
    return bool(anchor) and target.suffix == ".md" and anchor not in _anchors(target.read_text())


def test_links_between_documents_lead_somewhere() -> None:
    dead = [
        f"{path}: {link[0]}"
        for path in project.files(".md")
        for link in LINK.finditer(CODE.sub("", project.text(path)))
        if _is_dead(path, link[1] or link[2])
    ]
    assert not dead, "\n".join(dead)


def _has_rule_and_reason(rest: str) -> bool:
    rules = RULES.match(rest)
    return rules is not None and re.search(r"\w{3}", rest[rules.end() :]) is not None


def test_a_check_is_switched_off_by_name_and_with_a_reason() -> None:
    ignored = [(at, line, IGNORED.search(line)) for at, line in _lines(project.files(".py"))]
    bare = [f"{at}: {line.strip()}" for at, line, found in ignored if found and not _has_rule_and_reason(found["rest"])]
    assert not bare, "write why after the rule:\n" + "\n".join(bare)
