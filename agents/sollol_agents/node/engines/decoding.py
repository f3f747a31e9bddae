"""What an engine wrote, checked: JSON of the shape that was asked for, and figures that make sense."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from sollol_agents.node.engines.refusals import engine_error
from sollol_schemas.errors import ErrorCode
from sollol_schemas.units import WHOLE_MAX

T = TypeVar("T")


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


def as_seconds(value: Any, per_second: float = 1e9) -> float | None:  # noqa: ANN401 whatever an engine put there
    """A duration of an engine in seconds, from nanoseconds or another unit; None for what is no sane duration."""
    if type(value) is not int and type(value) is not float:
        return None
    seconds = value / per_second
    return seconds if 0 <= seconds < 1e6 else None


def slot_wait_s(total_s: float | None, *, load_s: float, prompt_s: float | None, decode_s: float | None) -> float:
    """The time that is in no other figure of an engine: what a request waited for one of the engine's own slots.

    0 for an engine that tells no times, and for what is not decoded: an embedding's own time has no other figure.
    """
    if total_s is None or decode_s is None:
        return 0.0
    return max(0.0, total_s - load_s - (prompt_s or 0.0) - decode_s)


def as_tokens(count: Any) -> int | None:  # noqa: ANN401 whatever an engine put there
    """A count of tokens of an engine; None for what is no sane count."""
    return count if type(count) is int and 0 <= count < 100_000_000 else None


def whole(value: Any) -> int:  # noqa: ANN401 whatever an engine put there
    """A size or a number of an engine; 0 for what is none, and for what no message may carry."""
    return value if type(value) is int and 0 < value <= WHOLE_MAX else 0
