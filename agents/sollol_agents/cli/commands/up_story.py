"""What `sollol up` tells a person when everything runs: one block. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from sollol_agents.cli.open_doors import is_loopback
from sollol_agents.cli.output import counted
from sollol_agents.node.config import USUAL_PORTS

_COLUMN: Final = 14
_INDENT: Final = "  "
_LEAST_WIDTH: Final = 40
_NO_BREAK: Final = "\u00a0"
_ANY: Final = ("0.0.0.0", "::")  # noqa: S104 what listens everywhere is dialled by a name
_USUAL_NATS: Final = "nats://127.0.0.1:4222"


class EngineHere(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that joined."""

    node_id: str
    url: str
    what: str = ""
    """Its dialect and version."""
    models: int | None = None


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What runs where."""

    nats_url: str
    is_own_server: bool = True
    http_url: str = ""
    dashboard_url: str = ""
    metrics_url: str = ""
    engines: Sequence[EngineHere] = ()
    looks_at: Sequence[int] = ()
    """Ports of this machine where engines are looked for; none: no engine is to join here."""
    knows_members: bool = False
    needs_key: bool = False
    own_address: str = ""
    """Under which other machines reach this one."""
    remarks: Sequence[str] = ()
    """What is otherwise than one expects."""


def told(story: Story, width: int) -> str:
    """The block, in lines of at most `width` columns where no single word is longer."""
    width = max(_LEAST_WIDTH, width)
    lines = ["SOLLOL is ready.", ""]
    for label, texts in (("Programs", _programs(story)), ("Dashboard", _dashboard(story))):
        lines += _entry(label, texts, width)
    lines += _entry("Commands", _commands(story), width)
    lines += _entry("Metrics", [story.metrics_url] if story.metrics_url else [], width)
    lines += ["", *_entry("Engines", _engines(story), width)]
    lines += ["", *_entry("More", _more(story), width)]
    if story.remarks:
        lines += ["", *_entry("Note", story.remarks, width)]
    return "\n".join(lines).replace(_NO_BREAK, " ")


def _programs(story: Story) -> Iterable[str]:
    """The gateway, from here and from elsewhere."""
    if not story.http_url:
        return
    yield _dialled(story.http_url, "127.0.0.1")
    if not _is_here_only(story.http_url):
        yield f"{_dialled(story.http_url, story.own_address)} from other machines"
    yield "a drop-in for Ollama's, OpenAI's and Anthropic's address"
    if story.needs_key:
        yield f"it wants a key: {_whole('sollol keys create NAME')}"


def _dashboard(story: Story) -> Iterable[str]:
    if not story.dashboard_url:
        return
    yield _dialled(story.dashboard_url, "127.0.0.1")
    if not _is_here_only(story.dashboard_url):
        yield f"{_dialled(story.dashboard_url, story.own_address)} from other machines"


def _commands(story: Story) -> Iterable[str]:
    """Where nodes and the command line connect."""
    yield story.nats_url if story.is_own_server else f"{story.nats_url}, a server that ran already"
    if story.knows_members and story.is_own_server:
        yield f"{story.own_address}, port {urlsplit(story.nats_url).port}, from machines that were invited"
    if not story.knows_members and story.nats_url != _USUAL_NATS:
        yield f"in other terminals: {_whole(f'export SOLLOL_NATS={story.nats_url}')}"


def _engines(story: Story) -> Iterable[str]:
    for one in story.engines:
        models = "" if one.models is None else f", {counted(one.models, 'model')}"
        yield f"{one.what or 'engine'} at {one.url}{models}: node {one.node_id}"
    ports = ", ".join(map(str, story.looks_at))
    if story.engines:
        if ports:
            yield f"further ones that start here join by themselves (ports {ports})"
    elif ports:
        yield (
            "none yet: start Ollama, LM Studio, llama.cpp or vLLM here, and it joins by itself "
            f"(looked for at ports {ports})"
        )
    else:
        yield "none here, as you wanted it"
    crowded = [urlsplit(url).port for url in (story.http_url, story.dashboard_url) if urlsplit(url).port in USUAL_PORTS]
    if ports and crowded:
        yield (
            f"an engine that wants port {' or '.join(map(str, crowded))}: give SOLLOL another with --http-port or "
            "--dashboard-port"
        )
    yield f"at any other address: {_whole('sollol node --url http://HOST:PORT')}"


def _more(story: Story) -> Iterable[str]:
    """How other machines come in."""
    if not story.knows_members:
        if story.is_own_server:
            start = _whole("sollol fleet init")
            yield f"other machines are kept out; in place of this, {start} lets in those that you invite"
    else:
        yield f"the next machine: {_whole('sollol invite node NAME')}"
        if story.http_url and _is_here_only(story.http_url):
            yield (
                "programs on other machines: start this with SOLLOL_GATEWAY_HOST=0.0.0.0 and "
                "SOLLOL_GATEWAY_REQUIRE_KEY=true"
            )
    yield f"when something is wrong: {_whole('sollol doctor')}"
    yield "Ctrl-C ends it all"


def _entry(label: str, texts: Iterable[str], width: int) -> list[str]:
    """The texts beside a label, each in lines of its own."""
    lines: list[str] = []
    for text in texts:
        beside = f"{_INDENT}{'' if lines else label:<{_COLUMN}}"
        lines += textwrap.wrap(
            text,
            width,
            initial_indent=beside,
            subsequent_indent=" " * len(beside) + _INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _whole(command: str) -> str:
    """A command that stays on one line, so that it can be copied."""
    return command.replace(" ", _NO_BREAK)


def _is_here_only(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")


def _dialled(url: str, host: str) -> str:
    """The address with a host that can be dialled in place of one that stands for all."""
    found = urlsplit(url)
    if found.hostname not in _ANY:
        return url
    return f"{found.scheme}://{f'[{host}]' if ':' in host else host}:{found.port}"
