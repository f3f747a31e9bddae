"""Every command and program of the README is executed, in order, as it stands there.

Blocks marked `bash` and `python` run; `console` blocks show other machines or output and do not. Only the ports are
replaced by free ones. `make` is left to the command that runs this test. Where the `nats` command is missing, a plain
client of nats-py sends the same message and waits for the same end.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import nats
import pytest

from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import ConfigError, SollolError
from sollol_bus.sdk.client import Client

README = Path(__file__).parents[2] / "README.md"
PORTS = ("14222", "18080", "18000")
PIECE = re.compile(r'"(?:response|content|text)": ?"([^"]*)"')
"""A piece of an answer, in any dialect."""

pytestmark = [
    pytest.mark.skipif(not README.is_file(), reason="the documents are in the checkout only"),
]


async def test_everything_in_the_readme_runs(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `engine` is not installed")
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    free = {port: str(free_port()) for port in PORTS}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SOLLOL_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    ran = 0
    background: list[asyncio.subprocess.Process] = []
    try:
        for language, text in blocks:
            for old, new in free.items():
                text = text.replace(old, new)  # noqa: PLW2901 the same text with free ports
            if language == "python":
                await run([sys.executable, "-c", text], environ)
            else:
                ran += await run_lines(text, environ, background)
                if background:
                    await eventually(lambda: has_node(free["14222"]), complaint="the README's node is up")
    finally:
        for process in reversed(background):
            if process.returncode is None:
                process.terminate()
                await asyncio.wait_for(process.wait(), 20)
    assert ran >= 10
    assert any(language == "python" for language, _ in blocks)


async def run_lines(text: str, environ: dict[str, str], background: list[asyncio.subprocess.Process]) -> int:
    """Runs each command of a block; those with `&` stay. Returns how many ran."""
    count = 0
    for line in text.replace("\\\n", " ").splitlines():
        command = line.partition(" #")[0].strip()
        if not command or command.startswith(("make ", "#")):
            continue
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            environ[name] = value
        elif command.startswith("nats ") and shutil.which("nats") is None:
            assert counts(await nats_request(command, environ)), command
        elif command.endswith("&"):
            argv = command.removesuffix("&").split()
            background.append(
                await asyncio.create_subprocess_exec(*argv, env=environ, stdout=asyncio.subprocess.DEVNULL)
            )
        else:
            output = await run(["bash", "-c", command.replace("curl ", "curl --fail-with-body ")], environ)
            assert "count 5" not in command or counts(output), f"{command}\n{output}"
        count += 1
    return count


def counts(output: str) -> bool:
    """Whether it answers `count 5`, as plain text or in pieces."""
    return "4 3 2 1 0" in output or "4 3 2 1 0" in "".join(PIECE.findall(output))


async def run(argv: list[str], environ: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, f"{argv[-1]}\n{output.decode()}"
    return output.decode()


async def nats_request(command: str, environ: dict[str, str]) -> str:
    """What `nats req` would print: the messages until an empty one."""
    subject, body = shlex.split(command.partition(" req ")[2])[:2]
    connection = await nats.connect(environ["SOLLOL_NATS"])
    try:
        inbox = connection.new_inbox()
        answers = await connection.subscribe(inbox)
        await connection.publish(subject, body.encode(), reply=inbox)
        told = ""
        while data := (await answers.next_msg(60)).data:
            told += data.decode()
        return told
    finally:
        await connection.close()


async def has_node(port: str) -> bool:
    try:
        async with Client(f"nats://127.0.0.1:{port}") as client:
            return any(view.telemetry.engine.is_reachable for view in (await client.nodes()).nodes)
    except (SollolError, ConfigError):
        return False  # not there yet
