"""Request analysis: kind, model, size and limits of a request, as the `TaskContext` that decisions are made from."""

from __future__ import annotations

import msgspec

from sollol_agents.analysis.body import Fields, InvalidBody, field
from sollol_schemas.context import ComplexityClass, RequestKind, TaskContext

CHARACTERS_PER_TOKEN = 4
IMAGE_TOKENS = 600
"""What one image costs in prompt tokens, roughly, over the common vision models."""
_SIMPLE_BELOW_TOKENS = 500
_COMPLEX_FROM_TOKENS = 2_000
_COMPLEX_TURNS = 6
_EMBEDDING_PATHS = ("/v1/embeddings", "/api/embed", "/api/embeddings")


class _Options(msgspec.Struct, frozen=True):
    num_predict: int | None = None
    num_ctx: int | None = None


class _Message(msgspec.Struct, frozen=True):
    content: msgspec.Raw = msgspec.Raw(b'""')
    images: list[msgspec.Raw] | None = None


def analyse(kind: RequestKind, fields: Fields, *, path: str = "") -> TaskContext:
    """The facts about one request.

    Args:
        kind: Which public subject it came in on.
        fields: Its top-level fields.
        path: The engine's path, for passthrough.

    Raises:
        InvalidBody: A field that is needed is missing or of the wrong type.
    """
    model = field(fields, "model", str)
    if not model:
        raise InvalidBody("model is required")
    options = field(fields, "options", _Options) or _Options()
    characters, turns, images = _prompt_size(kind, fields)
    tokens = max(1, characters // CHARACTERS_PER_TOKEN) + images * IMAGE_TOKENS
    is_embedding = kind is RequestKind.EMBED or path in _EMBEDDING_PATHS
    return TaskContext(
        kind=kind,
        model=model,
        task_type="embedding" if is_embedding else "generation",
        complexity_class=_complexity(tokens, turns),
        prompt_tokens=tokens,
        max_output_tokens=_output_limit(options, fields),
        num_ctx=options.num_ctx if options.num_ctx and options.num_ctx > 0 else None,
        is_load_only=_is_load_only(kind, fields),
        has_images=images > 0,
        has_tools=len(fields.get("tools", b"")) > len(b"[]"),
    )


def _prompt_size(kind: RequestKind, fields: Fields) -> tuple[int, int, int]:
    """Characters, turns and images of the prompt, whatever the dialect calls it."""
    if kind is RequestKind.GENERATE:
        field(fields, "prompt", str)
    if kind is RequestKind.EMBED and "input" not in fields:
        raise InvalidBody("input is required")
    characters = sum(len(fields.get(name, b"")) for name in ("prompt", "system", "suffix", "input", "instructions"))
    images = len(field(fields, "images", list[msgspec.Raw]) or ())
    messages = field(fields, "messages", list[_Message]) or []
    for message in messages:
        characters += len(message.content)
        images += len(message.images or ())
    return characters, len(messages), images


def _complexity(tokens: int, turns: int) -> ComplexityClass:
    if tokens < _SIMPLE_BELOW_TOKENS:
        return ComplexityClass.SIMPLE
    if tokens >= _COMPLEX_FROM_TOKENS or turns >= _COMPLEX_TURNS:
        return ComplexityClass.COMPLEX
    return ComplexityClass.MEDIUM


def _output_limit(options: _Options, fields: Fields) -> int | None:
    limits = [options.num_predict]
    limits += [field(fields, name, int) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
    return min((limit for limit in limits if limit is not None and limit > 0), default=None)


def _is_load_only(kind: RequestKind, fields: Fields) -> bool:
    """Ollama's idiom: an empty prompt or an empty list of messages loads (or unloads) the model."""
    if kind is RequestKind.GENERATE:
        return not field(fields, "prompt", str) and not field(fields, "images", list[msgspec.Raw])
    if kind is RequestKind.CHAT:
        return not field(fields, "messages", list[msgspec.Raw])
    return False
