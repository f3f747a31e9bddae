"""Whose fault is a failure? A whole system before engines that answer as a real Ollama was recorded to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BadRequest
from sollol_schemas.errors import ErrorCode, Lack, Owner

KIND_COUNT: Final = 20
RECORDED: Final[dict[str, object]] = {"preset": "recorded", "model": (), "preload": ("countdown", "embed")}
PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
Wrong = tuple[str, dict[str, Any] | bytes]
Kind = Callable[[int], Wrong]


def system(folder: Path, **more: Any) -> EmulatedSystem:
    return EmulatedSystem(folder, **{"engine": RECORDED, "gateway": GatewayConfig(port=0), **more})


def chat(text: str = "count 2", **more: Any) -> dict[str, Any]:
    return {"model": "countdown", "messages": [{"role": "user", "content": text}], "stream": False, **more}


def generate(**more: Any) -> dict[str, Any]:
    return {"model": "countdown", "prompt": "count 2", "stream": False, **more}


def wrong_types(n: int) -> Wrong:
    name, value = [("temperature", "hot"), ("stop", 5), ("top_p", []), ("seed", "x"), ("use_mmap", 1)][n % 5]
    return "/api/generate", generate(options={name: value}, prompt=f"count {n}")


def wrong_formats(n: int) -> Wrong:
    return "/api/chat", chat(f"count {n}", format=["xml", 5, [], True, "JSON"][n % 5])


def images(n: int) -> Wrong:
    return "/api/chat", chat() | {"messages": [{"role": "user", "content": f"count {n}", "images": [PIXEL]}]}


def images_in_a_conversation_of_openai(n: int) -> Wrong:
    parts = [
        {"type": "text", "text": f"count {n}"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    return "/v1/chat/completions", chat() | {"messages": [{"role": "user", "content": parts}]}


def bad_tools(n: int) -> Wrong:
    return "/v1/chat/completions", chat(f"count {n}", tools=[{}])


def bad_templates(n: int) -> Wrong:
    return "/api/generate", generate(template="{{ if", prompt=f"count {n}")


def vectors_of_a_text_model(n: int) -> Wrong:
    return "/api/embeddings", {"model": "countdown", "prompt": f"hello {n}"}


def broken_utf8(n: int) -> Wrong:
    return "/v1/chat/completions", b'{"model":"countdown","messages":[{"role":"user","content":"\xff\xfe %d"}]}' % n


def trailing_slashes(n: int) -> Wrong:
    return "/api/chat/", chat(f"count {n}")


def cut_tool_calls(n: int) -> Wrong:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    return "/api/chat", chat(f"count {n} call", tools=tools, options={"num_predict": 2})


def batches_that_kill(n: int) -> Wrong:
    return "/api/generate", generate(options={"num_batch": 1}, prompt=f"count {n}")


KINDS: Final[tuple[Kind, ...]] = (
    wrong_types,
    wrong_formats,
    images,
    images_in_a_conversation_of_openai,
    bad_tools,
    bad_templates,
    vectors_of_a_text_model,
    broken_utf8,
    trailing_slashes,
    cut_tool_calls,
    batches_that_kill,
)


CHANGED_ON_THE_WAY: Final = (trailing_slashes, batches_that_kill)
"""A path as a person means it, and an option that would load the model anew."""


async def key(here: EmulatedSystem, name: str) -> dict[str, str]:
    """The header of a new key that the gateway knows."""
    _, secret = await KeyStore(here.gateway.bus).create(name)
    headers = {"Authorization": f"Bearer {secret}"}

    async def is_known() -> bool:
        return (await here.http.get("/api/tags", headers=headers)).status_code == 200

    await eventually(is_known)
    return headers


async def send(http: httpx.AsyncClient, wrong: Wrong, headers: dict[str, str] | None = None) -> httpx.Response:
    path, body = wrong
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await http.post(path, content=content, headers=headers)


async def breakers(here: EmulatedSystem) -> list[str]:
    """The breakers that are not simply closed."""
    return [row.state.value for row in (await here.client.breakers()).breakers if row.state.value != "closed"]


async def test_one_keys_wrong_requests_leave_another_keys_requests_alone(tmp_path: Path) -> None:
    async with system(tmp_path, nodes=2, gateway=GatewayConfig(port=0, require_key=True)) as here:
        careless, careful = await key(here, "careless"), await key(here, "careful")
        good: list[httpx.Response] = []
        for kind in KINDS:
            wrong = [send(here.http, kind(n), careless) for n in range(KIND_COUNT)]
            right = [here.http.post("/api/chat", json=chat(), headers=careful) for _ in range(4)]
            answers = await asyncio.gather(*wrong, *right)
            told = {a.status_code for a in answers[:KIND_COUNT]}
            assert told & {429, 503, 504} == set(), (kind.__name__, told)
            good += answers[KIND_COUNT:]
        assert {answer.status_code for answer in good} == {200}
        assert await breakers(here) == []
        assert [outcome for outcome in here.outcomes if outcome.is_charged] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_wrong_request_gets_what_the_engine_says(kind: Kind, tmp_path: Path) -> None:
    async with system(tmp_path) as here:
        engine = httpx.AsyncClient(base_url=here.engines["n1"].url, trust_env=False)
        async with engine:
            theirs, ours = await send(engine, kind(1)), await send(here.http, kind(1))
        if kind not in CHANGED_ON_THE_WAY and theirs.status_code >= 400:
            assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())


async def until_told(here: EmulatedSystem, attempts: int) -> None:
    """Returns when so many attempts have ended, as this client heard."""
    await eventually(lambda: len(here.outcomes) >= attempts)


async def test_a_node_that_fails_what_another_serves_is_charged(tmp_path: Path) -> None:
    async with system(tmp_path, nodes=2) as here:
        broken = Fault(kind=FaultKind.LOAD_ERROR, path="/api/chat", times=0)
        here.engines["n1"].inject(broken)
        there = {"X-Sollol-Node-Id": "n1"}
        answers = [await here.http.post("/api/chat", json=chat(f"count {n}"), headers=there) for n in range(3)]
        assert {answer.status_code for answer in answers} == {200}
        await eventually(lambda: any(outcome.is_charged for outcome in here.outcomes))
        charged = [outcome for outcome in here.outcomes if outcome.is_charged]
        assert {(outcome.node_id, outcome.owner) for outcome in charged} == {("n1", Owner.ENGINE)}


async def test_the_same_refusal_of_two_nodes_is_the_requests_own(tmp_path: Path) -> None:
    async with system(tmp_path, nodes=2) as here:
        here.fault(FaultKind.LOAD_ERROR, path="/api/chat", times=0)
        answers = [await here.http.post("/api/chat", json=chat(f"count {n}")) for n in range(8)]
        assert {answer.status_code for answer in answers} == {500}
        assert "unable to load model" in answers[0].json()["error"]
        assert (await here.http.post("/api/generate", json=generate())).status_code == 200
        assert await breakers(here) == []
        assert [outcome for outcome in here.outcomes if outcome.is_charged] == []


async def test_an_engine_that_answers_its_agents_own_question_is_not_charged(tmp_path: Path) -> None:
    async with system(tmp_path) as here:
        here.fault(FaultKind.LOAD_ERROR, path="/api/chat", times=0)
        answers = [await here.http.post("/api/chat", json=chat(f"count {n}")) for n in range(8)]
        assert {answer.status_code for answer in answers} == {500}
        await until_told(here, 8)
        assert (await here.http.post("/api/generate", json=generate())).status_code == 200
        assert await breakers(here) == []


async def test_an_engine_that_fails_every_request_opens_its_breaker_and_says_for_how_long(tmp_path: Path) -> None:
    async with system(tmp_path) as here:
        here.fault(FaultKind.LOAD_ERROR, times=0)
        for n in range(5):
            assert (await here.http.post("/api/chat", json=chat(f"count {n}"))).status_code == 500
        await until_told(here, 5)
        refused = await here.http.post("/api/chat", json=chat())
        assert refused.status_code == 503
        assert 20 < int(refused.headers["retry-after"]) <= 30
        assert f"tried again in {refused.headers['retry-after']} s" in refused.json()["error"]


async def test_a_model_that_was_deleted_on_one_host_is_asked_of_another(tmp_path: Path) -> None:
    async with system(tmp_path, nodes=2) as here:
        async with httpx.AsyncClient(base_url=here.engines["n1"].url, trust_env=False) as engine:
            assert (await engine.request("DELETE", "/api/delete", json={"model": "countdown"})).status_code == 200
        there = {"X-Sollol-Node-Id": "n1"}
        answers = [await here.http.post("/api/chat", json=chat(f"count {n}"), headers=there) for n in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        await until_told(here, 6)
        assert {outcome.lack for outcome in here.outcomes if outcome.code is not None} == {Lack.MODEL}

        async def is_known() -> bool:
            nodes = {view.node_id: view for view in (await here.client.nodes()).nodes}
            return all(model.name != "countdown:latest" for model in nodes["n1"].telemetry.installed)

        await eventually(is_known, within_s=3.0)


async def test_what_an_engine_says_of_a_prompt_is_kept_nowhere(tmp_path: Path) -> None:
    async with system(tmp_path) as here:
        tools = [{"type": "my secret plan"}]
        answer = await here.http.post("/v1/chat/completions", json=chat(tools=tools))
        assert "my secret plan" in answer.text
        await until_told(here, 1)
        assert (here.outcomes[0].code, here.outcomes[0].http_status) == (ErrorCode.ENGINE_REJECTED, 500)

        async def is_recorded() -> bool:
            try:
                return bool((await here.client.why(here.outcomes[0].request_id)).outcomes)
            except BadRequest:
                return False

        await eventually(is_recorded)
        kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]  # noqa: ASYNC240 tiny files
        assert not any(b"my secret plan" in text for text in kept)
