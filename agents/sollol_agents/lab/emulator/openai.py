"""/v1/chat/completions and /v1/completions as Ollama reads them."""

from __future__ import annotations

from typing import Any, Final

from sollol_agents.lab.emulator import calls
from sollol_agents.lab.emulator.calls import Call, Machine, Talk
from sollol_agents.lab.emulator.openai_answers import OpenAiChat, OpenAiCompletion
from sollol_agents.lab.emulator.reading import read_body, read_effort
from sollol_agents.lab.emulator.refusals import RefusalError
from sollol_agents.requests.ollama import gojson
from sollol_agents.requests.ollama.bodies import OPENAI_CHAT, OPENAI_COMPLETION, Body
from sollol_agents.requests.ollama.fields import read_image_url
from sollol_agents.requests.ollama.gojson import BodyError

_GO_TYPES: Final = {
    bool: "bool",
    int: "float64",
    float: "float64",
    dict: "map[string]interface {}",
    type(None): "<nil>",
}


def chat_call(body: bytes, machine: Machine) -> Call:
    """Returns the call in a body of /v1/chat/completions.

    Raises:
        RefusalError: the request cannot be served.
    """
    request = read_body(body, OPENAI_CHAT, is_openai=True)
    if not request.get("messages"):
        raise RefusalError("[] is too short - 'messages'", is_at_door=True)
    turns = [made for message in request["messages"] for made in _turns(message)]
    effort = (request.get("reasoning") or {}).get("effort") or request.get("reasoning_effort", "")
    alternatives = calls.alternatives(request)
    talk = Talk(
        name=request.get("model", ""),
        turns=turns,
        tools=request.get("tools") or (),
        think=read_effort(effort),
        format=_format(request.get("response_format")),
        options=_options(request),
        is_stream=request.get("stream", False),
        logprobs=alternatives,
        is_rendered_only=request.get("_debug_render_only", False),
    )
    dialect = OpenAiChat(talk.name, includes_usage=_includes_usage(request), alternatives=alternatives)
    return calls.conversation(talk, machine, dialect)


def completion_call(body: bytes, machine: Machine) -> Call:
    """Returns the call in a body of /v1/completions.

    Raises:
        RefusalError: the request cannot be served.
    """
    request = read_body(body, OPENAI_COMPLETION, is_openai=True)
    made: Body = {key: request[key] for key in ("model", "prompt", "suffix", "_debug_render_only") if key in request}
    made |= {"options": _options(request), "stream": request.get("stream", False)}
    dialect = OpenAiCompletion(request.get("model", ""), includes_usage=_includes_usage(request))
    return calls.generate(made, machine, dialect)


def decoded_image(url: str) -> str:
    """Returns the base64 in a data: URI.

    Raises:
        RefusalError: it is the address of an image elsewhere, of another kind, or no base64.
    """
    try:
        return read_image_url(url)
    except BodyError as error:
        raise RefusalError(str(error), is_at_door=True) from error


def _turns(message: Body) -> list[Body]:
    """Returns a message as Ollama's: each part of its content is one of its own."""
    content = message.get("content")
    base: Body = {key: message[key] for key in ("role", "tool_call_id") if key in message}
    if message.get("reasoning"):
        base["thinking"] = message["reasoning"]
    if isinstance(content, str):
        return [base | {"content": content} | _calls(message)]
    if isinstance(content, list):
        parts = [base | _part(part) for part in content]
        if parts and message.get("tool_calls"):
            parts[-1] |= _calls(message)
        return parts
    if content is None and message.get("tool_calls"):
        return [base | _calls(message)]
    raise RefusalError(f"invalid message content type: {_GO_TYPES[type(content)]}", is_at_door=True)


def _part(part: object) -> Body:
    """Returns what one part of a content adds to its message."""
    if isinstance(part, dict):
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            return {"content": part["text"]}
        if kind == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if isinstance(url, str):
                return {"images": [decoded_image(url)]}
        if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
            return {"images": [part["input_audio"].get("data", "")]}
    raise RefusalError("invalid message format", is_at_door=True)


def _calls(message: Body) -> Body:
    """Returns the calls of tools in a message; their arguments are JSON in a text."""
    found = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        try:
            arguments = gojson.read(function.get("arguments", "").encode())
        except gojson.JsonSyntaxError as error:
            raise RefusalError("invalid tool call arguments", is_at_door=True) from error
        made = {"name": function.get("name", ""), "arguments": arguments}
        found.append({"id": call.get("id", ""), "function": made})
    return {"tool_calls": found} if found else {}


def _options(request: Body) -> dict[str, Any]:
    """Returns a body's fields as Ollama's options."""
    options: dict[str, Any] = {}
    if "max_tokens" in request:
        options["num_predict"] = request["max_tokens"]
    options["temperature"] = request.get("temperature", 1.0)
    stop = request.get("stop")
    if isinstance(stop, str):
        options["stop"] = [stop]
    elif isinstance(stop, list):
        options["stop"] = [one for one in stop if isinstance(one, str)]
    return options


def _format(wanted: Body | None) -> object:
    """Returns Ollama's format for OpenAI's response_format; unknown kinds are plain text."""
    kind = (wanted or {}).get("type")
    if kind == "json_object":
        return "json"
    return ((wanted or {}).get("json_schema") or {}).get("schema") if kind == "json_schema" else None


def _includes_usage(request: Body) -> bool:
    return bool((request.get("stream_options") or {}).get("include_usage"))
