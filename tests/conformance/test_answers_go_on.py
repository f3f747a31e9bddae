"""Answers of each engine, cut between any two of their pieces: the node's own adapter says the rest, byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

import msgspec
import pytest

from sollol_agents.lab.testing.broken_streams import Stream, timeless
from sollol_agents.node.engines.base import Engine, EngineAnswer, EngineRequest
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.ollama import OllamaEngine
from sollol_agents.node.engines.openai import OpenAIEngine
from sollol_bus.errors import SollolError
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.errors import ErrorCode


class Given(Protocol):
    @property
    def url(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def is_ollama(self) -> bool: ...


USAGE: Final = {"stream_options": {"include_usage": True}}
TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "w",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
HISTORY: Final = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good"}]
NATIVE: Final[dict[str, tuple[RequestKind, dict[str, Any]]]] = {
    "generate": (RequestKind.GENERATE, {}),
    "generate with a system message": (RequestKind.GENERATE, {"system": "be nice"}),
    "generate, raw": (RequestKind.GENERATE, {"raw": True}),
    "generate that is cut by its limit": (RequestKind.GENERATE, {"options": {"num_predict": 6}}),
    "chat": (RequestKind.CHAT, {}),
    "chat with tools": (RequestKind.CHAT, {"tools": [TOOL]}),
    "chat with a stop": (RequestKind.CHAT, {"options": {"stop": [" 3 2"]}}),
    "chat that is cut by its limit": (RequestKind.CHAT, {"options": {"num_predict": 5}}),
}
DIALECTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": ("/v1/chat/completions", USAGE),
    "chat with tools": ("/v1/chat/completions", {"tools": [TOOL]} | USAGE),
    "chat with a stop": ("/v1/chat/completions", {"stop": " 3 2"}),
    "chat that is cut by its limit": ("/v1/chat/completions", {"max_tokens": 6} | USAGE),
    "completion": ("/v1/completions", USAGE),
    "completion that is cut by its limit": ("/v1/completions", {"max_tokens": 6} | USAGE),
    "message": ("/v1/messages", {"max_tokens": 40, "system": [{"type": "text", "text": "be"}]}),
    "message that is cut by its limit": ("/v1/messages", {"max_tokens": 5}),
    "response": ("/v1/responses", {"instructions": "be nice"}),
    "response that is cut by its limit": ("/v1/responses", {"max_output_tokens": 6}),
}
PROMPTS: Final = ("count 8", "count think")


@pytest.fixture
async def adapter(engine: Given) -> AsyncIterator[Engine]:
    """The node's adapter to the engine."""
    http = EngineHttp(engine.url)
    made: Engine = OllamaEngine(http) if engine.is_ollama else OpenAIEngine(http, {})
    await made.inventory()
    yield made
    await made.aclose()


async def run(adapter: Engine, request: EngineRequest) -> tuple[list[bytes], EngineAnswer]:
    answer = adapter.run(request)
    chunks = [chunk async for batch in answer.chunks() for chunk in batch]
    return chunks, answer


def pieces_of(chunks: list[bytes]) -> list[tuple[str, str]]:
    """Text and thinking of each native object that says something."""
    objects = [msgspec.json.decode(chunk) for chunk in chunks]
    said = [one.get("message") or {"content": one.get("response"), "thinking": one.get("thinking")} for one in objects]
    pieces = [(one.get("content") or "", one.get("thinking") or "") for one in said]
    return [piece for piece in pieces if any(piece)]


def joined(pieces: list[tuple[str, str]]) -> tuple[str, str]:
    return "".join(text for text, _ in pieces), "".join(thinking for _, thinking in pieces)


def final(chunks: list[bytes]) -> tuple[Any, ...]:
    last = msgspec.json.decode(chunks[-1])
    assert last["done"] is True
    return last["done_reason"], last["prompt_eval_count"], last["eval_count"]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", NATIVE)
async def test_a_native_answer_goes_on_at_every_cut(adapter: Engine, engine: Given, name: str, prompt: str) -> None:
    kind, fields = NATIVE[name]
    asked = {"prompt": prompt} if kind is RequestKind.GENERATE else {"messages": [{"role": "user", "content": prompt}]}
    options = {"temperature": 0} | fields.get("options", {})
    request = EngineRequest(
        kind=kind,
        model=engine.model,
        body=msgspec.json.encode({"model": engine.model} | asked | fields | {"options": options}),
    )
    whole, undisturbed = await run(adapter, request)
    pieces = pieces_of(whole)
    assert len(pieces) >= 3
    for cut in range(1, len(pieces) + 1):
        text, thinking = joined(pieces[:cut])
        said = ContinueFrom(text=text, thinking=thinking, pieces=cut)
        rest, answer = await run(adapter, msgspec.structs.replace(request, continued=said))
        more = joined(pieces_of(rest))
        assert (text + more[0], thinking + more[1]) == joined(pieces), cut
        assert final(rest) == final(whole), cut
        figures = answer.figures
        assert figures.prompt_tokens == (undisturbed.figures.prompt_tokens or 0) + figures.continued_tokens
        assert (figures.output_tokens or 0) + figures.continued_tokens == undisturbed.figures.output_tokens


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", DIALECTS)
async def test_an_answer_in_each_dialect_goes_on_at_every_cut(
    adapter: Engine, engine: Given, name: str, prompt: str
) -> None:
    path, fields = DIALECTS[name]
    asked: dict[str, Any] = {"messages": [*HISTORY, {"role": "user", "content": prompt}]}
    if path == "/v1/completions":
        asked = {"prompt": prompt}
    elif path == "/v1/responses":
        asked = {"input": prompt}
    body = msgspec.json.encode({"model": engine.model, "stream": True, "temperature": 0} | asked | fields)
    request = EngineRequest(kind=RequestKind.PASSTHROUGH, model=engine.model, body=body, path=path)
    whole, _ = await run(adapter, request)
    stream = Stream(path, body, b"".join(whole))
    places = [place for place, said in enumerate(stream.said, 1) if said]
    assert len(places) >= 3
    for place in places:
        telling = stream.telling()
        telling.read(b"".join(stream.events[:place]))
        had = telling.said()
        assert not had.refusal
        said = ContinueFrom(text=had.text, thinking=had.thinking, pieces=had.pieces)
        telling.break_off()
        rest, _ = await run(adapter, msgspec.structs.replace(request, continued=said))
        told = b"".join([*stream.events[:place], *map(telling.feed, rest)])
        assert timeless(told) == timeless(b"".join(stream.events)), place


@pytest.mark.parametrize("temperature", [0.8, 1.5])
async def test_a_chance_answer_goes_on_without_a_piece_too_many_or_too_few(
    adapter: Engine, engine: Given, temperature: float
) -> None:
    fields = {"model": engine.model, "messages": [{"role": "user", "content": "count 30"}]}
    body = msgspec.json.encode(fields | {"options": {"temperature": temperature, "seed": 7}})
    request = EngineRequest(kind=RequestKind.CHAT, model=engine.model, body=body)
    for cut in range(1, 30, 4):
        text = " ".join(str(number) for number in range(29, 29 - cut, -1))
        rest, _ = await run(adapter, msgspec.structs.replace(request, continued=ContinueFrom(text=text, pieces=cut)))
        assert text + joined(pieces_of(rest))[0] == " ".join(map(str, range(29, -1, -1)))


async def test_a_call_of_a_tool_is_never_told_as_text(adapter: Engine, engine: Given) -> None:
    fields = {"model": engine.model, "messages": [{"role": "user", "content": "count 3"}], "tools": [TOOL]}
    request = EngineRequest(
        kind=RequestKind.CHAT,
        model=engine.model,
        body=msgspec.json.encode(fields | {"options": {"temperature": 0.5}}),
        continued=ContinueFrom(text="please call", pieces=2),
    )
    with pytest.raises(SollolError, match="call of a tool") as refused:
        await run(adapter, request)
    assert refused.value.body.code is ErrorCode.NOT_CONTINUED


async def test_a_prompt_that_no_longer_fits_is_refused(adapter: Engine, engine: Given) -> None:
    fields = {"model": engine.model, "prompt": "count 3", "options": {"num_ctx": 2048}}
    request = EngineRequest(
        kind=RequestKind.GENERATE,
        model=engine.model,
        body=msgspec.json.encode(fields),
        continued=ContinueFrom(text=" hello" * 9000, pieces=9000),
    )
    with pytest.raises(SollolError, match="no longer fits the context") as refused:
        await run(adapter, request)
    assert refused.value.body.code is ErrorCode.NOT_CONTINUED
