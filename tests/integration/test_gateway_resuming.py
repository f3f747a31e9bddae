"""Answers that break off and go on, as clients of the gateway see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from sollol_agents.gateway.actor import Gateway
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.played_fleet import PlayedFleet
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import encode
from sollol_schemas import headers as h
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures
from sollol_schemas.inboxes import CLIENT_INBOX_PREFIX

NATIVE = {"model": "m", "prompt": "hi"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
WORDS = ["one ", "two ", "three"]
FIGURES = Figures(actual_s=1.0, prompt_tokens=11, output_tokens=2, continued_tokens=1)


@pytest.fixture
async def fleet(nats_server: EmbeddedServer) -> AsyncIterator[PlayedFleet]:
    bus = await Bus.connect(BusConfig(url=nats_server.url, name="fleet"))
    played = PlayedFleet(bus)
    await bus.flush()
    yield played
    await bus.close()


@pytest.fixture
async def http(nats_server: EmbeddedServer) -> AsyncIterator[httpx.AsyncClient]:
    bus = BusConfig(url=nats_server.url, name="gateway", inbox_prefix=CLIENT_INBOX_PREFIX)
    async with (
        Gateway(GatewayConfig(port=0, drain_timeout_s=0.1), bus) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False) as client,
    ):
        yield client


async def _break_once(fleet: PlayedFleet) -> None:
    """One node says a word and dies; another one says the rest."""
    await fleet.request(1)
    fleet.say(WORDS[0])
    fleet.fail(ErrorCode.NODE_LOST)
    await fleet.request(2)
    fleet.say(*WORDS[1:], node="cellar")
    fleet.end(figures=FIGURES, done_reason="stop", eval_count=3, prompt_eval_count=10)


async def test_a_native_stream_goes_on(http: httpx.AsyncClient, fleet: PlayedFleet) -> None:
    reply, _ = await asyncio.gather(http.post("/api/generate", json=NATIVE), _break_once(fleet))
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert "".join(line["response"] for line in lines) == "".join(WORDS)
    told = lines[-1]["_sollol_routing"]
    assert (told["resumed"], told["nodes"], told["node_id"]) == (1, ["attic", "cellar"], "cellar")
    counted = (await http.get("/metrics")).text
    assert 'sollol_gateway_resumed_total{code="node_lost"} 1.0' in counted
    assert 'sollol_gateway_tokens_total{kind="output",node="cellar"} 3.0' in counted
    assert 'sollol_gateway_tokens_total{kind="prompt",node="cellar"} 10.0' in counted


def _line(text: str, **more: object) -> bytes:
    return encode({"model": "m", "response": text, "done": False, **more})


@pytest.mark.parametrize("at", range(1, 4))
async def test_a_whole_answer_of_joined_chunks_is_the_same_wherever_it_breaks(
    http: httpx.AsyncClient, fleet: PlayedFleet, at: int
) -> None:
    lines = [*map(_line, WORDS), _line("", done=True, done_reason="stop", eval_count=3)]

    async def answer() -> None:
        await fleet.request(1)
        fleet.chunk(b"\n".join(lines[:at]))
        fleet.fail(ErrorCode.NODE_LOST)
        await fleet.request(2)
        fleet.chunk(b"\n".join(lines[at:]), node="cellar")
        fleet.end(figures=FIGURES)

    reply, _ = await asyncio.gather(http.post("/api/generate", json=NATIVE | {"stream": False}), answer())
    told = reply.json()
    assert (told["response"], told["done_reason"], told["eval_count"]) == ("".join(WORDS), "stop", 3)
    assert [fleet.headers(n)[h.STREAM] for n in (0, 1)] == [h.JOINED] * 2


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/api/generate", NATIVE, "1"),
        ("/v1/chat/completions", CHAT, "1"),
        ("/v1/chat/completions", CHAT | {"stream": False}, h.JOINED),
        ("/v1/something/else", CHAT | {"stream": False}, "1"),
    ],
)
async def test_only_who_gets_a_known_answer_as_one_does_without_its_chunks(
    http: httpx.AsyncClient, fleet: PlayedFleet, path: str, body: dict[str, object], word: str
) -> None:
    async def answer() -> None:
        await fleet.request(1)
        fleet.chunk(_line("one", done=True))
        fleet.end()

    reply, _ = await asyncio.gather(http.post(path, json=body), answer())
    assert (reply.status_code, fleet.headers()[h.STREAM]) == (200, word)


async def test_a_whole_answer_goes_on_and_its_head_says_so(http: httpx.AsyncClient, fleet: PlayedFleet) -> None:
    asked = http.post("/api/generate", json=NATIVE | {"stream": False})
    reply, _ = await asyncio.gather(asked, _break_once(fleet))
    assert reply.json()["response"] == "".join(WORDS)
    assert reply.json()["eval_count"] == 3
    assert (reply.headers["x-sollol-resumed"], reply.headers["x-sollol-node"]) == ("1", "cellar")


async def test_an_event_stream_goes_on_with_a_comment_at_the_seam(http: httpx.AsyncClient, fleet: PlayedFleet) -> None:
    def event(text: str) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
        chunk = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 5, "model": "m"}
        return b"data: %b\n\n" % encode(chunk | {"system_fingerprint": "fp_ollama", "choices": [choice]})

    async def break_once() -> None:
        await fleet.request(1)
        fleet.chunk(event("one "), content="text/event-stream")
        fleet.chunk(event("half")[:30])
        fleet.fail(ErrorCode.ENGINE_FAILED)
        await fleet.request(2)
        assert fleet.continued().text == "one "
        fleet.say(*WORDS[1:], node="cellar")
        fleet.end(done_reason="stop", eval_count=3, prompt_eval_count=10)

    reply, _ = await asyncio.gather(http.post("/v1/chat/completions", json=CHAT), break_once())
    before, seam, after = reply.text.partition(": resumed on cellar\n\n")
    assert seam
    assert ("one " in before, "two " in before, "two " in after) == (True, False, True)
    assert after.endswith("data: [DONE]\n\n")
    chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "".join(WORDS)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_the_seam_is_told_where_the_first_piece_of_the_rest_says_nothing(
    http: httpx.AsyncClient, fleet: PlayedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sollol_bus.sdk.passing._TOGETHER_S", 0.0)
    monkeypatch.setattr("sollol_bus.sdk.passing._BY_ITERATION_S", 60.0)

    def event(text: str) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
        chunk = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 5, "model": "m"}
        return b"data: %b\n\n" % encode(chunk | {"choices": [choice]})

    async def break_once() -> None:
        await fleet.request(1)
        for text in ("one ", "and "):  # both come by the iteration, as the first of all and of its time
            fleet.chunk(event(text), content="text/event-stream")
            await fleet.bus.flush()
        fleet.fail(ErrorCode.NODE_LOST)
        await fleet.request(2)
        for text in ("", *WORDS[1:]):
            fleet.say(text, node="cellar")
            for _ in range(3):
                await fleet.bus.flush()
        fleet.end(figures=FIGURES, done_reason="stop", eval_count=3, prompt_eval_count=10)

    reply, _ = await asyncio.gather(http.post("/v1/chat/completions", json=CHAT), break_once())
    before, seam, after = reply.text.partition(": resumed on cellar\n\n")
    assert seam
    assert ("and " in before, "two " in before, "two " in after) == (True, False, True)
    assert 'sollol_gateway_resumed_total{code="node_lost"} 1.0' in (await http.get("/metrics")).text


@pytest.mark.parametrize("how", ["body", "header"])
async def test_a_client_that_does_not_want_it_gets_the_error(
    http: httpx.AsyncClient, fleet: PlayedFleet, how: str
) -> None:
    async def break_off() -> None:
        await fleet.request(1)
        assert h.RESUME not in fleet.headers()
        assert b"resume" not in fleet.requests[0].data
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.NODE_LOST, "the node is gone")

    said = {"resume": False} if how == "body" else {}
    headers = {"X-Sollol-Resume": "false"} if how == "header" else {}
    reply, _ = await asyncio.gather(http.post("/api/generate", json=NATIVE | said, headers=headers), break_off())
    assert "the node is gone" in reply.text.splitlines()[-1]


_MADE = {"id": "x-7", "model": "m", "created": 5}
_OPENAI = _MADE | {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "one "}}]}
_ANTHROPIC = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one "}}
_RESPONSES = {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "delta": "one "}


@pytest.mark.shutdown
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/generate", {"response": "one ", "done": False}),
        ("/v1/chat/completions", _OPENAI),
        ("/v1/messages", _ANTHROPIC),
        ("/v1/responses", _RESPONSES),
    ],
)
async def test_a_gateway_that_leaves_ends_what_outlasts_it_with_an_error_of_its_dialect(
    nats_server: EmbeddedServer, fleet: PlayedFleet, path: str, said: dict[str, object]
) -> None:
    is_events = path.startswith("/v1")
    bus = BusConfig(url=nats_server.url, name="gateway", inbox_prefix=CLIENT_INBOX_PREFIX)
    gateway = Gateway(GatewayConfig(port=0, drain_timeout_s=0.1), bus)

    async def begin() -> None:
        await fleet.request(1)
        if is_events:
            fleet.chunk(b"data: %b\n\n" % encode(said), content="text/event-stream")
        else:
            fleet.chunk(encode(said))

    async with (
        gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False) as http,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(begin())
        async with http.stream("POST", path, json=CHAT | NATIVE) as reply:
            lines = reply.aiter_lines()
            assert "one " in await anext(lines)
            await gateway.close()
            told = [line.removeprefix("data: ") async for line in lines if line and not line.startswith("event:")]
    ended = json.loads(told[-1])
    inner = ended["error"] if isinstance(ended.get("error"), dict) else ended
    assert inner["not_resumed"] == "the gateway through which it came is leaving"
    assert "gateway is shutting down" in (inner["error"] if path == "/api/generate" else inner["message"])
    assert "[DONE]" not in told


async def test_what_is_no_wish_is_refused(http: httpx.AsyncClient) -> None:
    reply = await http.post("/api/generate", json=NATIVE, headers={"X-Sollol-Resume": "perhaps"})
    assert (reply.status_code, "X-Sollol-Resume" in reply.text) == (400, True)


async def test_a_client_that_saw_nothing_gets_an_answer_from_the_beginning_where_it_cannot_go_on(
    http: httpx.AsyncClient, fleet: PlayedFleet
) -> None:
    async def refuse() -> None:
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.NODE_LOST)
        await fleet.request(2)
        fleet.fail(ErrorCode.NOT_CONTINUED)
        await fleet.request(3)
        assert h.CONTINUE not in fleet.headers()
        fleet.say(*WORDS, node="cellar")
        fleet.end(done_reason="stop")

    reply, _ = await asyncio.gather(http.post("/api/generate", json=NATIVE | {"stream": False}), refuse())
    assert reply.json()["response"] == "".join(WORDS)


async def test_a_client_that_saw_a_part_is_told_what_broke_it(http: httpx.AsyncClient, fleet: PlayedFleet) -> None:
    async def refuse() -> None:
        await fleet.request(1)
        fleet.say(WORDS[0])
        fleet.fail(ErrorCode.NODE_LOST, "the node is gone")
        await fleet.request(2)
        fleet.fail(ErrorCode.NOT_CONTINUED)

    reply, _ = await asyncio.gather(http.post("/api/generate", json=NATIVE), refuse())
    first, last = reply.text.splitlines()
    assert json.loads(first)["response"] == WORDS[0]
    assert "the node is gone" in last
