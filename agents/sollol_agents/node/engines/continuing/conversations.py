"""Conversations of Anthropic's Messages and OpenAI's Responses as chats, as the engines themselves read them. Pure.

Engines that speak these dialects turn them into a chat before they render it, each in its own way: which blanks stand
between two parts of a turn, and whether results of tools come before the text beside them. The prompt must come out the
same, so these ways are told apart here.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.continuing.refusing import not_continued
from sollol_agents.node.engines.translation.bodies import Fields


class Reading(Enum):
    """Whose way it is."""

    OLLAMA = "ollama"  # parts of a turn follow each other directly; results of tools come first
    LLAMA_CPP = "llama.cpp"  # parts stay parts, which its templates join by line feeds; results come last


_OWN_TOOLS: Final = (None, "custom", "function")


def of_messages(fields: Fields, reading: Reading) -> Fields:
    """The fields `messages` and `tools` of a chat that renders as a body of `/v1/messages`.

    Raises:
        SollolError: `not_continued`: it holds what no chat has.
    """
    system = fields.get("system")
    text = system if isinstance(system, str) else "".join(_texts(system))
    messages: list[Fields] = [{"role": "system", "content": text}] if text else []
    for turn in _objects(fields.get("messages")):
        messages += _turn(turn, reading)
    tools = [_tool(tool, "input_schema") for tool in _objects(fields.get("tools"))]
    return {"messages": messages} | ({"tools": tools} if tools else {})


def of_responses(fields: Fields, reading: Reading) -> Fields:
    """The fields `messages` and `tools` of a chat that renders as a body of `/v1/responses`.

    Raises:
        SollolError: `not_continued`: it holds what no chat has.
    """
    for name in ("previous_response_id", "conversation", "prompt"):
        if fields.get(name) and reading is not Reading.OLLAMA:
            raise not_continued(f"the conversation is kept elsewhere ({name})")
    said = fields.get("instructions")
    messages: list[Fields] = [{"role": "system", "content": said}] if said else []
    given = fields.get("input")
    if isinstance(given, str):
        return {"messages": [*messages, {"role": "user", "content": given}]} | _response_tools(fields)
    thought = ""
    for item in _objects(given):
        match item.get("type") or "message":
            case "message":
                messages.append(_message(item, reading, thought))
                thought = "" if item.get("role") == "assistant" else thought
            case "function_call":
                _add_call(messages, item, thought)
                thought = ""
            case "function_call_output":
                output = item.get("output", "")
                text = output if isinstance(output, str) else "".join(_texts(output))
                messages.append({"role": "tool", "tool_call_id": item.get("call_id", ""), "content": text})
            case "reasoning":
                thought = str(item.get("encrypted_content") or "".join(_texts(item.get("content"))))
            case kind:
                raise not_continued(f"an item of the conversation of type {kind!r:.40} is not read again")
    return {"messages": messages} | _response_tools(fields)


def native(messages: list[Fields]) -> list[Fields]:
    """Messages of a chat of OpenAI's as Ollama's."""
    out = []
    for message in messages:
        one: Fields = {"role": message.get("role", ""), "content": _flat(message.get("content"))}
        if thought := message.get("reasoning_content"):
            one["thinking"] = thought
        if calls := message.get("tool_calls"):
            one["tool_calls"] = [_native_call(call) for call in calls]
        if call_id := message.get("tool_call_id"):
            one["tool_call_id"] = call_id
        out.append(one)
    return out


def _turn(turn: Fields, reading: Reading) -> list[Fields]:
    content, role = turn.get("content"), str(turn.get("role", "user")).lower()
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    parts: list[Fields] = []
    calls, results, thought = [], [], ""
    for block in _objects(content):
        match block.get("type"):
            case "text":
                parts.append({"type": "text", "text": str(block.get("text", ""))})
            case "thinking":
                thought = str(block.get("thinking", ""))
            case "tool_use":
                calls.append(_call(block.get("id"), block.get("name"), block.get("input") or {}))
            case "tool_result":
                results.append(_result(block))
            case kind:
                raise not_continued(f"a part of the conversation of type {kind!r:.40} is not read again")
    message: Fields = {"role": role, "content": _together(parts, reading)}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    own = [message] if parts or calls or thought else []
    return [*results, *own] if reading is Reading.OLLAMA and role == "user" else [*own, *results]


def _result(block: Fields) -> Fields:
    content = block.get("content") or ""
    text = content if isinstance(content, str) else "".join(_texts(content))
    return {"role": "tool", "tool_call_id": block.get("tool_use_id", ""), "content": text}


def _message(item: Fields, reading: Reading, thought: str) -> Fields:
    content, role = item.get("content", ""), str(item.get("role", ""))
    if reading is Reading.LLAMA_CPP and role == "developer":
        role = "system"
    parts = [{"type": "text", "text": text} for text in ([content] if isinstance(content, str) else _texts(content))]
    message: Fields = {"role": role, "content": content if isinstance(content, str) else _together(parts, reading)}
    return message | ({"reasoning_content": thought} if thought and role == "assistant" else {})


def _add_call(messages: list[Fields], item: Fields, thought: str) -> None:
    try:
        arguments = msgspec.json.decode(item.get("arguments") or "{}")
    except (msgspec.DecodeError, TypeError):
        arguments = {}
    call = _call(item.get("call_id"), item.get("name"), arguments)
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    if thought:
        messages[-1]["reasoning_content"] = thought


def _together(parts: list[Fields], reading: Reading) -> str | list[Fields]:
    if reading is Reading.LLAMA_CPP and parts:
        return parts
    return "".join(part["text"] for part in parts)


def _flat(content: Any) -> str:  # noqa: ANN401 from the body
    return content if isinstance(content, str) else "".join(_texts(content))


def _texts(parts: Any) -> list[str]:  # noqa: ANN401 from the body
    return [str(part.get("text", "")) for part in _objects(parts)]


def _objects(value: Any) -> list[Fields]:  # noqa: ANN401 from the body
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _call(call_id: Any, name: Any, arguments: Any) -> Fields:  # noqa: ANN401 from the body
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return {"id": call_id or "", "type": "function", "function": {"name": name or "", "arguments": text}}


def _native_call(call: Fields) -> Fields:
    function = call["function"]
    try:
        arguments = msgspec.json.decode(function["arguments"] or "{}")
    except msgspec.DecodeError:
        arguments = {}
    return {"id": call.get("id", ""), "function": {"name": function["name"], "arguments": arguments}}


def _response_tools(fields: Fields) -> Fields:
    tools = [_tool(tool, "parameters") for tool in _objects(fields.get("tools"))]
    return {"tools": tools} if tools else {}


def _tool(tool: Fields, schema: str) -> Fields:
    if tool.get("type") not in _OWN_TOOLS:
        raise not_continued(f"a tool of type {tool.get('type')!r:.40} is the vendor's own")
    function: Fields = {"name": tool.get("name", "")}
    function |= {"description": tool["description"]} if tool.get("description") is not None else {}
    function |= {"strict": tool["strict"]} if tool.get("strict") is not None else {}
    return {"type": "function", "function": function | {"parameters": tool.get(schema) or {}}}
