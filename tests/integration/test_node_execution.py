"""The node monitor on a real bus with an emulated engine; the tests play the dispatcher and the caller."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.messages import decision
from sollol_agents.lab.testing.node_stage import EMBEDDER, MODEL, NODE, Stage, staged
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.control import AttemptState, ControlAttempt
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.execution import (
    AttemptAccepted,
    AttemptDone,
    AttemptFailed,
    AttemptFirstToken,
    AttemptStart,
    CancelAttempt,
    Exec,
    Figures,
)


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


@pytest.mark.parametrize("attempt_id", ["r9.x-1", "r9-1 x 0\r\n\r\nPING\r\n", "*", ""])
async def test_an_exec_whose_attempts_id_is_no_token_of_a_subject_is_ignored(
    stage: Stage, bus: Bus, attempt_id: str
) -> None:
    told: list[str] = []
    bus.subscribe(subjects.ATTEMPT.of(NODE, ">"), lambda msg: told.append(msg.subject))
    decided = decision(attempt_id, NODE, request_id="r9", instance=stage.node.instance, model=MODEL)
    headers = {h.EXEC: encode(Exec(decision=decided)).decode(), h.REPLY_TO: bus.new_inbox()}
    bus.publish(subjects.NODE_EXEC.of(NODE), b'{"model": "m"}', headers=headers)
    mine = stage.chat("count 2")
    await eventually(lambda: bool(stage.dispatcher.ends()))
    assert set(told) == {subjects.ATTEMPT.of(NODE, mine)}


@pytest.mark.parametrize("node_id", ["another", f"{NODE} x 0\r\n\r\nPING\r\n", "", "*"])
async def test_an_exec_that_names_another_node_is_ignored(stage: Stage, bus: Bus, node_id: str) -> None:
    told: list[str] = []
    bus.subscribe(subjects.ATTEMPT.of("*", ">"), lambda msg: told.append(msg.subject))
    decided = decision("r9-1", node_id, request_id="r9", instance=stage.node.instance, model=MODEL)
    headers = {h.EXEC: encode(Exec(decision=decided)).decode(), h.REPLY_TO: bus.new_inbox()}
    bus.publish(subjects.NODE_EXEC.of(NODE), b'{"model": "m"}', headers=headers)
    mine = stage.chat("count 2")
    await eventually(lambda: bool(stage.dispatcher.ends()))
    assert set(told) == {subjects.ATTEMPT.of(NODE, mine)}
    assert not stage.node.bus.reconnects


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


async def test_a_caller_of_one_reply_that_leaves_frees_the_slot_while_the_engine_works(
    nats_server: EmbeddedServer, bus: Bus
) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=1.0) as stage:
        stage.chat("count 900", stream=False)
        await eventually(lambda: stage.engine.in_flight == 1)
        stage.dispatcher.inbox.unsubscribe()
        await eventually(lambda: bool(stage.outcomes))
        assert stage.outcomes[0].code is ErrorCode.CANCELLED
        await eventually(lambda: stage.engine.in_flight == 0)


async def test_a_caller_that_waits_hears_its_reply_alone_however_often_it_was_looked_for(
    nats_server: EmbeddedServer, bus: Bus
) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=10.0) as stage:
        looks: list[Msg] = []
        bus.subscribe(subjects.ATTEMPT.of(NODE, "traced"), looks.append)
        stage.chat("count 12", stream=False)
        await eventually(lambda: bool(stage.outcomes))
        assert stage.outcomes[0].status is OutcomeStatus.SUCCESS
        assert len(looks) > 0
        assert [error_of(msg) for msg in stage.dispatcher.heard] == [None]
        assert stage.dispatcher.heard[0].data


async def test_a_piece_that_reaches_nobody_while_servers_come_and_go_is_lost_and_proves_no_leaving(
    nats_server: EmbeddedServer, bus: Bus
) -> None:
    async with staged(nats_server, bus, decode_tps=30.0, time_scale=1.0) as stage:
        stage.chat("count down from 100")
        await eventually(lambda: len(stage.dispatcher.heard) > 2)
        stage.node.bus._on_cluster_changed()
        stage.dispatcher.inbox.unsubscribe()
        await eventually(lambda: bool(stage.outcomes))
        assert stage.outcomes[0].code is ErrorCode.CONNECTION_LOST


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
