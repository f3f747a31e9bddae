"""Cuts an engine's byte stream into lines without looking at bytes twice."""

from __future__ import annotations

from typing import Final

from sollol_agents.node.engines.refusals import engine_error
from sollol_bus.transport.streaming import MAX_ANSWER_BYTES, too_large
from sollol_schemas.errors import ErrorCode

MAX_LINE_BYTES: Final = MAX_ANSWER_BYTES


class LineTooLong(ValueError):
    """A line exceeds 64 MiB."""


class LineSplitter:
    """Collects the bytes of one stream and gives whole lines without their ends; empty ones are left out."""

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now.

        Raises:
            LineTooLong: The unfinished line exceeds 64 MiB.
        """
        end = data.rfind(b"\n")
        if end < 0:
            self._keep(data)
            return []
        whole = data[:end]
        if self._parts:
            self._parts.append(whole)
            whole = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
        if end + 1 < len(data):
            self._keep(data[end + 1 :])
        if b"\r" in whole:
            whole = whole.replace(b"\r\n", b"\n").removesuffix(b"\r")
        return [line for line in whole.split(b"\n") if line] if b"\n" in whole else [whole] if whole else []

    @property
    def has_begun(self) -> bool:
        """Whether the beginning of a line waits for the rest of it."""
        return bool(self._parts)

    @property
    def rest(self) -> bytes:
        """The bytes of the line that has not ended."""
        return b"".join(self._parts)

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_LINE_BYTES:
            raise LineTooLong(f"a line exceeds {MAX_LINE_BYTES} bytes")


def split(splitter: LineSplitter, data: bytes) -> list[bytes]:
    """The lines that are complete now, for an adapter.

    Raises:
        SollolError: A line exceeds what anybody puts together, which is the fault of nobody but the request.
    """
    try:
        return splitter.feed(data)
    except LineTooLong as error:
        raise too_large() from error


def event_data(line: bytes) -> bytes | None:
    """The data of one line of an event stream; None for comments, other fields and the final `[DONE]`."""
    if not line.startswith(b"data:"):
        if line.startswith((b":", b"event:", b"id:", b"retry:")):
            return None
        shown = line[:80].decode("utf-8", "replace")
        raise engine_error(ErrorCode.ENGINE_PROTOCOL, f"the engine sent what is no event: {shown!r}")
    data = line[5:].strip()
    return None if data == b"[DONE]" else data
