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
_NAMELESS_EVENT: Final = re.compile(rb"data: \{[^\n]*%b[^\n]*\}\n\n" % _NAMELESS)


class PassthroughAnswer(EngineAnswer):
    """One request on any path; whatever bytes come together make one message."""

    def __init__(self, http: EngineHttp, request: EngineRequest) -> None:
        self._http = http
        self._request = request
        self._ends = Ends()

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """The body, piece by piece."""
        request = self._request
        async with self._http.open("POST", request.path, request.body, model=request.model) as answer:
            self.content_type = answer.content_type
            async for data in answer:
                told = without_nameless(data) if _NAMELESS in data else data
                self._ends.feed(told)
                self.output_chunks += told.count(b"data: {") or 1
                yield [told] if told else []
        if "event-stream" in self.content_type and not self._ends.is_complete(request.path):
            raise broken_off("the engine's event stream ended without its final event")
        self.figures = self._ends.figures()

    def join(self, chunks: list[bytes]) -> bytes:
        """The body."""
        return b"".join(chunks)


def without_nameless(data: bytes) -> bytes:
    """Bytes of a stream without the empty event of no model with which an Ollama ends it when its runner dies."""
    return _NAMELESS_EVENT.sub(b"", data)
