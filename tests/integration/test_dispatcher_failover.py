"""A dispatcher whose nodes fail, fall silent or are not there: what the caller sees of it."""

from __future__ import annotations

import time

import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.pace import Pace
from sollol_agents.lab.testing.scripted import BODY, ScriptedNode, ScriptedScorer, ask, begin, control, serve
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BackendRefused, BackendUnavailable
from sollol_bus.sdk.call import Call
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import NodeEvent, Outcome, OutcomeStatus
from sollol_schemas.execution import GO_S, AttemptStart
from sollol_schemas.telemetry import NodeState


async def test_a_missing_node_is_replaced_and_reported_as_lost(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["gone", "n2"])
    ScriptedNode(actors_bus, "n2", serve)
    outcomes: list[Outcome] = []
    actors_bus.subscribe(subjects.OUTCOME_EVENT.all, lambda m: outcomes.append(decode(m.data, Outcome)))
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']
    # nobody stores it here, so that it is said again after a while
    await eventually(lambda: {(o.node_id, o.status) for o in outcomes} == {("gone", OutcomeStatus.PRESUMED_LOST)})


async def test_a_node_that_comes_back_to_the_bus_after_its_dispatcher_is_waited_for(
    nats_server: EmbeddedServer, dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    await nats_server.kill()
    await eventually(lambda: not any(b.is_connected for b in (bus, actors_bus, dispatcher.bus)))
    await nats_server.start()
    await eventually(lambda: all(b.is_connected for b in (bus, actors_bus, dispatcher.bus)))
    scorer = ScriptedScorer(actors_bus, ["n1"])
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: len(scorer.asked) >= 2)
        ScriptedNode(actors_bus, "n1", serve)
        assert [m.data async for m in call] == [b'{"response":"a"}']
    assert scorer.asked[-1].excluded == ()


async def test_a_failure_before_the_first_chunk_stays_unseen(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1", "n2"])
    ScriptedNode(actors_bus, "n1", lambda n, a: n.fail(a, ErrorCode.ENGINE_FAILED))
    ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']
    assert scorer.asked[-1].excluded == ("n1",)
    assert scorer.asked[-1].number == 2


async def test_three_failures_end_the_request(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1", "n2", "n3", "n4"])
    for name in ("n1", "n2", "n3", "n4"):
        ScriptedNode(actors_bus, name, lambda n, a: n.fail(a, ErrorCode.STALLED))
    await actors_bus.flush()
    with pytest.raises(BackendUnavailable, match="3 of 3 attempts failed"):
        await ask(bus)


async def test_an_engines_refusal_is_passed_on_and_not_retried(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1", "n2"])
    ScriptedNode(actors_bus, "n1", lambda n, a: n.fail(a, ErrorCode.ENGINE_REJECTED, status=422))
    await actors_bus.flush()
    with pytest.raises(BackendRefused) as caught:
        await ask(bus)
    assert caught.value.body.http_status == 422
    assert len(scorer.asked) == 1


async def test_busy_costs_no_attempt(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    def busy_then_serve(node: ScriptedNode, attempt: str) -> None:
        if len(node.execs) < 6:
            node.fail(attempt, ErrorCode.BUSY)
        else:
            serve(node, attempt)

    scorer = ScriptedScorer(actors_bus, ["n1"])
    ScriptedNode(actors_bus, "n1", busy_then_serve)
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']
    assert scorer.asked[-1].excluded == ()
    assert "n1" in scorer.asked[-1].busy


async def test_a_node_that_dies_before_its_first_chunk_is_replaced(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    def accept_and_die(node: ScriptedNode, attempt: str) -> None:
        node.accept(attempt)
        node.die()

    ScriptedScorer(actors_bus, ["n1", "n2"])
    ScriptedNode(actors_bus, "n1", accept_and_die)
    ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']


async def test_a_node_that_dies_in_mid_stream_ends_in_an_error_and_no_restart(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    def begin_and_die(node: ScriptedNode, attempt: str) -> None:
        node.accept(attempt)
        node.first(attempt)
        node.die()

    ScriptedScorer(actors_bus, ["n1", "n2"])
    ScriptedNode(actors_bus, "n1", begin_and_die)
    other = ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    with pytest.raises(BackendUnavailable, match="process is gone"):
        await ask(bus)
    assert other.execs == []


async def test_a_stream_goes_on_although_its_node_answers_no_probes_until_its_heartbeats_stop_too(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", begin)
    node.is_mute = True
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        chunks = aiter(call)
        assert (await anext(chunks)).data == b'{"response":"a"}'
        silent = dispatcher.pace.node_silence_s / dispatcher.pace.probe_interval_s
        await eventually(lambda: node.probes > 2 * silent)
        node.say(f"{call.request_id}-1", b'{"response":"b"}')
        assert (await anext(chunks)).data == b'{"response":"b"}'
        down = NodeEvent(node_id="n1", state=NodeState.DOWN)
        node.is_mute = False
        await eventually(lambda: not dispatcher._requests.tools.nodes.is_silent("n1"))
        actors_bus.publish(subjects.NODE_EVENT.of("n1", "down"), encode(down))
        await actors_bus.flush()
        node.say(f"{call.request_id}-1", b'{"response":"c"}')
        assert (await anext(chunks)).data == b'{"response":"c"}', "whom the scorer alone does not hear is not lost"
        node.is_mute = True
        with pytest.raises(BackendUnavailable, match="heartbeats"):
            await anext(chunks)


async def test_where_every_node_is_silent_the_second_attempt_has_its_time_and_is_not_given_up_at_once(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n2"])
    n2 = ScriptedNode(actors_bus, "n2", begin)
    n1 = ScriptedNode(actors_bus, "n1")
    n1.is_mute = n2.is_mute = True
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as other:
        assert (await anext(aiter(other))).data == b'{"response":"a"}'
        await eventually(lambda: dispatcher._requests.tools.nodes.is_silent("n2"))
        n2.script, scorer.nodes = None, ["n1", "n2"]
        async with Call(bus, subjects.GENERATE, BODY) as call:
            await eventually(lambda: len(n2.execs) == 2)
            probes = n2.probes
            await eventually(lambda: n2.probes >= probes + 3)
            serve(n2, n2.execs[1].attempt_id)
            assert [m.data async for m in call] == [b'{"response":"a"}']
            assert n1.cancelled == [f"{call.request_id}-1"]


async def test_a_node_that_reports_lives_although_it_answers_no_probes(
    nats_server: EmbeddedServer, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", lambda n, a: n.accept(a) if "patient" in a else serve(n, a))
    node.is_mute = True
    await actors_bus.flush()
    dispatcher = Dispatcher(DispatcherConfig(), control(nats_server))
    silence_s = 1.0
    dispatcher.pace = Pace(node_silence_s=silence_s, accept_s=20.0)
    async with dispatcher, Call(bus, subjects.GENERATE, BODY, request_id="patient") as call:
        await eventually(lambda: node.answers == [True])
        leased = time.monotonic()
        while time.monotonic() < leased + GO_S + silence_s:
            assert await ask(bus) == [b'{"response":"a"}']
        serve(node, "patient-1")
        assert [m.data async for m in call] == [b'{"response":"a"}']
    assert [a.number for a in scorer.asked if a.request_id == "patient"] == [1], "it was never given up"


async def test_an_attempt_that_is_not_accepted_in_time_is_given_up_and_told_no(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["slow", "n2"])
    slow = ScriptedNode(actors_bus, "slow")
    ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']
    late = slow.execs[0].attempt_id
    slow.accept(late)
    slow.report(late, AttemptStart(attempt_id=late))
    await eventually(lambda: slow.answers == [False, False])
    slow.fail(late, ErrorCode.CANCELLED)
    await eventually(lambda: dispatcher.statistics().abandoned == 0)
