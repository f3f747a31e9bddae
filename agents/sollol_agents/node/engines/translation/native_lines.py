"""Objects of Ollama's streams, for whatever told what is in them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from sollol_agents.node.engines.translation.calls import Call
from sollol_agents.node.engines.translation.chat_stream import Token
from sollol_bus.transport.clock import wall_s
from sollol_schemas.context import RequestKind
from sollol_schemas.execution import Figures

CONTENT_TYPE = "application/x-ndjson"
_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct, omit_defaults=True):
    role: str
    content: str
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = []


class _Line(msgspec.Struct, omit_defaults=True):
    """One object of Ollama's stream, in Ollama's order; zero and empty fields are left out, as Ollama does."""

    model: str
    created_at: str
    message: _Message | None = None
    response: str | None = None
    thinking: str = ""
    done: bool | None = None
    done_reason: str = ""
    stopping_word: str = ""
    """The text at which it ended; for whoever tells a rest in another dialect, Ollama has no such field."""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    logprobs: list[Token] = []


class NativeLines:
    """Writes the objects of one answer.

    Args:
        kind: `chat`; for any other they are those of `generate`.
        model: The name to tell the caller.
    """

    def __init__(self, kind: RequestKind, model: str) -> None:
        self._is_chat = kind is RequestKind.CHAT
        self._model = model

    def piece(self, created_at: str, text: str, thinking: str = "", logprobs: list[Token] | None = None) -> bytes:
        """An object with some of the answer."""
        line = self._line(created_at, text, thinking)
        line.logprobs = logprobs or []
        return _encode(line)

    def calling(self, created_at: str, calls: list[Call]) -> bytes:
        """An object with calls of tools, where there is a place for them."""
        line = self._line(created_at, "", "")
        if line.message is not None:
            line.message.tool_calls = [_told(call, index) for index, call in enumerate(calls)]
        return _encode(line)

    def final(
        self, created_at: str, figures: Figures, total_s: float, reason: str, *, stopping_word: str = ""
    ) -> bytes:
        """The last object."""
        line = self._line(created_at, "", "", is_done=True)
        line.done_reason = reason
        line.stopping_word = stopping_word
        line.total_duration = _ns(total_s)
        line.load_duration = _ns(figures.load_s)
        line.prompt_eval_count = figures.prompt_tokens or 0
        line.prompt_eval_duration = _ns(figures.prompt_s)
        line.eval_count = figures.output_tokens or 0
        line.eval_duration = _ns(figures.decode_s)
        return _encode(line)

    def _line(self, created_at: str, content: str, thinking: str, *, is_done: bool = False) -> _Line:
        line = _Line(model=self._model, created_at=created_at, done=is_done)
        if self._is_chat:
            line.message = _Message(role="assistant", content=content, thinking=thinking)
        else:
            line.response, line.thinking = content, thinking
        return line


def created_at() -> str:
    """Now, as Ollama writes it."""
    return dt.datetime.fromtimestamp(wall_s(), dt.UTC).isoformat().replace("+00:00", "Z")


def _told(call: Call, index: int) -> dict[str, Any]:
    function = {"index": index, "name": call.name, "arguments": call.arguments}
    return ({"id": call.id} if call.id else {}) | {"function": function}


def _ns(seconds: float | None) -> int:
    return round((seconds or 0.0) * 1e9)
