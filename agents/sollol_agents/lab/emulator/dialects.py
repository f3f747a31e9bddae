"""The bytes of an answer in each of the four dialects that an Ollama node speaks.

A dialect is made for one request. It turns pieces into stream messages and
figures into the last ones, and never waits or writes.
"""

from __future__ import annotations

import itertools
import time
import zlib
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from sollol_agents.lab.emulator import http
from sollol_agents.lab.emulator.text import ToolCall
from sollol_agents.lab.emulator.wire import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sollol_agents.lab.emulator.text import Piece

_encode = msgspec.json.Encoder().encode
_numbers = itertools.count()
_VOCABULARY: Final = 1440
_ID_RANGE: Final = 999  # Ollama draws its ids from these few, so they collide
UNEXPECTED_EOF: Final = "an error was encountered while running the model: unexpected EOF"
_ERROR_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What the last message of an answer tells; seconds are those of the emulated machine."""

    done_reason: str
    total_s: float = 0.0
    load_s: float = 0.0
    prompt_tokens: int = 0
    prompt_s: float = 0.0
    output_tokens: int = 0
    output_s: float = 0.0
    tool_calls: tuple[ToolCall, ...] = ()


class Dialect(Protocol):
    """How one kind of request is answered."""

    content_type: bytes

    def piece(self, piece: Piece) -> bytes:
        """Returns the message that carries one token; empty for a hidden one."""

    def closing(self, figures: Figures) -> bytes:
        """Returns the last messages of a stream."""

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the answer to a request that does not stream."""

    def broken(self) -> bytes:
        """Returns what a stream ends with when the engine dies."""

    def error(self, status: int, text: str) -> bytes:
        """Returns the body of an error answer."""


def native_error(text: str) -> bytes:
    """Returns the body of an error on a native path."""
    return _encode({"error": text})


def openai_error(status: int, text: str) -> bytes:
    """Returns the body of an error on a /v1 path."""
    kind = _ERROR_TYPES.get(status, "api_error")
    return _encode({"error": {"message": text, "type": kind, "param": None, "code": None}})


def joined(pieces: Iterable[Piece], channel: str) -> str:
    """Returns the text of one channel."""
    return "".join(piece.text for piece in pieces if piece.channel == channel)


def _durations(figures: Figures) -> dict[str, int]:
    """Returns the figures as nanoseconds and counts; zero is left out, as in Go."""
    counted = {
        "total_duration": int(figures.total_s * 1e9),
        "load_duration": int(figures.load_s * 1e9),
        "prompt_eval_count": figures.prompt_tokens,
        "prompt_eval_duration": int(figures.prompt_s * 1e9),
        "eval_count": figures.output_tokens,
        "eval_duration": int(figures.output_s * 1e9),
    }
    return {name: value for name, value in counted.items() if value}


class _Native:
    """What /api/generate and /api/chat have in common."""

    content_type = http.NDJSON

    def __init__(self, model: str, stamp: Callable[[], str] = timestamp) -> None:
        self._model = model
        self._stamp = stamp
        self._start = b'{"model":%b,"created_at":"' % _encode(model)

    def broken(self) -> bytes:
        """Returns the error line of a stream."""
        return native_error(UNEXPECTED_EOF) + b"\n"

    def error(self, status: int, text: str) -> bytes:
        """Returns the body of an error answer."""
        del status
        return native_error(text)

    def _last(self, payload: dict[str, Any], figures: Figures) -> bytes:
        return _encode(
            {"model": self._model, "created_at": self._stamp()}
            | payload
            | {"done": True, "done_reason": figures.done_reason}
            | self._history(figures)
            | _durations(figures)
        )

    def _history(self, figures: Figures) -> dict[str, Any]:
        """Returns what the answer tells of the conversation so far."""
        del figures
        return {}


class NativeGenerate(_Native):
    """/api/generate.

    Args:
        model: the name under which the model was asked for.
        context: every token of the prompt and the answer, told by number at the end; empty: not told.
        stamp: tells the present instant.
    """

    def __init__(self, model: str, context: Sequence[str] = (), stamp: Callable[[], str] = timestamp) -> None:
        super().__init__(model, stamp)
        self._context = context

    def piece(self, piece: Piece) -> bytes:
        """Returns one line."""
        if piece.channel == "hidden":
            return b""
        key = b'","response":' if piece.channel == "content" else b'","response":"","thinking":'
        return b'%b%b%b%b,"done":false}\n' % (self._start, self._stamp().encode(), key, _encode(piece.text))

    def closing(self, figures: Figures) -> bytes:
        """Returns the last line."""
        return self._last({"response": ""}, figures) + b"\n"

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the one answer."""
        payload = {"response": joined(pieces, "content")}
        if thinking := joined(pieces, "thinking"):
            payload["thinking"] = thinking
        return self._last(payload, figures)

    def _history(self, figures: Figures) -> dict[str, Any]:
        if not self._context or not figures.output_tokens:
            return {}
        return {
            "context": [zlib.crc32(token.encode("utf-8", "surrogatepass")) % _VOCABULARY for token in self._context]
        }


class NativeChat(_Native):
    """/api/chat."""

    def piece(self, piece: Piece) -> bytes:
        """Returns one line."""
        if piece.channel == "hidden":
            return b""
        key = b'"content":' if piece.channel == "content" else b'"content":"","thinking":'
        return b'%b%b","message":{"role":"assistant",%b%b},"done":false}\n' % (
            self._start,
            self._stamp().encode(),
            key,
            _encode(piece.text),
        )

    def closing(self, figures: Figures) -> bytes:
        """Returns the last line, with the tool calls."""
        return self._last({"message": self._message("", "", figures)}, figures) + b"\n"

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the one answer."""
        message = self._message(joined(pieces, "content"), joined(pieces, "thinking"), figures)
        return self._last({"message": message}, figures)

    @staticmethod
    def _message(content: str, thinking: str, figures: Figures) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thinking:
            message["thinking"] = thinking
        if figures.tool_calls:
            message["tool_calls"] = [
                {"id": _call_id(), "function": {"index": place, "name": call.name, "arguments": call.arguments}}
                for place, call in enumerate(figures.tool_calls)
            ]
        return message


class _OpenAi:
    """What /v1/chat/completions and /v1/completions have in common."""

    content_type = http.EVENTS
    _object = ""
    _id_prefix = ""

    def __init__(self, model: str, *, includes_usage: bool = False) -> None:
        self._model = model
        self._includes_usage = includes_usage
        self._common: dict[str, Any] = {
            "id": f"{self._id_prefix}-{next(_numbers) % _ID_RANGE}",
            "object": self._object,
            "created": int(time.time()),  # noqa: TID251 - a calendar instant that goes on the wire
            "model": model,
            "system_fingerprint": "fp_ollama",
        }

    def error(self, status: int, text: str) -> bytes:
        """Returns the body of an error answer."""
        return openai_error(status, text)

    def _end(self, figures: Figures) -> bytes:
        usage = b""
        if self._includes_usage:
            usage = _event(self._common | {"choices": [], "usage": _usage(figures)})
        return usage + b"data: [DONE]\n\n"


class OpenAiChat(_OpenAi):
    """/v1/chat/completions."""

    _object = "chat.completion.chunk"
    _id_prefix = "chatcmpl"

    def __init__(self, model: str, *, includes_usage: bool = False) -> None:
        super().__init__(model, includes_usage=includes_usage)
        self._is_first = True
        self._start = b"data: " + _encode(self._common)[:-1] + b',"choices":[{"index":0,"delta":{'

    def piece(self, piece: Piece) -> bytes:
        """Returns one event; only the first names the role."""
        if piece.channel == "hidden":
            return b""
        role = b'"role":"assistant",' if self._is_first else b""
        self._is_first = False
        key = b'"content":' if piece.channel == "content" else b'"content":"","reasoning":'
        return b'%b%b%b%b},"finish_reason":null}]}\n\n' % (self._start, role, key, _encode(piece.text))

    def closing(self, figures: Figures) -> bytes:
        """Returns the tool calls, the finish chunk, the usage if asked for, and the end mark."""
        calls = b""
        if figures.tool_calls:
            delta = {"role": "assistant", "content": "", "tool_calls": _openai_calls(figures.tool_calls)}
            choice = {"index": 0, "delta": delta, "finish_reason": "tool_calls"}
            calls = _event(self._common | {"choices": [choice]})
        else:
            choice = {"index": 0, "delta": {}, "finish_reason": figures.done_reason}
            calls = _event(self._common | {"choices": [choice]})
        return calls + self._end(figures)

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the one answer."""
        message: dict[str, Any] = {"role": "assistant", "content": joined(pieces, "content")}
        if thinking := joined(pieces, "thinking"):
            message["reasoning"] = thinking
        if figures.tool_calls:
            message["tool_calls"] = _openai_calls(figures.tool_calls)
        reason = "tool_calls" if figures.tool_calls else figures.done_reason
        choices = [{"index": 0, "message": message, "finish_reason": reason}]
        return _encode(self._common | {"object": "chat.completion", "choices": choices, "usage": _usage(figures)})

    def broken(self) -> bytes:
        """Returns the empty chunk that hides an error; no finish reason and no end mark follow."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return _event(self._common | {"model": "", "choices": [choice]})


class OpenAiCompletion(_OpenAi):
    """/v1/completions."""

    _object = "text_completion"
    _id_prefix = "cmpl"

    def __init__(self, model: str, *, includes_usage: bool = False) -> None:
        super().__init__(model, includes_usage=includes_usage)
        self._start = b"data: " + _encode(self._common)[:-1] + b',"choices":[{"text":'

    def piece(self, piece: Piece) -> bytes:
        """Returns one event."""
        if piece.channel == "hidden":
            return b""
        return b'%b%b,"index":0,"finish_reason":null}]}\n\n' % (self._start, _encode(piece.text))

    def closing(self, figures: Figures) -> bytes:
        """Returns the finish chunk, the usage if asked for, and the end mark."""
        choice = {"text": "", "index": 0, "finish_reason": figures.done_reason}
        return _event(self._common | {"choices": [choice]}) + self._end(figures)

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the one answer."""
        choice = {"text": joined(pieces, "content"), "index": 0, "finish_reason": figures.done_reason}
        return _encode(self._common | {"choices": [choice], "usage": _usage(figures)})

    def broken(self) -> bytes:
        """Returns the empty chunk that hides an error."""
        choice = {"text": "", "index": 0, "finish_reason": None}
        return _event(self._common | {"model": "", "choices": [choice]})


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % _encode(payload)


def _usage(figures: Figures) -> dict[str, int]:
    return {
        "prompt_tokens": figures.prompt_tokens,
        "completion_tokens": figures.output_tokens,
        "total_tokens": figures.prompt_tokens + figures.output_tokens,
    }


def _call_id() -> str:
    return f"call_{next(_numbers):08x}"


def _openai_calls(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    return [
        {
            "id": _call_id(),
            "index": place,
            "type": "function",
            "function": {"name": call.name, "arguments": _encode(call.arguments).decode()},
        }
        for place, call in enumerate(calls)
    ]
