"""Whatever is sent to the gateway gets a clear answer: never a bug of ours, never a slot that stays taken."""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.http_server import ClientLimits
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.requests.dialects import KIND_OF_PATH

PATHS = (
    *KIND_OF_PATH,
    *("/api/show", "/api/pull", "/api/copy", "/api/create", "/api/push", "/v1/models", "/v1/files", "/nix"),
    *("/api/blobs/x", "/api/jobs"),
    *("/api/jobs/x/result", "/v1/batches", "/v1/batches/x/cancel"),
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
    *("model", "prompt", "messages", "input", "stream", "options", "format", "tools", "keep_alive", "think"),
    *("images", "max_tokens"),
    *("max_completion_tokens", "priority", "routing_mode", "deadline_s", "node_id", "name", "source", "destination"),
    *("from", "system"),
    *("stop_sequences", "suffix", "raw", "context"),
)
HEADERS = (
    *("X-Sollol-Priority", "X-Sollol-Node-Id", "X-Sollol-Deadline-S", "X-Sollol-Request-Id"),
    "X-Sollol-Routing-Mode",
    *("X-Sollol-Min-Success-Rate", "Content-Type", "Content-Encoding", "Authorization", "traceparent", "Accept"),
    "Host",
)
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
HOT_PATHS = tuple(name.encode() for name in KIND_OF_PATH)
CONNECTIONS = "sollol_gateway_open_connections"
MESSAGES = [{"role": "user", "content": "count 1"}]


MANGLED = (
    *("%00", "%ff", "%2e%2e/", "//", "?x=%zz", ";a=b", "%0d%0aX-Evil:1", "%c3%a9"),
    "/" * 200,
    "x" * 3000,
    "#f",
    "?" * 9,
)
ENCODINGS = (
    lambda sent: sent.decode("utf-8", "replace").encode("utf-16"),
    lambda sent: b"\xef\xbb\xbf" + sent,
    lambda sent: sent.replace(b"count", b"\xc3\x28count"),
    zlib.compress,
    lambda sent: sent.replace(b":", b" \t\r\n:\t"),
    lambda sent: sent[:-1],
)


async def pieces(sent: bytes) -> AsyncIterator[bytes]:
    """A body of unknown length, in pieces."""
    for start in range(0, len(sent), 7):
        yield sent[start : start + 7]


def path(rng: random.Random) -> str:
    """A path that is known, or hardly."""
    known = rng.choice(PATHS)
    if rng.random() < 0.8:
        return known
    cut = rng.randrange(1, len(known) + 1)
    return known[:cut] + rng.choice(MANGLED) + known[cut:]


def body(rng: random.Random) -> bytes:
    """A body that is nearly right, or not at all."""
    if rng.random() < 0.2:
        return rng.choice(RAW)
    fields: dict[str, Any] = {"model": "countdown", "prompt": "count 1", "messages": MESSAGES, "max_tokens": 2}
    for _ in range(rng.randrange(4)):
        fields[rng.choice(FIELDS)] = rng.choice(VALUES)
    sent = json.dumps(fields).encode()
    return rng.choice(ENCODINGS)(sent) if rng.random() < 0.15 else sent


def header(rng: random.Random) -> tuple[bytes, bytes]:
    value = rng.choice(
        (b"", b"0", b"9", b"-1", b"nan", b"1e400", b"x" * 300, b"\xc3\xa9", b"gzip", b"*", b"a b", b"localhost")
    )
    return rng.choice(HEADERS).encode(), value


async def test_nothing_that_is_sent_meets_a_bug_or_keeps_a_slot(tmp_path: Path) -> None:
    engine = {"preset": "instant", "model": ("countdown=1",), "preload": (), "decode_tps": 0, "prefill_tps": 0}
    async with EmulatedSystem(tmp_path, engine=engine, gateway=GatewayConfig(port=0, deadline_s=2)) as here:
        base = httpx.URL(here.gateway.url)

        async def one(rng: random.Random) -> tuple[int, str]:
            method = rng.choices(("POST", "GET", "DELETE", "PUT", "HEAD", "OPTIONS"), (20, 1, 1, 1, 1, 1))[0]
            where, sent = path(rng), body(rng)
            content = pieces(sent) if rng.random() < 0.1 else sent
            request = here.http.build_request(
                method, "/", content=content, headers=[header(rng)], extensions={"target": where.encode()}
            )
            answer = await here.http.send(request)
            told = f"{method} {where[:300]} {dict(request.headers)} {sent[:300]!r}: {answer.text[:300]}"
            return answer.status_code, told

        async def leaver(rng: random.Random) -> None:
            """A client that leaves somewhere in its request, or right behind it."""
            sent = body(rng)
            head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            whole = head % (rng.choice(HOT_PATHS), len(sent)) + sent
            _, writer = await asyncio.open_connection(base.host, base.port)
            writer.write(whole[: rng.randrange(1, len(whole) + 1)])
            await writer.drain()
            writer.transport.abort()

        async def caller(seed: int) -> None:
            rng = random.Random(seed)
            for number in range(20):
                status, what = await one(rng)
                assert 200 <= status < 600, what
                if number % 10 == 0:
                    await leaver(rng)

        await asyncio.gather(*(caller(20261121 + number) for number in range(20)))
        await eventually(lambda: not any(actor.in_flight() for actor in here.stack.actors))
        answer = await here.http.post("/api/generate", json={"model": "countdown", "prompt": "count 2"})
        assert answer.status_code == 200
        assert here.engines["n1"].in_flight == 0
        text = (await here.http.get("/metrics")).text
        assert "sollol_gateway_active_requests 0.0" in text
        assert 'code="internal"' not in text
        assert stack_connections(text) <= 30  # those of the one client that is left, kept alive


def stack_connections(text: str) -> float:
    """The open connections that the gateway counts."""
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(CONNECTIONS))


LINES = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /\xc3\xa9\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-Sollol-Node-Id: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /api/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /api/%2e%2e/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 21\r\n\r\n" + b'{"model":"countdown"}',
    b"POST //x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 21\r\n\r\n" + b'{"model":"countdown"}',
    b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"\r\n" * 50,
)


async def test_what_is_no_http_harms_nobody(tmp_path: Path) -> None:
    limits = ClientLimits(head_timeout_s=0.5, body_timeout_s=0.5)
    async with EmulatedSystem(tmp_path, nodes=0, gateway=GatewayConfig(port=0), limits=limits) as here:
        url = httpx.URL(here.gateway.url)
        for line in LINES:
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(line)
            writer.write_eof()
            async with asyncio.timeout(10):
                answer = await reader.read()
            assert b" 500 " not in answer.split(b"\r\n")[0], (line, answer)
            writer.close()
            assert (await here.http.get("/healthz")).status_code == 200
