"""The HTTP server starts what it is given, on a socket that may listen already."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sollol_agents.http_server import HttpServer
from sollol_agents.listening import listen
from sollol_bus.errors import ConfigError


async def test_an_application_that_does_not_start_is_an_error_for_the_operator() -> None:
    async def application(_scope: object, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    server = HttpServer(application, "127.0.0.1", 0, remedy="", is_whole=True)
    with pytest.raises(ConfigError, match="does not start"):
        await server.start()
    await server.close()


async def tell_method(scope: Any, _receive: object, send: Any) -> None:
    """An application that says which method it was asked."""
    method = scope["method"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(method))]})
    await send({"type": "http.response.body", "body": method})


async def test_a_socket_that_listens_already_is_taken_over_and_its_first_client_served() -> None:
    waiting = listen("127.0.0.1", 0)
    early = socket.create_connection(waiting.getsockname())
    early.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    server = HttpServer(tell_method, "127.0.0.1", 0, remedy="", listening=waiting)
    await server.start()
    try:
        early.setblocking(False)
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(early, 1000), 5)
    finally:
        await server.close()
        early.close()
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("request_", "begins", "ends"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400", b"missing required Host header"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"HTTP/1.1 400", b"too many Host headers"),
        (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200", b"GET"),
        (b"FOO / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200", b"TRACE"),
        (b"FOO nothing\r\n\r\n", b"HTTP/1.1 400", b"400 Bad Request"),
    ],
    ids=["no host", "two hosts", "an old client", "an unknown method", "no http"],
)
async def test_a_request_has_one_host_and_any_method(request_: bytes, begins: bytes, ends: bytes) -> None:
    server = HttpServer(tell_method, "127.0.0.1", 0, remedy="")
    await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.write(request_)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    finally:
        await server.close()
    assert (answer.startswith(begins), answer.endswith(ends)) == (True, True), answer
