"""A client that reads too slowly: little waits for it in memory, its node is stopped, and it is told so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol_agents.gateway.actor import Gateway
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.http_server import ClientLimits
from sollol_agents.lab.emulator.faults import INFERENCE_PATHS
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually

UNREAD = 65_536
BUFFERS = 300_000
"""What the kernel and the server hold in any case, generously; the answer has three times as much."""
MODEL = f"{'n' * 40}/countdown-{'x' * 60}"  # every message repeats it
ENDLESS = 'say "'  # answered with 4096 quotation marks


@asynccontextmanager
async def gateway_that_cuts(tmp_path: Path, reader_timeout_s: float) -> AsyncIterator[EmulatedSystem]:
    engine = {"model": (f"{MODEL}=1",), "preload": (MODEL,), "decode_tps": 20_000.0}
    limits = ClientLimits(unread_bytes=UNREAD, reader_timeout_s=reader_timeout_s)
    async with EmulatedSystem(tmp_path, slots=1, engine=engine, gateway=GatewayConfig(port=0), limits=limits) as here:
        await here.http.aclose()
        listening = here.gateway._server._socket
        assert listening is not None
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # else the kernel takes megabytes first
        yield here


def node_has_stopped(here: EmulatedSystem) -> bool:
    """Whether the node has begun on the request and let go of it."""
    has_begun = any(here.engines["n1"].requests[path] for path in INFERENCE_PATHS)
    return has_begun and here.slots_in_use() == 0


async def ask(gateway: Gateway, path: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which the answer is on its way, and nothing is read."""
    url, sent = httpx.URL(gateway.url), json.dumps(body).encode()
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(lazy, (url.host, url.port))
    await loop.sock_sendall(
        lazy, b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(sent), sent)
    )
    return lazy


async def read_all(lazy: socket.socket) -> bytes:
    """Everything up to the end of the chunked answer."""
    loop, got = asyncio.get_running_loop(), b""
    async with asyncio.timeout(15):
        while not got.endswith(b"0\r\n\r\n") and (data := await loop.sock_recv(lazy, 65_536)):
            got += data
    return got


USER = [{"role": "user", "content": ENDLESS}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"prompt": ENDLESS}),
        ("/v1/chat/completions", {"messages": USER, "stream": True}),
        ("/v1/messages", {"messages": USER, "stream": True, "max_tokens": 5000}),
    ],
)
async def test_little_is_kept_for_a_client_that_reads_later_and_it_is_told(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    async with gateway_that_cuts(tmp_path, reader_timeout_s=30.0) as here:
        lazy = await ask(here.gateway, path, {"model": MODEL, **body})
        try:
            await eventually(node_has_stopped, here)  # though nobody has read
            got = await read_all(lazy)
        finally:
            lazy.close()
        assert len(got) < UNREAD + BUFFERS
        *_, last = [line for line in got.splitlines() if b'{"' in line]
        said = json.loads(last[last.index(b"{") :])
        assert "unread" in json.dumps(said["error"])
        assert b"[DONE]" not in got
        assert b"message_stop" not in got
        await eventually(lambda: not here.gateway.in_flight())


async def test_a_client_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    async with gateway_that_cuts(tmp_path, reader_timeout_s=0.3) as here:
        lazy = await ask(here.gateway, "/api/generate", {"model": MODEL, "prompt": ENDLESS})
        try:
            await eventually(node_has_stopped, here)
            await eventually(lambda: not here.gateway.in_flight() and here.gateway._server.connections <= 1)
            got = b""
            with contextlib.suppress(ConnectionResetError):
                got = await read_all(lazy)
            # the rest was thrown away, unless the kernel had room for the words that tell of the cut
            assert not got.endswith(b"0\r\n\r\n") or b"bytes unread" in got[-200:]
        finally:
            lazy.close()
