"""A plain caller that only listens: its dispatcher goes on with an answer that breaks off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import msgspec
import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.testing.scripted import ScriptedNode, ScriptedScorer, control, quick
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import Cancelled, SollolError
from sollol_bus.sdk.results import decision_of, figures_of
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode, error_headers
from sollol_bus.transport.streaming import ReplyStream
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.continuation import ContinueFrom, unpacked
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import AttemptDone, AttemptFailed, CancelReply, CancelRequest, Figures

PRINT = "ollama:0123456789ab"
ASKED = {"model": "m", "prompt": "count", "stream": True, "resume": True, "priority": 6}


def piece(text: str, **more: object) -> bytes:
    at = {"model": "m", "created_at": "2026-01-02T03:04:05Z"}
    return json.dumps({**at, "response": text, "done": False, **more}).encode()


class Node(ScriptedNode):
    """Speaks as an agent does: with its decision, and a count at the end."""

    def __init__(self, bus: Bus, node_id: str, script: Callable[[ScriptedNode, str], None]) -> None:
        super().__init__(bus, node_id, script)
        self.said: dict[str, int] = {}

    def speak(self, attempt: str, *texts: str) -> None:
        for text in texts:
            count = self.said[attempt] = self.said.get(attempt, 0) + 1
            decision = msgspec.structs.replace(self.execs[-1].decision, fingerprint=PRINT)
            headers = {h.DECISION: encode(decision).decode()} if count == 1 else None
            self.bus.publish(self.reply_to[attempt], piece(text), headers=headers)

    def end(self, attempt: str, error: ErrorBody | None = None, *, told: Figures = Figures()) -> None:  # noqa: B008 frozen
        inbox = self.reply_to[attempt]
        if error is not None:
            self.bus.publish(inbox, encode(error), headers=error_headers(error))
            self.report(attempt, AttemptFailed(attempt_id=attempt, error=error, is_streaming=True))
        else:
            count = (told.output_tokens or 0) + told.continued_tokens
            last = piece("", done=True, done_reason="stop", eval_count=count, prompt_eval_count=3)
            self.bus.publish(inbox, last)
            self.report(attempt, AttemptDone(attempt_id=attempt, figures=told))
        count = self.said.get(attempt, 0) + 1
        self.bus.publish(inbox, b"", headers={h.CHUNKS: str(count), h.FIGURES: encode(told).decode()})


LOST = ErrorBody(code=ErrorCode.ENGINE_UNAVAILABLE, message="the engine is gone")


def breaks_off(node: ScriptedNode, attempt: str) -> None:
    assert isinstance(node, Node)
    node.accept(attempt)
    node.speak(attempt, " 3", " 2")
    node.end(attempt, LOST)


def says_the_rest(node: ScriptedNode, attempt: str) -> None:
    assert isinstance(node, Node)
    node.accept(attempt)
    node.speak(attempt, " 1", " 0")
    node.end(attempt, told=Figures(prompt_tokens=5, output_tokens=2, continued_tokens=2))


def begins(node: ScriptedNode, attempt: str) -> None:
    assert isinstance(node, Node)
    node.accept(attempt)
    node.speak(attempt, " 3")


def never(node: ScriptedNode, attempt: str) -> None:
    node.accept(attempt)


class Listener:
    """A plain caller: it publishes, and listens on an inbox."""

    def __init__(self, bus: Bus, **headers: str) -> None:
        self.stream = ReplyStream(bus, total_s=20.0)
        self.stream.send(subjects.GENERATE, encode(ASKED), {h.REQUEST_ID: "r", **headers})

    async def all(self) -> list[Msg]:
        async with self.stream:
            return [msg async for msg in self.stream]


def texts(messages: list[Msg]) -> list[str]:
    return [json.loads(msg.data)["response"] for msg in messages]


async def test_a_plain_caller_hears_the_whole_answer_of_two_nodes(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1", "n2"])
    first, second = Node(actors_bus, "n1", breaks_off), Node(actors_bus, "n2", says_the_rest)
    await actors_bus.flush()
    listener = Listener(bus)
    heard = await listener.all()
    assert texts(heard) == [" 3", " 2", " 1", " 0", ""]
    final = json.loads(heard[-1].data)
    assert (final["done"], final["eval_count"], final["prompt_eval_count"]) == (True, 4, 3)
    told = [decision_of(msg) for msg in heard]
    assert [None if one is None else one.node_id for one in told] == ["n1", None, "n2", None, None]
    figures = figures_of(listener.stream.last)
    assert figures is not None
    assert (figures.resumed, figures.prompt_tokens, figures.output_tokens) == (1, 3, 4)
    (begun,), (on,) = first.execs, second.execs
    assert begun.is_resumable
    assert on.is_resumable
    assert json.loads(first.payloads[begun.attempt_id]) == {"model": "m", "prompt": "count", "stream": True}
    _, said = unpacked(second.payloads[on.attempt_id], {h.CONTINUE: str(on.body_bytes)})
    assert said == ContinueFrom(text=" 3 2", pieces=2, fingerprint=PRINT, excluded=("n1",))
    assert {asked.routing.priority for asked in scorer.asked} == {6}
    assert {asked.request_id for asked in scorer.asked} == {"r"}


@pytest.mark.parametrize("word", ["", "1", h.JOINED])
async def test_a_relayed_answer_is_joined_where_its_caller_says_so(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus, word: str
) -> None:
    ScriptedScorer(actors_bus, ["n1", "n2"])
    nodes = Node(actors_bus, "n1", breaks_off), Node(actors_bus, "n2", says_the_rest)
    await actors_bus.flush()
    heard = await Listener(bus, **({h.STREAM: word} if word else {})).all()
    assert texts(heard) == [" 3", " 2", " 1", " 0", ""]
    assert [exec_.is_joined for node in nodes for exec_ in node.execs] == [word == h.JOINED] * 2


async def test_what_nobody_goes_on_with_ends_with_the_first_error_and_why(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    def cannot(node: ScriptedNode, attempt: str) -> None:
        node.accept(attempt)
        node.fail(attempt, ErrorCode.NOT_CONTINUED)

    ScriptedScorer(actors_bus, ["n1", "n2"])
    Node(actors_bus, "n1", breaks_off)
    Node(actors_bus, "n2", cannot)
    await actors_bus.flush()
    with pytest.raises(SollolError) as caught:
        await Listener(bus).all()
    assert caught.value.body.code is ErrorCode.ENGINE_UNAVAILABLE
    assert "scripted failure" in caught.value.details["not_resumed"]


async def test_a_caller_that_left_is_missed_at_the_next_chunk(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = Node(actors_bus, "n1", begins)
    await actors_bus.flush()
    listener = Listener(bus)
    async with listener.stream:
        assert await anext(aiter(listener.stream))
    await bus.flush()
    node.speak(node.execs[0].attempt_id, " 2")
    await eventually(lambda: not dispatcher.in_flight())
    await eventually(lambda: node.cancelled == [node.execs[0].attempt_id])


async def test_a_caller_cancels_by_its_id(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = Node(actors_bus, "n1", never)
    await actors_bus.flush()
    listener = Listener(bus, **{h.CANCEL_SECRET: "s3cret"})
    await eventually(lambda: bool(node.execs))
    reply = await bus.request(subjects.CANCEL, encode(CancelRequest(request_id="r", secret="s3cret")))
    assert msgspec.json.decode(reply.data, type=CancelReply).is_cancelled
    with pytest.raises(Cancelled):
        await listener.all()
    await eventually(lambda: bool(node.cancelled) and not dispatcher.in_flight())


async def test_an_answer_goes_on_though_its_caller_may_cancel_it_by_a_secret(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    def goes_on(node: ScriptedNode, attempt: str) -> None:
        assert isinstance(node, Node)
        node.accept(attempt)
        node.speak(attempt, " 1")

    ScriptedScorer(actors_bus, ["n1", "n2"])
    Node(actors_bus, "n1", breaks_off)
    second = Node(actors_bus, "n2", goes_on)
    await actors_bus.flush()
    listener = Listener(bus, **{h.CANCEL_SECRET: "s3cret"})
    async with listener.stream:
        heard = [await anext(listener.stream) for _ in range(3)]
        assert texts(heard) == [" 3", " 2", " 1"]
        again = encode(CancelRequest(request_id="r", secret="s3cret", resend=0))
        assert msgspec.json.decode((await bus.request(subjects.CANCEL, again)).data, type=CancelReply).is_cancelled
        with pytest.raises(Cancelled):
            await anext(listener.stream)
    await eventually(lambda: second.cancelled == [second.execs[0].attempt_id] and not dispatcher.in_flight())


async def test_an_id_is_one_callers_until_it_is_answered(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1"])
    node = Node(actors_bus, "n1", never)
    await actors_bus.flush()
    first = Listener(bus)
    await eventually(lambda: bool(node.execs))
    with pytest.raises(SollolError, match="request id r is in use"):
        await Listener(bus).all()
    first.stream.close()
    assert len(scorer.asked) == 1


async def test_sent_again_it_takes_the_place_of_what_was_sent_before(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = Node(actors_bus, "n1", never)
    await actors_bus.flush()
    Listener(bus, **{h.CANCEL_SECRET: "s"})
    await eventually(lambda: bool(node.execs))
    node.script = says_the_rest
    again = Listener(bus, **{h.CANCEL_SECRET: "s", h.RESEND: "1"})
    assert texts(await again.all()) == [" 1", " 0", ""]
    assert node.execs[-1].attempt_id == "r-11"


async def test_a_dispatcher_that_leaves_gives_what_has_said_nothing_to_another(
    nats_server: EmbeddedServer, dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1"])
    scorer.holds_back = True
    node = Node(actors_bus, "n1", says_the_rest)
    await actors_bus.flush()
    listener = Listener(bus)
    await eventually(lambda: bool(scorer.asked))
    async with quick(Dispatcher(DispatcherConfig(drain_timeout_s=0.3), control(nats_server))):
        await asyncio.gather(dispatcher.close(), eventually(lambda: scorer.asked[-1].number > 1))
        scorer.let_go()
        assert texts(await listener.all()) == [" 1", " 0", ""]
    assert len(node.execs) == 1


@pytest.mark.parametrize("secret", ["", "s3cret"], ids=["without a secret", "with one"])
async def test_what_another_dispatcher_took_over_goes_on_when_it_breaks_off(
    nats_server: EmbeddedServer, dispatcher: Dispatcher, actors_bus: Bus, bus: Bus, secret: str
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1", "n2"])
    scorer.holds_back = True
    Node(actors_bus, "n1", breaks_off)
    Node(actors_bus, "n2", says_the_rest)
    await actors_bus.flush()
    listener = Listener(bus, **({h.CANCEL_SECRET: secret} if secret else {}))
    await eventually(lambda: bool(scorer.asked))
    async with quick(Dispatcher(DispatcherConfig(drain_timeout_s=0.3), control(nats_server))):
        await asyncio.gather(dispatcher.close(), eventually(lambda: scorer.asked[-1].number > 1))
        scorer.let_go()
        assert texts(await listener.all()) == [" 3", " 2", " 1", " 0", ""]


async def test_an_answer_in_its_middle_is_told_that_its_dispatcher_left(
    nats_server: EmbeddedServer, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    Node(actors_bus, "n1", begins)
    async with quick(Dispatcher(DispatcherConfig(drain_timeout_s=0.1), control(nats_server))):
        listener = Listener(bus)
        assert await anext(aiter(listener.stream))
    with pytest.raises(SollolError) as caught:
        await listener.all()
    assert caught.value.body.code is ErrorCode.ACTOR_STOPPED
    assert caught.value.message == "its dispatcher is shutting down in the middle of the answer"
    assert caught.value.details == {"not_resumed": "it is held by its dispatcher alone"}


async def test_nothing_is_held_where_nothing_may_be(nats_server: EmbeddedServer, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1", "n2"])
    node = Node(actors_bus, "n1", breaks_off)
    Node(actors_bus, "n2", says_the_rest)
    async with quick(Dispatcher(DispatcherConfig(drain_timeout_s=0.1, resume_bytes=0), control(nats_server))):
        with pytest.raises(SollolError, match="the engine is gone"):
            await Listener(bus).all()
    assert not node.execs[0].is_resumable
