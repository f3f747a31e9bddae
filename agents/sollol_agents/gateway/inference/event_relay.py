"""Event streams on their way through: whole lines at a time, with an id of their own where the engine's is not unique.

Ollama numbers its `/v1` answers from 0 to 998; clients that keep answers by id would mix them up.
"""

from __future__ import annotations

import re
from typing import Final

_REPEATED_ID: Final = re.compile(rb'"id":\s?"(chatcmpl|cmpl)-\d{1,4}"')
_WAITING_BYTES: Final = 65_536
"""Of a line: what is larger has its id in what has gone on already."""
_PREFIXES: Final = {"/v1/chat/completions": b"chatcmpl", "/v1/completions": b"cmpl"}


class EventRelay:
    """One event stream (or whole body) of an engine.

    Args:
        path: The path asked for.
        request_id: What makes the id unique.
    """

    __slots__ = ("_carry", "_looks", "_new", "_old", "_prefix", "gap")

    def __init__(self, path: str, request_id: str) -> None:
        self._prefix = _PREFIXES.get(path)
        self._new = request_id.encode()
        self._old = b""
        self._looks = self._prefix is not None
        self._carry = b""
        self.gap = b""
        """What ends the event, or the line of it, in which what was passed on ends."""

    def feed(self, data: bytes) -> bytes:
        """What may go on now; a line that is not complete waits for the rest of it, unless it is long."""
        if self._carry:
            data = self._carry + data
            self._carry = b""
        if not data.endswith(b"\n"):
            whole, newline, self._carry = data.rpartition(b"\n")
            data = whole + newline
            if len(self._carry) > _WAITING_BYTES:
                data, self._carry = data + self._carry, b""
            if not data:
                return b""
        is_between = data.endswith((b"\n\n", b"\r\n\r\n"))
        self.gap = b"" if is_between else b"\n" if data.endswith(b"\n") else b"\n\n"
        return self._unique(data)

    def rest(self) -> bytes:
        """What is left at the end: a last line without its line feed."""
        rest, self._carry = self._carry, b""
        return self._unique(rest)

    def _unique(self, data: bytes) -> bytes:
        if self._looks and data:
            found = _REPEATED_ID.search(data)
            self._looks = found is None and b'"id"' not in data
            if found is not None:
                self._old = found.group(0)
                self._new = b'"id":"%b-%b"' % (self._prefix or b"", self._new)
        return data.replace(self._old, self._new) if self._old else data
