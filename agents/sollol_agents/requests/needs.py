"""What a model must be able to do for a request. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

import msgspec

from sollol_agents.requests.body import Fields
from sollol_agents.requests.dialects import EMBEDDING_PATHS, OLD_EMBED_PATH
from sollol_agents.requests.ollama.fields import read_keep_alive
from sollol_agents.requests.ollama.gojson import BodyError
from sollol_schemas.context import Ability, RequestKind

_CHATS: Final = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
_TALKS: Final = (*_CHATS, "/v1/completions")
_OF_SOME: Final = ("think", "suffix")
_TEXT_ALONE: Final = (Ability.COMPLETION,)
_NOTHING: Final = (b"null", b"[]", b'""', b"false", b'"none"')


def needs_of(
    kind: RequestKind, path: str, fields: Fields, senses: Collection[Ability], *, is_load_only: bool = False
) -> tuple[Ability, ...]:
    """Everything that the request needs, in the order in which Ollama looks; nothing of a path that nobody knows.

    Args:
        kind: Which public subject it came in on.
        path: The engine's path without its query, for passthrough.
        fields: Its top-level fields.
        senses: What its contents other than text need.
        is_load_only: It holds no prompt.
    """
    if is_load_only and _unloads(fields):
        return ()
    if kind is RequestKind.GENERATE and not senses and fields.keys().isdisjoint(_OF_SOME):
        return _TEXT_ALONE
    return tuple(_needs_of(kind, path, fields, senses))


def has_tools(fields: Fields) -> bool:
    """Whether the request offers any."""
    return _is_given(fields, "tools")


def _needs_of(kind: RequestKind, path: str, fields: Fields, senses: Collection[Ability]) -> Iterator[Ability]:
    if kind is RequestKind.EMBED or path in EMBEDDING_PATHS:
        if not _embeds_nothing(path, fields):
            yield Ability.EMBEDDING
        return
    is_native = kind in (RequestKind.GENERATE, RequestKind.CHAT)
    if not is_native and path not in _TALKS:
        return
    yield Ability.COMPLETION
    if _is_given(fields, "think" if is_native else "reasoning_effort") and path != "/v1/messages":
        yield Ability.THINKING
    if (kind is RequestKind.CHAT or path in _CHATS) and has_tools(fields) and _are_functions(path, fields):
        yield Ability.TOOLS
    if (kind is RequestKind.GENERATE or path == "/v1/completions") and _is_given(fields, "suffix"):
        yield Ability.INSERT
    yield from sorted(senses, reverse=True)


def _embeds_nothing(path: str, fields: Fields) -> bool:
    """Whether Ollama answers with nothing, and any model can do that; OpenAI's dialect refuses it."""
    return path != "/v1/embeddings" and not _is_given(fields, "prompt" if path == OLD_EMBED_PATH else "input")


def _unloads(fields: Fields) -> bool:
    """Whether an order without a prompt is one to unload, which any model can do."""
    raw = bytes(fields.get("keep_alive", b"null"))
    try:
        return raw.strip() != b"null" and read_keep_alive(msgspec.json.decode(raw)) == 0
    except (BodyError, msgspec.DecodeError):
        return False


def _is_given(fields: Fields, name: str) -> bool:
    return name in fields and bytes(fields[name]).strip() not in _NOTHING


def _are_functions(path: str, fields: Fields) -> bool:
    """Responses may list tools of the vendor's own, which engines pass over."""
    return path != "/v1/responses" or b'"function"' in bytes(fields["tools"])
