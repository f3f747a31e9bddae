"""OpenAI's answers in Ollama's words."""

from __future__ import annotations

from typing import Final

from sollol_agents.node.engines.translation.chat_stream import ChatStream
from sollol_agents.node.engines.translation.native_lines import NativeLines
from sollol_schemas.context import RequestKind
from sollol_schemas.execution import Figures

_DONE_REASONS: Final = {"tool_calls": "stop", "function_call": "stop", "content_filter": "stop"}


class NativeStream:
    """Turns the events of one OpenAI stream into the lines of an Ollama stream.

    Args:
        kind: `generate` or `chat`.
        model: The name to tell the caller.
    """

    def __init__(self, kind: RequestKind, model: str) -> None:
        self._lines = NativeLines(kind, model)
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
        return self._lines.piece(created_at, said.content, said.thinking, said.logprobs)

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
        lines = [self._lines.piece(created_at, text) for text in texts]
        if calls:
            lines.append(self._lines.calling(created_at, calls))
        return [*lines, self._lines.final(created_at, figures, total_s, _DONE_REASONS.get(reason, reason))]

    def load_only(self, created_at: str, *, is_unload: bool = False) -> bytes:
        """The answer to a request without a prompt: the model is loaded already, and stays although it may go."""
        return self._lines.final(created_at, Figures(), 0.0, "unload" if is_unload else "load")
