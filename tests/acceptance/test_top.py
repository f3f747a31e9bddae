"""`sollol top` in a real terminal of 80 by 24: driven by keys, read off its screen."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
import uuid
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_schemas.telemetry import NodeState

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("textual") is None, reason="pip install 'sollol-bus[top]'"),
]


class Terminal:
    """A terminal in a tmux server of its own."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / f"tmux-{uuid.uuid4().hex[:8]}")

    async def tmux(self, *argv: str) -> str:
        """What a command of tmux prints; the first one leaves the server running, which must not hold our pipe."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SOLLOL_", "TMUX"))}
        process = await asyncio.create_subprocess_exec(
            "tmux",
            "-S",
            self._socket,
            "-f",
            "/dev/null",
            *argv,
            stdout=DEVNULL if argv[0] == "new-session" else PIPE,
            stderr=DEVNULL,
            env=clean | {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, argv
        return (said or b"").decode()

    async def press(self, *keys: str) -> None:
        await self.tmux("send-keys", *keys)

    async def screen(self) -> list[str]:
        """The lines that can be seen."""
        return (await self.tmux("capture-pane", "-p")).splitlines()

    async def shows(self, *texts: str, gone: tuple[str, ...] = ()) -> list[str]:
        """The screen once it shows all `texts`, and none of `gone`."""
        seen: list[str] = []

        async def is_shown() -> bool:
            seen[:] = await self.screen()
            whole = "\n".join(seen)
            return all(text in whole for text in texts) and not any(text in whole for text in gone)

        try:
            await eventually(is_shown)
        except AssertionError as error:
            raise AssertionError(f"{texts} without {gone} on\n" + "\n".join(seen)) from error
        return seen


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
    screen = await terminal.shows("2/2 nodes up", "attic", "cellar", "○○", "0/4 slots", "plan")
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
