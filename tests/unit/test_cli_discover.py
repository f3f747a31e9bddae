"""Which addresses `sollol discover` asks, and what it says of what it found."""

from __future__ import annotations

import json
import socket

import pytest

from sollol_agents.cli.__main__ import run
from sollol_agents.cli.commands.discover import report_of, show, urls_of
from sollol_agents.node.engines.probing import Probed
from sollol_bus.errors import ConfigError
from sollol_schemas.telemetry import EngineKind


@pytest.mark.parametrize(
    ("address", "urls"),
    [
        ("gpu", ["http://gpu:11434", "http://gpu:8080", "http://gpu:1234", "http://gpu:8000"]),
        ("gpu:9", ["http://gpu:9"]),
        ("https://gpu/llm", ["https://gpu/llm"]),
        ("::1", ["http://[::1]:11434", "http://[::1]:8080", "http://[::1]:1234", "http://[::1]:8000"]),
        ("[::1]:9", ["http://[::1]:9"]),
    ],
)
def test_a_host_alone_means_the_usual_ports(address: str, urls: list[str]) -> None:
    assert list(urls_of([address, address])) == urls


@pytest.mark.parametrize("address", ["10.0.0.0/24", "10.0.0.*", "a,b", "gpu:x", "ftp://gpu", "http://", ""])
def test_networks_patterns_and_nonsense_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        urls_of([address])


def found(url: str, kind: EngineKind | None = EngineKind.OLLAMA, *, is_silent: bool = False) -> Probed:
    return Probed(url=url, kind=kind, is_silent=is_silent, detail="" if kind else "no engine")


def test_each_engine_has_the_command_that_joins_it_and_an_id_of_its_own() -> None:
    engines = [
        found("http://10.0.0.9:11434"),
        found("http://box.lan:11434"),
        found("http://box.lan:8080", EngineKind.OPENAI),
    ]
    assert [one.command for one in report_of(engines).engines] == [
        "sollol node --id node-10-0-0-9 --url http://10.0.0.9:11434",
        "sollol node --id box-11434 --url http://box.lan:11434",
        "sollol node --id box-8080 --engine openai --url http://box.lan:8080",
    ]


def test_silent_ports_are_told_only_for_hosts_without_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(
        [
            found("http://a:11434"),
            found("http://a:8000", None, is_silent=True),
            found("http://a:8080", None),
            found("http://b:1", None, is_silent=True),
        ]
    )
    show(report, 4)
    told = capsys.readouterr()
    assert "sollol node --id a --url http://a:11434" in told.out
    assert told.err.splitlines() == ["http://a:8080: no engine", "http://b:1: no engine"]


def test_nothing_found_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as bound:  # bound but not listening: nobody answers there
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        assert run(["discover", address, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["engines"] == []
    assert told["others"][0]["is_silent"] is True
