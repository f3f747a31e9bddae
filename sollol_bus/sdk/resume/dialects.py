"""Which telling goes with a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sollol_bus.sdk.resume.interface import Mute, Shape, Telling
from sollol_bus.sdk.resume.native import NativeTelling, native_shape
from sollol_schemas.context import RequestKind

if TYPE_CHECKING:
    from sollol_bus.sdk.resume.v1 import Dialect

_NO_DIALECT: Final = "answers of this path do not go on"


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


def _dialect_of(path: str) -> Dialect | None:
    from sollol_bus.sdk.resume.v1 import DIALECTS  # noqa: PLC0415 native requests need none of them

    return DIALECTS.get(path.partition("?")[0])
