"""Anthropic's Messages in OpenAI's words, for engines that do not speak them. Pure.

Clients of that API send much that only its vendor has: marks for its cache, tools that it runs, plans for its context,
thoughts that it signed. What has no meaning here is left out, as Ollama does; a document that no engine here can read
is named to the model in its place. What changes the answer and cannot be done is refused by name.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_agents.node.engines.translation.bodies import Fields, malformed, unsupported, whole
from sollol_agents.node.engines.translation.chat import streaming, thinking

_SAME: Final = ("temperature", "top_p", "top_k", "max_tokens")
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_ROLES: Final = ("user", "assistant", "system")
_MADE_ELSEWHERE: Final = "it is a tool of the vendor's, not one of yours"


def chat_of(fields: Fields, model: str) -> Fields:
    """A streaming chat completion that asks the same as a message.

    Args:
        fields: The body of `/v1/messages`.
        model: The model's name on the engine.

    Raises:
        BadRequest: A field is malformed, or cannot be honoured.
    """
    out = streaming(model) | {name: whole(fields[name]) for name in _SAME if name in fields}
    turns = [one for index, turn in enumerate(_list(fields.get("messages", []))) for one in _turn(turn, index)]
    out["messages"] = _system(fields.get("system")) + turns
    if stops := fields.get("stop_sequences"):
        out["stop"] = stops
    return out | _tools(fields) | _effort(fields)


def _system(system: Any) -> list[Fields]:  # noqa: ANN401 from the body
    text = system if isinstance(system, str) else _flat(_Content(system or [], "system").parts)
    return [{"role": "system", "content": text}] if text else []


class _Content:
    """The blocks of one turn, sorted by where OpenAI has them."""

    def __init__(self, blocks: Any, where: str) -> None:  # noqa: ANN401 from the body
        self.parts: list[Fields] = []
        self.results: list[Fields] = []
        self.calls: list[Fields] = []
        for number, block in enumerate(_list(blocks)):
            if not isinstance(block, dict):
                raise malformed(f"{where}[{number}] must be an object")
            self._take(block, f"{where}[{number}]")

    def _take(self, block: Fields, where: str) -> None:
        match block.get("type"):
            case "text":
                self.parts.append(_text(block.get("text"), f"{where}.text"))
            case "image":
                self.parts.append({"type": "image_url", "image_url": {"url": _image(block.get("source"), where)}})
            case "document":
                self.parts += _document(block, where)
            case "search_result":
                about = f"{block.get('title', '')} ({block.get('source', '')})"
                self.parts += [_text(about, where), *_Content(block.get("content") or [], where).parts]
            case "tool_use":
                self.calls.append(_call(block))
            case "tool_result":
                self._take_result(block, where)
            case _:
                pass  # thoughts, whose signatures prove nothing to another model, and traces of the vendor's own tools

    def _take_result(self, block: Fields, where: str) -> None:
        """A tool's message takes texts alone; what it shows beside them follows as the user's."""
        content = block.get("content") or []
        parts = [_text(content, where)] if isinstance(content, str) else _Content(content, f"{where}.content").parts
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        if block.get("is_error"):
            text = f"Error: {text}"
        self.results.append({"role": "tool", "tool_call_id": block.get("tool_use_id", ""), "content": text})
        self.parts += [part for part in parts if part["type"] != "text"]


def _turn(turn: Any, index: int) -> list[Fields]:  # noqa: ANN401 from the body
    """One turn as OpenAI's messages: results of tools are messages of their own and come first."""
    if not isinstance(turn, dict):
        raise malformed(f"messages[{index}] must be an object")
    role, content = turn.get("role"), turn.get("content", "")
    if role not in _ROLES:
        raise malformed(f"messages[{index}].role must be user or assistant")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    found = _Content(content, f"messages[{index}].content")
    message: Fields = {"role": role, "content": _flat(found.parts)}
    if found.calls:
        message["tool_calls"] = found.calls
    is_said = found.parts or found.calls or not found.results
    return [*found.results, message] if is_said else found.results


def _flat(parts: list[Fields]) -> str | list[Fields]:
    """Texts alone as one text: not every engine takes a list."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _text(text: Any, where: str) -> Fields:  # noqa: ANN401 from the body
    if not isinstance(text, str):
        raise malformed(f"{where} must be a string")
    return {"type": "text", "text": text}


def _image(source: Any, where: str) -> str:  # noqa: ANN401 from the body
    match source:
        case {"type": "base64", "media_type": str(kind), "data": str(data)}:
            return f"data:{kind};base64,{data}"
        case {"type": "url", "url": str(url)}:
            return url
    raise malformed(f"{where}.source must be base64 or a url")


def _document(block: Fields, where: str) -> list[Fields]:
    """A document's texts and images; of one that only its vendor can read, that there is one."""
    title = str(block.get("title") or "without a title")
    match block.get("source"):
        case {"type": "text", "data": str(text)}:
            return [_text(f"Document {title}:\n{text}", where)]
        case {"type": "content", "content": str(text)}:
            return [_text(f"Document {title}:\n{text}", where)]
        case {"type": "content", "content": list(blocks)}:
            return [_text(f"Document {title}:", where), *_Content(blocks, f"{where}.source.content").parts]
        case {"type": str(kind)}:
            return [_text(f"[A document {title} ({kind}) is attached, which cannot be read here.]", where)]
    raise malformed(f"{where}.source must be an object")


def _call(block: Fields) -> Fields:
    arguments = msgspec.json.encode(block.get("input") or {}).decode()
    return {
        "id": block.get("id", ""),
        "type": "function",
        "function": {"name": block.get("name", ""), "arguments": arguments},
    }


def _tools(fields: Fields) -> Fields:
    """The tools that the caller runs, and the choice among them; those that the vendor runs are nobody's here."""
    given = _list(fields.get("tools", []))
    if not all(isinstance(tool, dict) for tool in given):
        raise malformed("tools must be objects")
    own = [tool for tool in given if tool.get("type", "custom") == "custom" or "input_schema" in tool]
    choice = fields.get("tool_choice")
    chosen = None if choice is None else _choice(choice, {tool.get("name") for tool in own})
    if not own:
        return {}
    out: Fields = {"tools": [_tool(tool) for tool in own]}
    if chosen is not None:
        out["tool_choice"] = chosen
    if isinstance(choice, dict) and choice.get("disable_parallel_tool_use"):
        out["parallel_tool_calls"] = False
    return out


def _tool(tool: Fields) -> Fields:
    function = {"name": tool.get("name", ""), "parameters": tool.get("input_schema") or {"type": "object"}}
    function |= {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _choice(choice: Any, names: set[Any]) -> Any:  # noqa: ANN401 from the body
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "tool":
        if choice.get("name") not in names:
            raise unsupported("tool_choice", _MADE_ELSEWHERE)
        return {"type": "function", "function": {"name": choice["name"]}}
    if kind not in _CHOICES:
        raise malformed("tool_choice.type must be auto, any, tool or none")
    return _CHOICES[kind]


def _effort(fields: Fields) -> Fields:
    """How hard to think, and the form of the answer."""
    asked, config = fields.get("thinking"), fields.get("output_config")
    kind = asked.get("type") if isinstance(asked, dict) else None
    wanted = config if isinstance(config, dict) else {}
    effort = str(wanted.get("effort"))
    out: Fields = {}
    if kind == "disabled":
        out |= thinking(think=False)
    elif kind in ("enabled", "adaptive"):
        out["reasoning_effort"] = _EFFORTS.get(effort, "medium")
    shape = wanted.get("format") or fields.get("output_format")
    if isinstance(shape, dict) and isinstance(shape.get("schema"), dict):
        out["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": shape["schema"]}}
    return out


_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


def _list(value: Any) -> list[Any]:  # noqa: ANN401 from the body
    if not isinstance(value, list):
        raise malformed("messages, content and tools must be lists")
    return value
