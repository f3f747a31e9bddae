"""The gateway on a whole fleet in one program, with an emulated engine behind it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.reply import Reply
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.gateway_questions import ANY_PORT, CHAT, MODEL, chat, generate, words
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.attempts.speaker import Passing
from sollol_agents.stack import LocalStack

pytestmark = pytest.mark.asyncio(loop_scope="module")


def world(
    tmp_path: Path, *, gateway: GatewayConfig = ANY_PORT, decode_tps: float = 200.0, **more: Any
) -> EmulatedSystem:
    return EmulatedSystem(tmp_path, gateway=gateway, decode_tps=decode_tps, **more)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmulatedSystem]:
    """One for all tests that leave it as it was."""
    async with world(tmp_path_factory.mktemp("here")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(tmp_path: Path) -> AsyncIterator[EmulatedSystem]:
    """One of a test's own."""
    async with world(tmp_path) as made:
        yield made


# -- answers ------------------------------------------------------------------------------------------------


async def test_lines_are_the_engines_own_but_for_the_routing_in_the_last(here: EmulatedSystem) -> None:
    async with httpx.AsyncClient(base_url=here.engines["n1"].url) as direct:
        ours = (await here.http.post("/api/generate", json=generate(3))).text.splitlines()
        own = (await direct.post("/api/generate", json=generate(3))).text.splitlines()
        assert len(ours) == len(own)
        for line, expected in zip(ours, own, strict=True):
            routing = json.loads(line).pop("_sollol_routing", None)
            assert (routing is None) == (line is not ours[-1])
            plain = {k: v for k, v in json.loads(line).items() if k != "_sollol_routing"}
            assert list(plain) == list(json.loads(expected))
        told = json.loads(ours[-1])["_sollol_routing"]
        assert told["node_id"] == "n1"
        assert told["attempts"] == 1
        assert told["actual_s"] > 0
        assert told["actual_duration_ms"] == pytest.approx(told["actual_s"] * 1000, abs=0.001)
        assert (told["task_type"], told["complexity"]) == ("generation", "simple")
        assert told["host"] == f"{socket.gethostname()}:{here.engines['n1'].url.rpartition(':')[2]}"
        assert 0 < told["decision_score"] <= 100
        answer = await here.client.generate(MODEL, "count down from 2")
        assert answer.routing.keys() == told.keys()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", chat(20)),
        ("/v1/chat/completions", {**chat(20), "stream": True}),
        ("/v1/messages", {**chat(20), "stream": True, "max_tokens": 100}),
    ],
)
async def test_chunks_go_on_in_the_call_that_brings_them(
    here: EmulatedSystem, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    passed: list[bytes] = []
    write = Reply.write_now

    def noted(reply: Reply, data: bytes) -> None:
        passed.append(data)
        write(reply, data)

    said: list[bytes] = []
    take = Passing.take

    def noted_too(passing: Passing, chunks: list[bytes]) -> None:
        said.extend(chunks)
        take(passing, chunks)

    monkeypatch.setattr(Reply, "write_now", noted)
    monkeypatch.setattr(Passing, "take", noted_too)
    answer = (await here.http.post(path, json=body)).content
    assert passed
    assert said or path == "/v1/messages"  # which the node translates
    assert all(data in answer for data in passed)
    passed.clear()
    await here.http.post(path, json={**body, "format": "json", "response_format": {"type": "json_object"}})
    assert not passed  # such an answer is looked at first


async def test_the_arguments_of_a_tool_say_nothing_about_the_request(here: EmulatedSystem) -> None:
    called = {"function": {"name": "f", "arguments": {"stream": True, "priority": "huge", "node_id": "elsewhere"}}}
    turns = [{"role": "assistant", "tool_calls": [called]}, {"role": "user", "content": "count 2"}]
    answer = await here.http.post("/api/chat", json={"messages": turns, "model": MODEL, "stream": False})
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["message"]["content"].split() == ["1", "0"]


async def test_the_gateways_deadline_is_kept_by_whoever_works_on_the_request(tmp_path: Path) -> None:
    async with world(tmp_path, gateway=GatewayConfig(port=0, deadline_s=0.5), decode_tps=20.0) as here:
        answer = await here.http.post("/api/generate", json=generate(5000, stream=False))
        assert answer.status_code == 504
        # in the words of the node or of the dispatcher: the gateway itself would wait for longer
        assert re.search(r"0\.[45]\d* s", answer.json()["error"])


async def test_the_head_says_where_and_why(here: EmulatedSystem) -> None:
    asked = {"X-Sollol-Priority": "high", "X-Sollol-Routing-Mode": "reliable", "X-Sollol-Request-Id": "mine-1"}
    answer = await here.http.post("/api/generate", json=generate(2), headers=asked)
    assert answer.headers["x-sollol-request-id"] == "mine-1"
    assert answer.headers["x-sollol-node"] == "n1"
    assert answer.headers["x-sollol-mode"] == "reliable"
    assert answer.headers["x-sollol-strategy"] == "plan"
    assert answer.headers["x-sollol-attempts"] == "1"
    assert float(answer.headers["x-sollol-predicted-s"]) >= 0
    assert json.loads(answer.text.splitlines()[-1])["_sollol_routing"]["priority"] == 8


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/generate", b"", 400, "missing request body"),
        ("/api/generate", b"{}", 404, "model '' not found"),
        ("/api/chat", b"{}", 400, "model is required"),
        ("/api/chat", b'{"model":"nope"}', 404, "model 'nope' not found"),
        ("/api/embed", b'{"model":"nope","input":"x"}', 404, 'model "nope" not found, try pulling it first'),
        ("/api/show", b'{"model":"nope"}', 404, "model 'nope:latest' not found"),
        ("/api/generate", b'{"model":"m","prompt":1}', 400, None),
        ("/api/generate", b"not json", 400, None),
        ("/api/generate", b'{"model":"m","priority":99}', 400, None),
        (
            "/api/embed",
            b'{"model":"m","input":"x"}',
            501,
            "This server does not support embeddings. Start it with `--embeddings`",
        ),
    ],
)
async def test_refusals_are_ollamas_in_status_and_shape(
    here: EmulatedSystem, path: str, body: bytes, status: int, text: str | None
) -> None:
    answer = await here.http.post(path, content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/json")
    said = answer.json()
    assert isinstance(said["error"], str)
    if text is not None:
        assert said["error"] == text
    if b"nope" in body:
        assert "m:latest" in said["models"]


async def test_each_dialect_refuses_in_its_own_shape(here: EmulatedSystem) -> None:
    said = (await here.http.post(CHAT, json=chat(1) | {"model": "nope"})).json()["error"]
    assert said["type"] == "not_found_error"
    assert said["message"] == "model 'nope' not found"
    said = (await here.http.post("/v1/messages", json=chat(1) | {"model": "nope", "max_tokens": 5})).json()
    assert said["type"] == "error"
    assert said["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/", 200, "Ollama is running"),
        ("GET", "/nix", 404, "404 page not found"),
        ("POST", "/nix", 404, "404 page not found"),
        ("GET", "/api/chat", 405, "405 method not allowed"),
        ("POST", "/api/tags", 405, "405 method not allowed"),
        ("DELETE", "/v1/models", 405, "405 method not allowed"),
        ("POST", "/emulator/faults", 404, "404 page not found"),
        ("POST", "/slots/0", 404, "404 page not found"),
    ],
)
async def test_paths_and_methods_are_answered_as_ollama_does(
    here: EmulatedSystem, method: str, path: str, status: int, text: str
) -> None:
    answer = await here.http.request(method, path, content=b'{"model":"m"}' if method == "POST" else b"")
    assert answer.status_code == status
    assert answer.text == text
    assert answer.headers["content-type"].startswith("text/plain")


async def test_reading_paths_answer_head_without_a_body(here: EmulatedSystem) -> None:
    for path in ("/", "/api/version", "/api/tags"):
        answer = await here.http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


async def test_unknown_paths_with_a_model_reach_the_engine(here: EmulatedSystem) -> None:
    answer = await here.http.post("/v1/systemone", json={"model": MODEL})
    assert (answer.status_code, answer.text) == (404, "404 page not found")
    assert "x-sollol-request-id" in answer.headers


async def test_lists_name_the_nodes(fresh: EmulatedSystem) -> None:
    async with httpx.AsyncClient(base_url=fresh.engines["n1"].url) as direct:
        ours = {row["name"]: row for row in (await fresh.http.get("/api/tags")).json()["models"]}
        own = {row["name"]: row for row in (await direct.get("/api/tags")).json()["models"]}
        assert ours.pop("auto")["details"]["family"] == "group"
        assert {name: {**row, "nodes": ["n1"]} for name, row in own.items()} == ours
        loaded = (await fresh.http.get("/api/ps")).json()["models"]
        assert {one["name"]: one["node_id"] for one in loaded} == {"m:latest": "n1", "nomic-embed-text:latest": "n1"}
        told = (await direct.get("/api/version")).json()
        assert (await fresh.http.get("/api/version")).json() == {"version": told["version"]}
        body = {"model": MODEL}
        assert (await fresh.http.post("/api/show", json=body)).json() == (
            await direct.post("/api/show", json=body)
        ).json()


async def _has_learnt(http: httpx.AsyncClient) -> bool:
    return bool((await http.get("/api/stats")).json().get("categories"))


async def test_operations_are_served(fresh: EmulatedSystem) -> None:
    await fresh.http.post("/api/generate", json=generate(2, stream=False))
    assert (await fresh.http.get("/healthz")).json()["status"] == "ok"
    text = (await fresh.http.get("/metrics")).text
    assert 'sollol_gateway_requests_total{path="/api/generate",status="200"} 1.0' in text
    assert 'sollol_gateway_tokens_total{kind="output",node="n1"} 3.0' in text
    assert 'sollol_fleet_nodes{state="up"} 1.0' in text
    assert (await fresh.http.get("/api/stats")).json()["fleet"]["nodes_up"] == 1
    await eventually(_has_learnt, fresh.http, complaint="what was recorded is told")
    page = (await fresh.http.get("/api/dashboard")).json()
    assert page["nodes"]["nodes"][0]["node_id"] == "n1"
    assert page["status"] | {"strategy": ""} == {
        "healthy": True,
        "available_hosts": 1,
        "total_hosts": 1,
        "queued": 0,
        "in_flight": 0,
        "strategy": "",
    }
    assert page["performance"]["total_requests"] >= 1
    assert page["routing_intelligence"]["task_types_learned"] == ["generation"]
    assert page["hosts"][0]["node_id"] == "n1"
    assert page["hosts"][0]["available"] is True
    assert {alert["node_id"] for alert in page["alerts"]} <= {"n1"}
    stats = (await fresh.http.get("/api/stats")).json()
    assert stats["categories"]["generation"]["share_ratio"] == 1.0
    assert {pattern["node_id"] for pattern in stats["patterns"]} == {"n1"}
    assert stats["history"][0]["node_id"] == "n1"
    assert "/api/chat" in (await fresh.http.get("/openapi.json")).json()["paths"]


# -- what goes wrong ----------------------------------------------------------------------------------------


async def test_a_failure_in_the_middle_is_the_last_line(here: EmulatedSystem) -> None:
    here.engines["n1"].inject(Fault(kind=FaultKind.ERROR_LINE, after_tokens=3))
    answer = await here.http.post("/api/generate", json=generate(20) | {"resume": False})
    *lines, last = answer.text.splitlines()
    assert answer.status_code == 200
    assert words(lines) == ["19", "18", "17"]
    assert list(json.loads(last)) == ["error"]


@pytest.mark.parametrize("kind", [FaultKind.ERROR_LINE, FaultKind.END_EARLY, FaultKind.RESET, FaultKind.TRUNCATE])
async def test_a_client_that_does_not_stream_sees_nothing_of_a_failure_in_the_middle(
    fresh: EmulatedSystem, kind: FaultKind
) -> None:
    fresh.engines["n1"].inject(Fault(kind=kind, path="/api/generate", after_tokens=3))
    answer = await fresh.http.post(
        "/api/generate", json=generate(20, stream=False), headers={"X-Sollol-Request-Id": "mine"}
    )
    assert (answer.status_code, answer.headers["x-sollol-request-id"]) == (200, "mine")
    assert answer.json()["response"].split() == [str(n) for n in range(19, -1, -1)]
    assert answer.json()["_sollol_routing"]["resumed"] == 1
    assert fresh.slots_in_use() == 0


async def test_a_request_that_breaks_off_every_time_is_sent_three_times_and_told(here: EmulatedSystem) -> None:
    here.engines["n1"].inject(Fault(kind=FaultKind.ERROR_LINE, path="/api/chat", after_tokens=2, times=3))
    failed = await here.http.post("/api/chat", json=chat(9, stream=False) | {"resume": False})
    assert failed.status_code == 502
    assert list(failed.json()) == ["error"]
    assert (await here.http.post("/api/chat", json=chat(2, stream=False))).status_code == 200


async def test_a_failure_in_the_middle_is_an_event(here: EmulatedSystem) -> None:
    here.engines["n1"].inject(Fault(kind=FaultKind.TRUNCATE, path=CHAT, after_tokens=3))
    answer = await here.http.post(CHAT, json=chat(20, stream=True), headers={"X-Sollol-Resume": "false"})
    events = answer.text.strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "engine_protocol"
    assert "[DONE]" not in answer.text


async def test_a_failure_before_the_first_byte_is_healed_by_nobody_and_told_with_a_status(here: EmulatedSystem) -> None:
    here.engines["n1"].inject(Fault(kind=FaultKind.RESET, times=0))
    answer = await here.http.post(CHAT, json=chat(3, stream=True))
    assert answer.status_code == 503, "its engine is gone, and may come back"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "attempts_exhausted"


async def test_without_nodes_the_answer_is_503_at_once_with_a_time_to_come_back(tmp_path: Path) -> None:
    async with (
        LocalStack(store_dir=tmp_path, gateway=GatewayConfig(port=0)) as stack,
        httpx.AsyncClient(base_url=stack.http_url, timeout=30) as http,
    ):
        answer = await http.post("/api/chat", json={"model": MODEL, "messages": []})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200


# -- models -------------------------------------------------------------------------------------------------


async def test_models_are_copied_pulled_and_deleted(tmp_path: Path) -> None:
    async with world(tmp_path, engine={"download_gbps": 100.0}) as here:

        async def names() -> set[str]:
            return {row["name"] for row in (await here.http.get("/api/tags")).json()["models"]}

        body = {"source": MODEL, "destination": "second"}
        assert (await here.http.post("/api/copy", json=body)).content == b""
        assert "second:latest" in await names()
        assert (await here.http.request("DELETE", "/api/delete", json={"model": "second"})).status_code == 200
        assert "second:latest" not in await names()

        async def is_forgotten() -> bool:
            answer = await here.http.request("DELETE", "/api/delete", json={"model": "second"})
            return answer.status_code == 404

        await eventually(is_forgotten)
        pulled = await here.http.post("/api/pull", json={"model": MODEL}, headers={"X-Sollol-Node-Id": "*"})
        assert json.loads(pulled.text.splitlines()[-1])["status"] == "success"
        whole = await here.http.post("/api/pull", json={"model": MODEL, "stream": False})
        assert whole.json()["status"] == "success"


@pytest.mark.parametrize("opened", [False, True], ids=["closed", "opened"])
async def test_a_path_into_an_engine_is_closed_on_the_bus_too(tmp_path: Path, opened: bool) -> None:
    async with world(tmp_path, nodes=0, gateway=GatewayConfig(port=0, open_paths=("/slots",))) as here:
        await here.node("n1", open_paths=("/slots",) if opened else ())
        answer = await here.http.post("/slots/0", json={"model": MODEL})
        assert answer.status_code == (404 if opened else 403)  # an emulated Ollama has no such path
        assert opened or "open_paths" in answer.json()["error"]
