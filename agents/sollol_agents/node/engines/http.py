"""HTTP to one engine. The only module that meets httpx's exceptions: it turns them into ours."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import httpx
import msgspec

from sollol_agents.node.engines.http_transport import EngineTransport
from sollol_agents.node.engines.refusals import engine_error, refusal
from sollol_bus.errors import ConfigError
from sollol_schemas.errors import ErrorCode

T = TypeVar("T")

MAX_REPLY_BYTES: Final = 256 << 20
_MAX_ERROR_BYTES: Final = 64 * 1024
_JSON: Final = {"Content-Type": "application/json"}

#: The meaning of each httpx exception; the most specific class that matches counts.
CODE_OF: Final[dict[type[Exception], ErrorCode]] = {
    httpx.ConnectError: ErrorCode.ENGINE_UNAVAILABLE,
    httpx.TimeoutException: ErrorCode.ENGINE_UNAVAILABLE,
    httpx.NetworkError: ErrorCode.ENGINE_UNAVAILABLE,
    httpx.ProxyError: ErrorCode.ENGINE_UNAVAILABLE,
    httpx.ReadError: ErrorCode.ENGINE_PROTOCOL,
    httpx.ProtocolError: ErrorCode.ENGINE_PROTOCOL,
    httpx.DecodingError: ErrorCode.ENGINE_PROTOCOL,
    httpx.TooManyRedirects: ErrorCode.ENGINE_PROTOCOL,
    httpx.HTTPStatusError: ErrorCode.ENGINE_FAILED,
    httpx.UnsupportedProtocol: ErrorCode.BAD_REQUEST,
    httpx.InvalidURL: ErrorCode.BAD_REQUEST,
    httpx.CookieConflict: ErrorCode.INTERNAL,
    httpx.StreamError: ErrorCode.INTERNAL,
    httpx.HTTPError: ErrorCode.ENGINE_FAILED,
}


class Answer:
    """The answer to a request whose status is 2xx; iterate for the body's bytes as they come."""

    __slots__ = ("_response", "content_type")

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.content_type: str = response.headers.get("content-type", "")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with translated():
            async for data in self._response.aiter_raw():
                yield data

    async def read(self, limit: int = MAX_REPLY_BYTES) -> bytes:
        """The whole body.

        Raises:
            BackendBrokeProtocol: It exceeds `limit` bytes.
        """
        parts, size = [], 0
        async for data in self:
            parts.append(data)
            size += len(data)
            if size > limit:
                raise engine_error(ErrorCode.ENGINE_PROTOCOL, f"the engine's answer exceeds {limit} bytes")
        return b"".join(parts)


class EngineHttp:
    """Requests to one engine.

    Args:
        url: Base URL, without a trailing slash.
        api_key: Bearer token; empty: none.
        connect_timeout_s: How long to wait for a connection.
    """

    def __init__(self, url: str, *, api_key: str = "", connect_timeout_s: float = 5.0) -> None:
        self.url = url
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "sollol-node"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        if is_loopback(url):
            # Ollama on a loopback address answers 403 to host names that it does not take for its own.
            headers["Host"] = "localhost"
        try:
            self._base = httpx.URL(url)
            self._client = httpx.AsyncClient(
                transport=EngineTransport(connect_timeout_s=connect_timeout_s),
                headers=headers,
                timeout=None,  # noqa: S113 the watchdog limits each phase, the transport the connecting
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise ConfigError(f"url={url!r} is not a URL: {error}") from error

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        model: str = "",
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[Answer]:
        """The answer to a request; leaving the context early, or being cancelled, closes its connection.

        Raises:
            SollolError: The engine cannot be reached, refused, or broke its protocol.
        """
        with translated():
            request = self._client.build_request(
                method, self.url + path, content=body, headers=headers or (_JSON if body is not None else None)
            )
            response = await self._client.send(request, stream=True)
        try:
            answer = Answer(response)
            if not 200 <= response.status_code < 300:
                raise refusal(response.status_code, await answer.read(_MAX_ERROR_BYTES), model)
            yield answer
        finally:
            await response.aclose()

    async def call(
        self, method: str, path: str, body: bytes | None = None, *, timeout_s: float | None, model: str = ""
    ) -> bytes:
        """The whole body of the answer to a request.

        Raises:
            SollolError: As `open`; also when the answer took longer than `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s), self.open(method, path, body, model=model) as answer:
                return await answer.read()
        except TimeoutError as error:
            raise engine_error(
                ErrorCode.ENGINE_UNAVAILABLE, f"no answer to {method} {path} within {timeout_s:g} s"
            ) from error

    async def get(self, path: str, kind: type[T], *, timeout_s: float = 5.0) -> T:
        """The answer to a GET, decoded."""
        return decoded(await self.call("GET", path, timeout_s=timeout_s), kind, path)

    async def post(self, path: str, value: object, kind: type[T], *, timeout_s: float = 5.0, model: str = "") -> T:
        """The answer to a POST of JSON, decoded."""
        body = msgspec.json.encode(value)
        return decoded(await self.call("POST", path, body, timeout_s=timeout_s, model=model), kind, path)

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._client.aclose()


def decoded(data: bytes, kind: type[T], what: str) -> T:
    """An engine's JSON as `kind`.

    Raises:
        BackendBrokeProtocol: It is no JSON, or of another shape; the text shows its beginning.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        shown = data[:80].decode("utf-8", "replace")
        raise engine_error(
            ErrorCode.ENGINE_PROTOCOL, f"the engine's answer to {what} is not what it should be: {error}: {shown!r}"
        ) from error


@contextmanager
def translated() -> Iterator[None]:
    """Raises our error in place of any exception of httpx."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, httpx.StreamError) as error:
        raise engine_error(code_of(error), f"{type(error).__name__}: {error}") from error


def code_of(error: Exception) -> ErrorCode:
    """The code for an exception of httpx."""
    for kind in type(error).__mro__:
        if kind in CODE_OF:
            return CODE_OF[kind]
    return ErrorCode.INTERNAL


def is_loopback(url: str) -> bool:
    """Whether a URL points to this machine by a loopback address or name."""
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def as_seconds(nanoseconds: Any) -> float | None:  # noqa: ANN401 whatever an engine put there
    """Nanoseconds of an engine as seconds; None for what is no sane duration."""
    if isinstance(nanoseconds, bool) or not isinstance(nanoseconds, (int, float)):
        return None
    seconds = nanoseconds / 1e9
    return seconds if 0 <= seconds < 1e6 else None


def as_tokens(count: Any) -> int | None:  # noqa: ANN401 whatever an engine put there
    """A count of tokens of an engine; None for what is no sane count."""
    if isinstance(count, bool) or not isinstance(count, int):
        return None
    return count if 0 <= count < 100_000_000 else None
