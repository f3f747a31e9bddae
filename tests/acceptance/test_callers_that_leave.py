"""A caller that leaves gives its slot back: at once with a cancel message, at the next token without."""

from __future__ import annotations

import asyncio
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.processes import Emulator, ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas import subjects

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)
TOKEN_S = 0.2


@pytest.fixture
async def engine(fleet: ProcessFleet) -> Emulator:
    await fleet.up()
    emulator = await fleet.emulator("attic", *FLAGS, "--decode-tps", str(1 / TOKEN_S))
    await fleet.node("attic", emulator.url)
    return emulator


async def test_a_cancelled_stream_frees_the_engine(
    fleet: ProcessFleet, engine: Emulator, figure: Callable[[str], None]
) -> None:
    delays_s = []
    async with fleet.client() as client:
        for _ in range(5):
            async with client.generate_stream(MODEL, "count down from 300") as stream:
                async for _chunk in stream:
                    break
                assert await engine.in_flight() == 1
                stream.cancel()
                began = time.monotonic()
                await eventually(engine.holds, 0)
                delays_s.append(time.monotonic() - began)
    figure(f"cancel to a free slot: median {statistics.median(delays_s) * 1000:.0f} ms of {len(delays_s)}")


async def test_a_request_cancelled_before_its_first_token_frees_the_engine(
    fleet: ProcessFleet, engine: Emulator
) -> None:
    await engine.add_fault(Fault(kind=FaultKind.HANG))
    async with fleet.client() as client:
        async with client.generate_stream(MODEL, "count down from 300"):
            await eventually(lambda: _is_busy(engine))
        await eventually(engine.holds, 0)
        answer = await client.generate(MODEL, "count down from 2")
    assert answer.text.split() == ["1", "0"]


async def test_a_request_cancelled_while_it_waits_never_runs(fleet: ProcessFleet, engine: Emulator) -> None:
    async with fleet.client() as client:
        async with client.generate_stream(MODEL, "count down from 300") as first:
            async for _chunk in first:
                break
            async with client.generate_stream(MODEL, "count down from 3"):
                await eventually(lambda: _has_waiting(client, 1))
            await eventually(lambda: _has_waiting(client, 0))
        await eventually(engine.holds, 0)
    assert (await engine.state())["requests"]["/api/generate"] == 1


async def test_a_plain_caller_that_vanishes_frees_the_engine_at_the_next_token(
    fleet: ProcessFleet, engine: Emulator, figure: Callable[[str], None]
) -> None:
    bus = await Bus.connect(fleet.bus_config())
    chunks: list[bytes] = []
    inbox = bus.new_inbox()
    bus.subscribe(inbox, lambda msg: chunks.append(msg.data))
    body = {"model": MODEL, "prompt": "count down from 300", "stream": True}
    bus.publish(subjects.GENERATE, encode(body), reply=inbox)
    await eventually(lambda: len(chunks) >= 2)
    await bus.close()
    began = time.monotonic()
    await eventually(engine.holds, 0)
    took_s = time.monotonic() - began
    figure(f"vanished to a free slot: {took_s * 1000:.0f} ms with a token every {TOKEN_S * 1000:.0f} ms")


async def test_callers_of_single_replies_that_give_up_free_a_node_of_one_slot(
    fleet: ProcessFleet, engine: Emulator, figure: Callable[[str], None]
) -> None:
    bus = await Bus.connect(fleet.bus_config())
    body = encode({"model": MODEL, "prompt": "count down from 300"})  # a minute each
    subscriptions = []
    for _ in range(3):
        inbox = bus.new_inbox()
        subscriptions.append(bus.subscribe(inbox, lambda _: None))
        bus.publish(subjects.GENERATE, body, reply=inbox)
    await eventually(lambda: _is_busy(engine))
    began = time.monotonic()
    for subscription in subscriptions:
        subscription.unsubscribe()
    async with fleet.client() as client:
        answer = await client.generate(MODEL, "count down from 2")
    assert answer.text.split() == ["1", "0"]
    figure(f"three given up, one slot: the next answer after {time.monotonic() - began:.1f} s")
    await bus.close()


async def test_ctrl_c_at_the_terminal_cancels_the_request_on_the_fleet(
    fleet: ProcessFleet, engine: Emulator, tmp_path: Path
) -> None:
    argv = ("-m", "sollol_agents.cli", "generate", MODEL, "count down from 300", "--nats", fleet.nats_url)

    async def has_begun() -> bool:
        return (await asyncio.to_thread((tmp_path / "out").stat)).st_size > 4

    with (tmp_path / "out").open("wb") as out:
        process = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=out)
        try:
            await eventually(has_begun)
            process.send_signal(signal.SIGINT)
            await eventually(engine.holds, 0)
            assert await asyncio.wait_for(process.wait(), 10) == 130
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_nothing_reaches_an_inbox_after_the_end_of_its_stream(fleet: ProcessFleet, engine: Emulator) -> None:
    bus = await Bus.connect(fleet.bus_config())
    heard: list[Msg] = []
    inbox = bus.new_inbox()
    bus.subscribe(inbox, heard.append)
    body = {"model": MODEL, "prompt": "count down from 3", "stream": True}
    bus.publish(subjects.GENERATE, encode(body), reply=inbox)
    await eventually(lambda: bool(heard) and not heard[-1].data)
    await eventually(engine.holds, 0)
    count = len(heard)
    await bus.request(subjects.NODES)
    await bus.flush()
    await bus.close()
    assert len(heard) == count


async def _has_written(path: Path) -> bool:
    return (await asyncio.to_thread(path.stat)).st_size > 4


async def _is_busy(engine: Emulator) -> bool:
    return await engine.in_flight() > 0


async def _has_waiting(client: Client, wanted: int) -> bool:
    return (await client.nodes()).queued == wanted
