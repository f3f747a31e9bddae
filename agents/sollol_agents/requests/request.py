"""Request analysis: kind, model, size and limits of a request, as the `TaskContext` that decisions are made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from sollol_agents.requests.body import Fields, InvalidBody, field
from sollol_agents.requests.detector import Detector, Task, WordDetector
from sollol_agents.requests.dialects import EMBEDDING_PATHS, KIND_OF_PATH, OLD_EMBED_PATH
from sollol_agents.requests.media import MARK, media_in
from sollol_agents.requests.needs import has_tools, needs_of
from sollol_agents.requests.prefixes import prefix_hashes
from sollol_schemas.context import Ability, ComplexityClass, RequestKind, TaskContext

CHARACTERS_PER_TOKEN = 4
DEFAULT_DETECTOR = WordDetector()
IMAGE_TOKENS = 600
"""What one image costs in prompt tokens, roughly, over the common vision models."""
_SIMPLE_BELOW_TOKENS = 500
_COMPLEX_FROM_TOKENS = 2_000
_COMPLEX_TURNS = 6
_TEXT_BYTES = 500
_TEXT_BEGINS = (b'"', b"n")
"""Of a JSON text, and of null."""
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_INPUT_OF = {RequestKind.GENERATE: "prompt", RequestKind.EMBED: "input"}
_NO_INPUT = (b"null", b'""', b"[]")
_NUMBERS = (int, float)
_MOST_TOKENS: Final = 2**53
"""What is more is no number of anything, and no message carries it."""
MODEL_NAME_MAX = 512
"""Characters; a name goes into messages and headers that are no place for more."""


class _Options(msgspec.Struct, frozen=True):
    """Of another type than a number, an option is the engine's to judge."""

    num_predict: Any = None
    num_ctx: Any = None


class _Message(msgspec.Struct, frozen=True):
    content: msgspec.Raw = msgspec.Raw(b'""')
    images: list[msgspec.Raw] | None = None


def analyse(kind: RequestKind, fields: Fields, *, path: str = "", detector: Detector = DEFAULT_DETECTOR) -> TaskContext:
    """The facts about one request.

    Args:
        kind: Which public subject it came in on.
        fields: Its top-level fields.
        path: The engine's path, for passthrough.
        detector: Finds the task in the text.

    Raises:
        InvalidBody: A field that is needed is missing or of the wrong type.
    """
    path = path.partition("?")[0]
    model = field(fields, "model", str)
    if not model:
        raise InvalidBody("model is required")
    if len(model) > MODEL_NAME_MAX:
        raise InvalidBody(f"model: a name has at most {MODEL_NAME_MAX} characters")
    options = field(fields, "options", _Options) or _Options()
    if kind is RequestKind.PASSTHROUGH and path != OLD_EMBED_PATH:
        options = _Options()  # no engine reads them in another dialect
    prompt = _read_prompt(kind, fields)
    is_load_only = _is_load_only(kind, fields, prompt)
    tokens = max(1, prompt.characters // CHARACTERS_PER_TOKEN) + prompt.images * IMAGE_TOKENS
    is_embedding = kind is RequestKind.EMBED or path in EMBEDDING_PATHS
    task = Task(task_type="embedding") if is_embedding else detector.detect(prompt.text())
    hashes, boundaries = ((), ()) if is_embedding else prefix_hashes(model, prompt.pieces, CHARACTERS_PER_TOKEN)
    return TaskContext(
        kind=kind,
        model=model,
        path=path if kind is RequestKind.PASSTHROUGH and path in KIND_OF_PATH else "",
        task_type=task.task_type,
        coding_category=task.coding_category,
        complexity_class=_complexity(tokens, prompt.turns),
        prompt_tokens=tokens,
        max_output_tokens=_output_limit(options, fields),
        num_ctx=_tokens(options.num_ctx),
        is_load_only=is_load_only,
        prefix_hashes=hashes,
        prefix_tokens=boundaries,
        needs=needs_of(kind, path, fields, () if is_load_only else prompt.senses, is_load_only=is_load_only),
        has_images=prompt.images > 0,
        has_tools=has_tools(fields),
    )


_RAWS: Any = list[msgspec.Raw]
_MESSAGES: Any = list[_Message | None]


class _Prompt:
    """A prompt's pieces as raw JSON, in the order in which an engine reads them."""

    __slots__ = ("images", "pieces", "senses", "turns")

    def __init__(self, pieces: list[bytes], turns: int, images: int, senses: Sequence[Ability]) -> None:
        self.pieces = pieces
        self.turns = turns
        self.images = images
        self.senses = senses
        """What its contents other than text need."""

    @property
    def characters(self) -> int:
        return sum(map(len, self.pieces))

    def text(self) -> str:
        """The beginning and the end of what the user said last, for the detector."""
        last = next((p for p in reversed(self.pieces) if p), b"")
        if len(last) > 2 * _TEXT_BYTES:
            last = last[:_TEXT_BYTES] + b" " + last[-_TEXT_BYTES:]
        return last.decode(errors="replace").replace("\\n", "\n")


def _read_prompt(kind: RequestKind, fields: Fields) -> _Prompt:
    """The prompt, whatever the dialect calls it.

    Raises:
        InvalidBody: A piece has the wrong type.
    """
    if kind is RequestKind.GENERATE:
        field(fields, "prompt", str)
    pieces = [bytes(fields[name]) for name in ("system", "instructions", "tools") if name in fields]
    images = len(field(fields, "images", _RAWS) or ()) if "images" in fields else 0
    given = field(fields, "messages", _MESSAGES) if "messages" in fields else None
    messages = [message or _Message() for message in given] if given else []
    for message in messages:
        content = bytes(message.content)
        if kind is RequestKind.CHAT and content[:1] not in _TEXT_BEGINS:
            raise InvalidBody("a message's content must be a text")
        images += len(message.images or ())
        pieces.append(content)
    pieces += [bytes(fields[name]) for name in ("prompt", "suffix", "input") if name in fields]
    sounds = 0
    for place, piece in enumerate(pieces):
        if MARK not in piece:
            continue
        pieces[place], more_images, more_sounds = media_in(piece)
        images += more_images
        sounds += more_sounds
    senses = [Ability.VISION] if images else []
    if sounds:
        senses.append(Ability.AUDIO)
    return _Prompt(pieces, len(messages), images, senses)


def _complexity(tokens: int, turns: int) -> ComplexityClass:
    if tokens < _SIMPLE_BELOW_TOKENS:
        return ComplexityClass.SIMPLE
    if tokens >= _COMPLEX_FROM_TOKENS or turns >= _COMPLEX_TURNS:
        return ComplexityClass.COMPLEX
    return ComplexityClass.MEDIUM


def _output_limit(options: _Options, fields: Fields) -> int | None:
    if fields.keys().isdisjoint(_LIMITS):
        return _tokens(options.num_predict)
    limits = [options.num_predict]
    limits += [field(fields, name, float) for name in _LIMITS if name in fields]
    return min((tokens for tokens in map(_tokens, limits) if tokens is not None), default=None)


def _tokens(value: Any) -> int | None:  # noqa: ANN401 whatever stood in a body
    """A number of tokens, without its fraction; None for what is none, and for none at all."""
    if value is None or type(value) not in _NUMBERS or not math.isfinite(value):
        return None
    return int(value) if 1 <= value < _MOST_TOKENS else None


def _is_load_only(kind: RequestKind, fields: Fields, prompt: _Prompt) -> bool:
    """Ollama's idiom: an empty prompt or an empty list of messages loads (or unloads) the model."""
    if kind is RequestKind.CHAT:
        return not prompt.turns
    name = _INPUT_OF.get(kind)
    return name is not None and bytes(fields.get(name, b"null")) in _NO_INPUT
