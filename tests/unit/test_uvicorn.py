"""The names of uvicorn that its documentation does not promise and our HTTP server uses all the same."""

from __future__ import annotations

import asyncio
import inspect
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from packaging.requirements import Requirement
from uvicorn.protocols.http import httptools_impl
from uvicorn.server import ServerState

from sollol_agents.http_server import Connection, HttpServer

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


async def app(scope: object, receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def server() -> uvicorn.Server:
    config = uvicorn.Config(app, http="httptools", lifespan="off", log_config=None)
    config.load()
    made = uvicorn.Server(config)
    made.lifespan = config.lifespan_class(config)
    return made


@pytest.mark.skipif(not PROJECT.exists(), reason="the requirements are in the checkout only")
def test_uvicorn_has_an_upper_bound_and_the_installed_one_lies_below_it() -> None:
    wanted = [Requirement(text) for text in tomllib.loads(PROJECT.read_text())["project"]["dependencies"]]
    specifier = next(one.specifier for one in wanted if one.name == "uvicorn")
    assert any(bound.operator == "<" for bound in specifier)
    assert uvicorn.__version__ in specifier


async def test_a_protocol_has_the_attributes_that_a_connection_reads() -> None:
    made = server()
    protocol = httptools_impl.HttpToolsProtocol(made.config, made.server_state, {})
    protocol.on_message_begin()
    for name in ("loop", "flow", "transport", "scope", "headers", "url", "cycle", "shutdown"):
        assert hasattr(protocol, name), name
    assert protocol.scope["state"] == {}


OVERRIDDEN = [name for name in vars(Connection) if name.startswith(("on_", "connection_", "data_"))]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_what_a_connection_overrides_is_there_to_be_overridden(name: str) -> None:
    theirs = inspect.signature(getattr(httptools_impl.HttpToolsProtocol, name))
    assert list(theirs.parameters) == list(inspect.signature(getattr(Connection, name)).parameters)


def test_a_status_line_and_the_transport_of_a_cycle_are_where_we_take_them() -> None:
    assert httptools_impl.STATUS_LINE[431].startswith(b"HTTP/1.1 431 ")
    assert "transport" in inspect.signature(httptools_impl.RequestResponseCycle).parameters


async def test_a_server_keeps_its_state_where_we_read_it() -> None:
    made = server()
    assert made.server_state.connections == set()
    assert made.server_state.tasks == set()
    assert made.server_state.default_headers == []
    assert isinstance(made.server_state, ServerState)
    assert "sockets" in inspect.signature(made.startup).parameters
    assert {"capture_signals", "serve"} <= set(dir(made))
    assert (made.started, made.should_exit) == (False, False)


async def test_a_server_counts_the_connections_that_it_closes() -> None:
    made = HttpServer(app, "127.0.0.1", 0, remedy="Choose another")
    await made.start()
    assert made._server.servers, "they are closed when no more connections are taken"
    reader, writer = await asyncio.open_connection("127.0.0.1", int(made.url.rpartition(":")[2]))
    writer.write(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"\r\ndate: " in head
    assert made.connections == 1
    await made.close()
    assert await reader.read() == b""
    assert made.connections == 0
    writer.close()
    await writer.wait_closed()
