"""Events of a stream, and their JSON as engines write it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

DONE: Final = b"[DONE]"
"""What OpenAI's streams end with, in the place of data."""
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class Event(NamedTuple):
    """One event of a stream."""

    raw: bytes
    """As it came, with its blank line."""
    data: bytes
    """What it carries; empty for a comment and for Anthropic's ping, which say nothing."""


class Cutter:
    """Cuts a stream into events, wherever its bytes were cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now."""
        *blocks, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        return [Event(block + b"\n\n", _data_of(block)) for block in blocks]


def _data_of(block: bytes) -> bytes:
    if block.startswith(b"event: ping\n"):
        return b""
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def spelled(fields: dict[str, Any], *, is_go: bool, is_sorted: bool) -> bytes:
    """Fields as JSON.

    Args:
        fields: What it says, in the order of the engine's fields.
        is_go: Whether what HTML knows is escaped, as Go does.
        is_sorted: Whether its fields stand in the order of their names instead.
    """
    data = _encode_sorted(fields) if is_sorted else _encode(fields)
    if not is_go:
        return data
    for sign, escape in _GO_ESCAPES:
        data = data.replace(sign, escape)
    return data


_GO_ESCAPES: Final = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)
