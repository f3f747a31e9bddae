"""What a body of any dialect asks of an Ollama: what to render, and with which options to complete it. Pure.

The options are those that Ollama itself makes of each dialect, its defaults included.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.continuing import conversations
from sollol_agents.node.engines.continuing.conversations import Reading
from sollol_agents.node.engines.continuing.refusing import check, not_continued
from sollol_agents.node.engines.translation.bodies import Fields, fields_of
from sollol_agents.node.engines.translation.chat import CHAT_PATH, COMPLETIONS_PATH
from sollol_agents.node.engines.translation.messages_answer import MESSAGES_PATH
from sollol_schemas.context import RequestKind

GENERATE: Final = "/api/generate"
CHAT: Final = "/api/chat"
RESPONSES_PATH: Final = "/v1/responses"
_LIMIT: Final = "num_predict"
_KEPT: Final = ("keep_alive", "shift")
_RENDERED: Final = ("model", "messages", "tools", "think", "prompt", "system", "template", "context", "raw")
_EFFORTS: Final = {"none": False, "minimal": "low", "xhigh": "max", "ultra": "max"}
_MESSAGE_EFFORTS: Final = {"high": "high", "medium": "medium", "low": "low", "max": "max", "xhigh": "high"}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a body asks."""

    path: str
    """Where its prompt is rendered."""
    fields: Fields
    """What is rendered there."""
    options: Fields
    """Ollama's, without the limit."""
    limit: int | None
    """So many tokens at most; None: no limit, or the model's own."""
    has_limit: bool
    """Whether it says anything about that."""
    kept: Fields
    """Fields that go with the completion as well."""
    prompt: str | None = None
    """A prompt that is rendered already."""
    hides_thoughts: bool = False
    """Whether its dialect leaves thoughts out of what is said."""

    @property
    def is_chat(self) -> bool:
        """Whether the engine reads the answer as a chat's."""
        return self.path != GENERATE

    @property
    def thought_field(self) -> str:
        """Where a message has its thought."""
        return "reasoning" if self.path == CHAT_PATH else "thinking"

    @property
    def partial(self) -> str:
        """The beginning of the answer that a trailing message of the assistant gives."""
        messages = self.fields.get("messages") or [{}]
        last = messages[-1]
        if not isinstance(last, dict) or last.get("role") != "assistant":
            return ""
        content = last.get("content")
        return content if isinstance(content, str) else ""


def asked(request: EngineRequest) -> Asked:
    """What a request asks.

    Raises:
        SollolError: `not_continued`, with the reason; or the body is malformed.
    """
    fields = fields_of(request.body)
    check(fields)
    fields["model"] = request.model
    match request.kind, request.path.partition("?")[0]:
        case (RequestKind.GENERATE, _):
            return _native(GENERATE, fields)
        case (RequestKind.CHAT, _):
            return _native(CHAT, fields)
        case (RequestKind.PASSTHROUGH, path) if path == CHAT_PATH:
            return _made(path, fields, _chat_options(fields), fields.get("max_tokens"), fields)
        case (RequestKind.PASSTHROUGH, path) if path == COMPLETIONS_PATH:
            rendered = {"prompt": _text_of(fields.get("prompt"))}
            made = _made(GENERATE, fields, _completion_options(fields), fields.get("max_tokens"), rendered)
            return msgspec.structs.replace(made, hides_thoughts=True)
        case (RequestKind.PASSTHROUGH, path) if path == MESSAGES_PATH:
            read = conversations.of_messages(fields, Reading.OLLAMA) | _think_of_messages(fields)
            return _made(CHAT, fields, _message_options(fields), fields.get("max_tokens"), read)
        case (RequestKind.PASSTHROUGH, path) if path == RESPONSES_PATH:
            read = conversations.of_responses(fields, Reading.OLLAMA) | _think_of_responses(fields)
            return _made(CHAT, fields, _response_options(fields), fields.get("max_output_tokens"), read)
        case _:
            raise not_continued("answers of this path are not gone on with")


def limit_of(path: str, tokens: Any) -> int | None:  # noqa: ANN401 from the body
    """So many tokens at most, as Ollama reads its limit: none at all is one token of a chat, and no limit elsewhere."""
    if isinstance(tokens, bool) or not isinstance(tokens, (int, float)) or tokens < 0:
        return None
    if tokens < 1:
        return None if path == GENERATE else 1
    return int(tokens)


def _native(path: str, fields: Fields) -> Asked:
    options = dict(fields.get("options") or {})
    limit = options.pop(_LIMIT, None)
    prompt = _text_of(fields.get("prompt")) if path == GENERATE and fields.get("raw") else None
    return Asked(
        path=path,
        fields={name: fields[name] for name in _RENDERED if name in fields},
        options=options,
        limit=limit_of(path, limit),
        has_limit=limit is not None,
        kept={name: fields[name] for name in _KEPT if name in fields},
        prompt=prompt,
    )


def _made(path: str, fields: Fields, options: Fields, limit: Any, rendered: Fields) -> Asked:  # noqa: ANN401
    if path == CHAT:
        rendered = rendered | {"messages": conversations.native(rendered["messages"])}
    return Asked(
        path=path,
        fields=rendered | {"model": fields["model"]},
        options=options,
        limit=limit_of(path, limit),
        has_limit=limit is not None,
        kept={},
    )


def _given(fields: Fields, *names: str) -> Fields:
    return {name: fields[name] for name in names if name in fields}


def _stops(value: Any) -> Fields:  # noqa: ANN401 from the body
    if isinstance(value, str):
        return {"stop": [value]}
    if isinstance(value, list):
        return {"stop": [one for one in value if isinstance(one, str)]}
    return {}


def _chat_options(fields: Fields) -> Fields:
    own = _given(fields, "temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")
    return {"temperature": 1.0, "top_p": 1.0} | own | _stops(fields.get("stop"))


def _completion_options(fields: Fields) -> Fields:
    usual = {"temperature": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    own = _given(fields, "temperature", "seed", "frequency_penalty", "presence_penalty")
    return usual | own | {"top_p": fields.get("top_p") or 1.0} | _stops(fields.get("stop"))


def _message_options(fields: Fields) -> Fields:
    return _given(fields, "temperature", "top_p", "top_k") | _stops(fields.get("stop_sequences"))


def _response_options(fields: Fields) -> Fields:
    return {"temperature": 1.0} | _given(fields, "temperature", "top_p")


def _think_of_messages(fields: Fields) -> Fields:
    asked_for, config = fields.get("thinking"), fields.get("output_config")
    kind = asked_for.get("type") if isinstance(asked_for, dict) else None
    if kind in ("enabled", "disabled"):
        return {"think": kind == "enabled"}
    effort = config.get("effort") if isinstance(config, dict) else None
    level = _MESSAGE_EFFORTS.get(str(effort).strip().lower())
    return {"think": level} if level else {}


def _think_of_responses(fields: Fields) -> Fields:
    reasoning = fields.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    return {"think": _EFFORTS.get(effort, effort)} if effort else {}


def _text_of(prompt: Any) -> str:  # noqa: ANN401 from the body
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise not_continued("the prompt is not one text")
    return prompt
