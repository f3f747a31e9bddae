"""A dispatcher that did not hear how an attempt ended asks its node, and ends the caller's wait."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sollol_agents.dispatcher import questions
from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.lab.testing.scripted import ScriptedNode, ScriptedScorer, ask, begin, serve
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BackendUnavailable, ConnectionLost, RequestTimedOut
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.silence import MUTE
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_schemas import subjects
from sollol_schemas.control import (
    AttemptState,
    ControlReply,
    DispatcherPing,
    DispatcherPong,
    StateAnswer,
    StateQuestion,
)
from sollol_schemas.errors import ErrorCode

QUESTION = StateQuestion(node_id="n1", attempt_id="a1", within_s=0.1)
BODY = b'{"model":"m","prompt":"hi","stream":true}'


async def test_the_caller_hears_of_an_end_that_nobody_heard(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    ScriptedNode(actors_bus, "n1", begin).says = AttemptState.ENDED_SPOKEN
    await actors_bus.flush()
    with pytest.raises(ConnectionLost, match="may have been lost"):
        await ask(bus)
    assert not dispatcher.in_flight()


async def test_a_caller_of_one_reply_is_told_too(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    ScriptedNode(actors_bus, "n1", lambda node, attempt: node.accept(attempt)).says = AttemptState.ENDED_SPOKEN
    await actors_bus.flush()
    error = error_of(await bus.request(subjects.GENERATE, b'{"model":"m","prompt":"hi"}', timeout_s=20))
    assert error is not None
    assert error.code is ErrorCode.CONNECTION_LOST


async def test_a_report_that_comes_after_all_counts(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    def on_exec(made: ScriptedNode, attempt: str) -> None:
        begin(made, attempt)
        attempts.append(attempt)

    attempts: list[str] = []
    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", on_exec)
    node.says = AttemptState.ENDED_SPOKEN
    actors_bus.subscribe(
        subjects.NODE_CONTROL.of("n1"),
        lambda _: node.finish(attempts[0]) if attempts else None,
    )
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']


async def test_an_attempt_that_ended_unheard_before_it_spoke_is_tried_elsewhere(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1", "n2"])
    ScriptedNode(actors_bus, "n1", lambda node, attempt: node.accept(attempt)).says = AttemptState.ENDED_SILENT
    ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']
    assert scorer.asked[-1].excluded == ("n1",)


async def test_an_attempt_that_its_node_forgot_is_lost(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    ScriptedNode(actors_bus, "n1", begin).says = AttemptState.UNKNOWN
    await actors_bus.flush()
    with pytest.raises(BackendUnavailable, match="has forgotten it"):
        await ask(bus)


async def test_an_attempt_that_runs_is_left_alone(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", begin)
    node.says = AttemptState.STREAMING
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: node.probes > 10)
        node.finish(node.execs[0].attempt_id)
        assert [msg.data async for msg in call] == [b'{"response":"a"}']


async def test_any_dispatcher_tells_what_a_node_says_of_an_attempt(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    node = ScriptedNode(actors_bus, "n1")
    node.says, node.chunks = AttemptState.ENDED_SPOKEN, 7
    await actors_bus.flush()
    question = StateQuestion(node_id="n1", attempt_id="a1")
    answer = await bus.request(subjects.STATE, encode(question))
    assert decode(answer.data, StateAnswer) == StateAnswer(state=AttemptState.ENDED_SPOKEN, chunks=7)
    node.die()
    await actors_bus.flush()
    gone = error_of(await bus.request(subjects.STATE, encode(question)))
    assert gone is not None
    assert gone.code is ErrorCode.NODE_LOST


async def test_a_node_that_answers_neither_of_two_questions_is_called_lost_where_the_caller_wants_it(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    heard: list[Msg] = []
    actors_bus.subscribe(subjects.NODE_CONTROL.of("n1"), heard.append)
    await actors_bus.flush()
    lost = error_of(await bus.request(subjects.STATE, encode(QUESTION)))
    assert lost is not None
    assert (lost.code, lost.details) == (ErrorCode.NODE_LOST, {MUTE: True})
    assert len(heard) == 2


async def test_a_node_that_answers_the_second_question_is_not_lost(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    heard: list[Msg] = []

    def on_question(msg: Msg) -> None:
        heard.append(msg)
        if len(heard) == 2:
            actors_bus.respond(msg, ControlReply(node_id="n1", instance="i1", attempt_state=AttemptState.STREAMING))

    actors_bus.subscribe(subjects.NODE_CONTROL.of("n1"), on_question)
    await actors_bus.flush()
    answer = await bus.request(subjects.STATE, encode(QUESTION))
    assert decode(answer.data, StateAnswer) == StateAnswer(state=AttemptState.STREAMING)


async def test_a_node_that_is_silent_is_not_called_lost_unless_the_caller_wants_it(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_STATE_TIMEOUT_S", 0.1)
    actors_bus.subscribe(subjects.NODE_CONTROL.of("n1"), lambda _: None)
    await actors_bus.flush()
    with pytest.raises(RequestTimedOut):
        await bus.request(subjects.STATE, encode(replace(QUESTION, within_s=0.0)), timeout_s=0.5)


async def test_a_dispatcher_says_whether_it_holds_a_request(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    async def holds(request_id: str | None) -> bool:
        ping = encode(DispatcherPing(request_id=request_id))
        return decode((await bus.request(probe, ping)).data, DispatcherPong).is_held

    probe = subjects.DISPATCHER_PROBE.of(dispatcher.instance)
    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", begin)
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: bool(node.execs))
        assert await holds(call.request_id)
        assert await holds(None)
        node.finish(node.execs[0].attempt_id)
        await eventually(lambda: not dispatcher.in_flight())
        assert not await holds(call.request_id)
