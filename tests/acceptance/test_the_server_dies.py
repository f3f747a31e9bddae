"""kill -9 of nats-server: it comes back on its port, everybody reconnects, and nothing stale is delivered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Callable

import psutil

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import ConnectionLost, SollolError
from sollol_bus.sdk.results import Answer, AnswerStream
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas import subjects

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL, "--parallel", "16")


def server_pid(up_pid: int) -> int:
    return next(p.pid for p in psutil.Process(up_pid).children(recursive=True) if p.name() == "nats-server")


async def test_the_system_works_again_after_the_servers_death(
    fleet: ProcessFleet, figure: Callable[[str], None]
) -> None:
    up = await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS, "--decode-tps", "400")
    await fleet.node("attic", engine.url)
    async with fleet.client() as client:
        await client.generate(MODEL, "count down from 2")
        old = server_pid(up.pid)
        os.kill(old, signal.SIGKILL)
        killed_at = time.monotonic()
        answers: list[Answer] = []

        async def is_answered() -> bool:
            with contextlib.suppress(SollolError):
                answers.append(await client.generate(MODEL, "count down from 2"))
            return bool(answers)

        await eventually(is_answered)
        took_s = time.monotonic() - killed_at
        assert server_pid(up.pid) != old
    figure(f"an answer {took_s:.2f} s after kill -9 of nats-server")
    assert answers[0].text.split() == ["1", "0"]


async def test_what_had_not_begun_is_answered_once_and_what_streamed_ends_with_an_error(fleet: ProcessFleet) -> None:
    up = await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS, "--decode-tps", "10")
    await fleet.node("attic", engine.url, "--slots", "4")
    heard: list[str] = []
    async with fleet.client() as client, asyncio.TaskGroup() as group:
        stream = client.generate_stream(MODEL, "count down from 100", resume=False)
        listening = group.create_task(_listen(stream, heard))
        await eventually(lambda: len(heard) >= 3)
        await engine.add_fault(Fault(kind=FaultKind.STALL, times=3, duration_s=0.7))
        early = [group.create_task(client.generate(MODEL, f"count down from {n}")) for n in (2, 3, 4)]
        await eventually(engine.holds, 4)
        os.kill(server_pid(up.pid), signal.SIGKILL)
        error = await listening
        answers = [await task for task in early]
    assert isinstance(error, ConnectionLost)
    assert heard == [str(n) for n in range(99, 99 - len(heard), -1)]
    assert [a.text.split() for a in answers] == [[str(m) for m in range(n - 1, -1, -1)] for n in (2, 3, 4)]


async def test_no_token_from_before_the_death_is_delivered_after_it(fleet: ProcessFleet) -> None:
    up = await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS, "--decode-tps", "50")
    await fleet.node("attic", engine.url)
    bus = await Bus.connect(fleet.bus_config())
    heard: list[Msg] = []
    inbox = bus.new_inbox()
    bus.subscribe(inbox, heard.append)
    body = {"model": MODEL, "prompt": "count down from 400", "stream": True}
    bus.publish(subjects.GENERATE, encode(body), reply=inbox)
    await eventually(lambda: len(heard) >= 5)
    os.kill(server_pid(up.pid), signal.SIGKILL)
    await eventually(lambda: not bus.is_connected)
    await eventually(lambda: bus.is_connected)
    await eventually(engine.holds, 0, complaint="the stream across the gap was stopped")
    await fleet.joined("attic")
    await bus.flush()
    await bus.close()
    words = re.findall(rb'"response":"\s*(\d+)"', b"".join(msg.data for msg in heard if msg.data))
    assert [int(w) for w in words] == list(range(399, 399 - len(words), -1)), "no gap and nothing twice"


async def test_questions_and_the_recorder_go_on_after_the_servers_death(fleet: ProcessFleet) -> None:
    up = await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS)
    await fleet.node("attic", engine.url)
    async with fleet.client() as client:
        await client.generate(MODEL, "count down from 2")
        os.kill(server_pid(up.pid), signal.SIGKILL)
        await eventually(lambda: not client.bus.is_connected)
        await eventually(lambda: client.bus.is_connected)
        await fleet.joined("attic")
        await client.generate(MODEL, "count down from 2")

        async def is_written() -> bool:
            try:
                return (await client.stats()).total.successes == 2
            except SollolError:
                return False  # the recorder is on its way back into office

        await eventually(is_written, complaint="both outcomes are recorded, once each")


async def _listen(stream: AnswerStream, heard: list[str]) -> SollolError | None:
    try:
        async with stream:
            async for chunk in stream:
                heard.append(chunk.text.strip())  # noqa: PERF401 others read the list meanwhile
    except SollolError as error:
        return error
    return None
