"""Any other path of an engine: the body goes in and comes out byte for byte."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import EngineAnswer, EngineRequest
from sollol_agents.node.engines.decoding import as_seconds, as_tokens
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.refusals import engine_error
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures

_TAIL_BYTES: Final = 16_384
#: Without one of these near its end, an event stream of this path was cut short. Ollama ends its own
#: `/v1` streams silently when the model dies, so the end of the body proves nothing.
_ENDINGS: Final[dict[str, tuple[bytes, ...]]] = {
    "/v1/chat/completions": (b"data: [DONE]", b"data:[DONE]"),
    "/v1/completions": (b"data: [DONE]", b"data:[DONE]"),
    "/v1/messages": (b'"message_stop"', b'"error"'),
    "/v1/responses": (b'"response.completed"', b'"response.failed"', b'"response.incomplete"', b'"error"'),
}


class _Timings(msgspec.Struct):
    cache_n: Any = None
    prompt_n: Any = None
    prompt_ms: Any = None
    predicted_n: Any = None
    predicted_ms: Any = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: Any = None


class _Usage(msgspec.Struct):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    input_tokens: Any = None
    output_tokens: Any = None
    prompt_tokens_details: _PromptDetails | None = None


class Tail(msgspec.Struct):
    """The parts of an OpenAI-like object that tell what the work took."""

    usage: _Usage | None = None
    timings: _Timings | None = None
    eval_count: Any = None
    prompt_eval_count: Any = None

    def figures(self) -> Figures:
        """The figures, without those that make no sense."""
        usage, timings = self.usage or _Usage(), self.timings or _Timings()
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else timings.cache_n
        fresh, from_cache = as_tokens(timings.prompt_n), as_tokens(timings.cache_n)
        timed = None if fresh is None else fresh + (from_cache or 0)
        return Figures(
            prompt_tokens=_first(usage.prompt_tokens, usage.input_tokens, self.prompt_eval_count, timed),
            output_tokens=_first(usage.completion_tokens, usage.output_tokens, self.eval_count, timings.predicted_n),
            cached_tokens=as_tokens(cached),
            prompt_s=as_seconds(timings.prompt_ms, 1e3),
            decode_s=as_seconds(timings.predicted_ms, 1e3),
        )


class PassthroughAnswer(EngineAnswer):
    """One request on any path; whatever bytes come together make one message."""

    def __init__(self, http: EngineHttp, request: EngineRequest) -> None:
        self._http = http
        self._request = request
        self._tail = b""

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """The body, piece by piece."""
        request = self._request
        async with self._http.open("POST", request.path, request.body, model=request.model) as answer:
            self.content_type = answer.content_type
            async for data in answer:
                self._tail = data[-_TAIL_BYTES:] if len(data) >= _TAIL_BYTES else (self._tail + data)[-_TAIL_BYTES:]
                self.output_chunks += data.count(b"data: {") or 1
                yield [data]
        if "event-stream" in self.content_type and not is_complete(request.path, self._tail):
            raise engine_error(ErrorCode.ENGINE_PROTOCOL, "the engine's event stream ended without its final event")
        self.figures = figures_in(self._tail)

    def join(self, chunks: list[bytes]) -> bytes:
        """The body."""
        return b"".join(chunks)


def is_complete(path: str, tail: bytes) -> bool:
    """Whether an event stream of this path ended as it should; true for paths whose end is not known."""
    endings = _ENDINGS.get(path.partition("?")[0])
    return endings is None or any(ending in tail for ending in endings)


def figures_in(tail: bytes) -> Figures:
    """The figures in the end of a body: the last JSON object that has any, or none at all."""
    for line in reversed(tail.splitlines()):
        start = line.find(b"{")
        if start < 0 or not (b'"usage"' in line or b'"timings"' in line or b'"eval_count"' in line):
            continue
        try:
            return msgspec.json.decode(line[start:], type=Tail).figures()
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return Figures()


def _first(*counts: Any) -> int | None:  # noqa: ANN401 whatever an engine put there
    return next((tokens for tokens in map(as_tokens, counts) if tokens is not None), None)
