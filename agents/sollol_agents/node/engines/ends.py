"""The ends of an answer that passes through: whether it is whole, and what it took, whatever its size."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.decoding import as_seconds, as_tokens
from sollol_schemas.execution import Figures

_HEAD_BYTES: Final = 4_096
_TAIL_BYTES: Final = 16_384
_EVENT_BYTES: Final = 512
_OBJECT_BYTES: Final = 4_096
_ERRORS: Final = (b"event: error", b'"type":"error"', b'"type": "error"')
"""Of an event's type: every response has a field `error`."""
#: Without one of these at its end, an event stream of this path was cut short. Ollama ends its own
#: `/v1` streams silently when the model dies, so the end of the body proves nothing.
_ENDINGS: Final[dict[str, tuple[bytes, ...]]] = {
    "/v1/chat/completions": (b"data: [DONE]", b"data:[DONE]"),
    "/v1/completions": (b"data: [DONE]", b"data:[DONE]"),
    "/v1/messages": (b'"message_stop"', *_ERRORS),
    "/v1/responses": (b'"response.completed"', b'"response.failed"', b'"response.incomplete"', *_ERRORS),
}
_OBJECT: Final = re.compile(rb'(?<!\\)"(usage|timings)"\s*:\s*(?=\{)')
_COUNT: Final = re.compile(rb'(?<!\\)"(eval_count|prompt_eval_count)"\s*:\s*(\d+)')
_raw_decode = json.JSONDecoder().raw_decode


class _Timings(msgspec.Struct):
    cache_n: Any = None
    prompt_n: Any = None
    prompt_ms: Any = None
    predicted_n: Any = None
    predicted_ms: Any = None


class _Details(msgspec.Struct):
    cached_tokens: Any = None


class _Usage(msgspec.Struct):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    input_tokens: Any = None
    output_tokens: Any = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None

    @property
    def read(self) -> int | None:
        """Tokens of the prompt; Anthropic counts those of the cache beside the others."""
        if (fresh := as_tokens(self.input_tokens)) is None:
            return None
        return fresh + sum(as_tokens(n) or 0 for n in (self.cache_read_input_tokens, self.cache_creation_input_tokens))

    @property
    def cached(self) -> Any:  # noqa: ANN401 whatever an engine put there
        """Those of them that came from the cache."""
        details = self.prompt_tokens_details or self.input_tokens_details
        return details.cached_tokens if details is not None else self.cache_read_input_tokens


class Tail(msgspec.Struct):
    """The parts of an OpenAI-like object that tell what the work took."""

    usage: _Usage | None = None
    timings: _Timings | None = None
    eval_count: Any = None
    prompt_eval_count: Any = None

    def figures(self) -> Figures:
        """The figures, without those that make no sense."""
        usage, timings = self.usage or _Usage(), self.timings or _Timings()
        cached = timings.cache_n if usage.cached is None else usage.cached
        fresh, from_cache = as_tokens(timings.prompt_n), as_tokens(timings.cache_n)
        timed = None if fresh is None else fresh + (from_cache or 0)
        return Figures(
            prompt_tokens=_first(usage.prompt_tokens, usage.read, self.prompt_eval_count, timed),
            output_tokens=_first(usage.completion_tokens, usage.output_tokens, self.eval_count, timings.predicted_n),
            cached_tokens=as_tokens(cached),
            prompt_s=as_seconds(timings.prompt_ms, 1e3),
            decode_s=as_seconds(timings.predicted_ms, 1e3),
        )


class Ends:
    """Keeps the beginning and the end of a body, and the beginning of its last event, which may be of any size."""

    __slots__ = ("_event", "_head", "_tail")

    def __init__(self) -> None:
        self._head = self._tail = self._event = b""

    def feed(self, data: bytes) -> None:
        """Takes the next piece."""
        if len(self._head) < _HEAD_BYTES:
            self._head += data[: _HEAD_BYTES - len(self._head)]
        seen = self._tail + data
        end = len(seen) - 4  # the blank line that ends it begins no other
        start = max(seen.rfind(b"\n\n", 0, end), seen.rfind(b"\n\r\n", 0, end))
        if start >= 0 or not self._tail:
            self._event = seen[start + 1 : start + 1 + _EVENT_BYTES]
        self._tail = seen[-_TAIL_BYTES:]

    def is_complete(self, path: str) -> bool:
        """Whether an event stream of this path ended as it should."""
        return is_complete(path, self._event + self._tail)

    def figures(self) -> Figures:
        """What the body tells of the work."""
        return figures_in(self._head, self._tail)


def is_complete(path: str, end: bytes) -> bool:
    """Whether an event stream of this path ended as it should; true for paths whose end is not known."""
    endings = _ENDINGS.get(path.partition("?")[0])
    return endings is None or any(ending in end for ending in endings)


def figures_in(*pieces: bytes) -> Figures:
    """The figures that stand in pieces of a body, those of a later piece before those of an earlier one."""
    found: dict[str, Any] = {}
    for piece in pieces:
        for name in ("usage", "timings"):
            found[name] = found.get(name, {}) | _object_in(piece, name)
        found |= {match[1].decode(): int(match[2]) for match in _COUNT.finditer(piece)}
    try:
        return msgspec.convert(found, Tail).figures()
    except msgspec.ValidationError:
        return Figures()


def _object_in(piece: bytes, name: str) -> dict[str, Any]:
    """The last object of this name that counts anything; empty without one. A tool may have a field of that name."""
    for match in reversed(list(_OBJECT.finditer(piece))):
        if match[1].decode() == name:
            try:
                value, _ = _raw_decode(piece[match.end() : match.end() + _OBJECT_BYTES].decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                continue
            if any(isinstance(count, (int, float)) for count in value.values()):
                return {key: count for key, count in value.items() if count is not None}
    return {}


def _first(*counts: Any) -> int | None:  # noqa: ANN401 whatever an engine put there
    return next((tokens for tokens in map(as_tokens, counts) if tokens is not None), None)
