"""What our HTTP server takes from the inside of uvicorn is still there: these names are none of its promises."""

from __future__ import annotations

import inspect
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from sollol_agents.http_server import Connection, HttpServer

OVERRIDDEN = [
    "connection_made",
    "connection_lost",
    "data_received",
    "on_message_begin",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_what_a_connection_overrides_takes_the_same_arguments_in_uvicorn(name: str) -> None:
    theirs, ours = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (HttpToolsProtocol, Connection))
    assert ours == theirs


def test_nothing_is_overridden_that_uvicorn_would_not_call() -> None:
    public = {name for name, value in vars(Connection).items() if inspect.isfunction(value) and name[0] != "_"}
    assert public - {"abort"} == set(OVERRIDDEN)


def test_every_status_that_a_connection_refuses_with_has_a_line() -> None:
    assert STATUS_LINE[431].startswith(b"HTTP/1.1 431 ")
    assert STATUS_LINE[408].startswith(b"HTTP/1.1 408 ")


async def test_a_connection_has_what_is_read_and_set_of_it() -> None:
    seen: dict[str, Any] = {}

    async def application(scope: dict[str, Any], _receive: object, send: Any) -> None:
        connection = seen["connection"] = scope["state"]["connection"]
        seen["cycle"] = send.__self__
        seen["is_paused"] = connection.flow.write_paused
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = HttpServer(application, "127.0.0.1", 0, remedy="")
    await server.start()
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(server.url)
            assert server.connections == 1
    finally:
        await server.close()
    assert answer.headers["date"].endswith(" GMT")
    assert isinstance(seen["cycle"], RequestResponseCycle)
    assert callable(seen["cycle"].transport.write)
    assert seen["is_paused"] is False
    assert {"url", "headers", "scope", "cycle", "transport", "loop"} <= vars(seen["connection"]).keys()


def test_a_server_has_what_is_set_and_waited_for() -> None:
    config = uvicorn.Config(lambda: None, lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    assert inspect.iscoroutinefunction(server.startup)
    assert {"connections", "tasks", "default_headers"} <= vars(server.server_state).keys()
