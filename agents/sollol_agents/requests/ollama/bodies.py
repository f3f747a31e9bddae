"""The bodies that Ollama reads, as tables of fields."""

from __future__ import annotations

from typing import Any, Final

from sollol_agents.requests.ollama import gojson
from sollol_agents.requests.ollama.fields import read_arguments, read_image, read_keep_alive, read_think
from sollol_agents.requests.ollama.gojson import BodyError
from sollol_agents.requests.ollama.shapes import (
    ANY,
    BOOL,
    FLOAT32,
    FLOAT64,
    INT,
    MAP,
    STRING,
    STRINGS,
    Custom,
    List,
    MismatchError,
    Shape,
    Struct,
    kind_of,
)

Body = dict[str, Any]

_IMAGES: Final = List("[]api.ImageData", Custom(read_image))
_KEEP_ALIVE: Final = Custom(read_keep_alive)
_THINK: Final = Custom(read_think)

TOOL: Final = Struct(
    "api.Tool",
    {
        "type": STRING,
        "items": ANY,
        "function": Struct(
            "api.ToolFunction",
            {
                "name": STRING,
                "description": STRING,
                "parameters": Struct(
                    "api.ToolFunctionParameters",
                    {"type": STRING, "$defs": ANY, "items": ANY, "required": STRINGS, "properties": ANY},
                ),
            },
        ),
    },
)
_TOOLS: Final = List("api.Tools", TOOL, dict)
_TOOL_CALL: Final = Struct(
    "api.ToolCall",
    {
        "id": STRING,
        "function": Struct("api.ToolCallFunction", {"index": INT, "name": STRING, "arguments": Custom(read_arguments)}),
    },
)
MESSAGE: Final = Struct(
    "api.Alias",  # as which a message reads itself
    {
        "role": STRING,
        "content": STRING,
        "thinking": STRING,
        "images": _IMAGES,
        "tool_calls": List("[]api.ToolCall", _TOOL_CALL, dict),
        "tool_name": STRING,
        "tool_call_id": STRING,
    },
    is_told=False,
)
_MESSAGES: Final = List("[]api.Message", MESSAGE, dict)
_ASKED: Final[dict[str, Shape]] = {
    "model": STRING,
    "stream": BOOL,
    "format": ANY,
    "keep_alive": _KEEP_ALIVE,
    "options": MAP,
    "think": _THINK,
    "truncate": BOOL,
    "shift": BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
    "_debug_render_only": BOOL,
}
GENERATE: Final = Struct(
    "api.GenerateRequest",
    _ASKED
    | {
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": List("[]int", INT, int),
        "raw": BOOL,
        "images": _IMAGES,
    },
)
CHAT: Final = Struct("api.ChatRequest", _ASKED | {"messages": _MESSAGES, "tools": _TOOLS})
_EMBEDDING: Final[dict[str, Shape]] = {"model": STRING, "keep_alive": _KEEP_ALIVE, "options": MAP}
EMBED: Final = Struct("api.EmbedRequest", _EMBEDDING | {"input": ANY, "truncate": BOOL, "dimensions": INT})
EMBEDDINGS: Final = Struct("api.EmbeddingRequest", _EMBEDDING | {"prompt": STRING})

_STREAM_OPTIONS: Final = Struct("openai.StreamOptions", {"include_usage": BOOL})
_REASONING: Final = Struct("openai.Reasoning", {"effort": STRING})
_RESPONSE_FORMAT: Final = Struct(
    "openai.ResponseFormat", {"type": STRING, "json_schema": Struct("openai.JsonSchema", {"schema": ANY})}
)
_FUNCTION_CALLED: Final = Struct("openai.ToolCallFunction", {"name": STRING, "arguments": STRING})
_OPENAI_CALL: Final = Struct("openai.ToolCall", {"id": STRING, "type": STRING, "function": _FUNCTION_CALLED})
_OPENAI_MESSAGE: Final = Struct(
    "openai.Message",
    {
        "role": STRING,
        "content": ANY,
        "reasoning": STRING,
        "tool_calls": List("[]openai.ToolCall", _OPENAI_CALL, dict),
        "name": STRING,
        "tool_call_id": STRING,
    },
)
OPENAI_CHAT: Final = Struct(
    "openai.ChatCompletionRequest",
    {
        "model": STRING,
        "messages": List("[]openai.Message", _OPENAI_MESSAGE, dict),
        "stream": BOOL,
        "stream_options": _STREAM_OPTIONS,
        "max_tokens": INT,
        "seed": INT,
        "stop": ANY,
        "temperature": FLOAT64,
        "frequency_penalty": FLOAT64,
        "presence_penalty": FLOAT64,
        "top_p": FLOAT64,
        "response_format": _RESPONSE_FORMAT,
        "tools": List("[]api.Tool", TOOL, dict),
        "reasoning": _REASONING,
        "reasoning_effort": STRING,
        "logprobs": BOOL,
        "top_logprobs": INT,
        "_debug_render_only": BOOL,
    },
)
OPENAI_COMPLETION: Final = Struct(
    "openai.CompletionRequest",
    {
        "model": STRING,
        "prompt": STRING,
        "suffix": STRING,
        "stream": BOOL,
        "stream_options": _STREAM_OPTIONS,
        "max_tokens": INT,
        "seed": INT,
        "stop": ANY,
        "temperature": FLOAT32,
        "top_p": FLOAT32,
        "frequency_penalty": FLOAT32,
        "presence_penalty": FLOAT32,
        "_debug_render_only": BOOL,
    },
)
OPENAI_EMBED: Final = Struct(
    "openai.EmbedRequest", {"model": STRING, "input": ANY, "dimensions": INT, "encoding_format": STRING}
)
_RESPONSES_FORMAT: Final = Struct(
    "openai.ResponsesTextFormat", {"type": STRING, "name": STRING, "schema": ANY, "strict": BOOL}
)
_RESPONSES_TOOL: Final = Struct(
    "openai.ResponsesTool",
    {"type": STRING, "name": STRING, "description": STRING, "strict": BOOL, "parameters": MAP},
)
RESPONSES: Final = Struct(
    "openai.ResponsesRequest",
    {
        "model": STRING,
        "input": ANY,
        "instructions": STRING,
        "background": BOOL,
        "stream": BOOL,
        "max_output_tokens": INT,
        "temperature": FLOAT64,
        "top_p": FLOAT64,
        "truncation": STRING,
        "reasoning": Struct("openai.ResponsesReasoning", {"effort": STRING, "summary": STRING}),
        "text": Struct("openai.ResponsesText", {"format": _RESPONSES_FORMAT}),
        "tools": List("[]openai.ResponsesTool", _RESPONSES_TOOL, dict),
    },
)


def _read_content(value: object) -> object:
    """Returns the content of a message: a text, or blocks."""
    if type(value) not in {str, list}:
        # the type reads itself, so the field inside is not named
        raise MismatchError({dict: "object", bool: "bool"}.get(type(value), "number"), "[]anthropic.ContentBlock")
    return value


def _read_role(value: object) -> object:
    """Returns the role of a message."""
    try:
        return STRING.read(value)
    except MismatchError as error:
        error.within("role", "")
        raise


class _Turn:
    """A message of /v1/messages: its errors do not name the field in it."""

    def read(self, value: Any) -> Body | None:  # noqa: ANN401 - JSON of any shape
        """Returns role and content."""
        if value is None:
            return None
        if type(value) is not dict:
            raise MismatchError(kind_of(value), "anthropic.MessageParam")
        found: Body = {}
        for key, item in value.items():
            name = key.lower()
            if name == "role":
                found["role"] = _read_role(item)
            elif name == "content" and item is not None:
                found["content"] = _read_content(item)
        return found


_MESSAGES_TOOL: Final = Struct(
    "anthropic.Tool", {"type": STRING, "name": STRING, "description": STRING, "input_schema": ANY}
)
MESSAGES: Final = Struct(
    "anthropic.MessagesRequest",
    {
        "model": STRING,
        "max_tokens": INT,
        "messages": List("[]anthropic.MessageParam", _Turn(), dict),
        "system": ANY,
        "stream": BOOL,
        "temperature": FLOAT64,
        "top_p": FLOAT64,
        "top_k": INT,
        "stop_sequences": STRINGS,
        "tools": List("[]anthropic.Tool", _MESSAGES_TOOL, dict),
        "thinking": Struct("anthropic.ThinkingConfig", {"type": STRING, "budget_tokens": INT}),
    },
)

_NAMED: Final[dict[str, Shape]] = {"model": STRING, "name": STRING}
SHOW: Final = Struct(
    "api.ShowRequest", _NAMED | {"system": STRING, "template": STRING, "verbose": BOOL, "options": MAP}
)
PULL: Final = Struct(
    "api.PullRequest", _NAMED | {"insecure": BOOL, "username": STRING, "password": STRING, "stream": BOOL}
)
PUSH: Final = Struct(
    "api.PushRequest", _NAMED | {"insecure": BOOL, "username": STRING, "password": STRING, "stream": BOOL}
)
DELETE: Final = Struct("api.DeleteRequest", _NAMED)
COPY: Final = Struct("api.CopyRequest", {"source": STRING, "destination": STRING})
CREATE: Final = Struct(
    "api.CreateRequest",
    _NAMED
    | {
        "from": STRING,
        "files": MAP,
        "adapters": MAP,
        "template": STRING,
        "license": ANY,
        "system": STRING,
        "parameters": MAP,
        "messages": _MESSAGES,
        "quantize": STRING,
        "requires": STRING,
        "stream": BOOL,
    },
)


OF_PATH: Final[dict[str, Struct]] = {
    "/api/generate": GENERATE,
    "/api/chat": CHAT,
    "/api/embed": EMBED,
    "/api/embeddings": EMBEDDINGS,
    "/v1/chat/completions": OPENAI_CHAT,
    "/v1/completions": OPENAI_COMPLETION,
    "/v1/embeddings": OPENAI_EMBED,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/api/show": SHOW,
    "/api/pull": PULL,
    "/api/push": PUSH,
    "/api/delete": DELETE,
    "/api/copy": COPY,
    "/api/create": CREATE,
}
"""The table of each path's body."""


def read_body(content: bytes, shape: Struct, *, is_openai: bool = False) -> Body:
    """Returns the fields in a body.

    Args:
        content: the body as it came.
        shape: its table.
        is_openai: it came on a path of /v1, where an empty one has another text.

    Raises:
        BodyError: it is empty, no JSON, or a field is of another type.
    """
    try:
        found = gojson.read(content)
    except gojson.JsonSyntaxError as error:
        if str(error) == gojson.EMPTY and not is_openai:
            raise BodyError("missing request body") from error
        raise
    try:
        return shape.read(found) or {}
    except MismatchError as error:
        raise BodyError(_told(content, shape, error)) from error


def _told(content: bytes, shape: Struct, error: MismatchError) -> str:
    """Returns the text of a mismatch, with the number as it was written where that is what is told."""
    if len(content) > gojson.SCANNED_BYTES:
        return str(error)
    try:
        shape.read(gojson.read_as_written(content))
    except (MismatchError, BodyError) as again:
        return str(again)
    return str(error)
