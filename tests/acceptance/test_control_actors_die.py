"""Scorer and dispatcher are killed while requests wait and run; a suspended node wakes too late to speak."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sollol_agents.children import Child
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.results import Answer, AnswerStream
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import subjects
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.events import OfficeEvent, OutcomeStatus

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)
WAITING = 50
NEIGHBOURS = 5


@pytest.fixture
async def spread(fleet: ProcessFleet, tmp_path: Path) -> AsyncIterator[ProcessFleet]:
    """A server and every control actor as a process of its own; two scorers and two dispatchers."""
    async with EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"))) as server:
        fleet.nats_url = server.url
        await fleet.actor("recorder", "--database", str(tmp_path / "recorder.sqlite3"))
        for number in (1, 2):
            await fleet.actor("scorer", name=f"scorer-{number}")
            await fleet.actor("dispatcher", name=f"dispatcher-{number}")
        yield fleet
        for child in reversed(fleet.children):
            await child.close()


def child_of(fleet: ProcessFleet, role: str, instance: str) -> Child:
    return next(c for c in fleet.children if c.served.get(role, "").endswith(instance))


async def test_a_standby_takes_over_from_a_killed_scorer_and_keeps_every_age(
    spread: ProcessFleet, figure: Callable[[str], None]
) -> None:
    engine = await spread.emulator("attic", *FLAGS, "--decode-tps", "400")
    await spread.node("attic", engine.url)
    await engine.add_fault(Fault(kind=FaultKind.HANG))
    granted: list[str] = []
    async with spread.client() as client, asyncio.TaskGroup() as group:
        blocker = group.create_task(_take(client.generate_stream(MODEL, "count down from 2")))
        await eventually(engine.holds, 1)
        waited: list[str] = []
        tasks: list[asyncio.Task[Answer]] = []
        for number in range(1, WAITING + 1):
            stream = client.generate_stream(MODEL, "count down from 4")
            waited.append(stream.request_id)
            tasks.append(group.create_task(_take(stream)))
            await eventually(_queued, client, number)
        sent_at = time.monotonic()
        await asyncio.sleep(1.0)  # an age that the new scorer can only have been told
        killed_at = time.monotonic()
        offices: list[OfficeEvent] = []
        client.bus.subscribe(subjects.OFFICE_EVENT.all, lambda msg: offices.append(decode(msg.data, OfficeEvent)))
        client.bus.subscribe(
            subjects.ROUTING_EVENT.all, lambda msg: granted.append(decode(msg.data, DecisionEvent).decision.request_id)
        )
        first = (await client.nodes()).scorer
        child_of(spread, "scorer", first).kill()
        await eventually(
            lambda: any(e.is_leader and e.instance != first for e in offices), complaint="the standby is in office"
        )
        took_over_s = time.monotonic() - killed_at
        blocker.cancel()
        answers = [await task for task in tasks]
        await eventually(lambda: set(waited) <= set(granted))
    figure(f"standby in office {took_over_s:.2f} s after kill -9 of the scorer, {WAITING} waiting, all answered")
    order = [r for r in granted if r in waited]
    moved = [abs(order.index(r) - place) for place, r in enumerate(waited)]
    # two dispatchers' clocks are compared by the way of one message each, which a busy machine makes as long as the
    # gap between two or three of these requests
    assert max(moved) <= NEIGHBOURS, f"the order of the queue survived: {moved}"
    assert all(a.decision is not None and a.decision.queue_s >= killed_at - sent_at for a in answers)


async def test_streams_outlive_the_dispatcher_and_what_had_not_begun_goes_through_another(
    spread: ProcessFleet, figure: Callable[[str], None]
) -> None:
    engine = await spread.emulator("attic", *FLAGS, "--parallel", "64", "--decode-tps", "20")
    await spread.node("attic", engine.url, "--slots", "6")
    async with spread.client() as client, asyncio.TaskGroup() as group:
        streams = [client.generate_stream(MODEL, f"count down from {60 + n}") for n in range(6)]
        running = [group.create_task(_take(stream)) for stream in streams]
        await eventually(lambda: all(stream.decision is not None for stream in streams))
        waiting = [group.create_task(client.generate(MODEL, "count down from 3")) for _ in range(12)]
        await eventually(lambda: _queued(client, 12))
        victims = {stream._call.dispatcher for stream in streams}
        victim = next(instance for instance in victims if instance)
        child_of(spread, "dispatcher", victim).kill()
        began = time.monotonic()
        assert [a.text.split()[-1] for a in [await task for task in running]] == ["0"] * 6
        assert [(await task).text.split() for task in waiting] == [["2", "1", "0"]] * 12
        figure(f"6 streams finished and 12 waiting requests were answered {time.monotonic() - began:.1f} s later")
        for stream in streams:
            await eventually(_is_recorded, client, stream.request_id)


async def test_a_suspended_node_that_wakes_after_the_failover_never_reaches_the_caller(spread: ProcessFleet) -> None:
    asleep_engine, other = [await spread.emulator(name, *FLAGS) for name in ("asleep", "other")]
    asleep = await spread.node("asleep", asleep_engine.url)
    await spread.node("other", other.url)
    await asleep_engine.add_fault(Fault(kind=FaultKind.STALL, after_tokens=0, duration_s=1.5))
    bus = await Bus.connect(spread.bus_config())
    heard: list[Msg] = []
    inbox = bus.new_inbox()
    bus.subscribe(inbox, heard.append)
    body = {"model": MODEL, "prompt": "count down from 9", "stream": True, "node_id": "asleep"}
    bus.publish(subjects.GENERATE, encode(body), reply=inbox)
    await eventually(asleep_engine.holds, 1)
    asleep.signal(signal.SIGSTOP)
    await eventually(lambda: bool(heard) and not heard[-1].data, complaint="another node answered")
    at_the_end = len(heard)
    asleep.signal(signal.SIGCONT)
    await spread.joined("asleep")
    await eventually(asleep_engine.holds, 0, complaint="the woken node gave its attempt up")
    async with spread.client() as client:
        assert (await client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]
    await bus.flush()
    await bus.close()
    assert len(heard) == at_the_end
    words = re.findall(rb'"response":"([^"]*)"', b"".join(msg.data for msg in heard))
    assert b"".join(words).split() == [str(n).encode() for n in range(8, -1, -1)]


async def test_without_any_dispatcher_a_caller_is_told_what_to_start(spread: ProcessFleet) -> None:
    for number in (1, 2):
        await child_of(spread, "dispatcher", _instance(spread, f"dispatcher-{number}")).close()
    async with spread.client() as client:
        with pytest.raises(SollolError, match="dispatcher"):
            await client.generate(MODEL, "count down from 2")


def _instance(fleet: ProcessFleet, name: str) -> str:
    child = next(c for c in fleet.children if c.name == name)
    return child.served["dispatcher"].rpartition(" ")[2]


async def _take(stream: AnswerStream) -> Answer:
    async with stream:
        async for _ in stream:
            pass
    return stream.answer


async def _queued(client: Client, wanted: int) -> bool:
    return (await client.nodes()).queued == wanted


async def _is_recorded(client: Client, request_id: str) -> bool:
    try:
        return any(o.status is OutcomeStatus.SUCCESS for o in (await client.why(request_id)).outcomes)
    except SollolError:
        return False  # nothing is known yet
