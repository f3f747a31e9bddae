"""Which telling goes with a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sollol_bus.sdk.resume.asked import Asked, asked
from sollol_bus.sdk.resume.messages import MessageTelling
from sollol_bus.sdk.resume.native import NativeTelling, native_shape
from sollol_bus.sdk.resume.openai import ChunkTelling
from sollol_bus.sdk.resume.responses import ResponseTelling
from sollol_bus.sdk.resume.telling import Mute, OnePiece, Shape, Telling
from sollol_schemas.context import RequestKind

_NO_DIALECT: Final = "answers of this path do not go on"


class _Dialect(NamedTuple):
    """How answers of one path go on."""

    shape_of: Callable[[bytes], Shape]
    telling_of: Callable[[bytes, str], Telling]
    """Of the body, and the content type of the answer."""


def _dialect(telling: Callable[[Asked], Telling]) -> _Dialect:
    def telling_of(body: bytes, content_type: str) -> Telling:
        return OnePiece() if "json" in content_type else telling(asked(body))

    return _Dialect(lambda body: asked(body).shape, telling_of)


_DIALECTS: Final[dict[str, _Dialect]] = {
    "/v1/chat/completions": _dialect(ChunkTelling),
    "/v1/completions": _dialect(ChunkTelling),
    "/v1/messages": _dialect(MessageTelling),
    "/v1/responses": _dialect(ResponseTelling),
}
"""By the path of a passthrough request, without its query."""


def shape_of(kind: RequestKind, path: str, body: bytes) -> Shape:
    """What a request's own body says of going on, before anything is said.

    Args:
        kind: What it is on the bus.
        path: The engine's path of a passthrough request, in origin form.
        body: The engine's body.
    """
    if kind is not RequestKind.PASSTHROUGH:
        return native_shape(kind, body)
    dialect = _dialect_of(path)
    return Shape(_NO_DIALECT) if dialect is None else dialect.shape_of(body)


def telling_of(kind: RequestKind, path: str, body: bytes, content_type: str, chunks: list[bytes]) -> Telling:
    """What reads and tells the answer to a request.

    Args:
        kind: What the request is on the bus.
        path: The engine's path of a passthrough request, in origin form.
        body: The engine's body.
        content_type: Of a passthrough's answer, as its first message says.
        chunks: What was handed out until now.
    """
    telling: Telling
    if kind is not RequestKind.PASSTHROUGH:
        telling = NativeTelling(native_shape(kind, body))
    else:
        dialect = _dialect_of(path)
        telling = Mute(_NO_DIALECT) if dialect is None else dialect.telling_of(body, content_type)
    for chunk in chunks:
        telling.read(chunk)
    return telling


def _dialect_of(path: str) -> _Dialect | None:
    return _DIALECTS.get(path.partition("?")[0])
