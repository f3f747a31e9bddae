"""Small requests for embeddings that come together are one request of the engine; it is an emulated one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sollol_agents.lab.emulator import FaultKind
from sollol_agents.lab.testing.gateway_questions import ANY_PORT
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_bus.sdk.results import Embeddings
from sollol_schemas.routing import Routing

MODEL = "nomic-embed-text"
TEXTS = [f"a text of its own, number {number}" for number in range(24)]
ALONE = Routing(auto_batch=False)


async def together(here: EmulatedSystem, texts: list[str], **fields: Any) -> list[Embeddings | BaseException]:
    return await asyncio.gather(*(here.client.embed(MODEL, text, **fields) for text in texts), return_exceptions=True)


async def test_each_caller_gets_what_it_would_have_got_alone_out_of_far_fewer_requests(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, slots=1, gateway=ANY_PORT, embed_window_s=0.05) as here:
        alone = [(await here.client.embed(MODEL, text, routing=ALONE)).embeddings for text in TEXTS]
        await eventually(lambda: len(here.outcomes) == len(TEXTS), complaint="each was a request of its own")
        here.outcomes.clear()
        found = await together(here, TEXTS)
        answers = [one for one in found if isinstance(one, Embeddings)]
        assert [one.embeddings for one in answers] == alone
        assert len({one.request_id for one in answers}) == len(TEXTS)
        shared = [one for one in answers if one.decision is not None and "together with others" in one.decision.reason]
        assert len(shared) >= len(TEXTS) // 2
        assert all(one.figures is not None and one.figures.prompt_tokens for one in shared)
        await eventually(lambda: len(here.outcomes) > 0, complaint="the engine's requests are told")
        assert len(here.outcomes) <= len(TEXTS) // 2

        async def by_http(path: str, body: dict[str, Any]) -> dict[str, Any]:
            answer = await here.http.post(path, json={"model": MODEL, **body})
            assert answer.status_code == 200, answer.text
            told: dict[str, Any] = answer.json()
            return told

        rows = await asyncio.gather(*(by_http("/v1/embeddings", {"input": [text, "x"]}) for text in TEXTS))
        assert [[row["index"] for row in told["data"]] for told in rows] == [[0, 1]] * len(TEXTS)
        assert [told["data"][0]["embedding"] for told in rows] == [vectors[0] for vectors in alone]
        assert all(told["usage"]["prompt_tokens"] > 0 for told in rows)
        native = await asyncio.gather(*(by_http("/api/embed", {"input": text, "dimensions": 8}) for text in TEXTS))
        assert {len(told["embeddings"][0]) for told in native} == {8}
        assert all(told["prompt_eval_count"] > 0 for told in native)


async def test_a_bad_input_harms_nobody_but_its_caller(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, slots=1, engine={"ctx_tokens": 64}, embed_window_s=0.05) as here:
        texts = [*TEXTS[:6], "word " * 400, *TEXTS[6:12]]
        fields = {"truncate": False}
        found = await together(here, texts, **fields)
        assert isinstance(found[6], SollolError)
        assert [type(one).__name__ for one in found[:6] + found[7:]] == ["Embeddings"] * 12
        assert [one.embeddings for one in found[:6] if isinstance(one, Embeddings)] == [
            (await here.client.embed(MODEL, text, routing=ALONE, **fields)).embeddings for text in TEXTS[:6]
        ]


async def test_one_that_is_cancelled_leaves_the_others_alone_and_so_does_a_broken_answer(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=2, slots=1, embed_window_s=0.2) as here:
        here.fault(FaultKind.WRONG_CONTENT, path="/api/embed", skip=1)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(here.client.embed(MODEL, text)) for text in TEXTS[:8]]
            await eventually(asked[0].done, complaint="the one that was alone is answered")
            asked[1].cancel()
        assert [len(one.result().embeddings) for one in (asked[0], *asked[2:])] == [1] * 7
        assert asked[1].cancelled()
