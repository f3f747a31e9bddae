"""The client library and jobs go on with answers that break off, and tell how often and where."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import msgspec
import pytest

from sollol_agents.dispatcher.jobs.intake import accept
from sollol_agents.dispatcher.jobs.tries import Answered, Try
from sollol_agents.lab.testing.played_fleet import PlayedFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BackendUnavailable, BadRequest
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import encode
from sollol_schemas import headers as h
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import Figures
from sollol_schemas.jobs import Job

WORDS = ["one ", "two ", "three"]
BODY = b'{"model":"m","prompt":"hi"}'
FIGURES = Figures(actual_s=1.0, prompt_tokens=11, output_tokens=2, continued_tokens=1)


@pytest.fixture
async def fleet(nats_server: EmbeddedServer) -> AsyncIterator[PlayedFleet]:
    bus = await Bus.connect(BusConfig(url=nats_server.url, name="fleet"))
    played = PlayedFleet(bus)
    await bus.flush()
    yield played
    await bus.close()


async def _break_off(fleet: PlayedFleet) -> None:
    await fleet.request(1)
    fleet.say(WORDS[0])
    fleet.fail(ErrorCode.NODE_LOST)


async def _go_on(fleet: PlayedFleet) -> None:
    await fleet.request(2)
    fleet.say(*WORDS[1:], node="cellar")
    fleet.end(figures=FIGURES, done_reason="stop", eval_count=3)


async def _break_once(fleet: PlayedFleet) -> None:
    await _break_off(fleet)
    await _go_on(fleet)


async def test_a_whole_answer_of_the_client_tells_every_node(bus: Bus, fleet: PlayedFleet) -> None:
    answer, _ = await asyncio.gather(Client(bus).generate("m", "hi"), _break_once(fleet))
    assert (answer.text, answer.resumed, answer.done_reason) == ("".join(WORDS), 1, "stop")
    assert answer.decision is not None
    assert answer.decision.node_id == "cellar"
    assert (answer.routing["resumed"], answer.routing["nodes"]) == (1, ["attic", "cellar"])
    assert answer.figures is not None
    assert (answer.figures.prompt_tokens, answer.figures.output_tokens, answer.figures.resumed) == (10, 3, 1)


async def _join(fleet: PlayedFleet) -> None:
    """Two pieces in a message; their node dies, and another one says the rest in one."""
    await fleet.request(1)
    fleet.chunk(b"\n".join(encode({"response": word, "done": False}) for word in WORDS[:2]))
    fleet.fail(ErrorCode.NODE_LOST)
    await fleet.request(2)
    rest = encode({"response": WORDS[2], "done": False}), encode({"response": "", "done": True, "eval_count": 3})
    fleet.chunk(b"\n".join(rest), node="cellar")
    fleet.end(figures=FIGURES)


async def test_a_whole_answer_of_the_client_is_made_of_joined_chunks(bus: Bus, fleet: PlayedFleet) -> None:
    answer, _ = await asyncio.gather(Client(bus).generate("m", "hi"), _join(fleet))
    assert (answer.text, answer.final["eval_count"], answer.resumed) == ("".join(WORDS), 3, 1)
    assert (fleet.headers(0)[h.STREAM], fleet.headers(1)[h.STREAM]) == (h.JOINED, h.JOINED)
    assert (fleet.continued().text, fleet.continued().pieces) == ("one two ", 2)


async def test_a_job_counts_the_chunks_of_its_answer_whatever_they_leave_in(bus: Bus, fleet: PlayedFleet) -> None:
    async with _try(bus) as asking:
        await _join(fleet)
        await eventually(lambda: asking.is_over)
        assert isinstance(asking.result, Answered)
        assert json.loads(asking.result.body)["response"] == "".join(WORDS)
        assert (asking.tokens, fleet.headers(0)[h.STREAM]) == (4, h.JOINED)


async def test_a_stream_of_the_client_tells_it_while_it_goes_on(bus: Bus, fleet: PlayedFleet) -> None:
    seen: list[tuple[str, int]] = []
    async with Client(bus).generate_stream("m", "hi") as stream:
        broken = asyncio.ensure_future(_break_once(fleet))  # noqa: TID251 ended below
        seen += [(chunk.text, stream.resumed) async for chunk in stream]
        await broken
    assert [text for text, _ in seen if text] == WORDS
    assert fleet.headers(0)[h.STREAM] == "1"
    assert (seen[0][1], seen[-1][1]) == (0, 1)


@pytest.mark.parametrize("where", ["client", "request"])
async def test_a_caller_of_the_client_may_want_the_error(bus: Bus, fleet: PlayedFleet, where: str) -> None:
    client = Client(bus, resume_bytes=0) if where == "client" else Client(bus)
    with pytest.raises(BackendUnavailable):
        await asyncio.gather(client.generate("m", "hi", resume=where == "client"), _break_off(fleet))
    assert h.RESUME not in fleet.headers()
    assert "resume" not in json.loads(fleet.requests[0].data)


async def test_the_wish_is_yes_or_no(bus: Bus) -> None:
    with pytest.raises(BadRequest, match="resume"):
        await Client(bus).generate("m", "hi", resume="often")


def _try(bus: Bus, body: bytes = BODY, resume_bytes: int = 1 << 20) -> Try:
    accepted = accept(Job(body=msgspec.Raw(body)), {}, hosts=())
    return Try(bus, accepted, headers={}, age_s=0.0, resume_bytes=resume_bytes)


async def test_a_jobs_answer_goes_on_and_tells_where_it_is(bus: Bus, fleet: PlayedFleet) -> None:
    async with _try(bus) as asking:
        await _break_off(fleet)
        await eventually(lambda: asking.node_id == "attic")
        await _go_on(fleet)
        await eventually(lambda: asking.is_over)
        assert isinstance(asking.result, Answered)
        assert json.loads(asking.result.body)["response"] == "".join(WORDS)
        assert (asking.node_id, asking.resumed) == ("cellar", 1)
        assert asking.result.figures is not None
        assert asking.result.figures.resumed == 1
        assert asking.result.decision is not None
        assert asking.result.decision.node_id == "cellar"


@pytest.mark.parametrize("body", [BODY, b'{"model":"m","prompt":"hi","resume":false}'], ids=["setting", "body"])
async def test_a_job_that_does_not_go_on_fails_its_try(bus: Bus, fleet: PlayedFleet, body: bytes) -> None:
    async with _try(bus, body, 0 if body == BODY else 1 << 20) as asking:
        await _break_off(fleet)
        await eventually(lambda: asking.is_over)
        assert isinstance(asking.result, ErrorBody)
        assert asking.result.code is ErrorCode.NODE_LOST
        assert b"resume" not in fleet.requests[0].data
