"""The names of uvicorn that its documentation does not promise and our HTTP server uses all the same."""

from __future__ import annotations

import asyncio
import inspect
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from packaging.requirements import Requirement
from uvicorn.protocols.http import httptools_impl
from uvicorn.server import ServerState

from sollol_agents.gateway.http.reply import Reply
from sollol_agents.http_server import USUAL_LIMITS, Connection, HttpServer

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


def test_a_status_line_is_where_we_take_it() -> None:
    assert httptools_impl.STATUS_LINE[431].startswith(b"HTTP/1.1 431 ")


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def resume_reading(self) -> None:
        """Nothing is held up."""


class Answered(NamedTuple):
    written: bytes
    state: dict[str, object]


async def answered(request: bytes, reply: Callable[[Reply], Awaitable[None]], *, by_asgi: bool) -> Answered:
    """What an answer writes, and how it leaves the cycle, with uvicorn's own `send` or without."""
    made, wire = server(), Wire()
    made.server_state.default_headers = [(b"date", b"today")]
    protocol = type("_Connection", (Connection,), {"limits": USUAL_LIMITS})(made.config, made.server_state, {})
    protocol.connection_made(wire)
    protocol.data_received(request)
    cycle = protocol.cycle

    async def send(message: Any) -> None:
        await cycle.send(message)

    await reply(Reply(send if by_asgi else cycle.send, protocol, 1.0, [(b"vary", b"Origin")]))
    names = ("response_started", "response_complete", "keep_alive", "chunked_encoding", "waiting_for_100_continue")
    state = {name: getattr(cycle, name) for name in (*names, "expected_content_length", "disconnected")}
    state |= {"closed": wire.is_closed, "told": cycle.message_event.is_set(), "idle": protocol.is_idle}
    protocol.connection_lost(None)
    return Answered(wire.written, state)


async def a_stream(reply: Reply) -> None:
    reply.start(200, [(b"content-type", b"text/plain")])
    await reply.write(b"one")
    await reply.end(b"two")


async def a_stream_without_last_words(reply: Reply) -> None:
    reply.start(200, [])
    await reply.write(b"one")
    await reply.end()


async def a_stream_that_goes_on(reply: Reply) -> None:
    reply.start(200, [])
    await reply.write(b"one")


async def a_whole(reply: Reply) -> None:
    await reply.whole(429, [(b"content-type", b"text/plain"), (b"retry-after", b"3")], b"no")


async def an_empty_whole(reply: Reply) -> None:
    await reply.whole(200, [], b"")


async def no_body(reply: Reply) -> None:
    reply.start(204, [(b"allow", b"POST")])
    await reply.end()


REQUESTS = {
    "post": b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}",
    "last post": b"POST /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
    "cautious post": b"POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
    "get": b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n",
    "head": b"HEAD /x HTTP/1.1\r\nhost: a\r\n\r\n",
}
REPLIES = (a_stream, a_stream_without_last_words, a_stream_that_goes_on, a_whole, an_empty_whole, no_body)


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_an_answer_is_written_as_a_cycle_writes_it(
    request_: bytes, reply: Callable[[Reply], Awaitable[None]]
) -> None:
    ours = await answered(request_, reply, by_asgi=False)
    theirs = await answered(request_, reply, by_asgi=True)
    assert ours == theirs
    assert ours.written


async def test_a_value_that_would_end_its_line_is_not_written() -> None:
    async def split(reply: Reply) -> None:
        with pytest.raises(RuntimeError):
            await reply.whole(200, [(b"content-type", b"a\r\nset-cookie: b")], b"")

    ours = await answered(REQUESTS["post"], split, by_asgi=False)
    assert ours.written == b""
    assert not ours.state["response_started"]


async def test_a_piece_that_has_come_is_where_it_is_looked_for() -> None:
    made = server()
    protocol = type("_Connection", (Connection,), {"limits": USUAL_LIMITS})(made.config, made.server_state, {})
    protocol.connection_made(Wire())
    protocol.data_received(REQUESTS["post"][:-2])
    assert not protocol.cycle.message_event.is_set()
    protocol.data_received(REQUESTS["post"][-2:])
    assert protocol.cycle.message_event.is_set()
    protocol.connection_lost(None)


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
