"""What a body of any dialect asks of an OpenAI-compatible engine: a chat or a text, and how to complete it. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.continuing import conversations
from sollol_agents.node.engines.continuing.conversations import Reading
from sollol_agents.node.engines.continuing.ollama_bodies import RESPONSES_PATH
from sollol_agents.node.engines.continuing.refusing import check, not_continued
from sollol_agents.node.engines.translation.bodies import Fields, fields_of
from sollol_agents.node.engines.translation.chat import CHAT_PATH, COMPLETIONS_PATH, translate
from sollol_agents.node.engines.translation.messages_answer import MESSAGES_PATH
from sollol_agents.node.engines.translation.options import Flavour
from sollol_schemas.context import RequestKind

COMPLETION_PATH: Final = "/completion"
_PROMPTED: Final = (COMPLETION_PATH, "/completions", COMPLETIONS_PATH)
_LIMITS: Final = ("n_predict", "max_completion_tokens", "max_tokens")
_OF_A_CHAT: Final = frozenset(
    (
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "chat_template_kwargs",
        "add_generation_prompt",
        "reasoning_format",
        "reasoning_effort",
        "reasoning",
        "response_format",
    )
)
_OF_A_STREAM: Final = frozenset(("stream", "stream_options", "prompt", *_LIMITS, "n", "best_of", "logprobs", "echo"))
_MESSAGE_TOKENS: Final = 4096
"""What llama.cpp takes for the limit of a message that names none."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a body asks."""

    chat: Fields | None
    """A chat, with all that its template reads; None: `prompt` is all that the model reads."""
    prompt: str
    sampling: Fields
    """How to complete it, without the limit."""
    limit: int | None
    """So many tokens at most; None: no limit."""

    @property
    def partial(self) -> str:
        """The beginning of the answer that a trailing message of the assistant gives."""
        messages = (self.chat or {}).get("messages") or [{}]
        last = messages[-1]
        if not isinstance(last, dict) or last.get("role") != "assistant":
            return ""
        content = last.get("content")
        return content if isinstance(content, str) else ""

    @property
    def has_tools(self) -> bool:
        """Whether the answer may be a call of a tool."""
        return bool(self.chat and self.chat.get("tools")) and (self.chat or {}).get("tool_choice") != "none"


def asked(request: EngineRequest, model: str, flavour: Flavour, context_length: int) -> Asked:
    """What a request asks.

    Args:
        request: In any dialect.
        model: The model's name on the engine.
        flavour: Whose server it is.
        context_length: Tokens of one slot's context; 0 when it is not known.

    Raises:
        SollolError: `not_continued`, with the reason; or the body is malformed.
    """
    fields = fields_of(request.body)
    check(fields)
    path = request.path.partition("?")[0]
    if request.kind in (RequestKind.GENERATE, RequestKind.CHAT):
        sent = translate(request.kind, fields, model, flavour=flavour, context_length=context_length)
        path, fields = sent.path, fields_of(sent.body)
        check(fields)
    elif request.kind is not RequestKind.PASSTHROUGH:
        raise not_continued("there is nothing to go on with")
    fields["model"] = model
    if path == CHAT_PATH:
        return _chat(fields, fields)
    if path in _PROMPTED:
        return Asked(chat=None, prompt=_text_of(fields.get("prompt")), sampling=_sampling(fields), limit=_limit(fields))
    if path == MESSAGES_PATH and flavour is Flavour.LLAMA_CPP:
        return _chat(_message_sampling(fields), conversations.of_messages(fields, Reading.LLAMA_CPP))
    if path == RESPONSES_PATH and flavour is Flavour.LLAMA_CPP:
        return _chat(_response_sampling(fields), conversations.of_responses(fields, Reading.LLAMA_CPP))
    raise not_continued("answers of this path are not gone on with")


def _chat(fields: Fields, chat: Fields) -> Asked:
    told = {name: value for name, value in (fields | chat).items() if name not in _OF_A_STREAM}
    if not isinstance(told.get("messages"), list):
        raise not_continued("there is no conversation")
    return Asked(chat=told, prompt="", sampling=_sampling(fields), limit=_limit(fields))


def _sampling(fields: Fields) -> Fields:
    out = {name: value for name, value in fields.items() if name not in _OF_A_CHAT | _OF_A_STREAM}
    if isinstance(stop := out.get("stop"), str):
        out["stop"] = [stop]
    return out


def _limit(fields: Fields) -> int | None:
    """The limit in the order in which llama.cpp looks for it; it makes one token where none at all are wanted."""
    for name in _LIMITS:
        limit = fields.get(name)
        if isinstance(limit, (int, float)) and not isinstance(limit, bool):
            return None if limit < 0 else max(1, int(limit))
    return None


def _message_sampling(fields: Fields) -> Fields:
    out: Fields = {name: fields[name] for name in ("model", "temperature", "top_p", "top_k") if name in fields}
    if stops := fields.get("stop_sequences"):
        out["stop"] = stops
    return out | {"max_tokens": fields.get("max_tokens", _MESSAGE_TOKENS)}


def _response_sampling(fields: Fields) -> Fields:
    left_out = ("input", "instructions", "max_output_tokens", "text", "reasoning", "previous_response_id", "store")
    out = {name: value for name, value in fields.items() if name not in left_out and name not in _OF_A_CHAT}
    return out | ({"max_tokens": fields["max_output_tokens"]} if "max_output_tokens" in fields else {})


def _text_of(prompt: Any) -> str:  # noqa: ANN401 from the body
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise not_continued("the prompt is not one text")
    return prompt
