"""OpenAI's stream of a chat as Anthropic's: events for a client that streams, one message for one that does not."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_agents.node.engines.translation.calls import Call
from sollol_agents.node.engines.translation.chat_stream import ChatStream
from sollol_schemas.execution import Figures

_STOP_REASONS: Final = {"length": "max_tokens", "content_filter": "refusal"}
_STARTS: Final[dict[str, dict[str, Any]]] = {
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "text": {"type": "text", "text": ""},
}
_encode = msgspec.json.Encoder().encode


class MessageStream:
    """Turns the events of one OpenAI stream into those of one Anthropic message.

    Args:
        message_id: The message's id.
        model: The name to tell the caller.
        stop_sequences: The texts at which the caller wants it to end.
    """

    def __init__(self, message_id: str, model: str, stop_sequences: tuple[str, ...] = ()) -> None:
        self._id = message_id
        self._model = model
        self._stop_sequences = stop_sequences
        self._stream = ChatStream()
        self._blocks: list[dict[str, Any]] = []
        self._texts: list[list[str]] = []
        self._is_open = False

    def start(self) -> bytes:
        """The events before the first token."""
        return _event("message_start", {"message": self._message()})

    def feed(self, data: bytes) -> bytes:
        """The events for one event's data; empty when it says nothing to the caller.

        A call of a tool is told when it is whole; until then the caller is told that the work goes on.

        Raises:
            SollolError: The event is not what it should be, or reports an error.
        """
        said = self._stream.feed(data)
        out = self._add("thinking", said.thinking) + self._add("text", said.content)
        if out or not self._stream.calls or self._stream.finish_reason is not None:
            return out
        return _event("ping", {})

    def finish(self) -> bytes:
        """The events after the last token: the calls of tools, and the end.

        Raises:
            BackendBrokeProtocol: The engine never said why it ended.
        """
        out, calls = self._end()
        for call in calls:
            block = {"type": "tool_use", "id": call["id"], "name": call["name"], "input": {}}
            delta = {"type": "input_json_delta", "partial_json": _encode(call["input"]).decode()}
            out += self._start(block) + self._delta(delta) + self._close()
        told = _event("message_delta", {"delta": self._stop(calls), "usage": self._usage()})
        return out + told + _event("message_stop", {})

    def whole(self) -> bytes:
        """The message for a client that does not stream.

        Raises:
            BackendBrokeProtocol: The engine never said why it ended.
        """
        _, calls = self._end()
        texts = [block | {block["type"]: "".join(said)} for block, said in zip(self._blocks, self._texts, strict=True)]
        return _encode(self._message() | {"content": texts + calls, "usage": self._usage()} | self._stop(calls))

    def figures(self) -> Figures:
        """What the engine said about the work."""
        return self._stream.figures()

    def _end(self) -> tuple[bytes, list[dict[str, Any]]]:
        """The events that close what is open, and the blocks of the calls."""
        calls, texts = self._stream.calls.ended(self._stream.ended())
        out = self._add("text", "\n".join(texts)) + self._close()
        return out, [self._block(call, number) for number, call in enumerate(calls)]

    def _block(self, call: Call, number: int) -> dict[str, Any]:
        made_up = f"toolu_{self._id}_{number}"
        return {"type": "tool_use", "id": call.id or made_up, "name": call.name, "input": call.arguments}

    def _add(self, kind: str, text: str) -> bytes:
        if not text:
            return b""
        out = b""
        if not self._is_open or self._blocks[-1]["type"] != kind:
            out = self._close() + self._start(_STARTS[kind])
        self._texts[-1].append(text)
        return out + self._delta({"type": f"{kind}_delta", kind: text})

    def _start(self, block: dict[str, Any]) -> bytes:
        self._blocks.append(block)
        self._texts.append([])
        self._is_open = True
        return _event("content_block_start", {"index": len(self._blocks) - 1, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": len(self._blocks) - 1, "delta": delta})

    def _close(self) -> bytes:
        if not self._is_open:
            return b""
        self._is_open = False
        return _event("content_block_stop", {"index": len(self._blocks) - 1})

    def _stop(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """Why it ended, as Anthropic tells it."""
        reason, sequence = self._stream.ended(), self._stream.stop_sequence
        if reason == "stop" and not calls and sequence in self._stop_sequences:
            return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
        usual = "tool_use" if calls else "end_turn"
        return {"stop_reason": _STOP_REASONS.get(reason, usual), "stop_sequence": None}

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
