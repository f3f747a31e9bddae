"""A real language model goes on with its own answers, in each dialect and by chance."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

import httpx
import msgspec
import pytest

from sollol_agents.lab.testing.broken_streams import Stream
from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.openai import OpenAIEngine
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import ContinueFrom


class Given(Protocol):
    @property
    def url(self) -> str: ...

    @property
    def model(self) -> str: ...


QUESTION: Final = "Tell me a short story about a cat."
TURNS: Final = [{"role": "user", "content": QUESTION}]
ASKED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "generate": ("", {"prompt": QUESTION, "options": {"temperature": 0, "num_predict": 9}}),
    "generate, raw": ("", {"prompt": "One day, a", "raw": True, "options": {"temperature": 0, "num_predict": 9}}),
    "chat": ("/v1/chat/completions", {"messages": TURNS, "max_tokens": 9}),
    "chat with a stop": ("/v1/chat/completions", {"messages": TURNS, "max_tokens": 9, "stop": " wandered"}),
    "chat with penalties": ("/v1/chat/completions", {"messages": TURNS, "max_tokens": 9, "repeat_penalty": 1.4}),
    "completion": ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 9}),
    "message": ("/v1/messages", {"messages": TURNS, "max_tokens": 9, "system": "Be brief."}),
    "response": ("/v1/responses", {"input": QUESTION, "max_output_tokens": 9}),
}


@pytest.fixture
async def adapter(language_model: Given) -> AsyncIterator[OpenAIEngine]:
    made = OpenAIEngine(EngineHttp(language_model.url), {})
    await made.inventory()
    yield made
    await made.aclose()


async def run(adapter: OpenAIEngine, request: EngineRequest) -> bytes:
    return b"\n".join([chunk async for batch in adapter.run(request).chunks() for chunk in batch])


def pieces_of(request: EngineRequest, raw: bytes) -> list[str]:
    if request.kind is RequestKind.PASSTHROUGH and request.continued is None:
        return [said.text for said in Stream(request.path, request.body, raw).said if said]
    objects = [msgspec.json.decode(line) for line in raw.splitlines()]
    return [one["response"] for one in objects if one["response"]]


@pytest.mark.parametrize("name", ASKED)
async def test_a_real_model_says_the_rest_of_its_answer(
    adapter: OpenAIEngine, language_model: Given, name: str
) -> None:
    path, fields = ASKED[name]
    body = msgspec.json.encode({"model": language_model.model, "stream": True, "temperature": 0} | fields)
    kind = RequestKind.PASSTHROUGH if path else RequestKind.GENERATE
    request = EngineRequest(kind=kind, model=language_model.model, body=body, path=path)
    pieces = pieces_of(request, await run(adapter, request))
    assert len(pieces) >= 4
    for cut in (1, 2, len(pieces) // 2, len(pieces) - 1):
        said = ContinueFrom(text="".join(pieces[:cut]), pieces=cut)
        going_on = msgspec.structs.replace(request, continued=said)
        rest = pieces_of(going_on, await run(adapter, going_on))
        assert rest == pieces[cut:], cut


@pytest.mark.parametrize("cut", [1, 4, 7])
async def test_by_chance_a_real_model_goes_on_with_what_it_might_have_said(
    adapter: OpenAIEngine, language_model: Given, cut: int
) -> None:
    fields = {"messages": TURNS, "max_tokens": 9, "stream": True, "temperature": 0.8, "top_k": 40, "seed": 3}
    body = msgspec.json.encode({"model": language_model.model} | fields)
    path = "/v1/chat/completions"
    request = EngineRequest(kind=RequestKind.PASSTHROUGH, model=language_model.model, body=body, path=path)
    said = "".join(pieces_of(request, await run(adapter, request))[:cut])
    going_on = msgspec.structs.replace(request, continued=ContinueFrom(text=said, pieces=cut))
    first = pieces_of(going_on, await run(adapter, going_on))[0]
    async with httpx.AsyncClient(base_url=language_model.url, timeout=30) as http:
        rendered = (await http.post("/apply-template", json={"messages": TURNS})).json()["prompt"]
        looked = {"prompt": rendered + said, "n_predict": 1, "n_probs": 40, "temperature": 0}
        told = (await http.post("/completion", json=looked)).json()
    likely = [one["token"] for one in told["completion_probabilities"][0]["top_logprobs"]]
    assert first in likely
