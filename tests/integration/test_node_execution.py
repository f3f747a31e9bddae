"""The node monitor on a real bus with an emulated engine; the tests play the dispatcher and the caller."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig, Fault, FaultKind
from sollol_agents.lab.testing.dispatcher import PlayedDispatcher
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_bus.errors import BusError, ConfigError
from sollol_bus.jetstream.api import api
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_schemas import headers as h
from sollol_schemas import stores, subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.control import (
    AttemptState,
    ControlAttempt,
    ControlDrain,
    ControlLoad,
    ControlPing,
    ControlPull,
    ControlReply,
    ControlSet,
    ControlUnload,
)
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus
from sollol_schemas.execution import (
    AttemptAccepted,
    AttemptDone,
    AttemptFailed,
    AttemptFirstToken,
    AttemptStart,
    CancelAttempt,
    Figures,
)
from sollol_schemas.telemetry import LoadUpdate, Telemetry

MODEL = "countdown:latest"
EMBEDDER = "nomic-embed-text"
NODE = "n1"


class Stage:
    """Everything one test needs."""

    def __init__(self, bus: Bus, node: NodeMonitor, engine: EmulatedNode, server: EmbeddedServer) -> None:
        self.bus = bus
        self.dispatcher = PlayedDispatcher(bus, NODE)
        self.node = node
        self.engine = engine
        self.server = server
        self.outcomes: list[Outcome] = []
        self.telemetry: list[Telemetry] = []
        self.loads: list[LoadUpdate] = []
        bus.subscribe(subjects.OUTCOME_EVENT.all, lambda msg: self.outcomes.append(decode(msg.data, Outcome)))
        bus.subscribe(subjects.TELEMETRY.all, lambda msg: self.telemetry.append(decode(msg.data, Telemetry)))
        bus.subscribe(subjects.LOAD.all, lambda msg: self.loads.append(decode(msg.data, LoadUpdate)))

    def chat(self, text: str = "count 12", **more: Any) -> str:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        return self.dispatcher.send(self.node.instance, body | more.pop("body", {}), **more)

    async def control(self, request: Any) -> ControlReply:
        msg = await self.bus.request(subjects.NODE_CONTROL.of(NODE), encode(request))
        return decode(msg.data, ControlReply)


@asynccontextmanager
async def staged(
    server: EmbeddedServer, bus: Bus, *, node: dict[str, Any] | None = None, **engine: Any
) -> AsyncIterator[Stage]:
    settings = {
        "preset": "steady",
        "time_scale": 20.0,
        "model": ("countdown=1", EMBEDDER),
        "preload": (MODEL,),
        "parallel": 8,
    }
    config = msgspec.convert(settings | engine, EmulatorConfig)
    await provision(bus)
    async with EmulatedNode(config) as emulated:
        own = {"node_id": NODE, "engine": "ollama", "url": emulated.url, "slots": 4, "drain_timeout_s": 5.0}
        node_config = msgspec.convert(own | (node or {}), NodeConfig)
        async with NodeMonitor(node_config, BusConfig(url=server.url)) as monitor:
            stage = Stage(bus, monitor, emulated, server)
            await bus.flush()
            yield stage


@pytest.fixture
async def stage(nats_server: EmbeddedServer, bus: Bus) -> AsyncIterator[Stage]:
    async with staged(nats_server, bus) as made:
        yield made


def countdown(number: int) -> str:
    return " ".join(str(n) for n in range(number - 1, -1, -1))


async def test_a_stream_reaches_the_caller_whole_and_every_party_is_told(stage: Stage) -> None:
    attempt = stage.chat("count 12")
    dispatcher = stage.dispatcher
    await eventually(lambda: bool(dispatcher.ends()) and bool(stage.outcomes))
    assert dispatcher.text().strip() == countdown(12)
    first, last = dispatcher.heard[0], dispatcher.heard[-1]
    assert decode((first.headers or {})[h.DECISION].encode(), Decision).attempt_id == attempt
    assert last.data == b""
    assert int((last.headers or {})[h.CHUNKS]) == len(dispatcher.heard) - 1
    figures = decode((last.headers or {})[h.FIGURES].encode(), Figures)
    assert figures.output_tokens == 13
    assert [msg.reply.rpartition(".")[2] for msg in dispatcher.heard[:-1]] == [
        str(n) for n in range(1, len(dispatcher.heard))
    ]
    assert [type(one) for one in dispatcher.reports] == [AttemptAccepted, AttemptFirstToken, AttemptDone]
    assert dispatcher.order.index("AttemptFirstToken") < dispatcher.order.index("chunk")
    assert stage.outcomes[0].status is OutcomeStatus.SUCCESS
    assert stage.outcomes[0].attempt_id == attempt
    reply = await stage.control(ControlAttempt(attempt_id=attempt))
    assert reply.attempt_state is AttemptState.ENDED_SPOKEN


async def test_a_caller_without_a_stream_gets_one_reply_with_both_headers(stage: Stage) -> None:
    stage.chat("count 12", stream=False, body={"stream": False})
    await eventually(lambda: bool(stage.dispatcher.ends()))
    (msg,) = stage.dispatcher.heard
    reply = json.loads(msg.data)
    assert reply["message"]["content"].strip() == countdown(12)
    assert reply["done"] is True
    assert {h.DECISION, h.FIGURES} <= set(msg.headers or {})


async def test_an_embedding_is_one_reply(stage: Stage) -> None:
    body = {"model": EMBEDDER, "input": ["one two", "three"]}
    stage.dispatcher.send(stage.node.instance, body, kind=RequestKind.EMBED, stream=False)
    await eventually(lambda: bool(stage.dispatcher.ends()))
    assert len(json.loads(stage.dispatcher.heard[0].data)["embeddings"]) == 2


async def test_passthrough_carries_the_engines_bytes_and_content_type(stage: Stage) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "count 5"}], "stream": True}
    stage.dispatcher.send(stage.node.instance, body, kind=RequestKind.PASSTHROUGH, path="/v1/chat/completions")
    await eventually(lambda: bool(stage.dispatcher.ends()))
    raw = b"".join(msg.data for msg in stage.dispatcher.heard)
    assert raw.rstrip().endswith(b"data: [DONE]")
    assert (stage.dispatcher.heard[0].headers or {})[h.CONTENT_TYPE].startswith("text/event-stream")


async def test_beyond_its_slots_the_node_answers_busy_without_an_outcome(nats_server: EmbeddedServer, bus: Bus) -> None:
    settings = {"slots": 1, "drain_timeout_s": 0.1}
    async with staged(nats_server, bus, node=settings, time_scale=1.0, decode_tps=20.0) as stage:
        stage.chat("count 400")
        refused = stage.chat("count 3")
        await eventually(lambda: bool(stage.dispatcher.ends()))
        (end,) = stage.dispatcher.ends()
        assert isinstance(end, AttemptFailed)
        assert (end.attempt_id, end.error.code, end.is_streaming) == (refused, ErrorCode.BUSY, False)
        assert stage.node.in_flight() == {"r1-1"}


async def test_an_unknown_model_is_the_requests_fault(stage: Stage) -> None:
    stage.chat(body={"model": "nowhere"})
    await eventually(lambda: bool(stage.outcomes))
    (end,) = stage.dispatcher.ends()
    assert isinstance(end, AttemptFailed)
    assert end.error.code is ErrorCode.UNKNOWN_MODEL
    assert stage.outcomes[0].status is OutcomeStatus.CLIENT_ERROR
    assert stage.dispatcher.heard == []


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"reply_to": "sollol.v1.generate"}, ErrorCode.FORBIDDEN),
        ({"reply_to": "_INBOX_ctl.x"}, ErrorCode.FORBIDDEN),
        ({"reply_to": "_INBOX.*"}, ErrorCode.FORBIDDEN),
        ({"term": 0}, ErrorCode.STALE_TERM),
    ],
    ids=["not-an-inbox", "control-inbox", "wildcard", "older-term"],
)
async def test_what_may_not_run_is_refused_before_it_takes_a_slot(
    stage: Stage, more: dict[str, Any], code: ErrorCode
) -> None:
    stage.chat("count 1")
    await eventually(lambda: len(stage.dispatcher.ends()) == 1)
    stage.chat(**more)
    await eventually(lambda: len(stage.dispatcher.ends()) == 2)
    end = stage.dispatcher.ends()[-1]
    assert isinstance(end, AttemptFailed)
    assert end.error.code is code


async def test_an_exec_for_another_instance_is_ignored(stage: Stage) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "count 2"}]}
    stage.dispatcher.send("somebodyelse", body)
    mine = stage.chat("count 2")
    await eventually(lambda: bool(stage.dispatcher.ends()))
    assert {one.attempt_id for one in stage.dispatcher.reports} == {mine}


async def test_a_cancel_frees_the_slot_and_ends_the_stream(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=30.0) as stage:
        attempt = stage.chat("count 500")
        await eventually(lambda: len(stage.dispatcher.heard) > 2)
        bus.publish(subjects.NODE_CANCEL.of(NODE), encode(CancelAttempt(attempt_id=attempt, reason="enough")))
        await eventually(lambda: bool(stage.outcomes))
        assert stage.outcomes[0].status is OutcomeStatus.CANCELLED
        assert stage.node.in_flight() == set()
        await eventually(lambda: stage.engine.in_flight == 0)
        error, end = stage.dispatcher.heard[-2:]
        assert error_of(error) is not None
        assert end.data == b""
        (report,) = stage.dispatcher.ends()
        assert isinstance(report, AttemptFailed)
        assert report.is_streaming


async def test_a_caller_that_leaves_frees_the_slot_at_the_next_token(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=50.0) as stage:
        stage.chat("count 900")
        await eventually(lambda: len(stage.dispatcher.heard) > 2)
        stage.dispatcher.inbox.unsubscribe()
        await eventually(lambda: bool(stage.outcomes))
        assert stage.outcomes[0].status is OutcomeStatus.CANCELLED
        assert stage.outcomes[0].code is ErrorCode.CANCELLED
        await eventually(lambda: stage.engine.in_flight == 0)


async def test_without_permission_nothing_reaches_the_caller(stage: Stage) -> None:
    stage.dispatcher.go = False
    stage.chat("count 3")
    await eventually(lambda: bool(stage.outcomes))
    assert stage.dispatcher.heard == []
    assert stage.outcomes[0].status is OutcomeStatus.CANCELLED


async def test_after_its_lease_ran_out_the_node_asks_again(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, time_scale=1.0, preload=()) as stage:
        stage.chat("count 2", go_s=0.05, needs_load=True)
        await eventually(lambda: bool(stage.dispatcher.ends()))
        kinds = [type(one) for one in stage.dispatcher.reports]
        assert kinds == [AttemptAccepted, AttemptStart, AttemptFirstToken, AttemptDone]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(kind=FaultKind.END_EARLY, after_tokens=4), ErrorCode.ENGINE_PROTOCOL),
        (Fault(kind=FaultKind.TRUNCATE, after_tokens=4), ErrorCode.ENGINE_PROTOCOL),
        (Fault(kind=FaultKind.RESET, after_tokens=4), ErrorCode.ENGINE_PROTOCOL),
        (Fault(kind=FaultKind.ERROR_LINE, after_tokens=4), ErrorCode.ENGINE_FAILED),
    ],
    ids=["ends-early", "half-a-line", "reset", "error-line"],
)
async def test_a_broken_stream_ends_with_an_error_for_the_caller(stage: Stage, fault: Fault, code: ErrorCode) -> None:
    stage.engine.inject(fault)
    stage.chat("count 12")
    await eventually(lambda: bool(stage.outcomes))
    error = error_of(stage.dispatcher.heard[-2])
    assert error is not None
    assert error.code is code
    assert stage.dispatcher.heard[-1].data == b""
    assert stage.outcomes[0].status is OutcomeStatus.FAILED
    (report,) = stage.dispatcher.ends()
    assert isinstance(report, AttemptFailed)
    assert report.is_streaming


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(kind=FaultKind.WRONG_CONTENT), ErrorCode.ENGINE_PROTOCOL),
        (Fault(kind=FaultKind.RESET, times=2), ErrorCode.ENGINE_PROTOCOL),
        (Fault(kind=FaultKind.REFUSE, duration_s=30.0), ErrorCode.ENGINE_UNAVAILABLE),
        (Fault(kind=FaultKind.LOAD_ERROR), ErrorCode.LOAD_FAILED),
    ],
    ids=["not-an-answer", "reset", "refused", "load-error"],
)
async def test_an_engine_that_fails_before_the_first_token_costs_the_caller_nothing(
    stage: Stage, fault: Fault, code: ErrorCode
) -> None:
    stage.engine.inject(fault)
    stage.chat("count 12")
    await eventually(lambda: bool(stage.outcomes))
    (report,) = stage.dispatcher.ends()
    assert isinstance(report, AttemptFailed)
    assert (report.error.code, report.is_streaming) == (code, False)
    assert stage.dispatcher.heard == []
    assert stage.outcomes[0].status is OutcomeStatus.FAILED


async def test_a_stalled_engine_is_cut_off(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, node={"gap_floor_s": 0.3}) as stage:
        stage.engine.inject(Fault(kind=FaultKind.STALL, after_tokens=3))
        stage.chat("count 12")
        await eventually(lambda: bool(stage.outcomes))
        assert stage.outcomes[0].code is ErrorCode.STALLED
        await eventually(lambda: stage.engine.in_flight == 0)


async def test_the_deadline_ends_an_attempt_without_charging_the_node(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=20.0) as stage:
        stage.chat("count 900", deadline_s=0.5)
        await eventually(lambda: bool(stage.outcomes))
        assert stage.outcomes[0].code is ErrorCode.DEADLINE_EXCEEDED
        assert stage.outcomes[0].status is OutcomeStatus.CANCELLED


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
    async with asyncio.TaskGroup() as group, EmulatedNode(EmulatorConfig(preset="instant", model=(MODEL,))) as engine:
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
