"""Ollama's native requests in OpenAI's words. What an engine cannot honour is refused by name, never dropped.

`generate` becomes a chat of one message, because OpenAI's `completions` applies no template; with `raw` it becomes a
completion. `keep_alive`, `truncate` and `shift` are accepted without effect: these engines keep their model, and
refuse what is too long. Options that say what happens without them are left out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.refusals import engine_error
from sollol_bus.errors import SollolError
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode


class Flavour(StrEnum):
    """Whose server it is, as far as its parameters differ."""

    LLAMA_CPP = "llama.cpp"
    VLLM = "vllm"
    OTHER = "openai"


CHAT_PATH: Final = "/v1/chat/completions"
COMPLETIONS_PATH: Final = "/v1/completions"
EMBEDDINGS_PATH: Final = "/v1/embeddings"

_WITHOUT_EFFECT: Final = frozenset({"model", "stream", "keep_alive", "truncate", "shift"})
_COMMON_OPTIONS: Final = {
    name: name for name in ("temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty")
}
_MORE_OPTIONS: Final[dict[Flavour, dict[str, str]]] = {
    Flavour.LLAMA_CPP: {
        name: name for name in ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "num_keep")
    }
    | {"num_keep": "n_keep"},
    Flavour.VLLM: {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"},
    Flavour.OTHER: {},
}
_NEUTRAL_OPTIONS: Final[dict[str, float]] = {
    "min_p": 0,
    "typical_p": 1,
    "tfs_z": 1,
    "repeat_penalty": 1,
    "mirostat": 0,
    "num_gpu": -1,
    "main_gpu": 0,
    "num_thread": 0,
}
"""What these say without an engine that knows them: nothing."""
_EFFORTS: Final = frozenset({"low", "medium", "high", "max"})
_TOP_LOGPROBS_MAX: Final = 20
_MEDIA_TYPES: Final = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
_MESSAGE_FIELDS: Final = frozenset({"role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"})


class Translated(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the engine takes it."""

    path: str
    body: bytes


def unsupported(field: str, why: str = "") -> SollolError:
    """The refusal of a field that this engine cannot honour."""
    text = f"this engine cannot honour the field {field!r}{f': {why}' if why else ''}"
    return engine_error(ErrorCode.UNSUPPORTED_FIELD, text, details={"field": field})


def fields_of(body: bytes) -> dict[str, Any]:
    """The fields of a native body that say something.

    Raises:
        BadRequest: It is no JSON object.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise engine_error(ErrorCode.BAD_REQUEST, f"the body is not a JSON object: {error}") from error
    return {name: value for name, value in fields.items() if value is not None}


def translate(
    kind: RequestKind, fields: dict[str, Any], model: str, *, flavour: Flavour, context_length: int = 0
) -> Translated:
    """A streaming request to an OpenAI-compatible engine.

    Args:
        kind: `generate` or `chat`.
        fields: From `fields_of`.
        model: The model's name on the engine.
        flavour: Whose server it is.
        context_length: Tokens of one slot's context; a smaller `num_ctx` is granted, a larger one refused.

    Raises:
        BadRequest: `unsupported_field` names what cannot be honoured.
    """
    rest = {name: value for name, value in fields.items() if name not in _WITHOUT_EFFECT}
    out: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    out |= _options(rest.pop("options", {}), flavour, context_length)
    out |= _thinking(rest.pop("think", None), flavour)
    out |= _logprobs(rest)
    if (wanted := rest.pop("format", "")) != "":
        out["response_format"] = _response_format(wanted)
    if kind is RequestKind.CHAT:
        path = CHAT_PATH
        out["messages"] = _messages(rest.pop("messages", []))
        if tools := rest.pop("tools", []):
            out["tools"] = tools
    else:
        path = _generate(rest, out)
    for name, value in rest.items():
        if value not in ("", [], {}, False, 0):
            raise unsupported(name)
    return Translated(path=path, body=msgspec.json.encode(out))


_NOT_RAW: Final = {"chat_template_kwargs": "think", "response_format": "format", "logprobs": "logprobs"}
"""What a chat has and a completion has not, by the field it was made from."""


def _thinking(think: Any, flavour: Flavour) -> dict[str, Any]:  # noqa: ANN401 from the body
    """Whether and how hard to think; an effort is told in the ways that the known servers read."""
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    if think not in _EFFORTS:
        raise engine_error(ErrorCode.BAD_REQUEST, f"think must be true, false, {', '.join(sorted(_EFFORTS))}")
    if think == "max" and flavour is not Flavour.LLAMA_CPP:
        raise unsupported("think", "it knows low, medium and high")
    effort = "high" if think == "max" else think
    return {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": effort}, "reasoning_effort": effort}


def _logprobs(rest: dict[str, Any]) -> dict[str, Any]:
    top, wanted = rest.pop("top_logprobs", 0), rest.pop("logprobs", False)
    if not isinstance(top, int) or not 0 <= top <= _TOP_LOGPROBS_MAX:
        raise engine_error(ErrorCode.BAD_REQUEST, f"top_logprobs must be 0 to {_TOP_LOGPROBS_MAX}")
    if not wanted and not top:
        return {}
    return {"logprobs": True} | ({"top_logprobs": top} if top else {})


def _generate(rest: dict[str, Any], out: dict[str, Any]) -> str:
    """Puts a prompt into `out` and returns the path for it."""
    prompt, system = rest.pop("prompt", ""), rest.pop("system", "")
    if not isinstance(prompt, str):
        raise engine_error(ErrorCode.BAD_REQUEST, "prompt must be a string")
    if rest.pop("raw", False):
        if system:
            raise unsupported("system", "with raw")
        for made, field in _NOT_RAW.items():
            if made in out:
                raise unsupported(field, "with raw")
        out["prompt"] = prompt
        return COMPLETIONS_PATH
    content = _with_images(prompt, rest.pop("images", None), "images")
    out["messages"] = ([{"role": "system", "content": system}] if system else []) + [
        {"role": "user", "content": content}
    ]
    return CHAT_PATH


def _options(options: Any, flavour: Flavour, context_length: int) -> dict[str, Any]:  # noqa: ANN401 from the body
    if not isinstance(options, dict):
        raise engine_error(ErrorCode.BAD_REQUEST, "options must be an object")
    known = _COMMON_OPTIONS | _MORE_OPTIONS[flavour]
    out: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or _is_default(name, value, context_length):
            continue
        if name == "num_predict" and isinstance(value, int):
            out["max_tokens"] = value
        elif name in known:
            out[known[name]] = value
        elif _NEUTRAL_OPTIONS.get(name) == value:
            continue
        else:
            raise unsupported(f"options.{name}")
    return out


def _is_default(name: str, value: Any, context_length: int) -> bool:  # noqa: ANN401 from the body
    """Whether an option asks for what happens without it."""
    if not isinstance(value, int):
        return False
    if name == "num_predict":
        return value < 0  # as much as there is
    return (name == "num_ctx" and 0 <= value <= context_length) or (name == "seed" and value == -1)


def _response_format(wanted: Any) -> dict[str, Any]:  # noqa: ANN401 from the body
    if wanted == "json":
        return {"type": "json_object"}
    if isinstance(wanted, dict):
        return {"type": "json_schema", "json_schema": {"name": "reply", "schema": wanted}}
    raise unsupported("format", 'it must be "json" or a JSON Schema')


def _messages(messages: Any) -> list[dict[str, Any]]:  # noqa: ANN401 from the body
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise engine_error(ErrorCode.BAD_REQUEST, "messages must be a list of objects")
    out: list[dict[str, Any]] = []
    open_calls: list[str] = []
    for index, message in enumerate(messages):
        for name in message:
            if name not in _MESSAGE_FIELDS:
                raise unsupported(f"messages[{index}].{name}")
        one: dict[str, Any] = {
            "role": str(message.get("role", "user")).lower(),
            "content": _with_images(message.get("content") or "", message.get("images"), f"messages[{index}].images"),
        }
        if thought := message.get("thinking"):
            one["reasoning_content"] = thought
        if name := message.get("tool_name"):
            one["name"] = name
        if calls := message.get("tool_calls"):
            one["tool_calls"] = [_call(call, f"call_{index}_{number}") for number, call in enumerate(calls)]
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
        raise engine_error(ErrorCode.BAD_REQUEST, f"{where} must be a list of base64 texts")
    parts = [{"type": "text", "text": text}] if text else []
    return parts + [{"type": "image_url", "image_url": {"url": f"data:{_media_type(i)};base64,{i}"}} for i in images]


def _media_type(image: str) -> str:
    """The type of a base64 image, by its first bytes; JPEG when they are of no known type."""
    return next((kind for start, kind in _MEDIA_TYPES.items() if image.startswith(start)), "image/jpeg")


def _call(call: Any, fallback_id: str) -> dict[str, Any]:  # noqa: ANN401 from the body
    function = call.get("function", {}) if isinstance(call, dict) else {}
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return {
        "id": call.get("id") or fallback_id,
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": text},
    }


def translate_embed(fields: dict[str, Any], model: str) -> Translated:
    """An embedding request; `dimensions` is applied to the answer, as Ollama does."""
    for name in fields:
        if name not in _WITHOUT_EFFECT | {"input", "dimensions", "options"}:
            raise unsupported(name)
    options = fields.get("options", {})
    if not isinstance(options, dict):
        raise engine_error(ErrorCode.BAD_REQUEST, "options must be an object")
    for name, value in options.items():
        if value is not None:  # clients send every option they know, most of them empty
            raise unsupported(f"options.{name}")
    body = {"model": model, "input": fields.get("input", []), "encoding_format": "float"}
    return Translated(path=EMBEDDINGS_PATH, body=msgspec.json.encode(body))


def with_model(body: bytes, model: str) -> bytes:
    """A body for passthrough, with the model's name on the engine in place of the offered one."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body  # the engine says what is wrong with it
    return msgspec.json.encode(fields | {"model": msgspec.Raw(msgspec.json.encode(model))})
