"""The gateway on a whole fleet in one program, with an emulated engine behind it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol_agents.gateway.actor import Gateway
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.http_server import ClientLimits
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.stack import LocalStack

MODEL = "m"
CHAT = "/v1/chat/completions"
ANY_PORT = GatewayConfig(port=0)


def world(
    tmp_path: Path, *, gateway: GatewayConfig = ANY_PORT, decode_tps: float = 200.0, **more: Any
) -> EmulatedSystem:
    return EmulatedSystem(tmp_path, gateway=gateway, decode_tps=decode_tps, **more)


def address(gateway: Gateway) -> tuple[str, int]:
    url = httpx.URL(gateway.url)
    return url.host, url.port or 80


def generate(count: int, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": f"count {count}", **fields}


def chat(count: int, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"count {count}"}], **fields}


def words(lines: list[str]) -> list[str]:
    return "".join(json.loads(line)["response"] for line in lines).split()


# -- answers ------------------------------------------------------------------------------------------------


async def test_lines_are_the_engines_own_but_for_the_routing_in_the_last(tmp_path: Path) -> None:
    async with world(tmp_path) as here, httpx.AsyncClient(base_url=here.engines["n1"].url) as direct:
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


async def test_the_arguments_of_a_tool_say_nothing_about_the_request(tmp_path: Path) -> None:
    called = {"function": {"name": "f", "arguments": {"stream": True, "priority": "huge", "node_id": "elsewhere"}}}
    turns = [{"role": "assistant", "tool_calls": [called]}, {"role": "user", "content": "count 2"}]
    async with world(tmp_path) as here:
        answer = await here.http.post("/api/chat", json={"messages": turns, "model": MODEL, "stream": False})
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.json()["message"]["content"].split() == ["1", "0"]


async def test_the_gateways_deadline_is_kept_by_whoever_works_on_the_request(tmp_path: Path) -> None:
    async with world(tmp_path, gateway=GatewayConfig(port=0, deadline_s=0.5), decode_tps=20.0) as here:
        answer = await here.http.post("/api/generate", json=generate(5000, stream=False))
        assert answer.status_code == 504
        # in the words of the node or of the dispatcher: the gateway itself would wait for longer
        assert re.search(r"0\.[45]\d* s", answer.json()["error"])


async def test_the_head_says_where_and_why(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
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
    tmp_path: Path, path: str, body: bytes, status: int, text: str | None
) -> None:
    async with world(tmp_path) as here:
        answer = await here.http.post(path, content=body)
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("application/json")
        said = answer.json()
        assert isinstance(said["error"], str)
        if text is not None:
            assert said["error"] == text
        if b"nope" in body:
            assert "m:latest" in said["models"]


async def test_each_dialect_refuses_in_its_own_shape(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
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
    tmp_path: Path, method: str, path: str, status: int, text: str
) -> None:
    async with world(tmp_path) as here:
        answer = await here.http.request(method, path, content=b'{"model":"m"}' if method == "POST" else b"")
        assert answer.status_code == status
        assert answer.text == text
        assert answer.headers["content-type"].startswith("text/plain")


async def test_reading_paths_answer_head_without_a_body(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        for path in ("/", "/api/version", "/api/tags"):
            answer = await here.http.head(path)
            assert (answer.status_code, answer.content) == (200, b"")


async def test_unknown_paths_with_a_model_reach_the_engine(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        answer = await here.http.post("/v1/systemone", json={"model": MODEL})
        assert (answer.status_code, answer.text) == (404, "404 page not found")
        assert "x-sollol-request-id" in answer.headers


async def test_lists_name_the_nodes(tmp_path: Path) -> None:
    async with world(tmp_path) as here, httpx.AsyncClient(base_url=here.engines["n1"].url) as direct:
        ours = {row["name"]: row for row in (await here.http.get("/api/tags")).json()["models"]}
        own = {row["name"]: row for row in (await direct.get("/api/tags")).json()["models"]}
        assert {name: {**row, "nodes": ["n1"]} for name, row in own.items()} == ours
        loaded = (await here.http.get("/api/ps")).json()["models"]
        assert {one["name"]: one["node_id"] for one in loaded} == {"m:latest": "n1", "nomic-embed-text:latest": "n1"}
        assert (await here.http.get("/api/version")).json() == (await direct.get("/api/version")).json()
        body = {"model": MODEL}
        assert (await here.http.post("/api/show", json=body)).json() == (
            await direct.post("/api/show", json=body)
        ).json()


async def test_operations_are_served(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.http.post("/api/generate", json=generate(2, stream=False))
        assert (await here.http.get("/healthz")).json()["status"] == "ok"
        text = (await here.http.get("/metrics")).text
        assert 'sollol_gateway_requests_total{path="/api/generate",status="200"} 1.0' in text
        assert 'sollol_gateway_tokens_total{kind="output",node="n1"} 3.0' in text
        assert 'sollol_fleet_nodes{state="up"} 1.0' in text
        assert (await here.http.get("/api/stats")).json()["fleet"]["nodes_up"] == 1
        assert (await here.http.get("/api/dashboard")).json()["nodes"]["nodes"][0]["node_id"] == "n1"
        assert "/api/chat" in (await here.http.get("/openapi.json")).json()["paths"]


# -- what goes wrong ----------------------------------------------------------------------------------------


async def test_a_failure_in_the_middle_is_the_last_line(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.engines["n1"].inject(Fault(kind=FaultKind.ERROR_LINE, after_tokens=3))
        answer = await here.http.post("/api/generate", json=generate(20))
        *lines, last = answer.text.splitlines()
        assert answer.status_code == 200
        assert words(lines) == ["19", "18", "17"]
        assert list(json.loads(last)) == ["error"]


@pytest.mark.parametrize("kind", [FaultKind.ERROR_LINE, FaultKind.END_EARLY, FaultKind.RESET, FaultKind.TRUNCATE])
async def test_a_client_that_does_not_stream_sees_nothing_of_a_failure_in_the_middle(
    tmp_path: Path, kind: FaultKind
) -> None:
    async with world(tmp_path) as here:
        here.engines["n1"].inject(Fault(kind=kind, path="/api/generate", after_tokens=3))
        answer = await here.http.post(
            "/api/generate", json=generate(20, stream=False), headers={"X-Sollol-Request-Id": "mine"}
        )
        assert (answer.status_code, answer.headers["x-sollol-request-id"]) == (200, "mine")
        assert answer.json()["response"].split() == [str(n) for n in range(19, -1, -1)]
        assert answer.json()["_sollol_routing"]["attempts"] == 2
        assert here.slots_in_use() == 0


async def test_a_request_that_breaks_off_every_time_is_sent_three_times_and_told(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.engines["n1"].inject(Fault(kind=FaultKind.ERROR_LINE, path="/api/chat", after_tokens=2, times=3))
        failed = await here.http.post("/api/chat", json=chat(9, stream=False))
        assert failed.status_code == 502
        assert list(failed.json()) == ["error"]
        assert (await here.http.post("/api/chat", json=chat(2, stream=False))).status_code == 200


async def test_a_failure_in_the_middle_is_an_event(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.engines["n1"].inject(Fault(kind=FaultKind.TRUNCATE, path=CHAT, after_tokens=3))
        answer = await here.http.post(CHAT, json=chat(20, stream=True))
        events = answer.text.strip().split("\n\n")
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "engine_protocol"
        assert "[DONE]" not in answer.text


async def test_a_failure_before_the_first_byte_is_healed_by_nobody_and_told_with_a_status(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
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


# -- clients that misbehave ---------------------------------------------------------------------------------


async def raw(here: EmulatedSystem, path: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*address(here.gateway))
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
    )
    return reader, writer


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_client_that_leaves_frees_the_slot(tmp_path: Path, *, is_stream: bool) -> None:
    async with world(tmp_path, decode_tps=50.0) as here:
        body = json.dumps(generate(5000, stream=is_stream)).encode()
        reader, writer = await raw(here, "/api/generate", body)
        if is_stream:
            await reader.readuntil(b"\r\n\r\n")
        await eventually(lambda: here.slots_in_use() == 1)
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: here.slots_in_use() == 0)
        assert not here.gateway.in_flight()


async def test_a_client_that_reads_nothing_is_cut_and_its_slot_freed(tmp_path: Path) -> None:
    limits = ClientLimits(unread_bytes=65_536, reader_timeout_s=0.5)
    async with world(tmp_path, limits=limits, decode_tps=20_000.0) as here:
        listening = here.gateway._server._socket
        assert listening is not None
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # else the kernel takes megabytes first
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(lazy, address(here.gateway))
            body = json.dumps(chat(999, stream=True)).encode()  # some 230 kB of events
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            await loop.sock_sendall(lazy, head + body)

            async def is_cut() -> bool:
                text = (await here.http.get("/metrics")).text
                return "sollol_gateway_errors_total{" in text and "sollol_gateway_active_requests 0.0" in text

            await eventually(is_cut)
            await eventually(lambda: here.slots_in_use() == 0)
        finally:
            lazy.close()


async def test_a_head_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    async with world(tmp_path, limits=ClientLimits(head_timeout_s=0.3)) as here:
        reader, writer = await asyncio.open_connection(*address(here.gateway))
        writer.write(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nX-Slow:")
        assert (await reader.read()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async with world(tmp_path, limits=ClientLimits(body_timeout_s=0.3)) as here:
        reader, writer = await asyncio.open_connection(*address(here.gateway))
        writer.write(b'POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"mod')
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_head_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        answer = await here.http.get("/", headers={"X-Long": "x" * 70_000})
        assert answer.status_code == 431


async def test_a_body_that_is_too_large_is_refused_with_the_two_numbers(tmp_path: Path) -> None:
    async with world(tmp_path, gateway=GatewayConfig(port=0, max_body_bytes=2048)) as here:
        answer = await here.http.post("/api/generate", content=b"x" * 5000)
        assert answer.status_code == 413
        assert "5000 bytes exceed the limit of 2048" in answer.json()["error"]

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x" * 1000

        assert (await here.http.post("/api/generate", content=pieces())).status_code == 413


async def test_foreign_names_of_this_machine_are_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        assert (await here.http.get("/api/tags", headers={"Host": "evil.example"})).status_code == 403
        assert (await here.http.get("/api/tags", headers={"Host": "localhost:8000"})).status_code == 200


async def test_an_event_stream_that_waits_is_kept_alive_by_comments(tmp_path: Path) -> None:
    async with world(tmp_path, gateway=GatewayConfig(port=0, keep_alive_s=0.1), slots=1, decode_tps=20.0) as here:
        first = asyncio.get_running_loop().create_task(here.http.post("/api/generate", json=generate(30, stream=False)))
        try:
            await asyncio.sleep(0.2)  # the first takes the only slot for more than a second
            answer = await here.http.post(CHAT, json=chat(2, stream=True))
            comments, _, rest = answer.text.partition("data: ")
            assert comments.replace(": waiting\n\n", "") == ""
            assert ": waiting" in comments
            assert "[DONE]" in rest
            assert ": waiting" not in rest
            assert "sollol_gateway_active_requests 0.0" in (await here.http.get("/metrics")).text
            await asyncio.sleep(0.3)  # comments would go on, and end the gateway
            assert (await here.http.get("/healthz")).status_code == 200
        finally:
            assert (await first).status_code == 200


async def test_many_streams_at_once_are_whole(tmp_path: Path) -> None:
    async with world(tmp_path, slots=64, decode_tps=50.0) as here:

        async def one(number: int) -> list[str]:
            answer = await here.http.post("/api/generate", json=generate(number))
            return words(answer.text.splitlines())

        here.http._transport._pool._max_connections = 300  # type: ignore[attr-defined]
        answers = await asyncio.gather(*(one(20 + number % 30) for number in range(128)))
        expected = [[str(n) for n in range(19 + number % 30, -1, -1)] for number in range(128)]
        assert answers == expected


# -- keys ---------------------------------------------------------------------------------------------------


async def test_keys_open_the_door_and_set_the_ceilings(tmp_path: Path) -> None:
    async with world(tmp_path, gateway=GatewayConfig(port=0, require_key=True)) as here:
        assert (await here.http.get("/api/tags")).status_code == 401
        assert (await here.http.get("/healthz")).status_code == 200
        refused = await here.http.post(CHAT, json=chat(1))
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"
        store = KeyStore(here.gateway.bus)
        key, secret = await store.create("scripts", max_priority=3, requests_per_minute=3)
        theirs = {"Authorization": f"Bearer {secret}"}

        async def is_known() -> bool:
            return (await here.http.get("/api/version", headers=theirs)).status_code == 200

        await eventually(is_known)
        answer = await here.http.post("/api/generate", json=generate(1, priority=9), headers=theirs)
        assert json.loads(answer.text.splitlines()[-1])["_sollol_routing"]["priority"] == 3
        answers = [await here.http.get("/api/version", headers=theirs) for _ in range(5)]
        limited = next(answer for answer in answers if answer.status_code == 429)
        assert int(limited.headers["retry-after"]) >= 1
        await store.revoke(key.key_id)

        async def is_gone() -> bool:
            return (await here.http.get("/api/tags", headers=theirs)).status_code == 401

        await eventually(is_gone)


async def test_only_administrators_manage_models(tmp_path: Path) -> None:
    async with world(tmp_path, gateway=GatewayConfig(port=0, require_key=True)) as here:
        store = KeyStore(here.gateway.bus)
        _, user = await store.create("user")
        _, admin = await store.create("admin", is_admin=True)

        async def copy(secret: str, source: str = MODEL) -> httpx.Response:
            body = {"source": source, "destination": "second"}
            return await here.http.post("/api/copy", json=body, headers={"x-api-key": secret})

        async def is_known() -> bool:
            return (await copy(admin, "nope")).status_code == 404

        await eventually(is_known)
        assert (await copy(user)).status_code == 403
        assert (await copy(admin)).status_code == 200


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


# -- life ---------------------------------------------------------------------------------------------------


async def test_gateways_side_by_side_share_a_port_and_nothing_else(tmp_path: Path) -> None:
    async with (
        world(tmp_path, gateway=GatewayConfig(port=0, reuse_port=True)) as here,
        here.beside(GatewayConfig(port=address(here.gateway)[1], reuse_port=True)) as second,
    ):
        assert second.url == here.gateway.url
        for _ in range(20):
            async with httpx.AsyncClient(base_url=second.url) as http:
                assert (await http.post("/api/generate", json=generate(1, stream=False))).status_code == 200


@pytest.mark.shutdown
async def test_a_draining_gateway_finishes_its_answers(tmp_path: Path) -> None:
    async with (
        world(tmp_path, decode_tps=60.0) as here,
        here.beside(ANY_PORT) as second,
        httpx.AsyncClient(base_url=second.url) as http,
    ):
        running = asyncio.get_running_loop().create_task(http.post("/api/generate", json=generate(40)))
        await eventually(lambda: len(second.in_flight()) == 1)
        await second.close()
        answer = await running
        assert words(answer.text.splitlines()) == [str(n) for n in range(39, -1, -1)]
        with pytest.raises(httpx.TransportError):
            await http.get("/healthz")


@pytest.mark.shutdown
async def test_a_hurried_gateway_ends_its_answers_with_an_error(tmp_path: Path) -> None:
    async with (
        world(tmp_path, decode_tps=20.0) as here,
        here.beside(ANY_PORT) as second,
        httpx.AsyncClient(base_url=second.url) as http,
    ):
        async with http.stream("POST", "/api/generate", json=generate(5000)) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            second.hurry()
            await second.close()
            last = ""
            async for line in lines:
                last = line
        assert "shutting down" in json.loads(last)["error"]
        await eventually(lambda: here.slots_in_use() == 0)
