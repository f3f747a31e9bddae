"""What a node asks its llama.cpp before it goes on with an answer: at the same time, and no more than it needs."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import pytest

from sollol_agents.lab.testing.scripted_engine import Script, ScriptedEngine, whole
from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.continuing.llama_cpp_way import LlamaCppWay
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import ContinueFrom

PATH = "/v1/chat/completions"
WITHIN_S = 20.0


@pytest.mark.parametrize(("limit", "counts", "left"), [(None, 1, None), (9, 2, 7)])
async def test_the_prompt_is_counted_beside_the_look_and_what_was_said_only_under_a_limit(
    limit: int | None, counts: int, left: int | None
) -> None:
    is_counted, tokens = asyncio.Event(), iter((3, 5))

    async def look(_: str, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(WITHIN_S):
            await is_counted.wait()
        likely = [{"token": "one"}]
        told = {"content": "one", "completion_probabilities": [{"top_logprobs": likely}], "stop": True}
        writer.write(whole(msgspec.json.encode(told)))

    async def count(_: str, writer: asyncio.StreamWriter) -> None:
        is_counted.set()
        writer.write(whole(msgspec.json.encode({"tokens": [0] * next(tokens)})))

    answers: dict[str, bytes | Script] = {
        "/apply-template": whole(b'{"prompt":"<count>"}'),
        "/completion": look,
        "/tokenize": count,
    }
    body = {"model": "m", "messages": [{"role": "user", "content": "count"}], "stream": True}
    fields = body | ({} if limit is None else {"max_tokens": limit})
    request = EngineRequest(kind=RequestKind.PASSTHROUGH, model="m", body=msgspec.json.encode(fields), path=PATH)
    async with ScriptedEngine(answers) as engine:
        http = EngineHttp(engine.url)
        way = LlamaCppWay(http, request, ContinueFrom(text="one two", pieces=2), model="m", context_length=0)
        start = await way.start()
        await http.aclose()
    assert (start.text, start.prompt_tokens, start.left_tokens) == ("<count>one two", 3, left)
    assert Counter(engine.requests) == {"/apply-template": 1, "/completion": 1, "/tokenize": counts}
