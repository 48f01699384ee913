"""The docs match the code: generated pages are current, commands exist, links resolve."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup

from backline.cli.commands import command_line

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
HAND_WRITTEN = [page for page in PAGES if page.parent.name != "reference"]
BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def leaves(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command without subcommands, with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from leaves(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(leaves(command_line()))


def test_generated_reference_is_up_to_date() -> None:
    check = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    headings = set(re.findall(r"^## backline (.+)$", page, re.MULTILINE))
    assert headings == {" ".join(words) for words in COMMANDS}


def calls(page: Path) -> Iterator[str]:
    """Yield the calls of backline in the shell blocks and the inline code of a page."""
    text = page.read_text()
    for block in BLOCK.findall(text):
        yield from (
            line.strip() for line in block.splitlines() if line.strip().startswith("backline ")
        )
    yield from re.findall(r"`(backline [^`]+)`", text)


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_calls_in_the_docs_use_existing_commands_and_flags(page: Path) -> None:
    for call in calls(page):
        words = call.split()[1:]
        matches = [COMMANDS.get(tuple(words[:n])) for n in (2, 1)]
        command = next((match for match in matches if match is not None), None)
        groups = {name[0] for name in COMMANDS if len(name) > 1}
        assert command is not None or words[0] in groups, f"{page.name}: {call}"
        if command is None:
            continue
        flags = {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
        outside_quotes = re.sub(r"'[^']*'|\"[^\"]*\"", "", call)
        used = set(re.findall(r"(?<!\S)--[a-z-]+", outside_quotes))
        assert used <= flags, f"{page.name}: {call}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_resolves(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    broken = [
        link
        for link in links
        if not link.startswith(("http://", "https://")) and not (page.parent / link).exists()
    ]
    assert broken == []


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)#]+)", page.read_text())
        if not link.startswith("http")
    }
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} <= linked


def test_settings_and_errors_named_in_the_docs_exist() -> None:
    from backline import config, errors

    names = {name for field in config.Settings.model_fields for name in config.names_of(field)}
    bridge = (ROOT / "web/src/shared/bridge/errors.ts").read_text()
    for page in HAND_WRITTEN:
        text = page.read_text()
        assert set(re.findall(r"\bBACKLINE_[A-Z_]+", text)) <= names | {"BACKLINE_VERBOSE"}, page
        for error in re.findall(r"`(\w+Error)`", text):
            assert hasattr(errors, error) or f"class {error} " in bridge, (page, error)


def test_every_command_and_option_has_a_help_text() -> None:
    for words, command in COMMANDS.items():
        assert command.help, words
        for parameter in command.params:
            assert (parameter.help or "").rstrip().endswith((".", "…")), (words, parameter.name)
