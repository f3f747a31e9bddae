"""An agent in another language, written after the document alone: it is held to the protocol, and serves a fleet."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sollol_agents.lab.testing.processes import ProcessFleet, clean_environ, sollol
from sollol_bus.errors import SollolError
from sollol_bus.sdk.results import AnswerStream
from sollol_schemas.errors import ErrorCode

GO = Path(__file__).parents[2] / "examples" / "go"
BUILD_S = 120.0
MODEL = "countdown:latest"

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed"),
    pytest.mark.skipif(not GO.is_dir(), reason="the examples are in the checkout only"),
]


@pytest.fixture
async def agent(tmp_path: Path) -> str:
    program = tmp_path / "node"
    process = await asyncio.create_subprocess_exec(
        "go", "build", "-o", str(program), "./node", cwd=GO, env=clean_environ()
    )
    try:
        code = await asyncio.wait_for(process.wait(), BUILD_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        pytest.skip(f"go: not built within {BUILD_S:g} s")
    assert code == 0
    return str(program)


@contextlib.asynccontextmanager
async def running(program: str, node_id: str, nats_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environ = clean_environ() | {"SOLLOL_NATS": nats_url}
    process = await asyncio.create_subprocess_exec(program, node_id, env=environ)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def killing(process: asyncio.subprocess.Process, stream: AnswerStream) -> None:
    """Kills a node once it streams, and hears how that ends."""
    async with stream:
        async for _ in stream:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_it_keeps_the_protocol_of_nodes(agent: str) -> None:
    done = await sollol("", "node-check", "--run", f"{agent} go1", "--json")
    findings = msgspec.json.decode(done.out)
    seen = {one["rule"]: one["seen"] for one in findings if one["kept"] != "ok"}
    assert list(seen) == ["stream.parts", "continue", "cut", "control.set"], seen  # what it neither has nor can
    assert done.code == 0


async def test_it_serves_a_fleet_and_what_it_had_begun_ends_when_it_is_killed(agent: str, tmp_path: Path) -> None:
    async with ProcessFleet(tmp_path) as fleet:
        await fleet.up()
        async with running(agent, "go1", fleet.nats_url) as first, fleet.client() as client:
            await fleet.joined("go1")
            reply = await client.chat(MODEL, [{"role": "user", "content": "count down from 3"}])
            assert reply.text == "3 2 1 0 "
            stream = client.chat_stream(MODEL, [{"role": "user", "content": "count down from 5000"}])
            with pytest.raises(SollolError) as told:
                await killing(first, stream)
            assert told.value.body.code in (ErrorCode.NODE_LOST, ErrorCode.CONNECTION_LOST)
        async with running(agent, "go1", fleet.nats_url), fleet.client() as client:
            await fleet.joined("go1")
            reply = await client.chat(MODEL, [{"role": "user", "content": "count down from 1"}])
            assert reply.text == "1 0 "
