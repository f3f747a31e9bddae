"""The HTTP server starts what it is given, on a socket that may listen already."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sollol_agents.http_server import ClientLimits, HttpServer
from sollol_agents.lab.testing.waiting import eventually
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


@pytest.mark.parametrize("is_behind_an_answer", [False, True], ids=["the first one", "one behind an answer"])
async def test_a_head_that_does_not_come_to_its_end_is_refused(is_behind_an_answer: bool) -> None:
    server = HttpServer(tell_method, "127.0.0.1", 0, remedy="", limits=ClientLimits(head_timeout_s=0.2))
    await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        if is_behind_an_answer:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"GET"), 5)).startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    finally:
        await server.close()
    assert answer.startswith(b"HTTP/1.1 408"), answer


@pytest.mark.shutdown
async def test_a_server_that_stops_serves_what_its_connections_were_about_to_ask_and_closes_them() -> None:
    async def application(scope: Any, receive: object, send: Any) -> None:
        if scope["path"] != "/slow":
            await tell_method(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"G", "more_body": True})
        await may_answer.wait()
        await send({"type": "http.response.body", "body": b"ET"})

    may_answer = asyncio.Event()
    server = HttpServer(application, "127.0.0.1", 0, remedy="")
    await server.start()
    port = int(server.url.rpartition(":")[2])
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
    (fresh, says), (kept, says_again), (slow, asks_slowly), (silent, _) = opened
    says_again.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await kept.readuntil(b"\r\n\r\nGET")
    asks_slowly.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await slow.readuntil(b"content-length: 3")
    async with asyncio.TaskGroup() as group:
        group.create_task(server.stop_accepting())
        await eventually(lambda: _is_refused(port))
        says.write(b"GET / HTTP/1.1\r\nHost: x\r\n")  # a head in two pieces
        says_again.write(b"POST / HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n")
        says.write(b"\r\n")
        for reader, method in ((fresh, b"GET"), (kept, b"POST")):
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in answer
            assert answer.endswith(method)
    may_answer.set()
    await asyncio.wait_for(slow.readuntil(b"\r\n\r\nGET"), 5)
    assert server.may_be_asked, "the head of that answer did not say that it is the last"
    asks_slowly.write(b"PUT / HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n")
    assert (await asyncio.wait_for(slow.read(), 5)).endswith(b"PUT")
    assert not server.may_be_asked
    await server.close()
    assert await asyncio.wait_for(silent.read(), 5) == b"", "nothing was asked there"
    for _, writer in opened:
        writer.close()


async def _is_refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


@pytest.mark.shutdown
async def test_connections_that_the_system_took_before_the_server_stopped_are_served() -> None:
    server = HttpServer(tell_method, "127.0.0.1", 0, remedy="")
    await server.start()
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    early = [socket.create_connection(address) for _ in range(20)]  # the loop has had no time to take them
    for one in early:
        one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        one.setblocking(False)
    await server.stop_accepting()
    for one in early:
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(one, 1000), 5)
        assert answer.startswith(b"HTTP/1.1 200")
        one.close()
    await server.close()
