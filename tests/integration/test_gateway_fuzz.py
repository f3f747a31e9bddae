"""Whatever is sent to the gateway gets a clear answer: never a 500, never a slot that stays taken."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol_agents.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.gateway.app import HOT
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.node.config import NodeConfig
from sollol_agents.stack import LocalStack

PATHS = (
    *HOT,
    "/api/show",
    "/api/pull",
    "/api/copy",
    "/api/create",
    "/api/push",
    "/v1/models",
    "/v1/files",
    "/nix",
    "/api/blobs/x",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1e308,
    10**30,
    "",
    "x",
    "\u0000",
    "é\ud7ff",
    [],
    [[]],
    {},
    {"a": {}},
    [1, "x", None],
)
FIELDS = (
    "model", "prompt", "messages", "input", "stream", "options", "format", "tools", "keep_alive", "think", "images",
    "max_tokens", "max_completion_tokens", "priority", "routing_mode", "deadline_s", "node_id", "name", "source",
    "destination", "from", "system", "stop_sequences", "suffix", "raw", "context",
)  # fmt: skip
HEADERS = (
    "X-Sollol-Priority", "X-Sollol-Node-Id", "X-Sollol-Deadline-S", "X-Sollol-Request-Id", "X-Sollol-Routing-Mode",
    "X-Sollol-Min-Success-Rate", "Content-Type", "Content-Encoding", "Authorization", "traceparent", "Accept", "Host",
)  # fmt: skip
RAW = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"\xff\xfe",
    b"{" * 3000,
    b'{"model":' * 500,
    b'{"model":"countdown"}}',
    b"\x00" * 64,
)
MESSAGES = [{"role": "user", "content": "count 1"}]


def body(rng: random.Random) -> bytes:
    """A body that is nearly right, or not at all."""
    if rng.random() < 0.2:
        return rng.choice(RAW)
    fields: dict[str, Any] = {"model": "countdown", "prompt": "count 1", "messages": MESSAGES, "max_tokens": 2}
    for _ in range(rng.randrange(4)):
        fields[rng.choice(FIELDS)] = rng.choice(VALUES)
    return json.dumps(fields).encode()


def header(rng: random.Random) -> tuple[bytes, bytes]:
    value = rng.choice(
        (b"", b"0", b"9", b"-1", b"nan", b"1e400", b"x" * 300, b"\xc3\xa9", b"gzip", b"*", b"a b", b"localhost")
    )
    return rng.choice(HEADERS).encode(), value


@pytest.mark.timeout(120)
async def test_nothing_that_is_sent_is_answered_with_500_or_keeps_a_slot(tmp_path: Path) -> None:
    rng = random.Random(20261121)
    async with EmulatedNode(EmulatorConfig(preset="instant", model=("countdown=1",), parallel=4)) as engine:
        node = NodeConfig(node_id="n1", engine="ollama", url=engine.url, slots=4)
        stack = LocalStack(store_dir=tmp_path, gateway=GatewayConfig(port=0, deadline_s=5), nodes=(node,))
        async with stack, httpx.AsyncClient(base_url=stack.http_url, timeout=30, trust_env=False) as http:

            async def one() -> tuple[int, str]:
                method = rng.choices(("POST", "GET", "DELETE", "PUT", "HEAD", "OPTIONS"), (20, 1, 1, 1, 1, 1))[0]
                path, sent = rng.choice(PATHS), body(rng)
                request = http.build_request(method, path, content=sent, headers=[header(rng)])
                answer = await http.send(request)
                return (
                    answer.status_code,
                    f"{method} {path} {dict(request.headers)} {sent[:300]!r}: {answer.text[:300]}",
                )

            for _ in range(40):
                for status, what in await asyncio.gather(*(one() for _ in range(10))):
                    assert status != 500, what
                    assert 200 <= status < 600, what
            async with asyncio.timeout(20):
                while any(actor.in_flight() for actor in stack.actors):  # noqa: ASYNC110 actors send no signal
                    await asyncio.sleep(0.05)
            answer = await http.post("/api/generate", json={"model": "countdown", "prompt": "count 2"})
            assert answer.status_code == 200


LINES = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /api/%2e%2e/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 21\r\n\r\n" + b'{"model":"countdown"}',
    b"POST //x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 21\r\n\r\n" + b'{"model":"countdown"}',
    b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"\r\n" * 50,
)


async def test_what_is_no_http_harms_nobody(tmp_path: Path) -> None:
    config = GatewayConfig(port=0, head_timeout_s=0.5, body_timeout_s=0.5)
    async with (
        LocalStack(store_dir=tmp_path, gateway=config) as stack,
        httpx.AsyncClient(base_url=stack.http_url, timeout=10, trust_env=False) as http,
    ):
        url = httpx.URL(stack.http_url)
        for line in LINES:
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(line)
            writer.write_eof()
            async with asyncio.timeout(10):
                answer = await reader.read()
            assert b" 500 " not in answer.split(b"\r\n")[0], (line, answer)
            writer.close()
            assert (await http.get("/healthz")).status_code == 200
