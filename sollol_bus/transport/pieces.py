"""Chunks of an answer as messages: a large one goes in parts, which `ReplyStream` puts together again."""

from __future__ import annotations

from typing import Final

from sollol_bus.transport.streaming import MAX_ANSWER_BYTES, too_large

PART_BYTES: Final = 1 << 20
Piece = tuple[bytes, str]
"""One message of an answer, and which part of a chunk it is, and of how many; empty for a whole one."""


def pieces(chunk: bytes, max_payload: int) -> list[Piece]:
    """A chunk as messages: itself, or parts of a large one, so that others on this connection get their turn.

    Args:
        chunk: The chunk.
        max_payload: Most that one message may carry, in bytes.

    Raises:
        SollolError: It exceeds what anybody puts together.
    """
    size = min(PART_BYTES, max_payload)
    if len(chunk) <= size:
        return [(chunk, "")]
    if len(chunk) > MAX_ANSWER_BYTES:
        raise too_large()
    starts = range(0, len(chunk), size)
    return [(chunk[start : start + size], f"{number}/{len(starts)}") for number, start in enumerate(starts, 1)]
