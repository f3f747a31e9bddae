"""Every `sollol …` command and flag that a document names exists, and every link leads to a heading that is there."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App  # noqa: TID251 the flags as they are read

from sollol_agents.cli.with_cyclopts import build_app

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
def app() -> App:
    return build_app()


@functools.cache
def flags_of(command: tuple[str, ...]) -> frozenset[str]:
    """The flags of a command."""
    found = app()
    for word in command:
        found = found[word]
    own = {name for argument in found.assemble_argument_collection() for name in argument.names}
    return frozenset(own | {"--help", "--version"})


def complaint(words: list[str]) -> str:
    """What is wrong with a command line; empty when nothing is."""
    current, command, rest = app(), [], list(words)
    while rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]) and list(current):
        name = rest.pop(0)
        if name not in list(current):
            return f"there is no command {name!r} in: sollol {' '.join(words)}"
        command.append(name)
        current = current[name]
        if current.default_command is not None:
            break
    if not command:
        return ""
    flags = [match[1] for word in rest if (match := _FLAG.match(word))]
    missing = [flag for flag in flags if flag not in flags_of(tuple(command))]
    return f"no flags {missing} in: sollol {' '.join(words)}" if missing else ""


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
