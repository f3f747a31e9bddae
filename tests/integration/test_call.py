"""A caller watches over its request: sent again when its dispatcher dies, cancelled when it leaves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import Cancelled, ConnectionLost, DeadlineExceeded, NoResponders
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.execution import CancelRequest, RequestGranted, RequestWaiting, Taken

BODY = b'{"model":"m","prompt":"hi"}'


class ScriptedDispatcher:
    """A double that says `taken`, answers probes while it lives, and answers requests when told."""

    def __init__(self, bus: Bus, instance: str, *, answers_at_once: bool = False) -> None:
        self.bus = bus
        self.instance = instance
        self.answers_at_once = answers_at_once
        self.requests: list[Msg] = []
        self.cancelled: list[CancelRequest] = []
        self.subscriptions = [
            bus.subscribe(subjects.GENERATE, self._on_request, queue="q"),
            bus.subscribe(subjects.DISPATCHER_PROBE.of(instance), lambda m: bus.publish(m.reply, b"ok")),
            bus.subscribe(subjects.CANCEL, lambda m: self.cancelled.append(decode(m.data, CancelRequest))),
        ]

    def _on_request(self, msg: Msg) -> None:
        self.requests.append(msg)
        assert msg.headers is not None
        taken = Taken(request_id=msg.headers[h.REQUEST_ID], dispatcher="d", instance=self.instance)
        self.bus.publish(msg.headers[h.CONTROL_INBOX], encode(taken))
        if self.answers_at_once:
            self.answer()

    def answer(self, index: int = -1) -> None:
        self.bus.publish(self.requests[index].reply, b"chunk")
        self.bus.publish(self.requests[index].reply, b"", headers={h.CHUNKS: "1"})

    def die(self) -> None:
        for subscription in self.subscriptions:
            subscription.unsubscribe()


@pytest.fixture
async def other(nats_server: EmbeddedServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(BusConfig(url=nats_server.url, name="other"))
    yield bus
    await bus.close()


async def test_a_request_tells_the_fleet_for_how_long_its_caller_waits(bus: Bus, other: Bus) -> None:
    dispatcher = ScriptedDispatcher(other, "one", answers_at_once=True)
    await other.flush()
    for deadline_s, told in ((2.5, "2.5"), (600.0, None)):
        async with Client(bus) as client, client.call(subjects.GENERATE, BODY, deadline_s=deadline_s) as call:
            assert [msg.data async for msg in call] == [b"chunk"]
        assert (dispatcher.requests[-1].headers or {}).get("X-Sollol-Deadline-S") == told


async def test_an_unstarted_request_is_sent_again_when_its_dispatcher_dies(bus: Bus, other: Bus) -> None:
    first = ScriptedDispatcher(other, "d1")
    await other.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: call.dispatcher == "d1")
        second = ScriptedDispatcher(other, "d2")
        first.die()
        await eventually(lambda: len(second.requests) == 1)
        again = second.requests[0].headers
        assert again is not None
        assert again[h.REQUEST_ID] == call.request_id
        assert again[h.RESEND] == "1"
        assert float(again[h.WAITED]) > 0
        await eventually(lambda: len(second.cancelled) == 1)
        assert second.cancelled[0].resend == 0, "only the first sending is given up"
        first.answer()  # what the dead one might still say goes to an inbox that nobody reads
        second.answer()
        assert [m.data async for m in call] == [b"chunk"]


async def test_a_dispatcher_that_confirms_only_after_the_request_was_sent_again_is_not_the_one_to_watch(
    bus: Bus, other: Bus
) -> None:
    first = ScriptedDispatcher(other, "d1")
    await other.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: call.dispatcher == "d1")
        second = ScriptedDispatcher(other, "d2")
        first.die()
        await eventually(lambda: call.dispatcher == "d2")
        earlier = first.requests[0].headers
        assert earlier is not None
        late = Taken(request_id=call.request_id, dispatcher="d", instance="d1")
        other.publish(earlier[h.CONTROL_INBOX], encode(late))
        second.answer()
        assert [m.data async for m in call] == [b"chunk"]
        assert call.dispatcher == "d2"


async def test_other_news_of_a_request_leave_its_watch_alone(bus: Bus, other: Bus) -> None:
    dispatcher = ScriptedDispatcher(other, "d1")
    await other.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: call.dispatcher == "d1")
        headers = dispatcher.requests[0].headers
        assert headers is not None
        for news in (
            RequestWaiting(request_id=call.request_id, position=3),
            RequestGranted(request_id=call.request_id, node_id="attic"),
        ):
            other.publish(headers[h.CONTROL_INBOX], encode(news))
        dispatcher.answer()
        assert [m.data async for m in call] == [b"chunk"]
        assert call.dispatcher == "d1"


async def test_an_answer_keeps_the_tool_calls_of_a_generate_and_the_log_probabilities_of_every_chunk(
    bus: Bus, other: Bus
) -> None:
    chunks = (
        b'{"response":"a","logprobs":[{"token":"a"}],"tool_calls":[{"f":1}],"done":false}',
        b'{"response":"b","logprobs":[{"token":"b"}],"done":true,"eval_count":2}',
    )

    def serve(msg: Msg) -> None:
        for chunk in (*chunks, b""):
            other.publish(msg.reply, chunk)

    other.subscribe(subjects.GENERATE, serve)
    await other.flush()
    answer = await Client(bus).generate("m", "hi")
    assert (answer.text, answer.tool_calls) == ("ab", [{"f": 1}])
    assert answer.final["logprobs"] == [{"token": "a"}, {"token": "b"}]
    assert answer.final["eval_count"] == 2


async def test_a_living_dispatcher_keeps_its_request(bus: Bus, other: Bus) -> None:
    dispatcher = ScriptedDispatcher(other, "d1")
    probed: list[Msg] = []
    other.subscribe(subjects.DISPATCHER_PROBE.of("d1"), probed.append)
    await other.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: len(probed) == 2)
        assert call.resends == 0
        assert len(dispatcher.requests) == 1
        dispatcher.answer()
        assert [m.data async for m in call] == [b"chunk"]
    assert dispatcher.cancelled == []


async def test_leaving_early_cancels_with_the_secret(bus: Bus, other: Bus) -> None:
    dispatcher = ScriptedDispatcher(other, "d1")
    await other.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: call.dispatcher == "d1")
    await eventually(lambda: len(dispatcher.cancelled) == 1)
    headers = dispatcher.requests[0].headers
    assert headers is not None
    assert dispatcher.cancelled[0] == CancelRequest(request_id=call.request_id, secret=headers[h.CANCEL_SECRET])


async def test_a_dispatcher_that_appears_late_still_gets_the_request(bus: Bus, other: Bus) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        replies = aiter(call)
        ScriptedDispatcher(other, "d1", answers_at_once=True)
        assert (await anext(replies)).data == b"chunk"


async def test_sendings_that_met_no_dispatcher_make_nobody_wait_longer_for_the_next(bus: Bus, other: Bus) -> None:
    sendings: list[float] = []

    class Noting(random.Random):
        def uniform(self, a: float, b: float) -> float:
            sendings.append(a)
            return super().uniform(a, b)

    async def answer(call: Call) -> bytes:
        return b"".join([m.data async for m in call])

    async with Call(bus, subjects.GENERATE, BODY, rng=Noting()) as call, asyncio.TaskGroup() as group:
        answered = group.create_task(answer(call))
        await eventually(lambda: len(sendings) == 5)
        deaf: list[Msg] = []
        subscription = other.subscribe(subjects.GENERATE, deaf.append, queue="q")
        await eventually(lambda: len(deaf) == 1)
        subscription.unsubscribe()
        ScriptedDispatcher(other, "d1", answers_at_once=True)
        async with asyncio.timeout(5.0):  # 2 to 3 s for the one that did not hear it
            assert await answered == b"chunk"


async def test_a_caller_that_leaves_while_no_dispatcher_is_there_sends_nothing_later(bus: Bus, other: Bus) -> None:
    async def first_chunk() -> None:
        with pytest.raises(Cancelled):
            await anext(aiter(call))

    async with Call(bus, subjects.GENERATE, BODY) as call, asyncio.TaskGroup() as group:
        waiting = group.create_task(first_chunk())
        await bus.flush()  # nobody listens: it waits for somebody who does
        call.leave(Cancelled("left"))
        dispatcher = ScriptedDispatcher(other, "d1", answers_at_once=True)
        await waiting
        await bus.flush()
        await other.flush()
        assert dispatcher.requests == []


async def test_without_any_dispatcher_the_caller_is_told_what_to_start(bus: Bus) -> None:
    async with Call(bus, subjects.GENERATE, BODY, absence_s=0.1) as call:
        with pytest.raises(NoResponders, match="sollol dispatcher"):
            await anext(aiter(call))


async def test_a_request_lost_with_the_server_is_sent_again(nats_server: EmbeddedServer, bus: Bus, other: Bus) -> None:
    dispatcher = ScriptedDispatcher(other, "d1")
    await other.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: call.dispatcher == "d1")
        await nats_server.kill()
        await eventually(lambda: not bus.is_connected)
        await nats_server.start()
        await eventually(lambda: len(dispatcher.requests) >= 2)
        dispatcher.answer()
        assert [m.data async for m in call] == [b"chunk"]
        assert call.resends >= 1


async def test_a_deadline_among_the_fields_holds_for_the_caller_too(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sollol_bus.sdk.sending._DEADLINE_GRACE_S", 0.1)
    async with Client(BusConfig(url=nats_server.url)) as client:
        client.bus.subscribe(subjects.GENERATE, lambda _: None)  # a dispatcher that hangs
        with pytest.raises(DeadlineExceeded):
            await client.generate("m", "hi", deadline_s=0.1)


async def test_a_caller_chooses_how_often_its_request_is_sent_again(bus: Bus, other: Bus) -> None:
    first = ScriptedDispatcher(other, "d1")
    await other.flush()
    async with Call(bus, subjects.GENERATE, BODY, max_resends=1) as call:
        await eventually(lambda: call.dispatcher == "d1")
        second = ScriptedDispatcher(other, "d2")
        first.die()
        await eventually(lambda: call.dispatcher == "d2")
        ScriptedDispatcher(other, "d3")
        second.die()
        with pytest.raises(ConnectionLost, match="sent 2 times"):
            await anext(aiter(call))


class _Patient(random.Random):
    """Waits long for a dispatcher to confirm, and not at all once servers came together."""

    def uniform(self, a: float, b: float) -> float:
        return 100.0 if a >= 1.0 else 0.01


async def test_what_nobody_confirmed_is_sent_again_soon_after_servers_came_together(bus: Bus, other: Bus) -> None:
    lost: list[Msg] = []
    other.subscribe(subjects.GENERATE, lost.append)
    await other.flush()
    async with Call(bus, subjects.GENERATE, BODY, rng=_Patient()) as call:
        await eventually(lambda: len(lost) == 1)
        bus._on_cluster_changed()
        await eventually(lambda: len(lost) == 2)
        assert call.resends == 1
        dispatcher = ScriptedDispatcher(other, "d1")
        await other.flush()
        bus._on_cluster_changed()
        await eventually(lambda: call.dispatcher == "d1")
        bus._on_cluster_changed()
        dispatcher.answer()
        assert [msg.data async for msg in call] == [b"chunk"]
        assert call.resends == 2


async def test_a_stream_that_has_begun_is_never_restarted(nats_server: EmbeddedServer, bus: Bus, other: Bus) -> None:
    dispatcher = ScriptedDispatcher(other, "d1")
    await other.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: len(dispatcher.requests) == 1)
        other.publish(dispatcher.requests[0].reply, b"first")
        replies = aiter(call)
        assert (await anext(replies)).data == b"first"
        await nats_server.kill()
        with pytest.raises(ConnectionLost, match="middle"):
            await anext(replies)
        await nats_server.start()
        await eventually(lambda: bus.is_connected and other.is_connected)
        assert call.resends == 0
