"""The dialects below `/v1`: loaded when a request in one of them comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sollol_bus.sdk.resume.interface import OnePiece, Shape, Telling
from sollol_bus.sdk.resume.messages import MessageTelling
from sollol_bus.sdk.resume.openai import ChunkTelling
from sollol_bus.sdk.resume.request_shape import Asked, asked, shape_in
from sollol_bus.sdk.resume.responses import ResponseTelling


class Dialect(NamedTuple):
    """How answers of one path go on."""

    shape_of: Callable[[bytes], Shape]
    telling_of: Callable[[bytes, str], Telling]
    """Of the body, and the content type of the answer."""


def _dialect(telling: Callable[[Asked], Telling]) -> Dialect:
    def telling_of(body: bytes, content_type: str) -> Telling:
        return OnePiece() if "json" in content_type else telling(asked(body))

    return Dialect(shape_in, telling_of)


DIALECTS: Final[dict[str, Dialect]] = {
    "/v1/chat/completions": _dialect(ChunkTelling),
    "/v1/completions": _dialect(ChunkTelling),
    "/v1/messages": _dialect(MessageTelling),
    "/v1/responses": _dialect(ResponseTelling),
}
"""By the path of a passthrough request, without its query."""
