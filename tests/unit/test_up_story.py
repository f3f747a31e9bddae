"""What `sollol up` tells a person: where everything is, which engines it found, and what comes next."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import msgspec
import pytest

from sollol_agents.cli import log_lines
from sollol_agents.cli.commands.engine_places import usual_urls
from sollol_agents.cli.commands.up_ports import settled
from sollol_agents.cli.commands.up_story import EngineHere, Story, told

ALONE = Story(
    nats_url="nats://127.0.0.1:4222",
    http_url="http://127.0.0.1:8000",
    dashboard_url="http://127.0.0.1:8080",
    looks_at=(11434, 8080, 1234, 8000),
    own_address="192.168.1.20",
)
OLLAMA = EngineHere(node_id="den", url="http://127.0.0.1:11434", what="Ollama 0.33.0", models=3)
VLLM = EngineHere(node_id="den-8000", url="http://127.0.0.1:8000", what="an OpenAI-compatible engine", models=1)
STORIES = {
    "no engine": ALONE,
    "one engine": msgspec.structs.replace(ALONE, engines=(OLLAMA,)),
    "two engines, one at the gateway's usual port": msgspec.structs.replace(
        ALONE,
        http_url="http://127.0.0.1:8001",
        engines=(OLLAMA, VLLM),
        remarks=("the gateway is at port 8001, since an engine has 8000; --http-port chooses another",),
    ),
    "no engine wanted, other ports, no dashboard, metrics": msgspec.structs.replace(
        ALONE,
        nats_url="nats://127.0.0.1:14222",
        dashboard_url="",
        metrics_url="http://127.0.0.1:9100/metrics",
        looks_at=(),
    ),
    "one engine that is named": msgspec.structs.replace(
        ALONE, looks_at=(), engines=(EngineHere(node_id="den", url="http://gpu-box:11434"),)
    ),
    "a server that ran already, no gateway": msgspec.structs.replace(
        ALONE, nats_url="nats://den:4222", is_own_server=False, http_url=""
    ),
    "a fleet of members": msgspec.structs.replace(ALONE, knows_members=True, engines=(OLLAMA,)),
    "a fleet of members, open to their programs": msgspec.structs.replace(
        ALONE,
        knows_members=True,
        http_url="https://0.0.0.0:8000",
        dashboard_url="http://0.0.0.0:8080",
        needs_key=True,
    ),
}


def test_the_story_reads_as_it_was_kept(assert_kept: Callable[[str, str], None]) -> None:
    kept = "".join(f"# {name}\n{told(story, 80)}\n\n" for name, story in STORIES.items())
    assert_kept("up", kept)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_of_the_story_is_wider_than_the_terminal(width: int) -> None:
    for story in STORIES.values():
        for line in told(story, width).splitlines():
            # a command is never cut, so that it can be copied
            assert len(line) <= width or len(line.split("  ")[-1]) + 16 > width, line


@pytest.mark.parametrize(
    ("environ", "first", "further"),
    [
        ({}, 11434, []),
        ({"OLLAMA_HOST": "0.0.0.0"}, 11434, []),
        ({"OLLAMA_HOST": "127.0.0.1:11500"}, 11500, []),
        ({"OLLAMA_HOST": "http://localhost:11500"}, 11500, []),
        ({"OLLAMA_HOST": ":11500"}, 11500, []),
        ({"OLLAMA_HOST": "http://gpu-box:11500"}, 11434, []),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:5000/v1"}, 11434, [5000]),
        ({"OPENAI_BASE_URL": "https://api.openai.com/v1"}, 11434, []),
        ({"LLAMA_ARG_PORT": "9999"}, 11434, [9999]),
        ({"OLLAMA_HOST": "http://localhost:nonsense", "LLAMA_ARG_PORT": "x"}, 11434, []),
    ],
    ids=["none", "any", "port", "url", "port-alone", "elsewhere", "openai", "cloud", "llama", "nonsense"],
)
def test_engines_are_looked_for_where_the_environment_says(
    environ: dict[str, str], first: int, further: list[int]
) -> None:
    ports = [int(url.rpartition(":")[2]) for url in usual_urls(environ)]
    assert ports[0] == first
    assert set(ports) == {first, 11434, 8080, 1234, 8000, *further}
    assert len(ports) == len(set(ports))


async def test_a_port_that_a_stranger_has_is_left_to_it_and_explained_unless_it_was_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        kept = await settled("gateway", "--http-port", "127.0.0.1", port, usual=8000)
        assert kept == (port, "")
        moved = await settled("gateway", "--http-port", "127.0.0.1", port, usual=port)
        assert port < moved.port < port + 20
        assert moved.remark.startswith(f"the gateway is at port {moved.port}, since another program has {port}")


def test_who_looks_on_is_told_of_events_and_not_of_machinery(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    log = logging.getLogger("sollol_bus.office")
    try:
        for shape in ("text", "json"):
            log_lines.set_up(msgspec.convert({"format": shape}, log_lines.LogConfig))
            log.info("took office scorer", extra={"action": "office_taken"})
            with log_lines.only_trouble():
                log.info("engine found", extra={"action": "engine_found"})
            log.info("node den is up", extra={"action": "node_state"})
    finally:
        root.handlers[:], root.level = before
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("  ")[2] for line in lines[:1]] == ["node den is up"]
    assert len(lines) == 1 + 3, "a program reads all of it"
