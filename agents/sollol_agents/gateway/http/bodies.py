"""What comes with requests that are not inference: small JSON objects, uploads, numbers in the query."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec
from starlette.requests import Request

from sollol_bus.errors import BadRequest, error_from
from sollol_schemas.errors import ErrorBody, ErrorCode

_MAX_BYTES: Final = 1 << 20
_WITHIN_S: Final = 60.0
"""Enough for 4 MiB at half a megabit per second."""


async def body_of(request: Request, max_bytes: int = _MAX_BYTES, *, within_s: float = _WITHIN_S) -> dict[str, Any]:
    """The JSON object in a request.

    Raises:
        SollolError: It is too large, did not come in time, or is none.
    """
    body = b""
    try:
        async with asyncio.timeout(within_s):
            async for piece in request.stream():
                body += piece
                if len(body) > max_bytes:
                    message = f"the body's {len(body)} bytes exceed the limit of {max_bytes} bytes"
                    raise error_from(ErrorBody(code=ErrorCode.REQUEST_TOO_LARGE, message=message))
    except TimeoutError:
        message = f"the body did not come within {within_s:g} s"
        raise error_from(ErrorBody(code=ErrorCode.BAD_REQUEST, status=408, message=message)) from None
    if not body:
        raise BadRequest("missing request body")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not a JSON object: {error}") from error


async def pieces_of(request: Request, timeout_s: float) -> AsyncGenerator[bytes, None]:
    """The body of an upload, as it arrives.

    Raises:
        SollolError: No byte of it came for `timeout_s`.
    """
    pieces = request.stream()
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                piece = await anext(pieces, None)
        except TimeoutError:
            message = f"no byte of the body came for {timeout_s:g} s"
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
