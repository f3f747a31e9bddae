"""Requests that wait at a dispatcher: for a scorer, for their turn, and until their caller leaves."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.requests import table
from sollol_agents.lab.testing.scripted import BODY, ScriptedNode, ScriptedScorer, ask, control, quick, serve
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import Cancelled, Conflict, DeadlineExceeded, NoEligibleNode
from sollol_bus.sdk.call import Call
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.events import OfficeEvent
from sollol_schemas.execution import CancelReply, CancelRequest, RequestGranted, RequestNews, RequestWaiting, Taken
from sollol_schemas.grant import GrantRelease


async def test_without_a_scorer_the_caller_is_told_what_to_start(dispatcher: Dispatcher, bus: Bus) -> None:
    with pytest.raises(NoEligibleNode, match="sollol scorer"):
        await ask(bus)


async def test_an_absent_scorer_is_asked_by_one_request_for_all_and_then_by_each_once(
    nats_server: EmbeddedServer, actors_bus: Bus, bus: Bus
) -> None:
    dispatcher = quick(Dispatcher(DispatcherConfig(), control(nats_server)))
    nobody_is_lost = {"accept_s": 60.0, "node_silence_s": 60.0, "last_words_s": 60.0}  # all share one busy loop
    dispatcher.pace = msgspec.structs.replace(dispatcher.pace, scorer_absence_s=60.0, **nobody_is_lost)
    many = 200
    async with dispatcher:
        replies: list[Msg] = []
        inbox = bus.new_inbox()
        bus.subscribe(inbox, replies.append)
        for _ in range(many):
            bus.publish(subjects.GENERATE, BODY, reply=inbox)
        await eventually(lambda: dispatcher.statistics().in_flight == many)
        sent = dispatcher.bus.nats.stats["out_msgs"]
        absent_until = time.monotonic() + 1.0
        while time.monotonic() < absent_until:
            await bus.request(subjects.DISPATCHER_PROBE.of(dispatcher.instance))
            sent += 1  # the answer to this probe
        assert dispatcher.bus.nats.stats["out_msgs"] - sent < many, "two thousand, if each asked ten times a second"
        scorer = ScriptedScorer(actors_bus, ["n1"])
        ScriptedNode(actors_bus, "n1", serve)
        await actors_bus.flush()
        actors_bus.publish(subjects.OFFICE_EVENT.of("s2"), encode(OfficeEvent(instance="s2", term=2, is_leader=True)))
        await eventually(lambda: len(replies) == 2 * many)
        times = Counter(asked.request_id for asked in scorer.asked).values()
        assert max(times) <= 2, "the scout may ask twice, and others on a machine that stood still meanwhile"
        assert list(times).count(1) > many // 2


async def test_a_question_that_a_server_of_the_cluster_took_along_is_asked_again(
    nats_server: EmbeddedServer, actors_bus: Bus, bus: Bus
) -> None:
    dispatcher = quick(Dispatcher(DispatcherConfig(), control(nats_server)))
    dispatcher.pace = msgspec.structs.replace(dispatcher.pace, grant_silence_s=600.0)
    async with dispatcher, asyncio.TaskGroup() as group:
        lost: list[Msg] = []
        taker = actors_bus.subscribe(subjects.GRANT, lost.append)
        ScriptedNode(actors_bus, "n1", serve)
        await actors_bus.flush()
        call = group.create_task(ask(bus))
        await eventually(lambda: len(lost) == 1)
        taker.unsubscribe()
        ScriptedScorer(actors_bus, ["n1"])
        await actors_bus.flush()
        dispatcher.bus._on_cluster_changed()
        assert await call


async def test_a_new_scorer_in_office_is_asked_at_once_with_the_age_kept(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1"])
    scorer.holds_back = True
    ScriptedNode(actors_bus, "n1", serve)
    await actors_bus.flush()
    call = Call(bus, subjects.GENERATE, BODY)
    async with call:
        await eventually(lambda: len(scorer.asked) == 1)
        scorer.holds_back = False
        office = OfficeEvent(instance="s2", term=2, is_leader=True)
        actors_bus.publish(subjects.OFFICE_EVENT.of("s2"), encode(office))
        assert [m.data async for m in call] == [b'{"response":"a"}']
    assert scorer.asked[1].waited_s > scorer.asked[0].waited_s


async def test_a_waiting_request_can_be_cancelled(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    call = Call(bus, subjects.GENERATE, BODY)
    async with call:
        await eventually(lambda: len(scorer.asked) == 1)
        call.cancel()
        with pytest.raises(Cancelled):
            await anext(aiter(call))
    await eventually(lambda: scorer.released == [call.request_id])


async def test_a_caller_that_leaves_frees_the_node(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", lambda n, a: n.accept(a))
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: node.answers == [True])
    await eventually(lambda: node.cancelled == [f"{call.request_id}-1"])


async def test_a_caller_that_died_is_missed_while_its_request_waits(
    nats_server: EmbeddedServer, dispatcher: Dispatcher, actors_bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    mortal = await Bus.connect(BusConfig(url=nats_server.url, name="mortal"))
    heard: list[RequestNews] = []
    async with Call(mortal, subjects.GENERATE, BODY, on_news=heard.append):
        await eventually(lambda: RequestWaiting in map(type, heard))
        assert [type(news) for news in heard[:2]] == [Taken, RequestWaiting]
        await mortal.nats.close()  # without a word, as a killed process
        scorer.repeat()
        await eventually(lambda: dispatcher.statistics().in_flight == 0)
    await eventually(lambda: len(scorer.released) == 1)
    await mortal.close()


@pytest.mark.parametrize(
    ("headers", "told"), [({}, [Taken]), ({h.JOB: "j1"}, [Taken, RequestGranted])], ids=["any", "job"]
)
async def test_of_a_request_that_never_waited_only_the_runner_of_a_job_hears_where_it_runs(
    headers: dict[str, str], told: list[type], dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", lambda n, a: n.accept(a))
    await actors_bus.flush()
    heard: list[type] = []
    async with Call(
        bus, subjects.GENERATE, BODY, headers=headers, on_news=lambda news: heard.append(type(news))
    ) as call:
        await eventually(lambda: Taken in heard)
        node.first(f"{call.request_id}-1")
        node.finish(f"{call.request_id}-1")
        assert [msg.data async for msg in call] == [b'{"response":"a"}']
    assert heard == told


async def test_a_caller_who_heard_that_its_request_waits_hears_when_it_runs(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1"])
    scorer.holds_back = True
    ScriptedNode(actors_bus, "n1", serve)
    await actors_bus.flush()
    heard: list[type] = []
    async with Call(bus, subjects.GENERATE, BODY, on_news=lambda news: heard.append(type(news))) as call:
        await eventually(lambda: RequestWaiting in heard)
        scorer.let_go()
        assert [msg.data async for msg in call] == [b'{"response":"a"}']
    assert list(dict.fromkeys(heard)) == [Taken, RequestWaiting, RequestGranted], "that it waits may be said again"


async def test_nobody_cancels_without_the_secret(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY, request_id="mine"):
        await eventually(lambda: len(scorer.asked) == 1)
        bus.publish(subjects.CANCEL, b'{"request_id":"mine","secret":"guess"}')
        bus.publish(subjects.CANCEL, b'{"request_id":"mine","secret":""}')
        await bus.flush()
        await bus.request(subjects.DISPATCHER_PROBE.of(dispatcher.instance))
        assert dispatcher.statistics().in_flight == 1


async def test_a_job_that_is_given_back_ends_while_it_waits_and_its_place_is_kept(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    told: list[GrantRelease] = []
    actors_bus.subscribe(subjects.RELEASE, lambda msg: told.append(decode(msg.data, GrantRelease)))
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: len(scorer.asked) == 1)
        call.comes_again = True
        call.cancel()
        with pytest.raises(Cancelled):
            await anext(aiter(call))
        await eventually(lambda: [release.comes_again for release in told] == [True])


async def test_a_job_that_is_given_back_goes_on_where_a_node_works_on_it(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", ScriptedNode.accept)
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: len(node.execs) == 1)
        attempt = node.execs[0].attempt_id
        call.comes_again = True
        call.cancel()
        await bus.flush()
        await bus.request(subjects.DISPATCHER_PROBE.of(dispatcher.instance))
        node.first(attempt)
        node.finish(attempt)
        assert [m.data async for m in call] == [b'{"response":"a"}']


async def test_the_cancel_of_an_earlier_sending_does_not_reach_a_later_one(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    """Subscriptions of one connection take turns: the cancel may be handled after the request sent behind it."""
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    headers = {h.REQUEST_ID: "mine", h.CANCEL_SECRET: "secret", h.RESEND: "2", h.STREAM: "1"}
    bus.publish(subjects.GENERATE, BODY, reply=bus.new_inbox(), headers=headers)
    await eventually(lambda: len(scorer.asked) == 1)
    bus.publish(subjects.CANCEL, encode(CancelRequest(request_id="mine", secret="secret", resend=1)))
    await bus.flush()
    await bus.request(subjects.DISPATCHER_PROBE.of(dispatcher.instance))
    assert dispatcher.statistics().in_flight == 1
    bus.publish(subjects.CANCEL, encode(CancelRequest(request_id="mine", secret="secret", resend=2)))
    await eventually(lambda: dispatcher.statistics().in_flight == 0)


async def test_the_deadline_ends_a_waiting_request(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    with pytest.raises(DeadlineExceeded):
        await ask(bus, b'{"model":"m","prompt":"hi","stream":true,"deadline_s":0.1}')


async def test_a_request_id_in_use_is_a_conflict(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY, request_id="r1"):
        await eventually(lambda: len(scorer.asked) == 1)
        with pytest.raises(Conflict):
            await ask(bus, Sollol_Request_Id="r1")


async def test_whoever_cancels_is_told_once_and_counted_once(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    told: list[bool] = []
    inbox = bus.new_inbox()
    bus.subscribe(inbox, lambda msg: told.append(decode(msg.data, CancelReply).is_cancelled))
    bus.publish(subjects.GENERATE, BODY, reply=bus.new_inbox(), headers={h.REQUEST_ID: "r1", h.CANCEL_SECRET: "s"})
    await eventually(lambda: len(scorer.asked) == 1)
    bus.publish(subjects.CANCEL, encode(CancelRequest(request_id="r1", secret="s")), reply=inbox)
    await eventually(lambda: bool(told))
    behind = encode(CancelRequest(request_id="nobody-s", secret="s"))
    assert not decode((await bus.request(subjects.CANCEL, behind)).data, CancelReply).is_cancelled
    assert told == [True]
    stats = decode((await bus.request("$SRV.STATS.sollol-dispatcher")).data, dict[str, Any])
    assert [one["num_requests"] for one in stats["endpoints"] if one["name"] == "cancel"] == [2]


async def test_nobody_fills_a_dispatcher_with_large_requests(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_CALLERS_BYTES_MAX", 2 * len(BODY))
    monkeypatch.setattr(table, "_HELD_BYTES_MAX", 3 * len(BODY))
    scorer = ScriptedScorer(actors_bus, ["n1"])
    scorer.holds_back = True
    await actors_bus.flush()
    refused: list[str] = []

    async def publish(caller: str) -> None:
        inbox = bus.new_inbox()
        bus.subscribe(inbox, lambda msg: refused.append(caller) if error_of(msg) is not None else None)
        own = {h.CALLER: caller} if caller else {}
        bob = {h.REQUEST_ID: "of-bob", h.CANCEL_SECRET: "s"} if caller == "bob" else {}
        bus.publish(subjects.GENERATE, BODY, reply=inbox, headers=own | bob)
        await bus.flush()

    for caller in ("alice", "alice", "alice", "bob", ""):
        await publish(caller)
    await eventually(lambda: refused == ["alice", ""])
    cancelled = CancelRequest(request_id="of-bob", secret="s")
    await bus.request(subjects.CANCEL, encode(cancelled))
    await publish("")
    await eventually(lambda: dispatcher.statistics().in_flight == 3, complaint="what is over leaves its room")
    assert refused == ["alice", "", "bob"]
