"""A small HTTP/1.1 server on a raw asyncio protocol and httptools.

Not ASGI, for two reasons. Faults need the transport: a reset, an end in the middle
of a chunk and a cut line cannot be said in ASGI. And the emulator is the engine of
overhead benchmarks, where its own cost must be small beside what is measured: a
stream of nine lines costs about 60 us of CPU here and 280 us with Starlette on
uvicorn (httptools, uvloop), on the same machine.

A request is answered by a plain function at once, or by a coroutine that the owner
runs; when the client leaves, `Responder.on_gone` is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

_REASONS: Final = {
    200: b"OK",
    201: b"Created",
    204: b"No Content",
    301: b"Moved Permanently",
    307: b"Temporary Redirect",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Request Entity Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}
FILES_PATH: Final = b"/api/blobs/"
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

JSON: Final = b"application/json; charset=utf-8"
PLAIN_JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"
EVENTS: Final = b"text/event-stream"
TEXT: Final = b"text/plain; charset=utf-8"
PLAIN: Final = b"text/plain"
NO_CACHE: Final = b"Cache-Control: no-cache\r\n"
HTML: Final = b"text/html; charset=utf-8"
_WHOLE_BYTES: Final = 2048  # a longer answer goes out in chunks, as Go's server has it
_KNOWN_START: Final = re.compile(rb"([A-Za-z]+) (\S+) HTTP/1\.[01]\r\n")
_ADDRESS: Final = re.compile(r"https?://[^/]*")


class Request:
    """A complete request.

    Attributes:
        method: such as `POST`.
        path: without the query, decoded.
        query: with its question mark; empty without one.
        host: value of the Host header, without the port.
        origin: value of the Origin header; empty without one.
        is_same_host: the origin is the host that was asked.
        body: all of it; empty for a file, of which only size and digest are kept.
        file: the file, on a path that takes one.
    """

    __slots__ = ("body", "file", "host", "is_persistent", "is_same_host", "method", "origin", "path", "query")

    def __init__(
        self,
        method: str,
        target: str,
        host: bytes,
        body: bytes,
        *,
        is_persistent: bool,
        file: File | None = None,
        origin: str = "",
    ) -> None:
        self.file = file
        self.method = method
        self.path = path_of(target)
        self.query = target[target.find("?") :] if "?" in target else ""
        self.host = host_name(host)
        self.origin = origin
        self.is_same_host = bool(origin) and origin.partition("://")[2] == host.decode("latin-1")
        self.body = body
        self.is_persistent = is_persistent


class File:
    """What is kept of an uploaded file."""

    __slots__ = ("head", "sha256", "size_bytes")

    def __init__(self) -> None:
        self.head = b""
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def add(self, data: bytes) -> None:
        """Takes a piece."""
        self.head = (self.head + data[:4])[:4]
        self.sha256.update(data)
        self.size_bytes += len(data)


class Responder:
    """Writes the answer to one request; every call after the client left is ignored.

    Attributes:
        on_gone: called once when the client leaves before the answer is complete.
        has_started: True once headers are out.
        extra: more header lines, each with its line end.
        is_stream: a stream was asked for.
    """

    __slots__ = (
        "_is_done",
        "_is_head",
        "_is_persistent",
        "_json",
        "_protocol",
        "_transport",
        "extra",
        "has_started",
        "is_stream",
        "on_gone",
    )

    def __init__(self, protocol: HttpProtocol, transport: asyncio.Transport, request: Request) -> None:
        self._protocol = protocol
        self._transport = transport
        self._is_persistent = request.is_persistent
        self._is_head = request.method == "HEAD"
        self._json = PLAIN_JSON if request.path.startswith("/v1/") else JSON
        self._is_done = False
        self.extra = b""
        self.is_stream = False
        self.has_started = False
        self.on_gone: Callable[[], object] | None = None

    @property
    def is_done(self) -> bool:
        """True when the answer is complete or the client has gone."""
        return self._is_done

    def send(self, status: int, body: bytes = b"", content_type: bytes = b"", *, is_chunked: bool = False) -> None:
        """Sends a complete answer; without a content type a body is JSON, as the path's dialect says that."""
        if self._is_done:
            return
        kind = b"Content-Type: %b\r\n" % (content_type or self._json) if body else b""
        if is_chunked or len(body) > _WHOLE_BYTES:
            length = b"Transfer-Encoding: chunked\r\n"
            body = chunk(body) + b"0\r\n\r\n"
        else:
            length = b"" if status == 204 else b"Content-Length: %d\r\n" % len(body)
        closes = b"" if self._is_persistent else b"Connection: close\r\n"
        head = b"HTTP/1.1 %d %b\r\n%b%b%b%b\r\n" % (status, _REASONS[status], kind, length, self.extra, closes)
        self.has_started = True
        self._transport.write(head if self._is_head else head + body)
        self._finish()

    def start(self, content_type: bytes, first: bytes = b"") -> None:
        """Sends the headers of a streamed answer, together with its first bytes."""
        if self._is_done:
            return
        self.has_started = True
        self._transport.write(stream_head(content_type, self.extra) + (chunk(first) if first else b""))

    def write(self, data: bytes) -> None:
        """Sends one chunk."""
        if not self._is_done and data:
            self._transport.write(chunk(data))

    def end(self, last: bytes = b"") -> None:
        """Ends a streamed answer, together with its last bytes."""
        if self._is_done:
            return
        self._transport.write((chunk(last) if last else b"") + b"0\r\n\r\n")
        self._finish()

    def send_raw(self, data: bytes) -> None:
        """Sends a complete answer that is already framed."""
        if self._is_done:
            return
        self.has_started = True
        self._transport.write(data)
        self._finish()

    def cut(self) -> None:
        """Closes the connection in the middle of a streamed answer."""
        self._is_done = True
        self._transport.close()

    def reset(self) -> None:
        """Resets the connection, as a killed process does."""
        self._is_done = True
        sock = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the peer may have closed it already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def leave(self) -> None:
        """Notes that the client has gone."""
        if self._is_done:
            return
        self._is_done = True
        if self.on_gone is not None:
            self.on_gone()

    def _finish(self) -> None:
        self._is_done = True
        if not self._is_persistent:
            self._transport.close()
        self._protocol.next_request()


def chunk(data: bytes) -> bytes:
    """Returns one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_head(content_type: bytes, extra: bytes) -> bytes:
    """Returns the headers of a streamed answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n%b\r\n" % (content_type, extra)


class HttpProtocol(asyncio.Protocol):
    """One connection; requests are answered in order, one at a time."""

    def __init__(self, handle: Callable[[Request, Responder], None], connections: set[HttpProtocol]) -> None:
        self._handle = handle
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._current: Responder | None = None
        self._file: File | None = None
        self._pending: deque[Request] = deque()
        self._reset_message()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Notes the connection."""
        # a cast: uvloop's transports are not subclasses of asyncio's
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the request in progress that its client has gone."""
        del exc
        self._connections.discard(self)
        self._pending.clear()
        current, self._current = self._current, None
        if current is not None:
            current.leave()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; what is no HTTP is refused and ends the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nobody speaks anything else here; the request has been answered
        except httptools.HttpParserError:
            self._refuse(data)

    def _refuse(self, data: bytes) -> None:
        """Answers what the parser does not take: a method that it does not know, or no request at all."""
        if self._transport is None:
            return
        known = _KNOWN_START.match(data)
        if known is not None and known[2].startswith(b"/") and not self._url:
            self._start(Request(known[1].decode(), known[2].decode("latin-1"), b"", b"", is_persistent=False))
            return
        refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Type: %b\r\nConnection: close\r\n\r\n400 Bad Request" % TEXT
        self._transport.write(refusal)
        self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # called by httptools

    def on_message_begin(self) -> None:
        """Forgets the message before."""
        self._reset_message()

    def on_url(self, url: bytes) -> None:
        """Collects the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps the headers that matter."""
        lowered = name.lower()
        if lowered == b"host":
            self._host = value
        elif lowered == b"origin":
            self._origin = value.decode("latin-1")
        elif lowered == b"expect" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collects the body up to its limit; of a file only what is kept of it."""
        if self._url.startswith(FILES_PATH):
            self._file = self._file or File()
            self._file.add(body)
            return
        self._size += len(body)
        if self._size > MAX_BODY_BYTES:
            self.abort()
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answers the request, or keeps it until the one before is answered."""
        request = Request(
            self._parser.get_method().decode(),
            self._url.decode("latin-1"),
            self._host,
            b"".join(self._body),
            is_persistent=self._parser.should_keep_alive(),
            file=self._file,
            origin=self._origin,
        )
        if self._current is None:
            self._start(request)
        else:
            self._pending.append(request)

    def next_request(self) -> None:
        """Goes on to the next request of the connection."""
        self._current = None
        if self._pending:
            self._start(self._pending.popleft())

    def _start(self, request: Request) -> None:
        transport = self._transport
        assert transport is not None
        responder = self._current = Responder(self, transport, request)
        self._handle(request, responder)

    def _reset_message(self) -> None:
        self._url = b""
        self._host = b""
        self._origin = ""
        self._body: list[bytes] = []
        self._size = 0
        self._file = None


def path_of(target: str) -> str:
    """Returns the decoded path of a request's target, which may be a whole address."""
    path = target.partition("?")[0]
    if not path.startswith("/"):
        path = _ADDRESS.sub("", path, count=1) or path
    return unquote(path) if "%" in path else path


def host_name(header: bytes) -> str:
    """Returns the name or address in a Host header, without its port."""
    text = header.decode("latin-1")
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
