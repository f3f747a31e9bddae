"""Clients of the gateway that leave, stand still, send too much or hold no key, and a gateway that leaves them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.http_server import ClientLimits
from sollol_agents.lab.testing.gateway_questions import ANY_PORT, CHAT, MODEL, address, chat, generate, words
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually


def world(
    tmp_path: Path, *, gateway: GatewayConfig = ANY_PORT, decode_tps: float = 200.0, **more: Any
) -> EmulatedSystem:
    return EmulatedSystem(tmp_path, gateway=gateway, decode_tps=decode_tps, **more)


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
        first = asyncio.get_running_loop().create_task(here.http.post("/api/generate", json=generate(50, stream=False)))
        try:
            await eventually(lambda: here.slots_in_use() == 1)  # for more than two seconds
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
        more = [await here.http.post("/api/generate", json=generate(1), headers=theirs) for _ in range(3)]
        assert [answer.status_code for answer in more] == [200, 200, 429]
        assert int(more[-1].headers["retry-after"]) >= 1
        assert "fleet limit" in more[-1].json()["error"]
        assert (await here.http.get("/api/version", headers=theirs)).status_code == 200
        await store.revoke(key.key_id)

        async def is_gone() -> bool:
            return (await here.http.get("/api/tags", headers=theirs)).status_code == 401

        await eventually(is_gone)


async def test_only_administrators_manage_models_and_groups(tmp_path: Path) -> None:
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
        theirs, group = {"x-api-key": user}, {"models": [MODEL]}
        assert (await here.http.put("/api/groups/mine", json=group, headers=theirs)).status_code == 403
        assert (await here.http.delete("/api/groups/mine", headers=theirs)).status_code == 403
        assert (await here.http.post("/api/groups/auto/reset", headers=theirs)).status_code == 403
        assert (await here.http.get("/api/groups", headers=theirs)).json()["groups"][0]["group"]["name"] == "auto"


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
