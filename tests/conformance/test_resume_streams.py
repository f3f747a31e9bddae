"""Streams of each engine, cut between any two events: read and told on, they come out as the engine wrote them."""

from __future__ import annotations

from typing import Any, Final, Protocol

import httpx
import pytest

from sollol_agents.lab.testing.broken_streams import Stream, ids_in, timeless


class Engine(Protocol):
    @property
    def model(self) -> str: ...


USAGE: Final = {"stream_options": {"include_usage": True}}
ASKED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": ("/v1/chat/completions", {}),
    "chat with usage": ("/v1/chat/completions", USAGE),
    "chat that is cut by its limit": ("/v1/chat/completions", {"max_tokens": 6} | USAGE),
    "completion": ("/v1/completions", {}),
    "completion with usage": ("/v1/completions", {"max_tokens": 6} | USAGE),
    "message": ("/v1/messages", {"max_tokens": 40}),
    "message that is cut by its limit": ("/v1/messages", {"max_tokens": 5}),
    "response": ("/v1/responses", {}),
    "response that is cut by its limit": ("/v1/responses", {"max_output_tokens": 6}),
}
PROMPTS: Final = ("count 8", "count think")


async def _stream(client: httpx.AsyncClient, engine: Engine, name: str, prompt: str) -> Stream:
    path, fields = ASKED[name]
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    if path == "/v1/completions":
        asked = {"prompt": prompt}
    elif path == "/v1/responses":
        asked = {"input": prompt}
    request = client.build_request("POST", path, json={"model": engine.model, "stream": True} | asked | fields)
    answer = await client.send(request)
    assert answer.status_code == 200, answer.text
    return Stream(path, request.content, answer.content)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", ASKED)
async def test_a_live_stream_that_breaks_off_comes_out_the_same(
    client: httpx.AsyncClient, engine: Engine, name: str, prompt: str
) -> None:
    stream = await _stream(client, engine, name, prompt)
    assert sum(map(bool, stream.said)) >= 3
    for place in range(len(stream.events)):
        for cuts in ([place], [place, 1], [place, 2, 0, 1]):
            told = stream.broken(cuts)
            assert timeless(told) == timeless(b"".join(stream.events)), cuts
            assert all(len(ids) == 1 for ids in ids_in(told).values()), cuts
