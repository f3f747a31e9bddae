"""/v1/responses as Ollama answers it: without memory of earlier responses, in the usual sequence of events."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sollol_agents.lab.emulator import calls, http, wire
from sollol_agents.lab.emulator.dialects import joined, openai_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sollol_agents.lab.emulator.calls import Call
    from sollol_agents.lab.emulator.dialects import Figures
    from sollol_agents.lab.emulator.models import ModelStore
    from sollol_agents.lab.emulator.presets import Preset
    from sollol_agents.lab.emulator.text import Piece, ToolCall

PATH: Final = "/v1/responses"
_encode = msgspec.json.Encoder(order="sorted").encode
_numbers = itertools.count()


class _Tool(msgspec.Struct, frozen=True):
    type: str = ""
    name: str = ""
    parameters: dict[str, Any] | None = None


class _Format(msgspec.Struct, frozen=True):
    type: str = "text"
    schema: dict[str, Any] | None = None


class _Text(msgspec.Struct, frozen=True):
    format: _Format | None = None


class ResponsesRequest(msgspec.Struct, frozen=True):
    """Body of /v1/responses."""

    model: str = ""
    input: str | list[dict[str, Any]] = ""
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[_Tool] | None = None
    text: _Text | None = None


def responses_call(body: bytes, store: ModelStore, preset: Preset) -> Call:
    """Returns the call in a body of /v1/responses.

    Raises:
        BadRequestError: or one of its kinds, with the status and text of the answer.
    """
    request = wire.parse(body, ResponsesRequest)
    turns = [wire.Message(role="system", content=request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        turns.append(wire.Message(role="user", content=request.input))
    else:
        turns += [_message(item) for item in request.input]
    tools = [wire.Tool(wire.Function(tool.name, tool.parameters)) for tool in request.tools or ()]
    return calls.conversation_call(
        request.model,
        turns,
        store,
        preset,
        tools=tools,
        limit_tokens=-1 if request.max_output_tokens is None else request.max_output_tokens,
        json_schema=_schema(request.text),
        is_stream=request.stream,
        dialect=Responses(request),
    )


def _message(item: dict[str, Any]) -> wire.Message:
    """Returns one item of the input as a message of a conversation."""
    if item.get("type") == "function_call_output":
        return wire.Message(role="tool", content=str(item.get("output", "")))
    if item.get("type") == "function_call":
        return wire.Message(role="assistant")
    content = item.get("content", "")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return wire.Message(role=str(item.get("role", "user")), content=str(content))


def _schema(wanted: _Text | None) -> Mapping[str, Any] | None:
    """Returns the schema of a structured answer, None for plain text."""
    if wanted is None or wanted.format is None or wanted.format.type == "text":
        return None
    return wanted.format.schema or {}


class Responses:
    """The answer of /v1/responses."""

    content_type = http.EVENTS

    def __init__(self, request: ResponsesRequest) -> None:
        self._request = request
        self._id = _new_id("resp")
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._item: dict[str, Any] | None = None
        self._said = ""

    def piece(self, piece: Piece) -> bytes:
        """Returns the events that carry one token; empty for a hidden one."""
        if piece.channel == "hidden":
            return b""
        begun = self._begin()
        kind = "message" if piece.channel == "content" else "reasoning"
        opening = b""
        if self._item is None or self._item["type"] != kind:
            opening = self._close_item() + (self._open_message() if kind == "message" else self._open_reasoning())
        self._said += piece.text
        if kind == "message":
            return begun + opening + self._in_text("response.output_text.delta", delta=piece.text, logprobs=[])
        return begun + opening + self._in_summary("response.reasoning_summary_text.delta", delta=piece.text)

    def closing(self, figures: Figures) -> bytes:
        """Returns the tool calls and the completed response."""
        parts = [self._begin(), self._close_item()]
        parts += [self._function_call(call) for call in figures.tool_calls]
        parts.append(self._event("response.completed", response=self._response("completed", figures)))
        return b"".join(parts)

    def whole(self, pieces: Sequence[Piece], figures: Figures) -> bytes:
        """Returns the one answer."""
        if thinking := joined(pieces, "thinking"):
            self._output.append(_reasoning(_new_id("rs"), thinking))
        if figures.tool_calls:
            self._output += [_function_call(_new_id("fc"), call) for call in figures.tool_calls]
        else:
            self._output.append(_message_item(_new_id("msg"), joined(pieces, "content")))
        return _encode(self._response("completed", figures))

    def broken(self) -> bytes:
        """Returns nothing: the stream ends as though nothing had happened."""
        return b""

    def error(self, status: int, text: str) -> bytes:
        """Returns the body of an error answer."""
        return openai_error(status, text)

    def _begin(self) -> bytes:
        if self._sequence:
            return b""
        response = self._response("in_progress", None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _open_message(self) -> bytes:
        self._item = {"id": _new_id("msg"), "type": "message"}
        added = self._item | {"status": "in_progress", "role": "assistant", "content": []}
        return self._event("response.output_item.added", output_index=len(self._output), item=added) + self._in_text(
            "response.content_part.added", part=_part("")
        )

    def _open_reasoning(self) -> bytes:
        self._item = {"id": _new_id("rs"), "type": "reasoning"}
        added = self._item | {"summary": []}
        return self._event("response.output_item.added", output_index=len(self._output), item=added)

    def _close_item(self) -> bytes:
        """Returns the events that end the open item, if there is one."""
        item, text = self._item, self._said
        if item is None:
            return b""
        if item["type"] == "message":
            done = _message_item(item["id"], text)
            said = self._in_text("response.output_text.done", text=text, logprobs=[])
            said += self._in_text("response.content_part.done", part=_part(text))
        else:
            done = _reasoning(item["id"], text)
            said = self._in_summary("response.reasoning_summary_text.done", text=text)
        return said + self._done(done)

    def _function_call(self, call: ToolCall) -> bytes:
        done = _function_call(_new_id("fc"), call)
        place: dict[str, Any] = {"item_id": done["id"], "output_index": len(self._output)}
        added = done | {"status": "in_progress", "arguments": ""}
        said = self._event("response.output_item.added", output_index=len(self._output), item=added)
        said += self._event("response.function_call_arguments.delta", delta=done["arguments"], **place)
        said += self._event("response.function_call_arguments.done", arguments=done["arguments"], **place)
        return said + self._done(done)

    def _done(self, item: dict[str, Any]) -> bytes:
        said = self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._item, self._said = None, ""
        return said

    def _in_text(self, kind: str, **fields: object) -> bytes:
        assert self._item is not None
        return self._event(kind, item_id=self._item["id"], output_index=len(self._output), content_index=0, **fields)

    def _in_summary(self, kind: str, **fields: object) -> bytes:
        assert self._item is not None
        return self._event(kind, item_id=self._item["id"], output_index=len(self._output), summary_index=0, **fields)

    def _event(self, kind: str, **fields: object) -> bytes:
        data = _encode({"type": kind, "sequence_number": self._sequence} | fields)
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

    def _response(self, status: str, figures: Figures | None) -> dict[str, Any]:
        """Returns the whole object, with every field that clients expect."""
        request = self._request
        now = int(time.time())  # noqa: TID251 - a calendar instant that goes on the wire
        return {
            "id": self._id,
            "object": "response",
            "created_at": now,
            "completed_at": now if status == "completed" else None,
            "status": status,
            "model": request.model,
            "output": self._output,
            "usage": None if figures is None else _usage(figures),
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "tools": msgspec.to_builtins(request.tools or []),
            "text": msgspec.to_builtins(request.text) if request.text else {"format": {"type": "text"}},
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "top_p": 1.0 if request.top_p is None else request.top_p,
        } | _FIXED


_FIXED: Final[dict[str, Any]] = {
    "background": False,
    "error": None,
    "frequency_penalty": 0,
    "incomplete_details": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": False,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "truncation": "disabled",
}
"""What no request changes."""


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message_item(item_id: str, text: str) -> dict[str, Any]:
    content = [_part(text)]
    return {"id": item_id, "type": "message", "status": "completed", "role": "assistant", "content": content}


def _reasoning(item_id: str, text: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}]
    return {"id": item_id, "type": "reasoning", "summary": summary, "encrypted_content": text}


def _function_call(item_id: str, call: ToolCall) -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "function_call",
        "status": "completed",
        "call_id": _new_id("call"),
        "name": call.name,
        "arguments": _encode(call.arguments).decode(),
    }


def _usage(figures: Figures) -> dict[str, Any]:
    return {
        "input_tokens": figures.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": figures.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": figures.prompt_tokens + figures.output_tokens,
    }


def _new_id(prefix: str) -> str:
    return f"{prefix}_{next(_numbers)}"
