"""Bodies of requests that are not inference: small JSON objects."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.requests import Request

from sollol_bus.errors import BadRequest, error_from
from sollol_schemas.errors import ErrorBody, ErrorCode

_MAX_BYTES: Final = 1 << 20


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object in a request.

    Raises:
        SollolError: It is too large, or none.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_BYTES:
            message = f"the body's {len(body)} bytes exceed the limit of {_MAX_BYTES} bytes"
            raise error_from(ErrorBody(code=ErrorCode.REQUEST_TOO_LARGE, message=message))
    if not body:
        raise BadRequest("missing request body")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not a JSON object: {error}") from error
