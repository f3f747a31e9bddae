"""A node's adapter goes on with answers of vLLM, as a fake of it that keeps to its documents answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest

from sollol_agents.lab.testing.fake_vllm import MODEL, FakeVllm
from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.openai import OpenAIEngine
from sollol_bus.errors import SollolError
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.errors import ErrorCode

TURNS: Final = [{"role": "user", "content": "count 12"}]
USAGE: Final = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
async def fake() -> AsyncIterator[FakeVllm]:
    async with FakeVllm() as made:
        yield made


@pytest.fixture
async def adapter(fake: FakeVllm) -> AsyncIterator[OpenAIEngine]:
    made = OpenAIEngine(EngineHttp(fake.url), {})
    await made.inventory()
    yield made
    await made.aclose()


def native(kind: RequestKind, **fields: Any) -> EngineRequest:
    return EngineRequest(kind=kind, model=MODEL, body=msgspec.json.encode({"model": MODEL} | fields))


def passing(path: str, **fields: Any) -> EngineRequest:
    body = msgspec.json.encode({"model": MODEL} | fields)
    return EngineRequest(kind=RequestKind.PASSTHROUGH, model=MODEL, body=body, path=path)


async def run(adapter: OpenAIEngine, request: EngineRequest) -> list[dict[str, Any]]:
    """The objects of a native answer, or the events of another."""
    data = b"\n".join([chunk async for batch in adapter.run(request).chunks() for chunk in batch])
    lines = [line.removeprefix(b"data: ") for line in data.split(b"\n")]
    return [msgspec.json.decode(line) for line in lines if line.startswith(b"{")]


def said_in(objects: list[dict[str, Any]]) -> list[str]:
    found = []
    for one in objects:
        choice = (one.get("choices") or [{}])[0]
        message = one.get("message") or choice.get("delta") or {}
        found.append(one.get("response") or message.get("content") or choice.get("text") or "")
    return [text for text in found if text]


def counts_in(objects: list[dict[str, Any]]) -> tuple[str, int, int]:
    last = objects[-1]
    if last.get("done"):
        return last["done_reason"], last["prompt_eval_count"], last["eval_count"]
    reason = next(one["choices"][0]["finish_reason"] for one in reversed(objects) if one["choices"])
    return reason, last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    "request_",
    [
        native(RequestKind.GENERATE, prompt="count 12", raw=True),
        native(RequestKind.GENERATE, prompt="count 12", options={"num_predict": 7}),
        native(RequestKind.CHAT, messages=TURNS),
        native(RequestKind.CHAT, messages=TURNS, options={"stop": [" 20 19"]}),
        passing("/v1/chat/completions", messages=TURNS, **USAGE),
        passing("/v1/chat/completions", messages=TURNS, max_tokens=9, **USAGE),
        passing("/v1/completions", prompt="count 12", **USAGE),
        passing("/v1/completions", prompt="count 30", max_tokens=20, **USAGE),
    ],
)
async def test_an_answer_goes_on_at_every_cut(adapter: OpenAIEngine, request_: EngineRequest) -> None:
    whole = await run(adapter, request_)
    pieces = said_in(whole)
    assert len(pieces) >= 5
    for cut in range(1, len(pieces) + 1):
        text = "".join(pieces[:cut])
        said = ContinueFrom(text=text, pieces=cut)
        rest = await run(adapter, msgspec.structs.replace(request_, continued=said))
        assert text + "".join(said_in(rest)) == "".join(pieces)
        assert counts_in(rest) == counts_in(whole)


async def test_the_last_message_is_left_open_and_not_prompted_for(adapter: OpenAIEngine, fake: FakeVllm) -> None:
    request = passing("/v1/chat/completions", messages=TURNS, top_k=5, min_tokens=8, **USAGE)
    await run(adapter, msgspec.structs.replace(request, continued=ContinueFrom(text=" 31 30", pieces=2)))
    (body,) = fake.bodies
    assert body["messages"] == [*TURNS, {"role": "assistant", "content": " 31 30"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["top_k"], body["min_tokens"]) == (5, 6)


@pytest.mark.parametrize(
    ("request_", "said", "why"),
    [
        (passing("/v1/chat/completions", messages=TURNS, presence_penalty=0.5), ContinueFrom(text="a"), "penalty"),
        (passing("/v1/chat/completions", messages=TURNS), ContinueFrom(text="a", thinking="b"), "thoughts"),
        (passing("/v1/messages", messages=TURNS, max_tokens=9), ContinueFrom(text="a"), "this path"),
        (
            passing("/v1/chat/completions", messages=[*TURNS, {"role": "assistant", "content": "31"}]),
            ContinueFrom(text="a"),
            "begins the answer itself",
        ),
        (passing("/v1/completions", prompt="x"), ContinueFrom(text=" hello" * 600), "no longer fits the context"),
    ],
)
async def test_what_vllm_cannot_take_up_again_is_refused(
    adapter: OpenAIEngine, request_: EngineRequest, said: ContinueFrom, why: str
) -> None:
    with pytest.raises(SollolError, match=why) as refused:
        await run(adapter, msgspec.structs.replace(request_, continued=said))
    assert refused.value.body.code is ErrorCode.NOT_CONTINUED


async def test_its_fingerprint_says_what_it_serves_and_not_under_which_name(adapter: OpenAIEngine) -> None:
    (model,) = (await adapter.inventory()).installed
    assert model.fingerprint.startswith("vllm:")
