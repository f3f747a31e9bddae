"""The HTTP server: uvicorn's protocol with limits on what a client may do before it is served.

uvicorn bounds neither a request's head nor the time it may take to arrive, and tells an application that its client
has left only when asked. `Connection` adds both, so that a request costs no watching task.
"""

from __future__ import annotations

import asyncio
import logging
import re
import select
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar, Final

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sollol_agents.listening import listen, refused, url_of
from sollol_bus.errors import ConfigError
from sollol_bus.parts import Part

log = logging.getLogger(__name__)

_CLOSE_WITHIN_S = 2.0
_LAST_WORD_S = 0.5
_UNKNOWN_METHOD: Final = re.compile(rb"([A-Za-z]{1,20}) /\S* HTTP/1\.[01]\r\n")
_SERVED_NOWHERE: Final = b"TRACE"
"""Stands for every method that the parser does not know: no path has it."""
_NO_HOST: Final = "400 Bad Request: missing required Host header"


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may do before it is served, and while it is."""

    head_bytes: int = 65_536
    """Largest request line with headers."""
    head_timeout_s: float = 10.0
    """Within this a request's head must arrive."""
    body_timeout_s: float = 30.0
    """How long each piece of a body is waited for."""
    idle_timeout_s: float = 75.0
    """How long an idle connection is kept open."""
    reader_timeout_s: float = 30.0
    """How long a client may leave a full connection unread before it is cut."""
    unread_bytes: int = 4 << 20
    """How much of one answer may wait for a slow client before it is cut."""


USUAL_LIMITS: Final = ClientLimits()


class Connection(HttpToolsProtocol):
    """One client's connection."""

    limits: ClassVar[ClientLimits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 uvicorn's own
        super().__init__(*args, **kwargs)
        self.on_gone: Callable[[], None] | None = None
        """Called once when the client leaves; set while a request is served."""
        self._latest = b""
        self._head_bytes = 0
        self._is_in_head = True
        self._has_only_head = True
        self._has_begun = False
        """Whether the first byte of a head has come."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._last_word: asyncio.Future[None] | None = None
        self._idle_since = 0.0
        self.lost: asyncio.Future[None] = self.loop.create_future()
        """Done when the client has gone, or has got all that was written."""

    @property
    def is_idle(self) -> bool:
        """Whether no request is served."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_full(self) -> bool:
        """Whether the client reads more slowly than we write."""
        return self.flow.write_paused

    def abort(self) -> None:
        """Ends the connection at once; what was not sent is lost."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has come."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._cancel_head_timer()
        self._note_last_word()
        if not self.lost.done():
            self.lost.set_result(None)
        super().connection_lost(exc)
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone()

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        self._has_only_head = self._is_in_head
        self._latest = data
        super().data_received(data)
        if self._is_in_head and self._has_begun and self._head_timer is None:
            self._await_head()  # not for each request: most heads come whole
        if not self._has_only_head:
            return  # bodies do not count; a head that began behind one is measured when it is complete
        self._head_bytes += len(data)
        if self._head_bytes > self.limits.head_bytes:
            self._refuse(431, "the request's head is too large")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._has_begun = True

    def on_headers_complete(self) -> None:
        """The end of a request's head."""
        self._cancel_head_timer()
        self._is_in_head = self._has_only_head = self._has_begun = False
        size, hosts = len(self.url), 0
        for name, value in self.headers:
            size += len(name) + len(value)
            hosts += name == b"host"
        if size > self.limits.head_bytes:
            self._refuse(431, "the request's head is too large")
            return
        if hosts > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            self._refuse(400, "400 Bad Request: too many Host headers" if hosts else _NO_HOST)
            return
        super().on_headers_complete()
        if self._last_word is not None and self.cycle is not None:
            self.cycle.keep_alive = False
            self._note_last_word()

    def shutdown(self) -> asyncio.Future[None] | None:  # type: ignore[override]  # as uvicorn has it
        """Serves one request more at most, and closes after the answer.

        Returns:
            Done when the last request of an idle connection has come, or its client has gone; None: it serves one.
        """
        if not self.is_idle and not self.cycle.response_started:
            self.cycle.keep_alive = False
            return None
        self._last_word = self._last_word or self.loop.create_future()
        return self._last_word if self.is_idle else None

    @property
    def may_ask(self) -> bool:
        """Whether a connection that shuts down got an answer just now whose head did not say that it is the last."""
        is_open = self._last_word is not None and not self._last_word.done()
        return is_open and self.is_idle and self.loop.time() - self._idle_since < _LAST_WORD_S

    def on_response_complete(self) -> None:
        """The end of an answer."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _note_last_word(self) -> None:
        if self._last_word is not None and not self._last_word.done():
            self._last_word.set_result(None)

    def send_400_response(self, msg: str) -> None:
        """Answers what the parser does not take: a method that it does not know, or no HTTP at all."""
        del msg
        line = _UNKNOWN_METHOD.match(self._latest)
        is_first = self.cycle is None or self.cycle.response_complete
        if line is None or not is_first or line[1] == _SERVED_NOWHERE:
            self._refuse(400, "400 Bad Request")
            return
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(_SERVED_NOWHERE + self._latest[line.end(1) :])

    def on_body(self, body: bytes) -> None:
        """Some bytes of a request's body."""
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._is_in_head = True
        self._head_bytes = 0
        if self.cycle is not None:
            super().on_message_complete()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._on_head_overdue)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_overdue(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(408, "the request's head did not arrive in time")
        else:
            self.transport.close()

    def _refuse(self, status: int, text: str) -> None:
        if self.transport.is_closing():
            return
        head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(text)
        self.transport.write(STATUS_LINE[status] + head + text.encode())
        self.transport.close()


class HttpServer(Part):
    """Listens, and hands requests to an ASGI application.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        remedy: What an operator can do when the address cannot be had.
        reuse_port: Whether others may listen on the port too.
        limits: What a client may do.
        connections_max: Connections beyond which requests get 503; None: as many as there can be files.
        listening: A socket that listens already; it is taken over.
        certificate: Files of a certificate and its key, with which it speaks HTTPS; None: it speaks HTTP.
        is_whole: Whether the application has a life of its own and sockets beside requests.
    """

    def __init__(
        self,
        app: Any,  # noqa: ANN401 an ASGI application
        host: str,
        port: int,
        *,
        remedy: str,
        reuse_port: bool = False,
        limits: ClientLimits = USUAL_LIMITS,
        connections_max: int | None = None,
        listening: socket.socket | None = None,
        certificate: tuple[Path, Path] | None = None,
        is_whole: bool = False,
    ) -> None:
        self._address = host, port
        self._remedy = remedy
        self._reuse_port = reuse_port
        protocol = type("_Connection", (Connection,), {"limits": limits})
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="auto" if is_whole else "none",
            ws_per_message_deflate=False,
            lifespan="on" if is_whole else "off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(max(1, limits.idle_timeout_s)),
            limit_concurrency=connections_max,
            ssl_certfile=certificate and str(certificate[0]),
            ssl_keyfile=certificate and str(certificate[1]),
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError among them
            raise ConfigError(f"the certificate or its key cannot be used: {error}") from error
        self._is_encrypted = certificate is not None
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._socket = listening
        self._clock: asyncio.TimerHandle | None = None
        self.url = ""
        """Base address, once it listens."""

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._server.server_state.connections)

    @property
    def may_be_asked(self) -> bool:
        """Whether a request may be on its way although the server stops; see `Connection.may_ask`."""
        return any(connection.may_ask for connection in self._connections())

    async def start(self) -> None:
        """Listens.

        Raises:
            ConfigError: The address cannot be had, or the application does not start.
        """
        _allow_many_files()
        try:
            self._socket = self._socket or listen(*self._address, reuse_port=self._reuse_port)
        except OSError as error:
            raise ConfigError(refused(*self._address, error, self._remedy)) from error
        self._tick()
        try:
            await self._server.startup(sockets=[self._socket])
        except SystemExit as error:  # uvicorn's way to say that the application's own start failed
            raise ConfigError("what is to be served does not start; the log says why") from error
        self.url = url_of(self._socket, is_encrypted=self._is_encrypted)

    def _tick(self) -> None:
        """Renews the Date header once a second."""
        date = formatdate(time.time(), usegmt=True).encode()  # noqa: TID251 the Date header is wall-clock time
        self._server.server_state.default_headers = [(b"date", date)]
        self._clock = asyncio.get_running_loop().call_later(1.0, self._tick)

    async def stop_accepting(self) -> None:
        """Takes no new connections; each of the open ones may bring one request more, and is closed after its answer.

        Returns when all have brought it, or after half a second: what was on its way has come by then.
        """
        until = time.monotonic() + _LAST_WORD_S
        # the loop takes one by one what the system has accepted for us, and resets when the port is closed
        while self._socket is not None and _is_readable(self._socket) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0)
        self._stop_listening()
        words = [word for connection in self._connections() if (word := connection.shutdown()) is not None]
        if words:
            await asyncio.wait(words, timeout=_LAST_WORD_S)

    def _stop_listening(self) -> None:
        for server in getattr(self._server, "servers", ()):
            server.close()

    def _close_idle(self) -> None:
        for connection in self._connections():
            connection.shutdown()
            if connection.is_idle:
                connection.transport.close()

    def _connections(self) -> list[Connection]:
        return [one for one in self._server.server_state.connections if isinstance(one, Connection)]

    async def close(self) -> None:
        """Closes every connection, after a moment for what is on its way."""
        self._stop_listening()
        await asyncio.sleep(0)  # what came while this process had no time is read first
        for one in self._connections():
            one.shutdown()
        if self._clock is not None:
            self._clock.cancel()
        state = self._server.server_state
        deadline = time.monotonic() + _CLOSE_WITHIN_S
        while state.tasks and time.monotonic() < deadline:
            await asyncio.wait(list(state.tasks), timeout=deadline - time.monotonic())
        if words := [word for one in self._connections() if one.may_ask and (word := one.shutdown()) is not None]:
            await asyncio.wait(words, timeout=_LAST_WORD_S)
            if state.tasks:
                await asyncio.wait(list(state.tasks), timeout=_LAST_WORD_S)
        self._close_idle()
        if lost := [connection.lost for connection in self._connections()]:
            await asyncio.wait(lost, timeout=max(0.1, deadline - time.monotonic()))  # what was written leaves first
        for connection in list(state.connections):
            connection.transport.abort()
        if state.tasks:
            for task in list(state.tasks):
                task.cancel("the server stopped")
            await asyncio.gather(*state.tasks, return_exceptions=True)
        await self._server.lifespan.shutdown()
        if self._socket is not None:
            self._socket.close()


def _is_readable(listening: socket.socket) -> bool:
    """Whether a connection waits there to be taken."""
    waiting = select.poll()
    waiting.register(listening, select.POLLIN)
    return bool(waiting.poll(0))


def _allow_many_files() -> None:
    """Raises the soft limit of open files to the hard one: every client is a file."""
    try:
        import resource  # noqa: PLC0415 Windows has none, and no such limit
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:
        log.debug("the limit of %d open files stays: %s", soft, error)
