"""A caller whose answer stops in its middle asks about it, and one without a connection waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BackendUnavailable, ConnectionLost, NotConnected, SollolError
from sollol_bus.sdk import listener, sending, silence
from sollol_bus.sdk.call import Call
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.control import AttemptState, DispatcherPing, DispatcherPong, StateAnswer, StateQuestion
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import Taken

BODY = b'{"model":"m","prompt":"hi"}'


class Answering:
    """A double of the dispatchers and of a node: it begins each answer with one chunk, and a test says the rest."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.requests: list[Msg] = []
        self.asked: list[StateQuestion] = []
        self.says: StateAnswer | ErrorBody = StateAnswer(state=AttemptState.STREAMING)
        self.is_mute = False
        self.is_held = True
        bus.subscribe(subjects.GENERATE, self._on_request, queue="q")
        bus.subscribe(subjects.STATE, self._on_state, queue="q")
        bus.subscribe(subjects.DISPATCHER_PROBE.of("d1"), self._on_ping)

    def say(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.bus.publish(self.requests[-1].reply, data, headers=headers)

    def _on_request(self, msg: Msg) -> None:
        self.requests.append(msg)
        assert msg.headers is not None
        request_id = msg.headers[h.REQUEST_ID]
        taken = Taken(request_id=request_id, dispatcher="d", instance="d1")
        self.bus.publish(msg.headers[h.CONTROL_INBOX], encode(taken))
        decision = Decision(request_id=request_id, attempt_id="a1", node_id="n1", instance="i", model="m")
        if not self.is_mute:
            self.say(b"first", {h.DECISION: encode(decision).decode()})

    def _on_state(self, msg: Msg) -> None:
        self.asked.append(decode(msg.data, StateQuestion))
        if isinstance(self.says, ErrorBody):
            self.bus.respond_error(msg.reply, self.says)
        else:
            self.bus.respond(msg, self.says)

    def _on_ping(self, msg: Msg) -> None:
        assert decode(msg.data, DispatcherPing).request_id
        self.bus.respond(msg, DispatcherPong(is_held=self.is_held))


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(silence, "LOOK_RARELY_S", 0.05)
    monkeypatch.setattr(sending, "PROBE_INTERVAL_S", 0.05)
    monkeypatch.setattr(sending, "LAST_WORDS_S", 0.05)
    monkeypatch.setattr(listener, "LAST_WORDS_S", 0.05)


@pytest.fixture
async def fleet(nats_server: EmbeddedServer) -> AsyncIterator[Answering]:
    bus = await Bus.connect(BusConfig(url=nats_server.url, name="fleet"))
    made = Answering(bus)
    await bus.flush()
    yield made
    await bus.close()


async def collect(call: Call) -> list[bytes]:
    return [msg.data async for msg in call]


async def test_an_answer_of_which_only_the_end_was_lost_is_whole(bus: Bus, fleet: Answering) -> None:
    fleet.says = StateAnswer(state=AttemptState.ENDED_SPOKEN, chunks=1)
    async with Call(bus, subjects.GENERATE, BODY) as call:
        assert await collect(call) == [b"first"]
    assert fleet.asked[0] == StateQuestion(node_id="n1", attempt_id="a1")


@pytest.mark.parametrize(
    ("says", "error", "text"),
    [
        (StateAnswer(state=AttemptState.ENDED_SPOKEN, chunks=3), ConnectionLost, "1 of 3"),
        (StateAnswer(state=AttemptState.UNKNOWN), ConnectionLost, "lost on the way"),
        (ErrorBody(code=ErrorCode.NODE_LOST, message="the node n1 is gone"), BackendUnavailable, "n1 is gone"),
    ],
    ids=["pieces-missing", "forgotten", "node-gone"],
)
async def test_an_answer_that_is_not_whole_ends_with_an_error(
    bus: Bus, fleet: Answering, says: StateAnswer | ErrorBody, error: type[SollolError], text: str
) -> None:
    fleet.says = says
    async with Call(bus, subjects.GENERATE, BODY) as call:
        with pytest.raises(error, match=text):
            await collect(call)


async def test_an_answer_that_still_runs_is_waited_for(bus: Bus, fleet: Answering) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call, asyncio.TaskGroup() as group:
        collecting = group.create_task(collect(call))
        await eventually(lambda: len(fleet.asked) >= 3)
        fleet.say(b"second")
        fleet.say(b"", {h.CHUNKS: "2"})
        assert await collecting == [b"first", b"second"]


async def test_an_answer_that_stops_in_its_pace_is_asked_about_as_one_whose_node_may_hang(
    bus: Bus, fleet: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "LOOK_EVERY_S", 60.0)
    fleet.says = ErrorBody(
        code=ErrorCode.NODE_LOST, message="the node n1 does not answer", details={silence.MUTE: True}
    )
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: len(fleet.requests) == 1)
        for _ in range(20):
            fleet.say(b"more")
        with pytest.raises(BackendUnavailable, match="does not answer"):
            await collect(call)
    assert fleet.asked == [StateQuestion(node_id="n1", attempt_id="a1", within_s=listener.SUDDEN_WITHIN_S)]


async def test_the_last_words_that_come_after_the_news_of_them_are_taken(
    bus: Bus, fleet: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "LAST_WORDS_S", 0.5)
    fleet.says = StateAnswer(state=AttemptState.ENDED_SPOKEN, chunks=2)
    async with Call(bus, subjects.GENERATE, BODY) as call, asyncio.TaskGroup() as group:
        collecting = group.create_task(collect(call))
        await eventually(lambda: bool(fleet.asked))
        fleet.say(b"second")
        fleet.say(b"", {h.CHUNKS: "2", h.FIGURES: "{}"})
        assert await collecting == [b"first", b"second"]
        assert call.last is not None
        assert h.FIGURES in (call.last.headers or {}), "the node's own word, not ours in its place"


async def test_a_request_whose_whole_answer_was_lost_is_sent_again(bus: Bus, fleet: Answering) -> None:
    fleet.is_mute, fleet.is_held = True, False
    async with Call(bus, subjects.GENERATE, BODY) as call, asyncio.TaskGroup() as group:
        collecting = group.create_task(collect(call))
        await eventually(lambda: len(fleet.requests) == 1)
        fleet.is_mute = False
        await eventually(lambda: len(fleet.requests) == 2)
        fleet.say(b"", {h.CHUNKS: "1"})
        assert await collecting == [b"first"]
        assert call.resends == 1


async def test_a_lost_part_of_a_chunk_is_never_put_together_with_others(bus: Bus, fleet: Answering) -> None:
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: len(fleet.requests) == 1)
        fleet.say(b"a", {h.PART: "1/3"})
        fleet.say(b"c", {h.PART: "3/3"})
        with pytest.raises(ConnectionLost, match="part 2 of 3"):
            await collect(call)


async def test_a_request_made_while_the_connection_is_down_waits_for_it(
    nats_server: EmbeddedServer, bus: Bus, fleet: Answering
) -> None:
    await nats_server.kill()
    await eventually(lambda: not bus.is_connected)
    async with Call(bus, subjects.GENERATE, BODY) as call, asyncio.TaskGroup() as group:
        collecting = group.create_task(collect(call))
        await nats_server.start()
        await eventually(lambda: len(fleet.requests) >= 1)
        fleet.say(b"", {h.CHUNKS: "1"})
        assert await collecting == [b"first"]


async def test_a_request_made_on_a_connection_that_is_closed_fails_at_once(bus: Bus, fleet: Answering) -> None:
    fleet.is_mute = True
    async with Call(bus, subjects.GENERATE, BODY) as sent, asyncio.TaskGroup() as group:
        collecting = group.create_task(_error_of(sent))
        await eventually(lambda: len(fleet.requests) == 1)
        await bus.close()
        assert isinstance(await collecting, NotConnected)
    async with Call(bus, subjects.GENERATE, BODY) as call:
        assert isinstance(await _error_of(call), NotConnected)


async def _error_of(call: Call) -> SollolError | None:
    try:
        await collect(call)
    except SollolError as error:
        return error
    return None
