"""Several chunks of an answer in one message, for whoever does not read them one by one."""

from __future__ import annotations

from typing import Final

BETWEEN_OBJECTS: Final = b"\n"
"""What stands there between two native objects; events and other bytes follow each other as they are."""
_EVENT: Final = b"data: {"


def objects_in(data: bytes) -> list[bytes]:
    """The native objects of a message: one, or one on each line."""
    return data.split(BETWEEN_OBJECTS) if b"\n{" in data else [data]


def chunks_in(data: bytes) -> int:
    """About how many chunks of an engine are in a message: objects or events."""
    return data.count(BETWEEN_OBJECTS) + 1 if data.startswith(b"{") else data.count(_EVENT) or 1
