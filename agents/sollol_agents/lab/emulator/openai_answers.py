"""The bytes of an answer on /v1/chat/completions and /v1/completions, and of a refusal on most paths of /v1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from sollol_agents.lab.emulator import http, logprobs, stamps
from sollol_agents.lab.emulator.dialects import joined
from sollol_agents.requests.ollama import gojson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sollol_agents.lab.emulator.dialects import Figures
    from sollol_agents.lab.emulator.text import Piece, ToolCall

_encode = msgspec.json.Encoder().encode
_ID_RANGE: Final = 999  # Ollama draws its ids from these few, so they collide
_ERROR_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}


def openai_error(status: int, text: str) -> bytes:
    """Returns the body of an error on a /v1 path."""
    kind = _ERROR_TYPES.get(status, "api_error")
    return gojson.write({"error": {"message": text, "type": kind, "param": None, "code": None}})


class _OpenAi:
    """What both paths have in common."""

    content_type = http.EVENTS
    is_cached = True
    _object = ""
    _id_prefix = ""

    def __init__(self, model: str, *, includes_usage: bool = False) -> None:
        self._model = model
        self._includes_usage = includes_usage
        self._common: dict[str, Any] = {
            "id": f"{self._id_prefix}-{stamps.number() % _ID_RANGE}",
            "object": self._object,
            "created": stamps.unix_s(),
            "model": model,
            "system_fingerprint": "fp_ollama",
        }

    def _end(self, figures: Figures) -> bytes:
        usage = b""
        if self._includes_usage:
            usage = _event(self._common | {"choices": [], "usage": _usage(figures)})
        return usage + b"data: [DONE]\n\n"


class OpenAiChat(_OpenAi):
    """/v1/chat/completions."""

    _object = "chat.completion.chunk"
    _id_prefix = "chatcmpl"

    def __init__(self, model: str, *, includes_usage: bool = False, alternatives: int | None = None) -> None:
        super().__init__(model, includes_usage=includes_usage)
        self._is_first = True
        self._alternatives = alternatives
        self._start = b"data: " + _encode(self._common)[:-1] + b',"choices":[{"index":0,"delta":{'

    def piece(self, piece: Piece) -> bytes:
        """Returns one event; only the first names the role."""
        odds = self._odds(piece)
        if piece.channel == "hidden" and odds is None:
            return b""
        role = b'"role":"assistant",' if self._is_first else b""
        self._is_first = False
        key = b'"content":"","reasoning":' if piece.channel == "thinking" else b'"content":'
        told = b"" if odds is None else b',"logprobs":' + _encode({"content": odds})
        event = b'%b%b%b%b},"finish_reason":null%b}]}\n\n' % (self._start, role, key, _encode(piece.text), told)
        return gojson.for_html(event)

    def closing(self, figures: Figures) -> bytes:
        """Returns the tool calls, the finish chunk, the usage if asked for, and the end mark."""
        told = b""
        if figures.tool_calls or self._is_first:  # what says nothing says so
            delta: dict[str, Any] = {"content": ""}
            if self._is_first:
                delta = {"role": "assistant"} | delta
            if figures.tool_calls:
                delta["tool_calls"] = _calls(figures.tool_calls)
            told = self._chunk(delta, None)
        reason = "tool_calls" if figures.tool_calls else figures.done_reason
        return told + self._chunk({}, reason) + self._end(figures)

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the one answer."""
        message: dict[str, Any] = {"role": "assistant", "content": joined(pieces, "content")}
        if thinking := joined(pieces, "thinking"):
            message["reasoning"] = thinking
        if figures.tool_calls:
            message["tool_calls"] = _calls(figures.tool_calls)
        reason = "tool_calls" if figures.tool_calls else figures.done_reason
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": reason}
        if self._alternatives is not None:
            choice["logprobs"] = {"content": [entry for piece in pieces for entry in self._odds(piece) or ()]}
        return self._one(choice, _usage(figures))

    def rendered(self, prompt: str) -> bytes:
        """Returns the prompt beside an empty answer."""
        choice = {"index": 0, "message": {"role": "", "content": ""}, "finish_reason": None}
        none = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return self._one(choice, none, _debug_info={"rendered_template": prompt})

    def broken(self) -> bytes:
        """Returns the empty chunk that hides an error; no finish reason and no end mark follow."""
        delta = {"role": "assistant", "content": ""} if self._is_first else {"content": ""}
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        return _event(self._common | {"model": "", "choices": [choice]})

    def _one(self, choice: dict[str, Any], usage: dict[str, int], **more: object) -> bytes:
        head = self._common | {"object": "chat.completion"}
        return gojson.write(head | {"choices": [choice], "usage": usage} | more) + b"\n"

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> bytes:
        return _event(self._common | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    def _odds(self, piece: Piece) -> list[dict[str, Any]] | None:
        return logprobs.entries(piece, self._alternatives)


class OpenAiCompletion(_OpenAi):
    """/v1/completions."""

    _object = "text_completion"
    _id_prefix = "cmpl"

    def __init__(self, model: str, *, includes_usage: bool = False) -> None:
        super().__init__(model, includes_usage=includes_usage)
        self._start = b"data: " + _encode(self._common)[:-1] + b',"choices":[{"text":'
        # each chunk of a stream whose usage was asked for carries one of zero
        none = b',"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
        self._no_usage = none if includes_usage else b""

    def piece(self, piece: Piece) -> bytes:
        """Returns one event."""
        if piece.channel == "hidden":
            return b""
        text = _encode(piece.text)
        return gojson.for_html(b'%b%b,"index":0,"finish_reason":null}]%b}\n\n' % (self._start, text, self._no_usage))

    def closing(self, figures: Figures) -> bytes:
        """Returns the finish chunk, the usage if asked for, and the end mark."""
        reason = _encode(figures.done_reason)
        finish = b'%b"","index":0,"finish_reason":%b}]%b}\n\n' % (self._start, reason, self._no_usage)
        return finish + self._end(figures)

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the one answer."""
        choice = {"text": joined(pieces, "content"), "index": 0, "finish_reason": figures.done_reason}
        return gojson.write(self._common | {"choices": [choice], "usage": _usage(figures)}) + b"\n"

    def rendered(self, prompt: str) -> bytes:
        """Returns an empty answer: the prompt has no place in it."""
        del prompt
        none = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        choice = {"text": "", "index": 0, "finish_reason": None}
        return gojson.write(self._common | {"choices": [choice], "usage": none}) + b"\n"

    def broken(self) -> bytes:
        """Returns the empty chunk that hides an error."""
        choice = {"text": "", "index": 0, "finish_reason": None}
        return _event(self._common | {"model": "", "choices": [choice]})


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % gojson.write(payload)


def _usage(figures: Figures) -> dict[str, int]:
    return {
        "prompt_tokens": figures.prompt_tokens,
        "completion_tokens": figures.output_tokens,
        "total_tokens": figures.prompt_tokens + figures.output_tokens,
    }


def _calls(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    return [
        {
            "id": stamps.call_id(),
            "index": place,
            "type": "function",
            "function": {"name": call.name, "arguments": _encode(call.arguments).decode()},
        }
        for place, call in enumerate(calls)
    ]
