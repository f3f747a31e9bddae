"""/v1/messages as Ollama answers it: the request, and the dialect of its answer.

The tokens of the prompt are guessed from its characters when a stream begins and told truly when it ends.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sollol_agents.lab.emulator import calls, http, wire
from sollol_agents.lab.emulator.dialects import joined
from sollol_agents.lab.emulator.wire import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sollol_agents.lab.emulator.calls import Call
    from sollol_agents.lab.emulator.dialects import Figures
    from sollol_agents.lab.emulator.models import ModelStore
    from sollol_agents.lab.emulator.presets import Preset
    from sollol_agents.lab.emulator.text import Piece, ToolCall

PATH: Final = "/v1/messages"
_encode = msgspec.json.Encoder().encode
_numbers = itertools.count()
_CHARACTERS_PER_TOKEN: Final = 4
_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens"}
_ERROR_TYPES: Final = {
    400: "invalid_request_error",
    404: "not_found_error",
    503: "overloaded_error",
}
_CHANNELS: Final = {"content": ("text", "text_delta", "text"), "thinking": ("thinking", "thinking_delta", "thinking")}


class _Block(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""
    thinking: str = ""
    source: dict[str, Any] | None = None
    content: str | list[dict[str, Any]] | None = None


class _Turn(msgspec.Struct, frozen=True):
    role: str = ""
    content: str | list[_Block] = ""


class _Tool(msgspec.Struct, frozen=True):
    name: str = ""
    input_schema: dict[str, Any] | None = None


class _Thinking(msgspec.Struct, frozen=True):
    type: str = ""


class MessagesRequest(msgspec.Struct, frozen=True):
    """Body of /v1/messages."""

    model: str = ""
    max_tokens: int = 0
    messages: list[_Turn] = []
    system: str | list[_Block] | None = None
    stream: bool = False
    stop_sequences: list[str] | None = None
    tools: list[_Tool] | None = None
    thinking: _Thinking | None = None


def messages_call(body: bytes, store: ModelStore, preset: Preset) -> Call:
    """Returns the call in a body of /v1/messages.

    Raises:
        BadRequestError: or one of its kinds, with the status and text of the answer.
    """
    request = wire.parse(body, MessagesRequest)
    if not request.model:
        raise BadRequestError("model is required")
    if request.max_tokens <= 0:
        raise BadRequestError("max_tokens is required and must be positive")
    if not request.messages:
        raise BadRequestError("messages is required")
    system = _text(request.system or "")
    turns = [wire.Message(role="system", content=system)] if system else []
    turns += [message for turn in request.messages for message in _messages(turn)]
    tools = [wire.Tool(wire.Function(tool.name, tool.input_schema)) for tool in request.tools or ()]
    guess = sum(len(turn.text()) + len(turn.role) for turn in turns) // _CHARACTERS_PER_TOKEN
    return calls.conversation_call(
        request.model,
        turns,
        store,
        preset,
        tools=tools,
        limit_tokens=request.max_tokens,
        stop=tuple(request.stop_sequences or ()),
        is_thinking=request.thinking is None or request.thinking.type != "disabled",
        is_stream=request.stream,
        dialect=Messages(request.model, input_tokens=guess or 1),
    )


def _messages(turn: _Turn) -> list[wire.Message]:
    """Returns a turn as conversation messages: results of tools come first."""
    if isinstance(turn.content, str):
        return [wire.Message(role=turn.role, content=turn.content)]
    results = []
    for block in turn.content:
        if block.type == "tool_result":
            results.append(wire.Message(role="tool", content=block.content))
        elif block.type == "image" and (block.source or {}).get("type") != "base64":
            kind = (block.source or {}).get("type", "")
            raise BadRequestError(f"invalid image source type: {kind}. Only base64 images are supported.")
    said = _text(turn.content)
    return [*results, wire.Message(role=turn.role, content=said)] if said or not results else results


def _text(content: str | list[_Block]) -> str:
    """Returns the text of all text blocks."""
    if isinstance(content, str):
        return content
    return "".join(block.text for block in content if block.type == "text")


def messages_error(status: int, text: str) -> bytes:
    """Returns the body of an error on /v1/messages."""
    kind = _ERROR_TYPES.get(status, "api_error")
    return _encode({"type": "error", "error": {"type": kind, "message": text}, "request_id": _new_id("req")})


class Messages:
    """The answer of /v1/messages."""

    content_type = http.EVENTS

    def __init__(self, model: str, *, input_tokens: int) -> None:
        self._model = model
        self._guessed_tokens = input_tokens
        self._id = _new_id("msg")
        self._open = ""
        self._index = 0
        self._has_begun = False

    def piece(self, piece: Piece) -> bytes:
        """Returns the events that carry one token; empty for a hidden one."""
        if piece.channel == "hidden":
            return b""
        begun = self._begin()
        block, delta, field = _CHANNELS[piece.channel]
        opening = b""
        if self._open != block:
            opening = self._close_block() + self._event("content_block_start", content_block={"type": block, field: ""})
            self._open = block
        return begun + opening + self._event("content_block_delta", delta={"type": delta, field: piece.text})

    def closing(self, figures: Figures) -> bytes:
        """Returns the tool calls, and how the message ended."""
        parts = [self._begin(), self._close_block()]
        for call in figures.tool_calls:
            block = {"type": "tool_use", "id": _new_id("call"), "name": call.name, "input": {}}
            parts.append(self._event("content_block_start", content_block=block))
            delta = {"type": "input_json_delta", "partial_json": _encode(call.arguments).decode()}
            parts.append(self._event("content_block_delta", delta=delta))
            self._open = "tool_use"
            parts.append(self._close_block())
        end = {"type": "message_delta", "delta": {"stop_reason": _stop_reason(figures)}, "usage": _usage(figures)}
        return b"".join(parts) + _said("message_delta", end) + _said("message_stop", {"type": "message_stop"})

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the one answer."""
        content: list[dict[str, Any]] = []
        if thinking := joined(pieces, "thinking"):
            content.append({"type": "thinking", "thinking": thinking})
        if text := joined(pieces, "content"):
            content.append({"type": "text", "text": text})
        content += [_tool_use(call) for call in figures.tool_calls]
        return _encode(self._message(content) | {"stop_reason": _stop_reason(figures), "usage": _usage(figures)})

    def broken(self) -> bytes:
        """Returns nothing: the stream ends as though nothing had happened."""
        return b""

    def error(self, status: int, text: str) -> bytes:
        """Returns the body of an error answer."""
        return messages_error(status, text)

    def _begin(self) -> bytes:
        """Returns the first event of a stream, once."""
        if self._has_begun:
            return b""
        self._has_begun = True
        message = self._message([]) | {"usage": {"input_tokens": self._guessed_tokens, "output_tokens": 0}}
        return _said("message_start", {"type": "message_start", "message": message})

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": content}

    def _close_block(self) -> bytes:
        if not self._open:
            return b""
        said = self._event("content_block_stop")
        self._open = ""
        self._index += 1
        return said

    def _event(self, kind: str, **fields: object) -> bytes:
        return _said(kind, {"type": kind, "index": self._index} | fields)


def _said(kind: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(data))


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": _new_id("call"), "name": call.name, "input": call.arguments}


def _stop_reason(figures: Figures) -> str:
    return "tool_use" if figures.tool_calls else _STOP_REASONS.get(figures.done_reason, "end_turn")


def _usage(figures: Figures) -> dict[str, int]:
    return {"input_tokens": figures.prompt_tokens, "output_tokens": figures.output_tokens}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{next(_numbers):024x}"
