"""/v1/messages as Ollama answers it: the request, and the dialect of its answer.

The tokens of the prompt are guessed from its characters when a stream begins and told truly when it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sollol_agents.lab.emulator import calls, http, stamps
from sollol_agents.lab.emulator.calls import Machine, Talk
from sollol_agents.lab.emulator.dialects import joined
from sollol_agents.lab.emulator.reading import read_body
from sollol_agents.lab.emulator.refusals import RefusalError
from sollol_agents.requests.ollama import gojson
from sollol_agents.requests.ollama.bodies import MESSAGES, Body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sollol_agents.lab.emulator.calls import Call
    from sollol_agents.lab.emulator.dialects import Figures
    from sollol_agents.lab.emulator.text import Piece, ToolCall

PATH: Final = "/v1/messages"
_CHARACTERS_PER_TOKEN: Final = 4
_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens"}
_OTHER_REASON: Final = "stop_sequence"
_ERROR_TYPES: Final = {
    400: "invalid_request_error",
    404: "not_found_error",
    503: "overloaded_error",
}
_CHANNELS: Final = {"content": ("text", "text_delta", "text"), "thinking": ("thinking", "thinking_delta", "thinking")}


def messages_call(body: bytes, machine: Machine) -> Call:
    """Returns the call in a body of /v1/messages.

    Raises:
        RefusalError: the request cannot be served.
    """
    request = read_body(body, MESSAGES, is_openai=True)
    if not request.get("model"):
        raise RefusalError("model is required", is_at_door=True)
    if request.get("max_tokens", 0) <= 0:
        raise RefusalError("max_tokens is required and must be positive", is_at_door=True)
    if not request.get("messages"):
        raise RefusalError("messages is required", is_at_door=True)
    system = _text(request.get("system"))
    turns = [{"role": "system", "content": system}] if system else []
    turns += [made for turn in request["messages"] for made in _turns(turn)]
    tools = [_tool(tool) for tool in request.get("tools") or ()]
    guess = sum(len(turn.get("content") or "") + len(turn.get("role") or "") for turn in turns) // _CHARACTERS_PER_TOKEN
    thinking = (request.get("thinking") or {}).get("type")
    options: Body = {"num_predict": request["max_tokens"], "temperature": request.get("temperature", 1.0)}
    if "stop_sequences" in request:
        options["stop"] = request["stop_sequences"]
    talk = Talk(
        name=request["model"],
        turns=turns,
        tools=tools,
        think=True if thinking == "enabled" else None,
        options=options,
        is_stream=request.get("stream", False),
        is_think_relaxed=True,
    )
    return calls.conversation(talk, machine, Messages(talk.name, input_tokens=guess or 1))


def _turns(turn: Body) -> list[Body]:
    """Returns a message as Ollama's: results of tools come first, what is unknown is left out."""
    content = turn.get("content")
    if isinstance(content, str):
        return [{"role": turn.get("role", ""), "content": content}]
    results: list[Body] = []
    said: Body = {}
    for block in content or ():
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            said["content"] = said.get("content", "") + (block.get("text") or "")
        elif kind == "thinking":
            said["thinking"] = block.get("thinking") or ""
        elif kind == "image":
            said.setdefault("images", []).append(_image(block.get("source") or {}))
        elif kind == "tool_use":
            function = {"name": block.get("name", ""), "arguments": block.get("input") or {}}
            said.setdefault("tool_calls", []).append({"id": block.get("id", ""), "function": function})
        elif kind == "tool_result":
            results.append({"role": "tool", "content": _text(block.get("content"))})
    return [*results, {"role": turn.get("role", "")} | said] if said else results


def _image(source: Body) -> str:
    kind = source.get("type", "")
    if kind != "base64":
        told = f"invalid image source type: {kind}. Only base64 images are supported."
        raise RefusalError(told, is_at_door=True)
    return str(source.get("data", ""))


def _text(content: object) -> str:
    """Returns the text of all text blocks; what is neither text nor blocks is no text."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(one.get("text") or "" for one in blocks if isinstance(one, dict) and one.get("type") == "text")


def _tool(tool: Body) -> Body:
    function = {"name": tool.get("name", ""), "description": tool.get("description", "")}
    schema = tool.get("input_schema")
    return {"type": "function", "function": function | ({"parameters": schema} if isinstance(schema, dict) else {})}


def messages_error(status: int, text: str) -> bytes:
    """Returns the body of an error on /v1/messages."""
    kind = _ERROR_TYPES.get(status, "api_error")
    error = {"type": kind, "message": text}
    return gojson.write({"type": "error", "error": error, "request_id": stamps.hex_id("req")})


class Messages:
    """The answer of /v1/messages."""

    content_type = http.EVENTS
    is_cached = False

    def __init__(self, model: str, *, input_tokens: int) -> None:
        self._model = model
        self._guessed_tokens = input_tokens
        self._id = stamps.hex_id("msg")
        self._open = ""
        self._index = 0
        self._has_begun = False

    def piece(self, piece: Piece) -> bytes:
        """Returns the events that carry one token; empty for a hidden one."""
        if piece.channel == "hidden":
            return b""
        begun = self._begin(self._guessed_tokens)
        block, delta, field = _CHANNELS[piece.channel]
        opening = b""
        if self._open != block:
            opening = self._close_block() + self._event("content_block_start", content_block={"type": block, field: ""})
            self._open = block
        return begun + opening + self._event("content_block_delta", delta={"type": delta, field: piece.text})

    def closing(self, figures: Figures) -> bytes:
        """Returns the tool calls, and how the message ended."""
        parts = [self._begin(figures.prompt_tokens), self._close_block()]
        for call in figures.tool_calls:
            block = {"type": "tool_use", "id": stamps.call_id(), "name": call.name, "input": {}}
            parts.append(self._event("content_block_start", content_block=block))
            delta = {"type": "input_json_delta", "partial_json": gojson.write(call.arguments).decode()}
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
        ending = {"stop_reason": _stop_reason(figures), "usage": _usage(figures)}
        return gojson.write(self._message(content or None) | ending) + b"\n"

    def rendered(self, prompt: str) -> bytes:
        """Returns an empty message: this path knows no such wish."""
        del prompt
        return gojson.write(self._message(None)) + b"\n"

    def broken(self) -> bytes:
        """Returns nothing: the stream ends as though nothing had happened."""
        return b""

    def _begin(self, input_tokens: int) -> bytes:
        """Returns the first event of a stream, once."""
        if self._has_begun:
            return b""
        self._has_begun = True
        message = self._message([]) | {"usage": {"input_tokens": input_tokens, "output_tokens": 0}}
        return _said("message_start", {"type": "message_start", "message": message})

    def _message(self, content: list[dict[str, Any]] | None) -> dict[str, Any]:
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
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), gojson.write(data))


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": stamps.call_id(), "name": call.name, "input": call.arguments}


def _stop_reason(figures: Figures) -> str:
    return "tool_use" if figures.tool_calls else _STOP_REASONS.get(figures.done_reason, _OTHER_REASON)


def _usage(figures: Figures) -> dict[str, int]:
    return {"input_tokens": figures.prompt_tokens, "output_tokens": figures.output_tokens}
