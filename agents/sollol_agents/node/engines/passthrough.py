"""Any other path of an engine: the body goes in and comes out byte for byte."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Final

from sollol_agents.node.engines.base import EngineAnswer, EngineRequest
from sollol_agents.node.engines.ends import Ends
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.refusals import broken_off

_NAMELESS: Final = b'"model":"","system_fingerprint":"fp_ollama"'
_BEGINS: Final = b"data: {"
_NAMELESS_BYTES: Final = 1024
"""An event that grows larger is another one."""
_PASSED_BYTES: Final = 65_536
"""What comes together and is more goes with the others that are not taken at once."""
_OTHERS: Final = b"\r"
"""Other servers end their lines so, and an Ollama never does."""
_NAMELESS_EVENT: Final = re.compile(rb"data: \{[^\n]*%b[^\n]*\}\n\n" % _NAMELESS)


class PassthroughAnswer(EngineAnswer):
    """One request on any path; whatever bytes come together make one message."""

    def __init__(self, http: EngineHttp, request: EngineRequest) -> None:
        self._http = http
        self._request = request
        self._ends = Ends()
        self._nameless = Nameless()

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """The body, piece by piece."""
        request = self._request
        async with self._http.open("POST", request.path, request.body, model=request.model) as answer:
            self.content_type = answer.content_type
            is_events = "event-stream" in self.content_type
            if is_events:
                answer.pass_to(self._pass)
            async for data in answer:
                yield self._told(self._nameless.without(data) if is_events else data)
            yield self._told(self._nameless.rest())
        if is_events and not self._ends.is_complete(request.path):
            raise broken_off("the engine's event stream ended without its final event")
        self.figures = self._ends.figures()

    def _pass(self, data: bytes) -> bool:
        """Whether events were taken."""
        taker = self.taker
        if taker is None or len(data) > _PASSED_BYTES or not taker.has_room:
            return False
        taker.take(self._told(self._nameless.without(data)))
        return True

    def _told(self, data: bytes) -> list[bytes]:
        if not data:
            return []
        self._ends.feed(data)
        self.output_chunks += data.count(b"data: {") or 1
        return [data]

    def join(self, chunks: list[bytes]) -> bytes:
        """The body."""
        return b"".join(chunks)


class Nameless:
    """Takes out of a stream the empty event of no model with which an Ollama ends it when its runner dies.

    An event may come in several reads: what may become such a one waits for its end.
    """

    def __init__(self) -> None:
        self._held = self._last = b""

    def without(self, data: bytes) -> bytes:
        """What may go on now."""
        data, self._held = self._held + data, b""
        if not data.endswith(b"\n\n"):
            ended = (self._last + data).rfind(b"\n\n")
            begins = ended + 2 - len(self._last) if ended >= 0 else 0
            tail = data[begins:]
            is_short = len(tail) <= _NAMELESS_BYTES and _OTHERS not in tail
            if is_short and (tail.startswith(_BEGINS) or _BEGINS.startswith(tail)):
                data, self._held = data[:begins], tail
        self._last = data[-1:] or self._last
        return _NAMELESS_EVENT.sub(b"", data) if _NAMELESS in data else data

    def rest(self) -> bytes:
        """What is held at the end of the stream."""
        held, self._held = self._held, b""
        return b"" if _NAMELESS in held else held
