"""What comes with requests, within limits: bodies, JSON objects, uploads, numbers in the query; and JSON answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from sollol_agents.gateway.http.errors import PLAIN_JSON
from sollol_agents.gateway.http.reply import Message, Receive
from sollol_agents.requests.body import InvalidBody, read_object
from sollol_agents.requests.ollama.bodies import OF_PATH
from sollol_bus.errors import BadRequest, SollolError, error_from
from sollol_bus.transport.messages import encode
from sollol_schemas.errors import ErrorBody, ErrorCode

_SLOWEST_BYTES_PER_S = 1024.0
"""A body that comes more slowly than this is given up, piece by piece as it may come."""
_MAX_BYTES: Final = 1 << 20
_PIECE_WITHIN_S: Final = 30.0
_WITHIN_S: Final = 60.0
"""Enough for 4 MiB at half a megabit per second."""


async def body_of(request: Request, max_bytes: int = _MAX_BYTES, *, within_s: float = _WITHIN_S) -> dict[str, Any]:
    """The JSON object in a request; on a path of Ollama's read as Ollama does, with names in lower case.

    Raises:
        SollolError: It is too large, did not come in time, or is none.
    """
    body = await read_body(request.receive, None, max_bytes, within_s)
    path = request.url.path
    try:
        if path in OF_PATH:
            return {name.lower(): value for name, value in read_object(path, body).items()}
        if not body:
            raise BadRequest("missing request body")
        return msgspec.json.decode(body, type=dict[str, Any])
    except InvalidBody as error:
        raise BadRequest(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not a JSON object: {error}") from error


def text_in(body: dict[str, Any], *names: str) -> str:
    """The first text that a body has under one of these names; empty without any."""
    return next((value for name in names if isinstance(value := body.get(name), str) and value), "")


def json_response(
    value: object, content_type: bytes = PLAIN_JSON, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """An answer of one JSON value."""
    return Response(encode(value), status, headers, media_type=content_type.decode())


async def pieces_of(request: Request) -> AsyncGenerator[bytes, None]:
    """The body of an upload, as it arrives.

    Raises:
        SollolError: No byte of it came for half a minute.
    """
    pieces = request.stream()
    while True:
        try:
            async with asyncio.timeout(_PIECE_WITHIN_S):
                piece = await anext(pieces, None)
        except TimeoutError:
            message = f"no byte of the body came for {_PIECE_WITHIN_S:g} s"
            raise error_from(ErrorBody(code=ErrorCode.BAD_REQUEST, status=408, message=message)) from None
        if piece is None:
            return
        if piece:
            yield piece


def number_in(request: Request, name: str, default: int) -> int:
    """A whole number in the query.

    Raises:
        BadRequest: It is none.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequest(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)


async def read_body(receive: Receive, declared_bytes: int | None, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body of a request.

    Args:
        receive: ASGI's own.
        declared_bytes: The Content-Length, when there is one.
        limit_bytes: The largest body taken.
        timeout_s: How long to wait for each piece, and for all of them beyond what a slow line needs.

    Raises:
        SollolError: It is too large, or did not arrive.
    """
    if declared_bytes is not None and declared_bytes > limit_bytes:
        raise _too_large(declared_bytes, limit_bytes)
    message = await _next(receive, timeout_s)
    body: bytes = message["body"]
    if not message["more_body"]:
        return body if len(body) <= limit_bytes else _raise_too_large(len(body), limit_bytes)
    parts, size = [body], len(body)
    began = time.monotonic()
    while message["more_body"]:
        left_s = began + timeout_s + size / _SLOWEST_BYTES_PER_S - time.monotonic()
        message = await _next(receive, min(timeout_s, max(0.0, left_s)))
        parts.append(message["body"])
        size += len(message["body"])
        if size > limit_bytes:
            raise _too_large(size, limit_bytes)
    return b"".join(parts)


async def _next(receive: Receive, timeout_s: float) -> Message:
    try:
        if _has_come(receive):
            message = await receive()
        else:
            async with asyncio.timeout(timeout_s):
                message = await receive()
    except TimeoutError:
        raise error_from(
            ErrorBody(code=ErrorCode.BAD_REQUEST, status=408, message="the body did not come, or came too slowly")
        ) from None
    if message["type"] != "http.request":
        raise error_from(ErrorBody(code=ErrorCode.CANCELLED, message="the client left"))
    return message


def _has_come(receive: Receive) -> bool:
    """Whether the next piece is here, so that no clock is needed: a small body comes with its head."""
    cycle = getattr(receive, "__self__", None)
    return isinstance(cycle, RequestResponseCycle) and cycle.message_event.is_set()


def _raise_too_large(size: int, limit: int) -> bytes:
    raise _too_large(size, limit)


def _too_large(size: int, limit: int) -> SollolError:
    message = f"the body's {size} bytes exceed the limit of {limit} bytes"
    return error_from(ErrorBody(code=ErrorCode.REQUEST_TOO_LARGE, message=message))
