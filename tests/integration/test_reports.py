"""The report of an attempt's end is its outcome too: its dispatcher publishes it, and others when that one did not."""

from __future__ import annotations

import json

import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.node_stage import NODE, Stage, staged
from sollol_agents.lab.testing.scripted import ScriptedNode, ScriptedScorer, ask, serve
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.jetstream.api import api
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import headers as h
from sollol_schemas import stores, subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import AttemptDone, AttemptFirstToken, Figures


async def stored(bus: Bus) -> int:
    count: int = json.loads(await api(bus, f"STREAM.INFO.{stores.EVENTS_STREAM}"))["state"]["messages"]
    return count


async def heard_on(bus: Bus, subject: str) -> list[Msg]:
    heard: list[Msg] = []
    bus.subscribe(subject, heard.append)
    await bus.flush()
    return heard


async def test_an_outcome_that_its_dispatcher_published_is_not_told_again(stage: Stage, bus: Bus) -> None:
    told = await heard_on(bus, subjects.NODE_OUTCOME.all)
    attempt = stage.chat("count 3")
    await eventually(lambda: bool(stage.outcomes))
    assert (stage.outcomes[0].attempt_id, stage.outcomes[0].status) == (attempt, OutcomeStatus.SUCCESS)
    assert stage.outcomes[0].figures is not None
    assert stage.outcomes[0].figures.output_tokens == 4
    await stage.node.close()  # which waits until each outcome is stored, or told
    assert told == []
    assert await stored(bus) == 1


async def test_an_outcome_that_its_dispatcher_did_not_publish_goes_to_any(stage: Stage, bus: Bus) -> None:
    told = await heard_on(bus, subjects.NODE_OUTCOME.all)
    stage.dispatcher.publishes = False
    attempt = stage.chat("count 3")
    await eventually(lambda: bool(stage.outcomes))
    assert [decode(msg.data, Outcome).attempt_id for msg in told] == [attempt]
    assert stage.outcomes[0].status is OutcomeStatus.SUCCESS
    assert await stored(bus) == 1


async def test_a_report_that_nobody_hears_is_an_outcome_at_once(stage: Stage, bus: Bus) -> None:
    told = await heard_on(bus, subjects.NODE_OUTCOME.all)
    stage.chat("count 40")
    await eventually(lambda: len(stage.dispatcher.heard) > 2)
    stage.dispatcher.reporting.unsubscribe()
    await eventually(lambda: bool(stage.outcomes))
    assert len(told) == 1


async def test_an_outcome_that_was_published_and_told_is_stored_once(stage: Stage, bus: Bus) -> None:
    stage.dispatcher.acks_elsewhere = True
    stage.chat("count 3")
    await eventually(lambda: len(stage.outcomes) == 2)
    assert stage.outcomes[0] == stage.outcomes[1]
    assert await stored(bus) == 1


@pytest.mark.parametrize(("preset", "is_told"), [("instant", False), ("steady", True)])
async def test_an_answer_that_leaves_at_once_reports_its_end_alone(
    nats_server: EmbeddedServer, bus: Bus, preset: str, is_told: bool
) -> None:
    async with staged(nats_server, bus, preset=preset) as stage:
        stage.chat("count 12")
        await eventually(lambda: bool(stage.outcomes))
        kinds = [type(one) for one in stage.dispatcher.reports]
        assert (AttemptFirstToken in kinds) is is_told
        assert kinds[-1] is AttemptDone
        assert not stage.dispatcher.heard[-1].data


async def test_a_doubtful_failure_is_reported_at_once_and_its_outcome_follows(stage: Stage, bus: Bus) -> None:
    reports = await heard_on(bus, subjects.ATTEMPT.of(NODE, "*"))
    told = await heard_on(bus, subjects.NODE_OUTCOME.all)
    stage.engine.inject(Fault(kind=FaultKind.ERROR_LINE, after_tokens=1))
    stage.chat("count 3")
    await eventually(lambda: bool(stage.outcomes))
    assert stage.outcomes[0].evidence is not None
    assert len(told) == 1
    assert reports[-1].reply == ""


async def test_the_dispatcher_publishes_the_outcome_and_the_node_gets_the_acknowledgement(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    events = await heard_on(actors_bus, subjects.OUTCOME_EVENT.all)
    scorer = ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", serve)
    await actors_bus.flush()
    await ask(bus)
    await eventually(lambda: bool(node.acks))
    assert json.loads(node.acks[0].data)["stream"] == stores.EVENTS_STREAM
    outcome = decode(events[0].data, Outcome)
    assert (outcome.reported_by, outcome.status) == (ReportedBy.NODE, OutcomeStatus.SUCCESS)
    assert outcome.request_id == scorer.asked[0].request_id
    assert events[0].subject == subjects.OUTCOME_EVENT.of("n1")
    assert (events[0].headers or {})[h.MSG_ID] == f"node.n1.{outcome.attempt_id}"


async def test_a_node_that_was_given_up_replaces_its_presumed_loss(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    events = await heard_on(actors_bus, subjects.OUTCOME_EVENT.of("n1"))
    ScriptedScorer(actors_bus, ["n1", "n2"])
    slow, _ = ScriptedNode(actors_bus, "n1"), ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    await ask(bus)
    await eventually(lambda: bool(events))
    slow.fail(slow.execs[0].attempt_id, ErrorCode.CANCELLED)
    await eventually(lambda: bool(slow.acks))
    assert [decode(one.data, Outcome).status for one in events] == [
        OutcomeStatus.PRESUMED_LOST,
        OutcomeStatus.CANCELLED,
    ]


@pytest.mark.parametrize(
    "reply", ["", "sollol.v1.events.outcome.n2", "_INBOX_node.n2.x", "_INBOX_ctl.x", "$KV.SOLLOL_SETTINGS.x"]
)
async def test_a_report_that_names_no_inbox_of_its_node_makes_no_outcome(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus, reply: str
) -> None:
    def end_with_reply(node: ScriptedNode, attempt: str) -> None:
        node.accept(attempt)
        node.first(attempt)
        node.bus.publish(node.reply_to[attempt], b"", headers={h.CHUNKS: "1"})
        done = encode(AttemptDone(attempt_id=attempt, figures=Figures()))
        node.bus.publish(subjects.ATTEMPT.of("n1", attempt), done, reply=reply)

    events = await heard_on(actors_bus, subjects.OUTCOME_EVENT.all)
    ScriptedScorer(actors_bus, ["n1"])
    ScriptedNode(actors_bus, "n1", end_with_reply)
    await actors_bus.flush()
    await ask(bus)
    await eventually(lambda: not dispatcher.in_flight())
    await dispatcher.bus.flush()
    await actors_bus.flush()
    assert events == []
