"""`sollol top` in a real terminal of 80 by 24: driven by keys, read off its screen."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import AsyncIterator

import pytest

from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.terminal import Terminal
from sollol_schemas.telemetry import NodeState

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("textual") is None, reason="pip install 'sollol-bus[top]'"),
]


@pytest.fixture
async def terminal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Terminal]:
    made = Terminal(tmp_path_factory.mktemp("t"))
    yield made
    await made.tmux("kill-server")


async def test_an_operator_sees_the_fleet_drains_a_node_and_reads_why(fleet: ProcessFleet, terminal: Terminal) -> None:
    await fleet.up()
    engines = [await fleet.emulator(name, *FLAGS) for name in ("attic", "cellar")]
    attic = await fleet.node("attic", engines[0].url, "--slots", "2")
    await fleet.node("cellar", engines[1].url, "--slots", "2")
    command = f"{sys.executable} -m sollol_agents.cli top --nats {fleet.nats_url}; echo ended with $?; exec cat"
    await terminal.tmux("new-session", "-d", "-x", "80", "-y", "24", command)
    screen = await terminal.shows("2/2 nodes up", "attic", "cellar", "○○", "0/4 slots", "plan", "d Drain")
    assert screen[0].strip().startswith("2/2 nodes up")
    assert "NODE" in screen[3]
    assert "LOADED" in screen[3]
    assert MODEL in next(line for line in screen if "attic" in line)
    assert "d Drain" in screen[-1]
    assert "q Quit" in screen[-1]
    assert max(map(len, screen)) <= 80

    async with fleet.client() as client:
        await client.generate(MODEL, "count down from 3")
        await terminal.press("3")
        screen = await terminal.shows("PREDICT", "FAST", MODEL, "success")
        await terminal.press("Enter")
        await terminal.shows("Request ", "costs", "success after")
        await terminal.press("Escape")
        await terminal.shows("PREDICT", gone=("Request ",))  # a key right behind it would be a sequence
        await terminal.press("2")
        await terminal.shows("0 requests wait for a slot", "PRIORITY", "JOBS STORED")

        await terminal.press("1")
        await terminal.shows("LOADED", gone=("PRIORITY",))
        await terminal.press("Down", "d")
        await terminal.shows("Drain cellar?", "y yes, n no")
        await terminal.press("y")
        await terminal.shows("draining", "1/2 nodes up", "cellar is draining")
        states = {node.node_id: node.state for node in (await client.nodes()).nodes}
        assert states == {"attic": NodeState.UP, "cellar": NodeState.DRAINING}
        await terminal.press("u")
        await terminal.press("y")
        await terminal.shows("2/2 nodes up", "cellar is up")

        attic.kill()
        await terminal.shows("down", "attic is down")
    await terminal.press("q")
    await terminal.shows("ended with 0")
