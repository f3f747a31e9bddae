"""What knows nobody opens to a network only when that is said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sollol_agents.cli.open_doors import refuse_open
from sollol_bus.errors import ConfigError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_this_machine_alone_is_let_in_without_a_word(host: str) -> None:
    refuse_open("the gateway", host, "do something", is_open=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "hub.example", "", "127.0.0.1.evil.example", "0"])
def test_others_are_let_in_only_when_that_is_said(host: str) -> None:
    refuse_open("the gateway", host, "do something", is_open=True)
    with pytest.raises(ConfigError, match=r"the gateway would listen on .*: do something, or say --open"):
        refuse_open("the gateway", host, "do something", is_open=False)


@pytest.mark.parametrize(
    ("argv", "environ", "what"),
    [
        (("up",), {"SOLLOL_SERVER_HOST": "0.0.0.0"}, "the NATS server"),
        (("up",), {"SOLLOL_GATEWAY_HOST": "0.0.0.0"}, "the gateway"),
        (("up",), {"SOLLOL_DASHBOARD_HOST": "0.0.0.0"}, "the dashboard"),
        (("gateway", "--host", "0.0.0.0"), {}, "the gateway"),
        (("dashboard", "--host", "0.0.0.0"), {}, "the dashboard"),
    ],
)
def test_commands_that_would_open_this_machine_end_at_once(
    argv: tuple[str, ...], environ: dict[str, str], what: str
) -> None:
    command = [sys.executable, "-m", "sollol_agents.cli", *argv]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"{what} would listen on 0.0.0.0" in done.stderr
