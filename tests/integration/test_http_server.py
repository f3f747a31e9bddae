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


async def test_a_socket_that_listens_already_is_taken_over_and_its_first_client_served() -> None:
    async def application(_scope: object, _receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    waiting = listen("127.0.0.1", 0)
    early = socket.create_connection(waiting.getsockname())
    early.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    server = HttpServer(application, "127.0.0.1", 0, remedy="", listening=waiting)
    await server.start()
    try:
        early.setblocking(False)
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(early, 1000), 5)
    finally:
        await server.close()
        early.close()
    assert answer.startswith(b"HTTP/1.1 204")
