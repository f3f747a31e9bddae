"""Anthropic's Messages in OpenAI's words, for engines that do not speak them. Pure.

What an engine cannot honour is refused by name. `metadata`, `service_tier` and cache marks have no meaning here and are
left out; signatures of earlier thoughts prove nothing to another model, so earlier thoughts are left out too.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_agents.node.engines.refusals import engine_error
from sollol_agents.node.engines.translation.chat import unsupported
from sollol_bus.errors import SollolError
from sollol_schemas.errors import ErrorCode

_SAME: Final = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_tokens": "max_tokens"}
_WITHOUT_EFFECT: Final = frozenset({"model", "stream", "metadata", "service_tier", "stop_sequences", "cache_control"})
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})

Fields = dict[str, Any]


def chat_of(fields: Fields, model: str) -> Fields:
    """A streaming chat completion that asks the same as a message.

    Args:
        fields: The body of `/v1/messages`.
        model: The model's name on the engine.

    Raises:
        BadRequest: A field is malformed, or cannot be honoured.
    """
    rest = {name: value for name, value in fields.items() if name not in _WITHOUT_EFFECT and value is not None}
    out: Fields = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    out |= {_SAME[name]: rest.pop(name) for name in _SAME if name in rest}
    messages = _system(rest.pop("system", None))
    messages += [one for index, turn in enumerate(_list(rest.pop("messages", []))) for one in _turn(turn, index)]
    out["messages"] = messages
    if stops := fields.get("stop_sequences"):
        out["stop"] = stops
    if tools := rest.pop("tools", None):
        out["tools"] = [_tool(tool, index) for index, tool in enumerate(_list(tools))]
    if (choice := rest.pop("tool_choice", None)) is not None:
        out["tool_choice"] = _choice(choice)
    thinking = rest.pop("thinking", None)
    if isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive"):
        out["reasoning_effort"] = "medium"
    for name, value in rest.items():
        if value not in ("", [], {}, False):
            raise unsupported(name)
    return out


def _system(system: Any) -> list[Fields]:  # noqa: ANN401 from the body
    text = system if isinstance(system, str) else "\n".join(_text(block, "system") for block in system or ())
    return [{"role": "system", "content": text}] if text else []


def _turn(turn: Any, index: int) -> list[Fields]:  # noqa: ANN401 from the body
    """One turn as OpenAI's messages: results of tools are messages of their own and come first."""
    if not isinstance(turn, dict):
        raise _malformed(f"messages[{index}] must be an object")
    role, content = turn.get("role"), turn.get("content", "")
    if role not in ("user", "assistant", "system"):
        raise _malformed(f"messages[{index}].role must be user or assistant")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results: list[Fields] = []
    parts: list[Fields] = []
    calls: list[Fields] = []
    for number, block in enumerate(_list(content)):
        where = f"messages[{index}].content[{number}]"
        kind = block.get("type") if isinstance(block, dict) else None
        match kind:
            case "text":
                parts.append({"type": "text", "text": _text(block, where)})
            case "image":
                parts.append({"type": "image_url", "image_url": {"url": _image(block.get("source"), where)}})
            case "tool_use":
                calls.append(_call(block))
            case "tool_result":
                results.append(_result(block, where))
            case _ if kind not in _THOUGHTS:
                raise unsupported(f"{where}.type", f"{kind!r} is not known here")
    message: Fields = {"role": role, "content": _flat(parts)}
    if calls:
        message["tool_calls"] = calls
    return [*results, message] if parts or calls or not results else results


def _flat(parts: list[Fields]) -> str | list[Fields]:
    """Texts alone as one text: not every engine takes a list."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _image(source: Any, where: str) -> str:  # noqa: ANN401 from the body
    match source:
        case {"type": "base64", "media_type": str(kind), "data": str(data)}:
            return f"data:{kind};base64,{data}"
        case {"type": "url", "url": str(url)}:
            return url
    raise _malformed(f"{where}.source must be base64 or a url")


def _call(block: Fields) -> Fields:
    arguments = msgspec.json.encode(block.get("input") or {}).decode()
    return {
        "id": block.get("id", ""),
        "type": "function",
        "function": {"name": block.get("name", ""), "arguments": arguments},
    }


def _result(block: Fields, where: str) -> Fields:
    content = block.get("content") or ""
    text = content if isinstance(content, str) else "\n".join(_text(part, where) for part in _list(content))
    return {"role": "tool", "tool_call_id": block.get("tool_use_id", ""), "content": text}


def _tool(tool: Any, index: int) -> Fields:  # noqa: ANN401 from the body
    if not isinstance(tool, dict):
        raise _malformed(f"tools[{index}] must be an object")
    if tool.get("type", "custom") != "custom":
        raise unsupported(f"tools[{index}].type", "only tools of your own can be used")
    function = {"name": tool.get("name", ""), "parameters": tool.get("input_schema") or {"type": "object"}}
    if description := tool.get("description"):
        function["description"] = description
    return {"type": "function", "function": function}


def _choice(choice: Any) -> Any:  # noqa: ANN401 from the body
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name", "")}}
    if kind not in _CHOICES:
        raise _malformed("tool_choice.type must be auto, any, tool or none")
    return _CHOICES[kind]


def _text(block: Any, where: str) -> str:  # noqa: ANN401 from the body
    if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
        return str(block["text"])
    raise unsupported(where, "only text can be used there")


def _list(value: Any) -> list[Any]:  # noqa: ANN401 from the body
    if not isinstance(value, list):
        raise _malformed("messages, content and tools must be lists")
    return value


def _malformed(message: str) -> SollolError:
    return engine_error(ErrorCode.BAD_REQUEST, message)
