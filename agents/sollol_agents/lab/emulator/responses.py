"""/v1/responses as Ollama answers it: without memory of earlier responses, in the usual sequence of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sollol_agents.lab.emulator import calls, http, stamps
from sollol_agents.lab.emulator.calls import Machine, Talk
from sollol_agents.lab.emulator.dialects import joined
from sollol_agents.lab.emulator.openai import decoded_image
from sollol_agents.lab.emulator.reading import read_body, read_effort
from sollol_agents.lab.emulator.refusals import RefusalError
from sollol_agents.requests.ollama import gojson
from sollol_agents.requests.ollama.bodies import RESPONSES, Body
from sollol_agents.requests.ollama.shapes import MismatchError, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sollol_agents.lab.emulator.calls import Call
    from sollol_agents.lab.emulator.dialects import Figures
    from sollol_agents.lab.emulator.text import Piece, ToolCall

PATH: Final = "/v1/responses"
_encode = gojson.write_sorted
_ITEM: Final = 'struct { Type string "json:\\"type\\""; Role string "json:\\"role\\"" }'
_WEB_SEARCH: Final[Body] = {
    "type": "function",
    "function": {
        "name": "web_search",
        "description": "Search the web for current information.",
        "parameters": {
            "type": "object",
            "required": ["query"],
            "properties": {"query": {"type": "string", "description": "The query to search"}},
        },
    },
}


def responses_call(body: bytes, machine: Machine) -> Call:
    """Returns the call in a body of /v1/responses.

    Raises:
        RefusalError: the request cannot be served.
    """
    request = read_body(body, RESPONSES, is_openai=True)
    if not request.get("model"):
        raise RefusalError("model is required", is_at_door=True)
    turns = _turns(request.get("input"))
    if request.get("instructions") and turns:
        turns.insert(0, {"role": "system", "content": request["instructions"]})
    talk = Talk(
        name=request["model"],
        turns=turns,
        tools=[_tool(tool) for tool in request.get("tools") or ()],
        think=read_effort((request.get("reasoning") or {}).get("effort") or ""),
        format=_format(request.get("text")),
        options={"temperature": request.get("temperature", 1.0), "num_predict": request.get("max_output_tokens", -1)},
        is_stream=request.get("stream", False),
    )
    return calls.conversation(talk, machine, Responses(request))


def _turns(given: object) -> list[Body]:
    """Returns the input as messages of a conversation; an empty one is none."""
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        found = MismatchError(kind_of(given), "[]json.RawMessage")
        raise RefusalError(f"input must be a string or array: {found}", is_at_door=True)
    turns: list[Body] = []
    for place, item in enumerate(given):
        if not isinstance(item, dict):
            raise RefusalError(f"input[{place}]: {MismatchError(kind_of(item), _ITEM)}", is_at_door=True)
        _add_item(turns, item, place)
    return turns


def _add_item(turns: list[Body], item: Body, place: int) -> None:
    """Adds one item of the input to a conversation."""
    kind = item.get("type") or ("message" if item.get("role") else "")
    if kind == "message":
        turns.append({"role": item.get("role", "")} | _content(item.get("content")))
    elif kind == "function_call":
        arguments = gojson.read((item.get("arguments") or "{}").encode())
        call = {"id": item.get("call_id", ""), "function": {"name": item.get("name", ""), "arguments": arguments}}
        if turns and turns[-1].get("role") == "assistant":
            turns[-1].setdefault("tool_calls", []).append(call)
        else:
            turns.append({"role": "assistant", "content": "", "tool_calls": [call]})
    elif kind == "function_call_output":
        turns.append({"role": "tool", "content": str(item.get("output", ""))})
    elif kind != "reasoning":
        raise RefusalError(f'input[{place}]: unknown input item type: "{kind}"', is_at_door=True)


def _content(content: object) -> Body:
    """Returns text and images of a message."""
    if not isinstance(content, list):
        return {"content": content or ""}
    said: Body = {"content": ""}
    for part in content:
        if isinstance(part, dict) and part.get("type") == "input_image":
            said.setdefault("images", []).append(decoded_image(str(part.get("image_url", ""))))
        elif isinstance(part, dict):
            said["content"] += part.get("text") or ""
    return said


def _tool(tool: Body) -> Body:
    """Returns a tool as Ollama's; one that the vendor runs itself has parameters of its own."""
    if tool.get("type") == "web_search":
        return _WEB_SEARCH
    function = {key: tool[key] for key in ("name", "description", "parameters") if key in tool}
    return {"type": tool.get("type", ""), "function": function}


def _format(wanted: Body | None) -> object:
    """Returns Ollama's format for the one of a response."""
    given = (wanted or {}).get("format") or {}
    if given.get("type") == "json_object":
        return "json"
    return given.get("schema") if given.get("type") == "json_schema" else None


class Responses:
    """The answer of /v1/responses."""

    content_type = http.EVENTS
    is_cached = False

    def __init__(self, request: Body) -> None:
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
        return _encode(self._response("completed", figures)) + b"\n"

    def rendered(self, prompt: str) -> bytes:
        """Returns an empty response: this path knows no such wish."""
        del prompt
        return _encode(self._response("completed", None)) + b"\n"

    def broken(self) -> bytes:
        """Returns nothing: the stream ends as though nothing had happened."""
        return b""

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
        now = stamps.unix_s()
        return _FIXED | {
            "id": self._id,
            "object": "response",
            "created_at": now,
            "completed_at": now if status == "completed" else None,
            "status": status,
            "model": request["model"],
            "output": self._output,
            "usage": None if figures is None else _usage(figures),
            "background": request.get("background", False),
            "truncation": request.get("truncation") or "disabled",
            "instructions": request.get("instructions"),
            "max_output_tokens": request.get("max_output_tokens"),
            "reasoning": request.get("reasoning"),
            "tools": [_TOOL_FIELDS | tool for tool in request.get("tools") or ()],
            "text": request.get("text") or {"format": {"type": "text"}},
            "temperature": request.get("temperature", 1.0),
            "top_p": request.get("top_p", 1.0),
        }


_TOOL_FIELDS: Final = {"type": "", "name": "", "description": None, "strict": None, "parameters": None}
_FIXED: Final[dict[str, Any]] = {
    "error": None,
    "frequency_penalty": 0,
    "incomplete_details": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": False,
    "tool_choice": "auto",
    "top_logprobs": 0,
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
    return f"{prefix}_{stamps.number()}"
