"""SIGTERM: announce, stop intake, finish, hand back, flush, close; a second signal hurries."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from pathlib import Path

import msgspec
import psutil
import pytest

from sollol_agents.children import Child
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.results import AnswerStream
from sollol_schemas.telemetry import NodeState

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)

pytestmark = [pytest.mark.shutdown]


async def actions(child: Child) -> list[str]:
    lines = [msgspec.json.decode(line) for line in (await child.log_text()).splitlines() if line.startswith("{")]
    return [f"{line['action']} {line['message']}" for line in lines if "action" in line]


async def test_sigterm_ends_every_actor_in_order_and_leaves_nothing_running(fleet: ProcessFleet) -> None:
    up = await fleet.up()
    below = psutil.Process(up.pid).children(recursive=True)
    up.signal(signal.SIGTERM)
    assert await asyncio.wait_for(up.wait(), 15) == 0
    stopped = [a.split()[1] for a in await actions(up) if a.startswith("actor_stopped")]
    assert stopped == ["gateway", "dispatcher", "scorer", "recorder"]
    assert not [p for p in below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


async def test_a_node_finishes_what_it_runs_and_takes_nothing_new(fleet: ProcessFleet) -> None:
    await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS, "--decode-tps", "20", "--parallel", "4")
    node = await fleet.node("attic", engine.url, "--slots", "4")
    async with fleet.client() as client, asyncio.TaskGroup() as group:
        stream = client.generate_stream(MODEL, "count down from 30")
        finishing = group.create_task(_text(stream))
        await eventually(lambda: stream.decision is not None)
        node.signal(signal.SIGTERM)
        await eventually(lambda: _state_is(client, "attic", NodeState.DRAINING))
        other = await fleet.emulator("other", *FLAGS)
        await fleet.node("other", other.url)
        answer = await client.generate(MODEL, "count down from 2")
        assert answer.decision is not None
        assert answer.decision.node_id == "other"
        assert (await finishing).split()[-1] == "0"
    assert await asyncio.wait_for(node.wait(), 15) == 0


async def test_the_whole_system_lets_running_answers_finish(fleet: ProcessFleet) -> None:
    up = await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS, "--decode-tps", "20")
    await fleet.node("attic", engine.url)
    async with fleet.client() as client, asyncio.TaskGroup() as group:
        stream = client.generate_stream(MODEL, "count down from 30")
        finishing = group.create_task(_text(stream))
        await eventually(lambda: stream.decision is not None)
        up.signal(signal.SIGTERM)
        assert (await finishing).split()[-1] == "0"
        assert await asyncio.wait_for(up.wait(), 15) == 0
    assert _recorded(fleet.folder / "store" / "recorder.sqlite3") == 1


async def test_a_second_signal_hurries_and_the_caller_is_told(fleet: ProcessFleet) -> None:
    up = await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS, "--decode-tps", "5")
    await fleet.node("attic", engine.url)
    async with fleet.client() as client, asyncio.TaskGroup() as group:
        stream = client.generate_stream(MODEL, "count down from 400")
        ending = group.create_task(_error(stream))
        await eventually(lambda: stream.decision is not None)
        up.signal(signal.SIGTERM)
        await eventually(lambda: _says(up, "stack_draining"))
        up.signal(signal.SIGTERM)
        assert await asyncio.wait_for(up.wait(), 20) == 0, "in less than the 30 s that running work may take"
        assert isinstance(await ending, SollolError)


async def test_a_drained_node_keeps_its_work_and_an_undrained_one_takes_more(fleet: ProcessFleet) -> None:
    await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS)
    await fleet.node("attic", engine.url)
    async with fleet.client() as client:
        await client.drain("attic")
        await eventually(lambda: _state_is(client, "attic", NodeState.DRAINING))
        with pytest.raises(SollolError, match="draining"):
            await client.generate(MODEL, "count down from 2")
        await client.undrain("attic")
        await eventually(lambda: _state_is(client, "attic", NodeState.UP))
        assert (await client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]


async def _says(child: Child, words: str) -> bool:
    return words in await child.log_text()


async def _text(stream: AnswerStream) -> str:
    async with stream:
        async for _ in stream:
            pass
    return stream.answer.text


async def _error(stream: AnswerStream) -> SollolError | None:
    try:
        await _text(stream)
    except SollolError as error:
        return error
    return None


async def _state_is(client: Client, node_id: str, state: NodeState) -> bool:
    return any(v.node_id == node_id and v.state is state for v in (await client.nodes()).nodes)


def _recorded(path: Path) -> int:
    with sqlite3.connect(path) as database:
        return int(database.execute("select count(*) from outcomes").fetchone()[0])
