"""Messages: encoding, decoding, and the conventions for errors and missing responders."""

from __future__ import annotations

import logging
import re
from typing import Any, TypeVar, get_args

import msgspec
from nats.aio.msg import Msg

from sollol_bus.errors import DecodeFailed
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.headers import DECISION, NO_RESPONDERS, RETRY_AFTER, SERVICE_ERROR, SERVICE_ERROR_CODE, STATUS
from sollol_schemas.plain_words import in_plain_words

__all__ = [
    "Msg",
    "attempt_in",
    "decode",
    "decoded",
    "encode",
    "error_headers",
    "error_of",
    "is_no_responders",
    "reply_too_large",
    "size_of_headers",
]

log = logging.getLogger(__name__)

T = TypeVar("T")
_encoder = msgspec.json.Encoder()
_decoders: dict[int, tuple[Any, msgspec.json.Decoder[Any]]] = {}
"""By the identity of their types, which stay as long as they stand here: to hash a union takes longer."""
_DECODERS_MAX = 128
_HEADER_TEXT_MAX = 256
_QUOTED = re.compile(r"^(Invalid (?:enum )?value) .*?( - at `\$[^`]*`)?$", re.DOTALL)
_REASON_MAX = 200
_HEADER_FRAME_BYTES = len("NATS/1.0\r\n\r\n")
_HEADER_SIGNS = len(": \r\n")


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 any type form, unions included
    if len(_decoders) >= _DECODERS_MAX:
        _decoders.clear()
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
    _decoders[id(kind)] = kind, decoder
    return decoder


def encode(value: object) -> bytes:
    """The JSON of a Struct (or of anything msgspec can encode)."""
    return _encoder.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """The Struct of type `kind` (a class or a union of tagged classes) in `data`.

    Raises:
        DecodeFailed: The bytes are not such a message; the text names the field and quotes nothing of them.
    """
    known = _decoders.get(id(kind))
    decoder = _decoder(kind) if known is None else known[1]
    try:
        value: T = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeFailed(f"not {_one(kind)}: {in_plain_words(_unquoted(str(error)))}") from error
    return value


def _name_of(kind: object) -> str:
    return getattr(kind, "__name__", "") or " or ".join(map(_name_of, get_args(kind))) or str(kind)


def _one(kind: object) -> str:
    name = _name_of(kind)
    return f"{'an' if name[:1] in 'AEIO' else 'a'} {name}"


def _unquoted(reason: str) -> str:
    """Why bytes could not be decoded, without what stood there: that may be long, and somebody's secret."""
    return _QUOTED.sub(r"\1\2", reason)[:_REASON_MAX]


def decoded(msg: Msg, kind: type[T]) -> T | None:
    """The Struct in a message that anybody may have sent; one that is none is logged, and ignored by the caller.

    The server's word that nobody listens where a request went is None as well, and nothing to log.
    """
    if is_no_responders(msg):
        return None
    try:
        return decode(msg.data, kind)
    except DecodeFailed as error:
        log.warning("ignored a message on %s: %s", msg.subject, error, extra={"action": "bad_message"})
        return None


def is_no_responders(msg: Msg) -> bool:
    """Whether the server says that nobody listens where the request went."""
    return not msg.data and msg.headers is not None and msg.headers.get(STATUS) == NO_RESPONDERS


def error_headers(body: ErrorBody) -> dict[str, str]:
    """The headers that mark a message as an error, fresh for each message."""
    text = body.message.replace("\r", " ").replace("\n", " ")[:_HEADER_TEXT_MAX]
    headers = {SERVICE_ERROR: text or body.code.value, SERVICE_ERROR_CODE: str(body.http_status)}
    if body.retry_after:
        headers[RETRY_AFTER] = str(body.retry_after)
    return headers


def reply_too_large(size_bytes: int, limit_bytes: int) -> ErrorBody:
    """The error in the place of a reply that no message can hold."""
    text = f"the reply has {size_bytes} bytes, more than the {limit_bytes} of one message: raise max_payload"
    sizes = {"size_bytes": size_bytes, "limit_bytes": limit_bytes}
    return ErrorBody(code=ErrorCode.REPLY_TOO_LARGE, message=text, details=sizes)


def size_of_headers(headers: dict[str, str]) -> int:
    """Bytes of the headers on the wire."""
    texts = "".join(headers.values())
    size = len(texts) if texts.isascii() else len(texts.encode())
    return _HEADER_FRAME_BYTES + len(headers) * _HEADER_SIGNS + sum(map(len, headers)) + size


def error_of(msg: Msg) -> ErrorBody | None:
    """The error that a message carries, or None when it is not an error."""
    headers = msg.headers
    if headers is None or SERVICE_ERROR_CODE not in headers:
        return None
    try:
        return decode(msg.data, ErrorBody)
    except DecodeFailed:
        return ErrorBody(code=ErrorCode.INTERNAL, message=headers.get(SERVICE_ERROR, "unknown error"))


def attempt_in(first: Msg | None) -> int:
    """The number of the attempt that began with this message; 0: it does not say so."""
    told = (first.headers or {}).get(DECISION) if first is not None else None
    try:
        return 0 if told is None else decode(told.encode(), Decision).attempt
    except DecodeFailed:
        return 0
