"""`sollol chat` as a person holds a conversation: in a real terminal, typed and read off its screen."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.terminal import Terminal

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--model", "seer=1+vision", "--preload", MODEL)
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]


@pytest.fixture
async def terminal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Terminal]:
    made = Terminal(tmp_path_factory.mktemp("t"))
    yield made
    await made.tmux("kill-server")


async def test_a_person_asks_cuts_an_answer_asks_why_changes_the_model_and_comes_back(
    fleet: ProcessFleet, terminal: Terminal, tmp_path: Path
) -> None:
    await fleet.up("--no-gateway")
    engine = await fleet.emulator("attic", *FLAGS, "--decode-tps", "40")
    await fleet.node("attic", engine.url, "--slots", "2")
    saved = tmp_path / "talk.json"
    chat = f"{sys.executable} -m sollol_agents.cli chat {MODEL} --nats {fleet.nats_url}"
    twice = f"{chat}; code=$?; clear; echo left with $code; {chat}; echo left again; exec cat"
    command = f"export XDG_STATE_HOME={tmp_path}; {twice}"
    await terminal.tmux("new-session", "-d", "-x", "100", "-y", "50", command)
    await terminal.shows("/help lists the commands", ">>>")

    await terminal.type("count down from 3")
    await terminal.shows("2 1 0", "— attic · ")
    await terminal.type("/why")
    await terminal.shows("request ", "success")
    await terminal.press("C-l")
    await terminal.type("count down from 900")
    await terminal.shows("899 898 897")
    await terminal.press("C-c")
    await terminal.shows("— cut", ">>>")

    await terminal.type(f"/save {saved}")
    await terminal.shows("4 messages are in")
    asked, first, _, cut = json.loads(saved.read_text())["messages"]
    assert (asked["content"], first["content"].split()) == ("count down from 3", ["2", "1", "0"])
    assert cut["content"].startswith("899 898"), "what was seen of a cut answer belongs to the conversation"

    await terminal.press("C-l")
    await terminal.type('"""count')
    await terminal.type('down from 2"""')
    await terminal.shows("... down from 2", "1 0")
    await terminal.type("/modle")
    await terminal.shows("did you mean '/model'?")
    await terminal.type("/model ser")
    await terminal.shows("did you mean 'seer")
    picture = tmp_path / "pixel.png"
    picture.write_bytes(PIXEL)
    await terminal.type(f"what is {picture}?")
    await terminal.shows("does not see pictures", "/model seer")
    await terminal.type("/model seer")
    await terminal.shows("seer answers from now on")
    await terminal.type("/clear")
    await terminal.type(f"count down from 4 {picture}")
    await terminal.shows(f"shown: {picture}", "3 2 1 0")
    await terminal.ends(">>>")
    await terminal.press("C-d")
    await terminal.shows("left with 0", "/help lists the commands", ">>>")

    await terminal.press("Up", "Up")  # a new conversation finds the lines of the one before
    await terminal.shows(">>> /clear")
    await terminal.press("C-c")
    await terminal.shows("Ctrl-D or /bye leaves")
    await terminal.type("/bye")
    await terminal.shows("left again")
    history = tmp_path / "sollol" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
