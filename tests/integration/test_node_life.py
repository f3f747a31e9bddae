"""A node on a real bus: what it loads, tells and is told, and how it stops."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time

import pytest

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig, Fault, FaultKind
from sollol_agents.lab.testing.dispatcher import PlayedDispatcher
from sollol_agents.lab.testing.keeping import kept_by
from sollol_agents.lab.testing.node_stage import EMBEDDER, MODEL, NODE, Stage, staged
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_bus.errors import BusError, ConfigError
from sollol_bus.jetstream.api import api
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import stores, subjects
from sollol_schemas.control import (
    AttemptState,
    ControlAttempt,
    ControlDrain,
    ControlLoad,
    ControlPing,
    ControlPull,
    ControlSet,
    ControlUnload,
)
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus
from sollol_schemas.execution import AttemptDone, AttemptFailed, CancelAttempt
from sollol_schemas.telemetry import LoadUpdate


async def test_the_node_loads_a_model_by_its_own_request_and_learns_how_long_it_took(
    nats_server: EmbeddedServer, bus: Bus
) -> None:
    async with staged(nats_server, bus, preload=()) as stage:
        stage.chat("count 20", needs_load=True)
        await eventually(lambda: bool(stage.outcomes))
        figures = stage.outcomes[0].figures
        assert figures is not None
        assert figures.load_s > 0
        await eventually(lambda: any(s.load_s > 0 for s in stage.node.telemetry().speeds))


async def test_a_client_that_leaves_during_a_load_does_not_abort_it(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, preload=(), time_scale=2.0) as stage:
        attempt = stage.chat("count 20", needs_load=True)
        await eventually(lambda: any(one.is_loading for one in stage.node.telemetry().in_flight))
        bus.publish(subjects.NODE_CANCEL.of(NODE), encode(CancelAttempt(attempt_id=attempt)))
        await eventually(lambda: bool(stage.outcomes))
        await eventually(lambda: bool(stage.node.telemetry().loaded))


async def test_telemetry_tells_engine_models_machine_and_claim(stage: Stage) -> None:
    await eventually(lambda: bool(stage.telemetry))
    told = stage.telemetry[-1]
    assert told.engine.is_reachable
    assert told.engine.version
    assert told.revision > 0
    installed = {one.name: one for one in told.installed}
    assert set(installed) == {MODEL, f"{EMBEDDER}:latest"}
    assert installed[MODEL].kv_bytes_per_token > 0
    assert installed[f"{EMBEDDER}:latest"].slots == 1
    assert told.loaded[0].name == MODEL
    assert told.gpus[0].driver == "emulated"
    assert told.ram_total_mib > 0
    assert told.slots == 4


async def test_load_messages_are_at_once_and_at_most_twenty_a_second(stage: Stage) -> None:
    began = time.monotonic()
    for _ in range(100):
        stage.chat("count 1")
    await eventually(lambda: len(stage.dispatcher.ends()) == 100)
    await eventually(lambda: bool(stage.loads) and not stage.loads[-1].in_flight)
    elapsed_s = time.monotonic() - began
    assert 1 <= len(stage.loads) <= 20 * elapsed_s + 4
    sequence = [one.seq for one in stage.loads]
    assert sequence == sorted(set(sequence))


async def test_controls_ping_drain_set_load_and_unload(stage: Stage) -> None:
    assert (await stage.control(ControlPing())).instance == stage.node.instance
    assert (await stage.control(ControlDrain())).is_draining
    stage.chat("count 2")
    await eventually(lambda: bool(stage.dispatcher.ends()))
    end = stage.dispatcher.ends()[0]
    assert isinstance(end, AttemptFailed)
    assert end.error.code is ErrorCode.DRAINING
    assert not (await stage.control(ControlDrain(is_draining=False))).is_draining
    await stage.control(ControlSet(weight=2.5, labels={"room": "a"}))
    await eventually(lambda: any(one.weight == 2.5 and one.labels == {"room": "a"} for one in stage.telemetry))
    assert (await stage.control(ControlUnload(model=MODEL))).error is None
    await eventually(lambda: not stage.node.telemetry().loaded)
    assert (await stage.control(ControlLoad(model=MODEL))).error is None
    await eventually(lambda: bool(stage.node.telemetry().loaded))


async def test_a_pull_streams_its_progress(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus) as stage:
        told: list[Msg] = []
        inbox = bus.new_inbox()
        bus.subscribe(inbox, told.append)
        bus.publish(subjects.NODE_CONTROL.of(NODE), encode(ControlPull(model=MODEL)), reply=inbox)
        await eventually(lambda: bool(told) and not told[-1].data)
        assert stage.node.state.value == "running"
        assert json.loads(told[0].data)


async def test_a_second_process_with_the_same_id_refuses_to_start(stage: Stage) -> None:
    config = NodeConfig(node_id=NODE, engine="ollama", url=stage.engine.url)
    with pytest.raises(ConfigError, match=f"taken: a living process on {socket.gethostname()}"):
        async with NodeMonitor(config, BusConfig(url=stage.server.url)):
            pass


async def test_an_unreachable_engine_is_told_and_found_later(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, node={"heartbeat_s": 0.1}) as stage:
        stage.engine.inject(Fault(kind=FaultKind.REFUSE, duration_s=1.0))
        await eventually(lambda: any(not one.engine.is_reachable for one in stage.telemetry))
        await eventually(lambda: stage.telemetry[-1].engine.is_reachable)


async def test_a_broken_bus_ends_what_streams_and_drops_what_does_not(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=30.0) as stage:
        stage.engine.inject(Fault(kind=FaultKind.HANG, times=1))
        silent = stage.chat("count 900")
        await eventually(lambda: len(stage.node.in_flight()) == 1)
        streaming = stage.chat("count 900")
        await eventually(lambda: len(stage.dispatcher.heard) > 2)
        await nats_server.kill()
        await eventually(lambda: stage.node.in_flight() == set())
        await nats_server.start()
        await eventually(lambda: stage.node.bus.is_connected and bus.is_connected)
        await stage.node.bus.flush()  # connected is not yet subscribed
        states = [(await stage.control(ControlAttempt(attempt_id=one))).attempt_state for one in (silent, streaming)]
        assert states == [AttemptState.ENDED_SILENT, AttemptState.ENDED_SPOKEN]

        async def has_lost_outcome() -> bool:
            question = {"last_by_subj": subjects.OUTCOME_EVENT.of(NODE)}
            try:
                answer = json.loads(await api(bus, f"STREAM.MSG.GET.{stores.EVENTS_STREAM}", question))
            except BusError:
                return False  # not stored yet
            outcome = decode(base64.b64decode(answer["message"]["data"]), Outcome)
            return outcome.code is ErrorCode.CONNECTION_LOST and outcome.status is OutcomeStatus.CANCELLED

        await eventually(has_lost_outcome)
        again = stage.chat("count 3")
        await eventually(lambda: any(one.attempt_id == again for one in stage.dispatcher.ends()))
        assert isinstance(stage.dispatcher.ends()[-1], AttemptDone)


@pytest.mark.shutdown
async def test_a_stopping_node_finishes_what_runs(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=60.0) as stage:
        stage.chat("count 40")
        await eventually(lambda: len(stage.dispatcher.heard) > 2)
    await eventually(lambda: bool(stage.outcomes))
    assert stage.outcomes[0].status is OutcomeStatus.SUCCESS
    assert any(one.is_draining for one in stage.loads)


@pytest.mark.shutdown
async def test_a_stopping_node_waits_until_its_last_outcome_is_stored(nats_server: EmbeddedServer, bus: Bus) -> None:
    async def make_stream_once_it_left() -> None:
        await eventually(lambda: any(one.has_left for one in loads))
        await provision(bus)

    loads: list[LoadUpdate] = []
    bus.subscribe(subjects.LOAD.all, lambda msg: loads.append(decode(msg.data, LoadUpdate)))
    dispatcher = PlayedDispatcher(bus, NODE)  # a stage would hear outcomes, so that a publish would meet a responder
    async with (
        asyncio.TaskGroup() as group,
        kept_by(bus),
        EmulatedNode(EmulatorConfig(preset="instant", model=(MODEL,))) as engine,
    ):
        config = NodeConfig(node_id=NODE, engine="ollama", url=engine.url)
        async with NodeMonitor(config, BusConfig(url=nats_server.url)) as node:
            dispatcher.send(node.instance, {"model": MODEL, "messages": []})
            await eventually(lambda: bool(dispatcher.ends()))
            group.create_task(make_stream_once_it_left())
    stored = json.loads(await api(bus, f"STREAM.INFO.{stores.EVENTS_STREAM}"))["state"]["messages"]
    assert stored == 1


@pytest.mark.shutdown
async def test_a_stopping_node_hands_back_what_does_not_finish_in_time(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, node={"drain_timeout_s": 0.2}, time_scale=1.0, decode_tps=20.0) as stage:
        stage.engine.inject(Fault(kind=FaultKind.HANG, times=1))
        stage.chat("count 900")
        await eventually(lambda: len(stage.node.in_flight()) == 1)
        stage.chat("count 900")
        await eventually(lambda: len(stage.dispatcher.heard) > 2)
    await eventually(lambda: len(stage.dispatcher.ends()) == 2)
    ends = {one.attempt_id: one for one in stage.dispatcher.ends() if isinstance(one, AttemptFailed)}
    assert {one.error.code for one in ends.values()} == {ErrorCode.DRAINING, ErrorCode.ACTOR_STOPPED}
    assert {one.is_streaming for one in ends.values()} == {True, False}
