"""Ollama's native requests in OpenAI's words, by the rule that what Ollama ignores is ignored. Pure.

`generate` becomes a chat of one message, because OpenAI's `completions` applies no template; with `raw`, or with a
template of places alone, it becomes a completion. `keep_alive`, `truncate` and `shift` have no effect: these engines
keep their model, and refuse what is too long. Fields that Ollama does not read are not read here either. What changes
the answer and has no word here is refused by name, never dropped.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.translation import options
from sollol_agents.node.engines.translation.bodies import Fields, malformed, unsupported
from sollol_agents.node.engines.translation.options import Flavour
from sollol_schemas.context import RequestKind

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETIONS_PATH: Final = "/v1/completions"

_EFFORTS: Final = ("high", "medium", "low", "max")
_TOP_LOGPROBS_MAX: Final = 20
_MEDIA_TYPES: Final = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
_PLACE: Final = re.compile(r"\{\{ *\.(Prompt|System) *\}\}")
_ANSWER: Final = re.compile(r"\{\{ *\.Response *\}\}")
_NO_PLACE: Final = "raw mode does not support template, system, or context"


class Translated(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the engine takes it."""

    path: str
    body: bytes
    left_out: tuple[str, ...] = ()
    """Fields of the caller's that the engine does not get, though they ask for something."""


def translate(
    kind: RequestKind, fields: Fields, model: str, *, flavour: Flavour, context_length: int = 0
) -> Translated:
    """A streaming request to an OpenAI-compatible engine.

    Args:
        kind: `generate` or `chat`.
        fields: From `fields_of`.
        model: The model's name on the engine.
        flavour: Whose server it is.
        context_length: Tokens of one slot's context; 0 when it is not known.

    Raises:
        BadRequest: A field is of the wrong type, or `unsupported_field` names what cannot be honoured.
    """
    parameters = options.translated(fields.get("options", {}), kind, flavour, context_length)
    out = streaming(model) | parameters.fields | thinking(fields.get("think")) | _logprobs(fields)
    if (wanted := fields.get("format", "")) != "":
        out["response_format"] = _response_format(wanted)
    if fields.get("_debug_render_only"):
        raise unsupported("_debug_render_only")
    if kind is RequestKind.CHAT:
        out["messages"] = _messages(fields.get("messages", []))
        if tools := fields.get("tools"):
            out["tools"] = _tools(tools)
        return Translated(path=CHAT_PATH, body=msgspec.json.encode(out), left_out=parameters.left_out)
    text = _completion(fields)
    if text is None:
        return Translated(
            path=CHAT_PATH, body=msgspec.json.encode(out | _prompted(fields)), left_out=parameters.left_out
        )
    return Translated(
        path=COMPLETIONS_PATH, body=msgspec.json.encode(_completing(out, text, flavour)), left_out=parameters.left_out
    )


def streaming(model: str) -> Fields:
    """The beginning of a request whose answer is streamed, with its figures."""
    return {"model": model, "stream": True, "stream_options": {"include_usage": True}}


def thinking(think: Any) -> Fields:  # noqa: ANN401 from the body
    """Whether and how hard to think; an effort is told in the ways that the known servers read.

    Raises:
        BadRequest: It is none of Ollama's.
    """
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    if think not in _EFFORTS:
        said = msgspec.json.encode(think).decode()
        raise malformed(f'invalid think value: {said} (must be "high", "medium", "low", "max", true, or false)')
    effort = "high" if think == "max" else think
    return {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": effort}, "reasoning_effort": effort}


def _logprobs(fields: Fields) -> Fields:
    top = fields.get("top_logprobs", 0)
    if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= _TOP_LOGPROBS_MAX:
        raise malformed(f"top_logprobs must be between 0 and {_TOP_LOGPROBS_MAX}")
    if not fields.get("logprobs"):
        return {}
    return {"logprobs": True} | ({"top_logprobs": top} if top else {})


def _completion(fields: Fields) -> str | None:
    """The text that the engine is to go on with as it is; None when it is the engine's to make one of the prompt.

    Raises:
        BadRequest: What is asked for beside the prompt cannot be done.
    """
    prompt, system, template = (_text(fields, name) for name in ("prompt", "system", "template"))
    for name in ("suffix", "context"):
        if fields.get(name):
            raise unsupported(name)
    if fields.get("raw"):
        for name in ("system", "template"):
            if fields.get(name):
                raise unsupported(name, _NO_PLACE)
        text = prompt
    elif template:
        text = _rendered(template, {"Prompt": prompt, "System": system})
    else:
        return None
    for name in ("logprobs", "images"):
        if fields.get(name):
            raise unsupported(name, "with a text that is not the engine's own to make")
    if fields.get("think"):
        raise unsupported("think", "with a text that is not the engine's own to make")
    return text


def _text(fields: Fields, name: str) -> str:
    text = fields.get(name, "")
    if not isinstance(text, str):
        raise malformed(f"{name} must be a string")
    return text


def _rendered(template: str, texts: dict[str, str]) -> str:
    """A template of places alone, up to where the answer goes.

    Raises:
        BadRequest: It has more than places: this is not the engine's language for templates.
    """
    before = _ANSWER.split(template)[0]
    if "{{" in _PLACE.sub("", before):
        raise unsupported("template", "it has its own")
    return _PLACE.sub(lambda place: texts[place.group(1)], before)


def _completing(out: Fields, text: str, flavour: Flavour) -> Fields:
    """A chat's parameters as those of a completion, whose answer OpenAI's servers limit unless they are told not to."""
    kept = {name: value for name, value in out.items() if name != "chat_template_kwargs"}
    wanted = kept.pop("response_format", None)
    if wanted is not None and flavour is Flavour.OTHER:
        raise unsupported("format", "with a text that is not the engine's own to make")
    if wanted is not None:
        kept |= {"response_format": wanted} if flavour is Flavour.VLLM else {"json_schema": _schema(wanted)}
    unlimited = {} if flavour is Flavour.LLAMA_CPP else {"max_tokens": None}
    return unlimited | kept | {"prompt": text}


def _schema(response_format: Fields) -> Fields:
    schema: Fields = response_format.get("json_schema", {}).get("schema", {"type": "object"})
    return schema


def _prompted(fields: Fields) -> Fields:
    """A prompt as a chat of one message."""
    system, content = fields.get("system", ""), _with_images(fields.get("prompt", ""), fields.get("images"), "images")
    before = [{"role": "system", "content": system}] if system else []
    return {"messages": [*before, {"role": "user", "content": content}]}


def _response_format(wanted: Any) -> Fields:  # noqa: ANN401 from the body
    if wanted == "json":
        return {"type": "json_object"}
    if isinstance(wanted, dict):
        return {"type": "json_schema", "json_schema": {"name": "reply", "schema": wanted}}
    said = msgspec.json.encode(msgspec.json.encode(wanted).decode()).decode()
    raise malformed(f'invalid format: {said}; expected "json" or a valid JSON Schema object')


def _tools(tools: Any) -> list[Fields]:  # noqa: ANN401 from the body
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise malformed("tools must be a list of objects")
    for index, tool in enumerate(tools):
        if tool.get("type", "function") != "function" or not isinstance(tool.get("function"), dict):
            raise malformed(f"tools[{index}] must be a function")
    return [{"type": "function", "function": tool["function"]} for tool in tools]


def _messages(messages: Any) -> list[Fields]:  # noqa: ANN401 from the body
    """A conversation; fields of its messages that Ollama does not read are not read here."""
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise malformed("messages must be a list of objects")
    out: list[Fields] = []
    open_calls: list[str] = []
    for index, message in enumerate(messages):
        content = message.get("content") or ""
        if not isinstance(content, (str, list)):
            raise malformed(f"messages[{index}].content must be a string")
        one: Fields = {
            "role": str(message.get("role", "user")).lower(),
            "content": _with_images(content, message.get("images"), f"messages[{index}].images"),
        }
        if thought := message.get("thinking"):
            one["reasoning_content"] = thought
        if name := message.get("tool_name"):
            one["name"] = name
        if calls := message.get("tool_calls"):
            one["tool_calls"] = _calls(calls, index)
            open_calls = [call["id"] for call in one["tool_calls"]]
        if one["role"] == "tool":
            one["tool_call_id"] = message.get("tool_call_id") or (open_calls.pop(0) if open_calls else f"call_{index}")
        out.append(one)
    return out


def _with_images(text: Any, images: Any, where: str) -> Any:  # noqa: ANN401 from the body
    """A content with its images in OpenAI's way; the text alone when there are none."""
    if not images:
        return text
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise malformed(f"{where} must be a list of base64 texts")
    parts = [{"type": "text", "text": text}] if text else []
    return parts + [{"type": "image_url", "image_url": {"url": f"data:{_media_type(i)};base64,{i}"}} for i in images]


def _media_type(image: str) -> str:
    """The type of a base64 image, by its first bytes; JPEG when they are of no known type."""
    return next((kind for start, kind in _MEDIA_TYPES.items() if image.startswith(start)), "image/jpeg")


def _calls(calls: Any, index: int) -> list[Fields]:  # noqa: ANN401 from the body
    if not isinstance(calls, list):
        raise malformed(f"messages[{index}].tool_calls must be a list")
    return [_call(call, f"call_{index}_{number}") for number, call in enumerate(calls)]


def _call(call: Any, fallback_id: str) -> Fields:  # noqa: ANN401 from the body
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise malformed("a tool call must have a function")
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return {
        "id": call.get("id") or fallback_id,
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": text},
    }
