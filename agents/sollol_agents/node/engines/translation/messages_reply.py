"""OpenAI's stream of a chat as Anthropic's: events for a client that streams, one message for one that does not."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_agents.node.engines.decoding import decoded
from sollol_agents.node.engines.passthrough import Tail
from sollol_agents.node.engines.refusals import engine_error, failure_code
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures

_STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_encode = msgspec.json.Encoder().encode


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    timings: Any = None
    error: Any = None


class MessageStream:
    """Turns the events of one OpenAI stream into those of one Anthropic message.

    Args:
        message_id: The message's id.
        model: The name to tell the caller.
    """

    def __init__(self, message_id: str, model: str) -> None:
        self._id = message_id
        self._model = model
        self._blocks: list[dict[str, Any]] = []
        self._texts: list[list[str]] = []
        self._open: tuple[str, int] | None = None
        """Kind of the open block, and the number of the call for a tool's."""
        self._tail: Tail | None = None
        self._finish: str | None = None

    def start(self) -> bytes:
        """The events before the first token."""
        message = self._message() | {"content": [], "stop_reason": None}
        return _event("message_start", {"message": message})

    def feed(self, data: bytes) -> bytes:
        """The events for one event's data; empty when it says nothing to the caller.

        Raises:
            SollolError: The event is not what it should be, or reports an error.
        """
        event = decoded(data, _Event, "a stream")
        if event.error is not None:
            text = str(event.error.get("message", event.error)) if isinstance(event.error, dict) else str(event.error)
            raise engine_error(failure_code(text), text)
        if event.usage is not None or event.timings is not None:
            self._tail = decoded(data, Tail, "a stream")
        if not event.choices:
            return b""
        choice = event.choices[0]
        self._finish = choice.finish_reason or self._finish
        delta = choice.delta or _Delta()
        out = b""
        if thought := delta.reasoning_content or delta.reasoning:
            out += self._add(("thinking", 0), {"type": "thinking", "thinking": "", "signature": ""}, thought)
        if delta.content:
            out += self._add(("text", 0), {"type": "text", "text": ""}, delta.content)
        for call in delta.tool_calls or ():
            function = call.function or _Function()
            block = {"type": "tool_use", "id": call.id or f"toolu_{self._id}_{call.index}", "name": "", "input": {}}
            block["name"] = function.name or ""
            out += self._add(("tool_use", call.index), block, function.arguments or "")
        return out

    def finish(self) -> bytes:
        """The events after the last token.

        Raises:
            BackendBrokeProtocol: The engine never said why it ended.
        """
        told = {"stop_reason": self._stop_reason(), "stop_sequence": None}
        usage = self._usage()
        return self._close() + _event("message_delta", {"delta": told, "usage": usage}) + _event("message_stop", {})

    def whole(self) -> bytes:
        """The message for a client that does not stream.

        Raises:
            BackendBrokeProtocol: The engine never said why it ended, or a tool's arguments are not JSON.
        """
        content = [
            self._complete(block, "".join(texts)) for block, texts in zip(self._blocks, self._texts, strict=True)
        ]
        return _encode(
            self._message() | {"content": content, "stop_reason": self._stop_reason(), "usage": self._usage()}
        )

    def figures(self) -> Figures:
        """What the engine said about the work."""
        return self._tail.figures() if self._tail is not None else Figures()

    def _add(self, place: tuple[str, int], block: dict[str, Any], text: str) -> bytes:
        out = b""
        if self._open != place:
            out = self._close()
            self._open = place
            self._blocks.append(block)
            self._texts.append([])
            out += _event("content_block_start", {"index": len(self._blocks) - 1, "content_block": block})
        if not text:
            return out
        self._texts[-1].append(text)
        delta = {
            "text": {"type": "text_delta", "text": text},
            "thinking": {"type": "thinking_delta", "thinking": text},
            "tool_use": {"type": "input_json_delta", "partial_json": text},
        }[place[0]]
        return out + _event("content_block_delta", {"index": len(self._blocks) - 1, "delta": delta})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", {"index": len(self._blocks) - 1})

    def _complete(self, block: dict[str, Any], text: str) -> dict[str, Any]:
        if block["type"] != "tool_use":
            return block | {block["type"]: text}
        try:
            return block | {"input": msgspec.json.decode(text) if text else {}}
        except msgspec.DecodeError as error:
            raise engine_error(
                ErrorCode.ENGINE_PROTOCOL, f"the arguments of a tool call are not JSON: {error}"
            ) from error

    def _stop_reason(self) -> str:
        if self._finish is None:
            raise engine_error(ErrorCode.ENGINE_PROTOCOL, "the engine's stream ended without a finish_reason")
        if any(block["type"] == "tool_use" for block in self._blocks):
            return "tool_use"
        return _STOP_REASONS.get(self._finish, "end_turn")

    def _usage(self) -> dict[str, int]:
        told = self.figures()
        return {"input_tokens": told.prompt_tokens or 0, "output_tokens": told.output_tokens or 0}

    def _message(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))
