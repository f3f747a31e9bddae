"""A node stops answers that go on elsewhere: when it leaves or drains, and when a scorer wants it to."""

from __future__ import annotations

import pytest

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.node_stage import NODE, Stage, staged
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode, error_of
from sollol_schemas import subjects
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.control import ControlCut, ControlDrain, ControlReply
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.execution import AttemptDone

LONG = "count 900"


def ends(stage: Stage) -> dict[str, ErrorCode | None]:
    """How each attempt ended."""
    return {one.attempt_id: None if isinstance(one, AttemptDone) else one.error.code for one in stage.dispatcher.ends()}


async def speaking(stage: Stage, number: int) -> None:
    """So many attempts have said something."""
    await eventually(lambda: stage.dispatcher.order.count("AttemptFirstToken") == number)


async def refusal(stage: Stage, cut: ControlCut) -> ErrorBody:
    """Why a cut is refused."""
    msg = await stage.bus.request(subjects.NODE_CONTROL.of(NODE), encode(cut))
    error = error_of(msg)
    assert error is not None
    return error


async def test_a_draining_node_stops_what_goes_on_elsewhere_and_finishes_the_rest(
    nats_server: EmbeddedServer, bus: Bus
) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=60.0) as stage:
        moving = stage.chat(LONG, is_resumable=True)
        staying = stage.chat("count 90")
        await speaking(stage, 2)
        told = len(stage.loads)
        reply = await stage.control(ControlDrain())
        assert (reply.is_draining, reply.in_flight) == (True, 2)
        await eventually(lambda: moving in ends(stage))
        assert ends(stage) == {moving: ErrorCode.MOVED}
        assert stage.loads[told].is_draining, "the scorer knows before a caller asks again"
        assert moving in [one.attempt_id for one in stage.loads[told].in_flight]
        (failed,) = stage.dispatcher.failures()
        assert failed.is_streaming
        assert (failed.error.message, failed.error.details) == ("its node takes no new work", {"reason": "drain"})
        told_caller = [error for msg in stage.dispatcher.heard if (error := error_of(msg)) is not None]
        assert [error.code for error in told_caller] == [ErrorCode.MOVED]
        await eventually(lambda: len(ends(stage)) == 2)
        assert ends(stage)[staying] is None
        await eventually(lambda: len(stage.outcomes) == 2)
        first = stage.outcomes[0]
        assert (first.status, first.code) == (OutcomeStatus.CANCELLED, ErrorCode.MOVED)


async def test_a_scorer_that_takes_office_is_told_what_may_be_moved(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, node={"slots": 8}, time_scale=1.0, decode_tps=60.0) as stage:
        free = stage.chat(LONG, is_resumable=True, deadline_s=90.0)
        rest = stage.chat(LONG, said=ContinueFrom(text="899", pieces=1, cuts=2), is_resumable=True)
        bound = stage.chat(LONG, is_resumable=True, is_bound=True)
        alone = stage.chat(LONG)
        await eventually(lambda: len(stage.node.in_flight()) == 4)
        told = {one.attempt_id: one.movable for one in stage.node.telemetry().in_flight}
        assert (told[bound], told[alone]) == (None, None)
        movable, moved_before = told[free], told[rest]
        assert movable is not None
        assert moved_before is not None
        assert (movable.priority, movable.cuts, moved_before.cuts) == (5, 0, 2)
        assert 60.0 < movable.deadline_s <= 90.0


async def test_what_has_said_nothing_is_free_to_begin_elsewhere(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus) as stage:
        stage.engine.inject(Fault(kind=FaultKind.HANG, times=2))
        attempts = [stage.chat(LONG, is_resumable=True), stage.chat(LONG, is_resumable=True, stream=False)]
        await eventually(lambda: len(stage.node.in_flight()) == 2)
        await stage.control(ControlDrain())
        await eventually(lambda: len(ends(stage)) == 2)
        assert ends(stage) == dict.fromkeys(attempts, ErrorCode.DRAINING)
        assert not any(one.is_streaming for one in stage.dispatcher.failures())


async def test_answers_finish_where_they_are_if_that_is_wished(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=60.0) as stage:
        short = stage.chat("count 60", is_resumable=True)
        long = stage.chat(LONG, is_resumable=True)
        await speaking(stage, 2)
        await stage.control(ControlDrain(lets_finish=True))
        await eventually(lambda: bool(ends(stage)))
        assert ends(stage) == {short: None}
        await stage.control(ControlDrain())
        await eventually(lambda: len(ends(stage)) == 2)
        assert ends(stage)[long] is ErrorCode.MOVED


async def test_a_node_may_be_set_to_finish_its_answers(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, node={"hand_over": False}, time_scale=1.0, decode_tps=60.0) as stage:
        attempt = stage.chat("count 60", is_resumable=True)
        await speaking(stage, 1)
        await stage.control(ControlDrain())
        await eventually(lambda: bool(ends(stage)))
        assert ends(stage) == {attempt: None}


@pytest.mark.shutdown
async def test_a_leaving_node_hands_over_instead_of_finishing(nats_server: EmbeddedServer, bus: Bus) -> None:
    settings = {"slots": 8, "drain_timeout_s": 30.0}
    async with staged(nats_server, bus, node=settings, time_scale=1.0, decode_tps=20.0) as stage:
        attempts = [stage.chat(LONG, is_resumable=True) for _ in range(8)]
        await speaking(stage, 8)
    await eventually(lambda: any(one.has_left for one in stage.loads))
    assert ends(stage) == dict.fromkeys(attempts, ErrorCode.MOVED)
    assert [one.code for one in stage.outcomes] == [ErrorCode.MOVED] * 8
    assert stage.dispatcher.order.count("end") == 8


@pytest.mark.shutdown
async def test_the_last_of_a_fleet_finishes_its_answers(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=60.0) as stage:
        attempt = stage.chat("count 60", is_resumable=True)
        await speaking(stage, 1)
        stage.node.is_last = True
    assert ends(stage) == {attempt: None}


async def test_a_cut_frees_the_slot_and_the_engine_at_once(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, node={"slots": 1}, time_scale=1.0, decode_tps=20.0) as stage:
        attempt = stage.chat(LONG, is_resumable=True, term=3)
        await speaking(stage, 1)
        reply = await stage.control(ControlCut(attempt_id=attempt, term=3, reason="moved to n2", cause="rebalance"))
        assert isinstance(reply, ControlReply)
        await eventually(lambda: bool(ends(stage)))
        assert stage.dispatcher.failures()[0].error == ErrorBody(
            code=ErrorCode.MOVED, message="moved to n2", details={"reason": "rebalance"}
        )
        await eventually(lambda: not stage.node.telemetry().in_flight)
        urgent = stage.chat("count 3", term=3)
        await eventually(lambda: len(ends(stage)) == 2)
        assert ends(stage)[urgent] is None


async def test_cuts_that_cannot_be_are_refused_with_their_reason(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, node={"drain_timeout_s": 0.1}, time_scale=1.0, decode_tps=60.0) as stage:
        over = stage.chat("count 1", is_resumable=True, term=5)
        await eventually(lambda: over in ends(stage))
        staying = stage.chat(LONG, term=5)
        resumable = stage.chat(LONG, is_resumable=True, term=5)
        whole = stage.chat(LONG, is_resumable=True, stream=False, term=5)
        await speaking(stage, 3)
        await eventually(
            lambda: any(one.attempt_id == whole and one.output_tokens for one in stage.node.telemetry().in_flight)
        )
        refused = {
            name: await refusal(stage, ControlCut(attempt_id=attempt, term=term))
            for name, attempt, term in (
                ("over", over, 5),
                ("stays", staying, 5),
                ("whole", whole, 5),
                ("unknown", "r99-1", 5),
                ("stale", resumable, 4),
            )
        }
        assert {name: error.code for name, error in refused.items()} == {
            "over": ErrorCode.CONFLICT,
            "stays": ErrorCode.CONFLICT,
            "whole": ErrorCode.CONFLICT,
            "unknown": ErrorCode.UNKNOWN_REQUEST,
            "stale": ErrorCode.STALE_TERM,
        }
        assert ends(stage) == {over: None}
        assert "does not go on elsewhere" in refused["stays"].message
        assert "begin anew" in refused["whole"].message
        await stage.control(ControlCut(attempt_id=resumable, term=6))
        await eventually(lambda: resumable in ends(stage))
        again = await refusal(stage, ControlCut(attempt_id=resumable, term=6))
        assert again.code is ErrorCode.CONFLICT, "a cut is heeded once"
