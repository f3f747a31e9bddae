"""Every `sollol …` command and flag that a document names exists, and every link leads to a heading that is there."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sollol_agents.cli.arguments import arguments_of
from sollol_agents.cli.catalogue import COMMANDS
from sollol_agents.cli.declared import Commands
from sollol_agents.cli.reading import HELP

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if README.is_file() else []

pytestmark = pytest.mark.skipif(not README.is_file(), reason="the documents are in the checkout only")

_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_INVOCATION = re.compile(r"(?:^|(?<=[\s(=`|]))sollol((?: +[^\s|;&`)]+)*)")
_FLAG = re.compile(r"^(--[a-z][a-z0-9-]*)")


def code_of(page: Path) -> Iterator[str]:
    """Everything of a page that is set as code, a line or a span each."""
    text = page.read_text(encoding="utf-8")
    for language, block in _FENCE.findall(text):
        if language in ("bash", "console", "sh", ""):
            joined = block.replace("\\\n", " ")
            is_session = language == "console" and "$ " in joined
            for line in joined.splitlines():
                if not is_session or line.startswith("$ "):
                    yield line.removeprefix("$ ")
    yield from (" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", text)))


def invocations(page: Path) -> Iterator[list[str]]:
    """The words behind each `sollol` of a page."""
    for code in code_of(page):
        if code.startswith(("make ", "pip ", "docker ", "from ", "#")):
            continue
        for rest in _INVOCATION.findall(code):
            yield rest.split()


@functools.cache
def flags_of(name: str, below: str) -> frozenset[str]:
    """The flags of a command."""
    there = COMMANDS[name].load()
    command = there.find(below) if isinstance(there, Commands) else there
    arguments = arguments_of(command) if command else []
    return frozenset(HELP).union(*((*argument.flags, *argument.off_flags) for argument in arguments))


@functools.cache
def names_below(name: str) -> tuple[str, ...]:
    there = COMMANDS[name].load()
    return tuple(below for below, _ in there) if isinstance(there, Commands) else ()


def complaint(words: list[str]) -> str:
    """What is wrong with a command line; empty when nothing is."""
    line, rest = f"sollol {' '.join(words)}", list(words)
    if not rest or not re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        return ""
    name, below = rest.pop(0), ""
    if name not in COMMANDS:
        return f"there is no command {name!r} in: {line}"
    if names_below(name) and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        below = rest.pop(0)
        if below not in names_below(name):
            return f"there is no command {below!r} in: {line}"
    flags = [match[1] for word in rest if (match := _FLAG.match(word))]
    missing = [flag for flag in flags if flag not in flags_of(name, below)]
    return f"no flags {missing} in: {line}" if missing else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_flag_exists(page: Path) -> None:
    assert [text for words in invocations(page) if (text := complaint(words))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:)([^)\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert [f"{path}#{anchor}" for path, anchor in links if anchor not in anchors_of(page, path)] == []


def test_the_guides_name_many_commands() -> None:
    named = {words[0] for page in PAGES for words in invocations(page) if words}
    assert {"up", "node", "generate", "why", "route", "jobs", "batch", "drain", "breaker", "doctor"} <= named


@pytest.mark.parametrize("line", ["nodez", "jobs submitt", "drain desk --now"])
def test_a_command_or_flag_that_does_not_exist_is_seen(line: str) -> None:
    assert complaint(line.split())


def test_what_exists_is_not_complained_about() -> None:
    assert not complaint(["jobs", "list", "--json"])


def anchors_of(page: Path, path: str) -> set[str]:
    """The anchors of the page that a link's path leads to."""
    target = (page.parent / path) if path else page
    headings = re.findall(r"^#+ +(.*)$", _FENCE.sub("", target.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
