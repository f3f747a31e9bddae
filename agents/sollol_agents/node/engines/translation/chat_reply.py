"""OpenAI's answers in Ollama's words."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_agents.node.engines.translation.calls import Call
from sollol_agents.node.engines.translation.chat_stream import ChatStream, Token
from sollol_schemas.context import RequestKind
from sollol_schemas.execution import Figures

_DONE_REASONS: Final = {"tool_calls": "stop", "function_call": "stop", "content_filter": "stop"}


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
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    logprobs: list[Token] = []


class NativeStream:
    """Turns the events of one OpenAI stream into the lines of an Ollama stream.

    Args:
        kind: `generate` or `chat`.
        model: The name to tell the caller.
    """

    def __init__(self, kind: RequestKind, model: str) -> None:
        self._is_chat = kind is RequestKind.CHAT
        self._model = model
        self._stream = ChatStream()

    @property
    def is_calling(self) -> bool:
        """Whether a call of a tool has begun, which is told when it is whole."""
        return bool(self._stream.calls)

    def feed(self, data: bytes, created_at: str) -> bytes | None:
        """The line for one event's data, or None when it says nothing to the caller yet.

        Raises:
            SollolError: The event is not what it should be, or reports an error.
        """
        said = self._stream.feed(data)
        if not said.content and not said.thinking and not said.logprobs:
            return None
        line = self._line(created_at, said.content, said.thinking)
        line.logprobs = said.logprobs
        return msgspec.json.encode(line)

    def figures(self) -> Figures:
        """What the engine said about the work."""
        return self._stream.figures()

    def last(self, created_at: str, figures: Figures, total_s: float) -> list[bytes]:
        """The last lines: the calls of tools, and the end.

        Raises:
            BackendBrokeProtocol: The engine never said why it ended.
        """
        reason = self._stream.ended()
        calls, texts = self._stream.calls.ended(reason)
        lines = [self._line(created_at, text, "") for text in texts]
        if calls:
            lines.append(self._calling(created_at, calls))
        lines.append(self._final(created_at, figures, total_s, _DONE_REASONS.get(reason, reason)))
        return [msgspec.json.encode(line) for line in lines]

    def load_only(self, created_at: str, *, is_unload: bool = False) -> bytes:
        """The answer to a request without a prompt: the model is loaded already, and stays although it may go."""
        return msgspec.json.encode(self._final(created_at, Figures(), 0.0, "unload" if is_unload else "load"))

    def _calling(self, created_at: str, calls: list[Call]) -> _Line:
        line = self._line(created_at, "", "")
        if line.message is not None:
            line.message.tool_calls = [_told(call, index) for index, call in enumerate(calls)]
        return line

    def _final(self, created_at: str, figures: Figures, total_s: float, reason: str) -> _Line:
        line = self._line(created_at, "", "", is_done=True)
        line.done_reason = reason
        line.total_duration = _ns(total_s)
        line.prompt_eval_count = figures.prompt_tokens or 0
        line.prompt_eval_duration = _ns(figures.prompt_s)
        line.eval_count = figures.output_tokens or 0
        line.eval_duration = _ns(figures.decode_s)
        return line

    def _line(self, created_at: str, content: str, thinking: str, *, is_done: bool = False) -> _Line:
        line = _Line(model=self._model, created_at=created_at, done=is_done)
        if self._is_chat:
            line.message = _Message(role="assistant", content=content, thinking=thinking)
        else:
            line.response, line.thinking = content, thinking
        return line


def _told(call: Call, index: int) -> dict[str, Any]:
    function = {"index": index, "name": call.name, "arguments": call.arguments}
    return ({"id": call.id} if call.id else {}) | {"function": function}


def _ns(seconds: float | None) -> int:
    return round((seconds or 0.0) * 1e9)
