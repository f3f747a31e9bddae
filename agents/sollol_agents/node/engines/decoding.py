"""What an engine wrote, checked: JSON of the shape that was asked for, and figures that make sense."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from sollol_agents.node.engines.refusals import engine_error
from sollol_schemas.errors import ErrorCode

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
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    seconds = value / per_second
    return seconds if 0 <= seconds < 1e6 else None


def as_tokens(count: Any) -> int | None:  # noqa: ANN401 whatever an engine put there
    """A count of tokens of an engine; None for what is no sane count."""
    if isinstance(count, bool) or not isinstance(count, int):
        return None
    return count if 0 <= count < 100_000_000 else None
